// Every stride-th pixel, between channels of zero.
#include <algorithm>

#include "operators.h"

namespace mmirnet {

void add_shortcut(Network& network, int in_id, int stride, int before, int out_id) {
  const Tensor& in = network.tensor(in_id, Tensor::kFloats);
  const Tensor& out = network.tensor(out_id, Tensor::kFloats);
  require(stride > 0 && stride <= kMaxStride && before >= 0 && in_id != out_id &&
              out.height == (in.height - 1) / stride + 1 &&
              out.width == (in.width - 1) / stride + 1 &&
              before <= out.channels - in.channels,
          "tensor of the wrong shape");
  const auto run = [=, &in, &out](const Network::Context& context, int begin,
                                  int end) {
    for (int y = begin; y < end; ++y)
      for (int x = 0; x < out.width; ++x) {
        float* to = context.at<float>(out) +
                    (ptrdiff_t{y} * out.width + x) * out.lanes();
        const float* from =
            context.at<float>(in) +
            (ptrdiff_t{y} * stride * in.width + x * stride) * in.lanes();
        std::fill_n(to, out.lanes(), 0.0f);
        std::copy_n(from, in.channels, to + before);
      }
  };
  network.add({out.height, run});
}

}  // namespace mmirnet
