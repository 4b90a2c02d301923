// Signs as floats.
#include "operators.h"

namespace mmirnet {

void add_sign(Network& network, int in_id, int out_id, Span<float> threshold) {
  const Tensor& in = network.tensor(in_id, Tensor::kFloats);
  const Tensor& out = network.tensor(out_id, Tensor::kFloats);
  require(out.height == in.height && out.width == in.width &&
              out.channels == in.channels && in_id != out_id,
          "tensor of the wrong shape");
  require(threshold.size == 0 || threshold.size == size_t{1} * in.channels,
          "threshold of the wrong length");
  const float* const limit = network.keep(threshold, in.lanes());
  const auto run = [limit, &in, &out](const Network::Context& context, int begin,
                                      int end) {
    const int lanes = in.lanes();
    const float* from = context.at<float>(in);
    float* to = context.at<float>(out);
    for (ptrdiff_t p = ptrdiff_t{begin} * in.width; p < ptrdiff_t{end} * in.width;
         ++p)
      for (int c = 0; c < lanes; ++c)
        to[p * lanes + c] = from[p * lanes + c] >= limit[c] ? 1.0f : -1.0f;
  };
  network.add({in.height, run});
}

}  // namespace mmirnet
