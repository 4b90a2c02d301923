// The largest value of each window.
#include "operators.h"
#include "windows.h"

namespace mmirnet {

void add_max_pool(Network& network, int in_id, Window w,
                  const EpilogueSpec& epilogue) {
  const Kernels* const kernels = network.kernels();
  const Tensor& in = network.tensor(in_id, Tensor::kFloats);
  const auto size = out_size(in, w);
  const int height = size.first, width = size.second;
  require(holds_pixels(in, w, size), "a window without a pixel");
  const EpiloguePlan plan =
      network.plan(epilogue, height, width, in.channels, in_id);
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
