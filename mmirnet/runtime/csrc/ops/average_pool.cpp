// The mean of each window.
#include <algorithm>

#include "operators.h"
#include "windows.h"

namespace mmirnet {

void add_average_pool(Network& network, int in_id, Window w, bool include_pad,
                      int out_id) {
  const Tensor& in = network.tensor(in_id, Tensor::kFloats);
  const Tensor& out = network.tensor(out_id, Tensor::kFloats);
  const auto size = out_size(in, w);
  require(holds_pixels(in, w, size), "a window without a pixel");
  require(out.height == size.first && out.width == size.second &&
              out.channels == in.channels && in_id != out_id,
          "tensor of the wrong shape");
  const auto run = [=, &in, &out](const Network::Context& context, int begin,
                                  int end) {
    const int lanes = in.lanes();
    for (int y = begin; y < end; ++y)
      for (int x = 0; x < out.width; ++x) {
        const int top = y * w.stride_y - w.top, left = x * w.stride_x - w.left;
        const auto rows = inside(top, w.kernel_height, in.height);
        const auto columns = inside(left, w.kernel_width, in.width);
        float* const sums =
            context.at<float>(out) + (ptrdiff_t{y} * out.width + x) * lanes;
        const float* const first =
            context.at<float>(in) + (ptrdiff_t{top} * in.width + left) * lanes;
        const int pixels = include_pad ? w.kernel_height * w.kernel_width
                                       : (rows.second - rows.first) *
                                             (columns.second - columns.first);
        bool nan = false;  // of infinities of both signs
        for (int c = 0; c < lanes; c += kFloatLanes) {
          float sum[kFloatLanes] = {};
          for (int v = rows.first; v < rows.second; ++v)
            for (int u = columns.first; u < columns.second; ++u) {
              const float* from = first + (ptrdiff_t{v} * in.width + u) * lanes + c;
              for (int i = 0; i < kFloatLanes; ++i) sum[i] += from[i];
            }
          for (int i = 0; i < kFloatLanes; ++i) {
            sum[i] /= static_cast<float>(pixels);
            nan = nan || sum[i] != sum[i];
          }
          std::copy_n(sum, kFloatLanes, sums + c);
        }
        if (nan) *context.nan = true;
      }
  };
  network.add({out.height, run});
}

}  // namespace mmirnet
