// Signs as floats.
#include "operators.h"

namespace mmirnet {

void add_sign(Network& network, int in_id, int out_id) {
  const Tensor& in = network.tensor(in_id, Tensor::kFloats);
  const Tensor& out = network.tensor(out_id, Tensor::kFloats);
  require(out.height == in.height && out.width == in.width &&
              out.channels == in.channels && in_id != out_id,
          "tensor of the wrong shape");
  const auto run = [&in, &out](const Network::Context& context, int begin,
                               int end) {
    const ptrdiff_t row = ptrdiff_t{in.width} * in.lanes();
    const float* from = context.at<float>(in);
    float* to = context.at<float>(out);
    for (ptrdiff_t i = begin * row; i < end * row; ++i)
      to[i] = from[i] >= 0 ? 1.0f : -1.0f;
  };
  network.add({in.height, run});
}

}  // namespace mmirnet
