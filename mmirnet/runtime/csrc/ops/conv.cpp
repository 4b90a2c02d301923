// A float convolution, by the library or in plain loops.
#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "operators.h"
#include "windows.h"

namespace mmirnet {
namespace {

// Bands of about this many values: the epilogue then finds them in the
// second-level cache.
constexpr int kBandFloats = 1 << 16;

// Rows [begin, end) of the output, and the input's rows from `first_row` on that
// they read.
struct Band {
  int begin, end, first_row;
  FloatConvShape shape;
  std::shared_ptr<FloatConv> conv;  // null where the library has none
};

Band make_band(const FloatConvShape& image, int begin, int end) {
  const Window& w = image.window;
  const int first = begin * w.stride_y - w.top;
  const int last = (end - 1) * w.stride_y - w.top + w.extent_y();
  Band band{begin, end, std::max(0, first), image, nullptr};
  band.shape.in_height = std::min(image.in_height, last) - band.first_row;
  band.shape.out_height = end - begin;
  band.shape.window.top = std::max(0, -first);
  band.shape.window.bottom = std::max(0, last - image.in_height);
  return band;
}

// Bands of nearly equal height, of at most `most` rows.
std::vector<Band> make_bands(const FloatConvShape& image, int most,
                             const float* weights) {
  const int height = image.out_height, count = (height + most - 1) / most;
  std::vector<Band> bands;
  for (int i = 0; i < count; ++i) {
    Band band = make_band(image, height * i / count, height * (i + 1) / count);
    for (const Band& other : bands)
      if (std::memcmp(&other.shape, &band.shape, sizeof band.shape) == 0)
        band.conv = other.conv;
    if (!band.conv)
      band.conv = FloatConv::make(band.shape, weights,
                                  bands.empty() ? nullptr : bands[0].conv.get());
    bands.push_back(band);
  }
  return bands;
}

// Where that keeps the groups, lanes beyond the channels are computed too,
// with weights of zero: a library computes all lanes or none.
void widen_groups(FloatConvShape& shape) {
  if (shape.groups == 1) {
    shape.in_group = shape.in_channels;
    shape.out_group = shape.out_channels;
  } else if (shape.in_group == 1 && shape.out_group == 1 &&
             shape.in_channels == shape.out_channels) {
    shape.groups = shape.out_channels;
  }
}

}  // namespace

void add_conv(Network& network, int in_id, Window w, int groups,
              Span<float> weight, const EpilogueSpec& epilogue) {
  const Kernels* const kernels = network.kernels();
  const Tensor& in = network.tensor(in_id);
  require(in.kind != Tensor::kBits, "tensor of the wrong kind");
  const auto size = out_size(in, w);
  const int height = size.first, width = size.second;
  require(groups > 0 && in.channels % groups == 0, "groups of unequal size");
  const int in_group = in.channels / groups;
  const int taps = w.kernel_height * w.kernel_width;
  const size_t depth = size_t{1} * taps * in_group;
  require(depth < (size_t{1} << 30) && weight.size > 0 &&
              weight.size % depth == 0,
          "weights of the wrong size");
  const int channels = static_cast<int>(weight.size / depth);
  require(channels % groups == 0, "groups of unequal size");
  const EpiloguePlan plan =
      network.plan(epilogue, height, width, channels, in_id);

  const int in_lanes = in.lanes(), lanes = round_up(channels, kFloatLanes);
  FloatConvShape image{in.height, in.width, in_lanes, height,
                       width,     lanes,    groups,   in_group,
                       channels / groups,   w};
  widen_groups(image);
  auto weights = std::make_shared<std::vector<float>>(
      size_t{1} * image.groups * image.out_group * taps * image.in_group);
  for (ptrdiff_t i = 0; i < ptrdiff_t{channels} * taps; ++i)
    std::copy_n(weight.data + i * in_group, in_group,
                weights->data() + i * image.in_group);

  const int threads = network.threads();
  const int most = std::max(1, std::min(kBandFloats / (width * lanes),
                                        (height + threads - 1) / threads));
  const std::vector<Band> bands = make_bands(image, most, weights->data());
  const bool fast = std::all_of(bands.begin(), bands.end(),
                                [](const Band& band) { return !!band.conv; });
  if (fast) weights.reset();
  if (fast) network.count_library_layer();
  size_t scratch = 0;
  for (const Band& band : bands)
    if (band.conv) scratch = std::max(scratch, band.conv->scratch_floats());
  // A residual may share its memory with the output: no sum goes there.
  const bool in_place = plan.out && !plan.residual;
  const size_t sums = in_place ? 0 : size_t{1} * most * width * lanes;
  network.need_scratch(sums + scratch + kGap);

  const auto run = [=, &in](const Network::Context& context, int first,
                            int end) {
    for (int i = first; i < end; ++i) {
      const Band& band = bands[i];
      const float* from = context.at<float>(in) +
                          ptrdiff_t{band.first_row} * in.width * in_lanes;
      float* to = in_place ? context.at<float>(*plan.out) +
                                 ptrdiff_t{band.begin} * width * lanes
                           : context.scratch;
      if (fast)
        band.conv->run(from, to, context.scratch + sums);
      else
        kernels->float_conv(band.shape, from, weights->data(), to);
      // Zero times infinity is NaN: it must not spread from the lanes of zero.
      if (channels < lanes)
        for (int p = 0; p < (band.end - band.begin) * width; ++p)
          std::fill(to + ptrdiff_t{p} * lanes + channels,
                    to + ptrdiff_t{p + 1} * lanes, 0.0f);
      for (int y = band.begin; y < band.end; ++y)
        kernels->map(plan.at(context, y), channels, width,
                     to + ptrdiff_t{y - band.begin} * width * lanes);
    }
  };
  network.add({static_cast<int>(bands.size()), run});
}

}  // namespace mmirnet
