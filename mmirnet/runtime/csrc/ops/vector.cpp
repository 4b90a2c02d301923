// Pixels as channels.
#include <algorithm>

#include "operators.h"

namespace mmirnet {

void add_vector(Network& network, int in_id, int out_id) {
  const Tensor& in = network.tensor(in_id, Tensor::kFloats);
  const Tensor& out = network.tensor(out_id, Tensor::kFloats);
  const int pixels = in.height * in.width;
  require(out.height == 1 && out.width == 1 &&
              out.channels == in.channels * int64_t{pixels} && in_id != out_id,
          "tensor of the wrong shape");
  const auto run = [=, &in, &out](const Network::Context& context, int begin,
                                  int end) {
    const float* from = context.at<float>(in);
    float* to = context.at<float>(out);
    for (int c = begin; c < end; ++c)
      for (int p = 0; p < pixels; ++p)
        to[ptrdiff_t{c} * pixels + p] = from[ptrdiff_t{p} * in.lanes() + c];
    if (end == in.channels)
      std::fill(to + out.channels, to + out.lanes(), 0.0f);
  };
  network.add({in.channels, run});
}

}  // namespace mmirnet
