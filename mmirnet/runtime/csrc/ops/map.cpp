// Nothing but the epilogue.
#include <algorithm>

#include "operators.h"

namespace mmirnet {

void add_map(Network& network, int in_id, const EpilogueSpec& epilogue) {
  const Kernels* const kernels = network.kernels();
  const Tensor& in = network.tensor(in_id);
  require(in.kind != Tensor::kBits, "tensor of the wrong kind");
  // Reading and writing the same place is safe here, so the input may be out.
  const EpiloguePlan plan =
      network.plan(epilogue, in.height, in.width, in.channels, -1);
  // The pixels of an image have no lanes beyond its channels.
  const int lanes = round_up(in.channels, kFloatLanes);
  const bool spread = in.lanes() != lanes;
  if (spread) network.need_scratch(size_t{1} * in.width * lanes + kGap);
  const auto run = [=, &in](const Network::Context& context, int begin,
                            int end) {
    for (int y = begin; y < end; ++y) {
      const float* from =
          context.at<float>(in) + ptrdiff_t{y} * in.width * in.lanes();
      if (spread) {
        std::fill_n(context.scratch, ptrdiff_t{in.width} * lanes, 0.0f);
        for (int x = 0; x < in.width; ++x)
          std::copy_n(from + ptrdiff_t{x} * in.channels, in.channels,
                      context.scratch + ptrdiff_t{x} * lanes);
        from = context.scratch;
      }
      kernels->map(plan.at(context, y), in.channels, in.width, from);
    }
  };
  network.add({in.height, run});
}

}  // namespace mmirnet
