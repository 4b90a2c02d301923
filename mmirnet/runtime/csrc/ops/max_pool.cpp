// The largest value of each window.
#include <algorithm>

#include "operators.h"
#include "windows.h"

namespace mmirnet {
namespace {

// Rows of the input that are made for a band stay in the second-level cache.
constexpr int kKeptFloats = 1 << 16;

// A pooling whose input is never whole. Each band of the output has the rows that
// it reads made in a thread's own memory, where some are left from the band before.
void add_pool_of_rows(Network& network, int in_id, const Window& w, int height,
                      int width, const EpiloguePlan& plan) {
  const Kernels* const kernels = network.kernels();
  const Tensor& in = network.tensor(in_id);
  const Network::RowMaker& maker = network.maker(in_id);
  const int threads = network.threads();
  const size_t row = size_t{1} * in.width * in.lanes();
  const int rows_in_cache = static_cast<int>(kKeptFloats / row);
  const int fit = (rows_in_cache - w.kernel_height) / w.stride_y + 1;
  const int most = std::max(1, std::min(fit, (height + threads - 1) / threads));
  const int bands = (height + most - 1) / most;
  const size_t kept = ((most - 1) * w.stride_y + w.kernel_height) * row;
  network.need_scratch(maker.floats + kept + size_t{1} * width * in.lanes() + kGap);
  const auto run = [=, &in, &maker](const Network::Context& context, int begin,
                                    int end) {
    float* const rows = context.scratch + maker.floats;
    for (int band = begin, old = 0, made = 0; band < end; ++band) {
      const int y0 = height * band / bands, y1 = height * (band + 1) / bands;
      const int first = std::max(0, y0 * w.stride_y - w.top);
      const int last =
          std::min(in.height, (y1 - 1) * w.stride_y - w.top + w.kernel_height);
      if (first < made)
        std::copy(rows + (first - old) * row, rows + (made - old) * row, rows);
      float* const image = rows - first * row;
      maker.run(context, image, std::max(first, made), last);
      old = first;
      made = last;
      for (int y = y0; y < y1; ++y)
        kernels->max_pool(plan.at(context, y), in.channels, in.height, in.width, w,
                          width, y, image, rows + kept);
    }
  };
  // Bands that one thread takes together share the rows between them.
  network.add({bands, run, (bands + 2 * threads - 1) / (2 * threads)});
}

}  // namespace

void add_max_pool(Network& network, int in_id, Window w,
                  const EpilogueSpec& epilogue) {
  const Kernels* const kernels = network.kernels();
  const Tensor& in = network.tensor(in_id);
  require(in.kind == Tensor::kFloats || in.kind == Tensor::kRows,
          "tensor of the wrong kind");
  const auto size = out_size(in, w);
  const int height = size.first, width = size.second;
  require(holds_pixels(in, w, size), "a window without a pixel");
  const EpiloguePlan plan =
      network.plan(epilogue, height, width, in.channels, in_id);
  if (in.kind == Tensor::kRows)
    return add_pool_of_rows(network, in_id, w, height, width, plan);
  network.need_scratch(size_t{1} * width * in.lanes() + kGap);
  const auto run = [=, &in](const Network::Context& context, int begin,
                            int end) {
    for (int y = begin; y < end; ++y)
      kernels->max_pool(plan.at(context, y), in.channels, in.height, in.width,
                        w, width, y, context.at<float>(in), context.scratch);
  };
  network.add({height, run});
}

}  // namespace mmirnet
