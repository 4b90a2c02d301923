// A convolution over bits.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <vector>

#include "operators.h"
#include "windows.h"

namespace mmirnet {
namespace {

// Numbers the distinct parts of the window over all outputs.
struct Classes {
  std::vector<int32_t> of;
  std::vector<std::pair<int, int>> parts;

  Classes(int outputs, int kernel, int stride, int pad, int size) {
    std::map<std::pair<int, int>, int32_t> seen;
    for (int i = 0; i < outputs; ++i) {
      const auto range = inside(i * stride - pad, kernel, size);
      const auto found = seen.try_emplace(range, parts.size());
      if (found.second) parts.push_back(range);
      of.push_back(found.first->second);
    }
  }
};

// The smallest integer in [low, high] for which `test` holds, or high + 1;
// `test` must be false up to some point and true after it.
template <class Test>
int first_true(int low, int high, Test test) {
  while (low <= high) {
    const int middle = low + (high - low) / 2;
    if (test(middle))
      high = middle - 1;
    else
      low = middle + 1;
  }
  return low;
}

int floor_half(int value) { return (value - (value & 1)) / 2; }

// Columns outside read zero bits: there the popcount is the weights' own, which the
// base takes back. Rows outside do so in `whole` windows, and are skipped in others.
int base_of(const BinaryConv& conv, const uint64_t* filter, bool whole,
            std::pair<int, int> row, std::pair<int, int> column) {
  const int words = conv.in.pixel();
  int base = 0;
  for (int v = 0; v < conv.kernel; ++v)
    for (int u = 0; u < conv.kernel; ++u) {
      const bool in_row = v >= row.first && v < row.second;
      if (in_row && u >= column.first && u < column.second) {
        base += conv.in.channels;
        continue;
      }
      if (!in_row && !whole) continue;
      const uint64_t* word = filter + (v * conv.kernel + u) * words;
      for (int i = 0; i < words; ++i) base += 2 * __builtin_popcountll(word[i]);
    }
  return base;
}

// The bits of one output channel by its sum, which the epilogue makes a step.
struct Step {
  float scale, alpha, beta, before, negative, positive, after, threshold, low, high;

  Step(const Epilogue& e, int out)
      : scale(e.scale ? e.scale[out] : 1),
        alpha(e.alpha ? e.alpha[out] : 1),
        beta(e.alpha ? e.beta[out] : 0),
        before(e.threshold ? e.before[out] : 0),
        negative(e.threshold ? e.negative[out] : 1),
        positive(e.threshold ? e.positive[out] : 1),
        after(e.threshold ? e.after[out] : 0),
        threshold(e.threshold ? e.threshold[out] : 0),
        low(e.low),
        high(e.high) {}

