// Every stride-th pixel, between channels of zero.
#include <algorithm>
#include <cstring>

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
  // Pieces of one size are copied faster; what they have beyond the channels is cleared.
  const bool pieces = before + in.lanes() <= out.lanes();
  const auto run = [=, &in, &out](const Network::Context& context, int begin,
                                  int end) {
    const int from_lanes = in.lanes(), to_lanes = out.lanes();
    for (int y = begin; y < end; ++y) {
      const float* from =
          context.at<float>(in) + ptrdiff_t{y} * stride * in.width * from_lanes;
      float* to = context.at<float>(out) + ptrdiff_t{y} * out.width * to_lanes;
      for (int x = 0; x < out.width; ++x, from += stride * from_lanes, to += to_lanes) {
        for (int i = 0; i < to_lanes; i += kFloatLanes)
          std::fill_n(to + i, kFloatLanes, 0.0f);
        if (pieces) {
          for (int i = 0; i < from_lanes; i += kFloatLanes)
            std::memcpy(to + before + i, from + i, sizeof(float) * kFloatLanes);
          std::fill_n(to + before + in.channels, from_lanes - in.channels, 0.0f);
        } else {
          std::copy_n(from, in.channels, to + before);
        }
        // Stores to what is in no near cache would wait for each other.
        __builtin_prefetch(to + 8 * to_lanes);
        __builtin_prefetch(to + 8 * to_lanes + kFloatLanes);
      }
    }
  };
  network.add({out.height, run});
}

}  // namespace mmirnet