  // Else it is no step: it rises and falls, or infinity times zero is NaN.
  bool is_step() const { return negative > 0 && positive > 0; }
  bool falls() const { return (scale < 0) != (alpha < 0); }
  bool bit(int dot) const {
    float y = std::fma(static_cast<float>(dot) * scale, alpha, beta) + before;
    y = y * (y >= 0 ? positive : negative) + after;
    return std::min(std::max(y, low), high) >= threshold;
  }
  // The smallest sum whose bit is set; not set where it falls.
  int place(int most) const {
    const bool wanted = !falls();
    return first_true(-most, most, [&](int dot) { return bit(dot) == wanted; });
  }
};

// Sum of a filter's signs in a part of the window.
int signs_of(const BinaryConv& conv, const uint64_t* filter,
             std::pair<int, int> row, std::pair<int, int> column) {
  const int words = conv.in.pixel();
  int sum = 0;
  for (int v = row.first; v < row.second; ++v)
    for (int u = column.first; u < column.second; ++u) {
      const uint64_t* word = filter + (v * conv.kernel + u) * words;
      for (int i = 0; i < words; ++i) sum += 2 * __builtin_popcountll(word[i]);
      sum -= conv.in.channels;
    }
  return sum;
}

// How many signs a part of the window has.
int size_of(const BinaryConv& conv, std::pair<int, int> row,
            std::pair<int, int> column) {
  return (row.second - row.first) * (column.second - column.first) *
         conv.in.channels;
}

// See BinaryConv::offsets.
const ptrdiff_t* offsets_of(Network& network, const BinaryConv& conv) {
  std::vector<ptrdiff_t> offsets(network.kernels()->words(conv));
  for (size_t i = 0; i < offsets.size(); ++i)
    offsets[i] = network.kernels()->offset(conv, static_cast<int>(i));
  return network.keep(offsets);
}

// The part of a row, see first_of.
int part_of(int row, int size, int parts) {
  return static_cast<int>((int64_t{row + 1} * parts - 1) / size);
}

// What stands beside the sums of signs, see BinaryConv.
void add_terms(Network& network, BinaryConv& conv, const uint64_t* signs,
               const Classes& rows, const Classes& columns, Span<float> scale,
               Span<float> offset, Span<float> affine_input) {
  const float alpha = affine_input.data[0];
  const float both = alpha * affine_input.data[1];
  const size_t table = round_up(conv.out_channels, kGroup);
  const size_t classes = rows.parts.size() * columns.parts.size();
  std::vector<float> factor(table), spread(table), rest(classes * table);
  std::vector<int32_t> inside(classes * table);
  for (size_t i = 0; i < classes; ++i) {
    const auto row = rows.parts[i / columns.parts.size()];
    const auto column = columns.parts[i % columns.parts.size()];
    const int size = size_of(conv, row, column);
    std::fill_n(inside.begin() + i * table, table, size);
    for (int out = 0; out < conv.out_channels; ++out) {
      const uint64_t* filter =
          signs + size_t{1} * out * conv.kernel * conv.kernel * conv.in.pixel();
      const int sum = signs_of(conv, filter, row, column);
      rest[i * table + out] =
          both * (scale.data[out] * static_cast<float>(sum) +
                  offset.data[out] * static_cast<float>(size));
    }
  }
  for (int out = 0; out < conv.out_channels; ++out) {
    factor[out] = alpha * scale.data[out];
    spread[out] = alpha * offset.data[out];
  }
  conv.factor = network.keep(factor);
  conv.offset = network.keep(spread);
  conv.rest = network.keep(rest);
  conv.inside = network.keep(inside);
}

// The tables of a convolution. With nothing but a bit to produce, the epilogue
// is a step function of the integer sum: they then hold the step instead.
void add_tables(Network& network, BinaryConv& conv, const uint64_t* signs,
                const Classes& rows, const Classes& columns,
                const Epilogue& epilogue, bool only_bits) {
  const int k = conv.kernel, channels = conv.out_channels;
  const int groups = round_up(channels, kGroup) / kGroup;
  const bool whole = network.kernels()->whole(conv);
  const int table = groups * kGroup, most = k * k * conv.in.channels;
  conv.row_entry = entries(network, rows.of, columns.parts.size() * table);
  conv.column_entry = entries(network, columns.of, table);
  std::vector<float> base(rows.parts.size() * columns.parts.size() * table);
  std::vector<int32_t> limit(base.size());
  std::vector<uint64_t> flip(groups);
  for (int out = 0; out < channels; ++out) {
    const uint64_t* filter =
        signs + size_t{1} * out * k * k * conv.in.pixel();
    const Step step(epilogue, out);
    only_bits = only_bits && step.is_step();
    const int place = step.place(most);
    if (step.falls()) flip[out / kGroup] |= uint64_t{1} << (out % kGroup);
    for (size_t r = 0; r < rows.parts.size(); ++r)
      for (size_t c = 0; c < columns.parts.size(); ++c) {
        const size_t at = (r * columns.parts.size() + c) * table + out;
        const int value =
            base_of(conv, filter, whole, rows.parts[r], columns.parts[c]);
        base[at] = static_cast<float>(value);
        limit[at] = floor_half(value - place);
      }
  }
  conv.base = network.keep(base);
  if (only_bits) {
    conv.limit = network.keep(limit);
    conv.flip = network.keep(flip);
  }
}

}  // namespace

void add_binary_conv(Network& network, int in_id, Window window,
                     Span<uint64_t> signs, const EpilogueSpec& epilogue,
                     Span<float> offset, Span<float> affine_input) {
  const Kernels* const kernels = network.kernels();
  const Tensor& in = network.tensor(in_id, Tensor::kBits);
  const auto size = out_size(in, window);
  const int height = size.first, width = size.second;
  const int k = window.kernel_height, stride = window.stride_y, pad = window.top;
  const Window square = Window::square(k, stride, pad);
  require(std::memcmp(&square, &window, sizeof square) == 0,
          "binary kernels are square");
  require(k <= kMaxBinaryKernel && stride <= kMaxStride,
          "convolution parameters out of range");
  require(in.pad >= pad, "too few zero columns for this padding");
  // 16-bit partial sums, and floats that hold every sum exactly.
  require(int64_t{k} * k * in.channels <= kMaxBinaryWindow, "window too large");
  const size_t filter = size_t{1} * k * k * in.bit_shape().pixel();
  require(signs.size > 0 && signs.size % filter == 0,
          "weights of the wrong size");
  const int channels = static_cast<int>(signs.size / filter);
  EpiloguePlan plan = network.plan(epilogue, height, width, channels, in_id);
  const bool safe =
      network.watch(plan, std::vector<double>(channels, k * k * in.channels));

  BinaryConv conv{};
  conv.in = in.bit_shape();
  conv.out_height = height;
  conv.out_width = width;
  conv.out_channels = channels;
  conv.kernel = k;
  conv.stride = stride;
  conv.pad = pad;
  conv.offsets = offsets_of(network, conv);
  const int groups = round_up(channels, kGroup) / kGroup;
  const size_t group_bytes = kernels->weight_bytes(conv);
  uint8_t* const weights = network.reserve(group_bytes * groups);
  for (int group = 0; group < groups; ++group)
    kernels->pack_weights(conv, signs.data, group,
                          weights + group * group_bytes);
  conv.weights = weights;
  const Classes rows(height, k, stride, pad, in.height);
  const Classes columns(width, k, stride, pad, in.width);
  const bool terms = offset.size > 0;
  require(!terms || (offset.size == epilogue.scale.size && affine_input.size == 2),
          "offsets of the wrong length");
  if (terms)
    add_terms(network, conv, signs.data, rows, columns, epilogue.scale, offset,
              affine_input);
  add_tables(network, conv, signs.data, rows, columns, plan.constant,
             safe && !plan.out && !plan.residual && !terms);

  // A part of the image for each thread, and in it one group after the other: the
  // words of several groups stand beside each other, in one line of the cache.
  const int parts = std::min(network.threads(), height);
  const auto run = [kernels, conv, plan, groups, parts, &in](
                       const Network::Context& context, int begin, int end) {
    const Epilogue e = plan.at(context);
    for (int item = begin; item < end;) {
      const int part = part_of(item / groups, conv.out_height, parts);
      const int first = first_of(part, conv.out_height, parts);
      const int height = first_of(part + 1, conv.out_height, parts) - first;
      const int at = item - groups * first, y = first + at % height;
      const int rows = std::min(first + height - y, end - item);
      kernels->binary_conv(conv, e, plan.bits ? plan.bits->pad : 0,
                           context.at<uint64_t>(in), at / height, y, y + rows);
      item += rows;
    }
  };
  network.add({groups * height, run});
}

}  // namespace mmirnet
