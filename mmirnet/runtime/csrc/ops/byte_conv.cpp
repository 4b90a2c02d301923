// A convolution of bytes with 8-bit weights: of an image's pixels, or of real
// numbers that become bytes.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <vector>

#include "operators.h"
#include "windows.h"

namespace mmirnet {
namespace {

// Bands whose input has about this many bytes stay in the nearest cache, those of
// so many bytes of tables in the next.
constexpr int kBandBytes = 1 << 15, kBandTables = 1 << 18;

// The input as bytes, with its padding: row j is row j * sample_y - top of the
// image. Windows of one pixel leave out what lies between them.
struct Rows {
  const Tensor* in;
  Quantisation quantisation;
  int top, left, width;  // of a row, with its padding
  int sample_y, sample_x;

  size_t bytes() const { return size_t{1} * width * in->channels; }

  void fill(const Network::Context& context, const Kernels& kernels, int first,
            int count, uint8_t* to) const {
    for (int j = first; j < first + count; ++j, to += bytes()) {
      const int y = j * sample_y - top;
      std::fill_n(to, bytes(), static_cast<uint8_t>(quantisation.zero));
      if (y >= 0 && y < in->height) copy(context, kernels, y, to);
    }
  }

 private:
  void copy(const Network::Context& context, const Kernels& kernels, int y,
            uint8_t* to) const {
    const int channels = in->channels, lanes = in->lanes();
    const ptrdiff_t from = ptrdiff_t{y} * in->width * lanes;
    to += ptrdiff_t{left} * channels;
    if (in->kind == Tensor::kBytes) {
      const uint8_t* row = context.at<uint8_t>(*in) + from;
      if (sample_x == 1) {
        std::copy_n(row, in->width * channels, to);
        return;
      }
      for (int x = 0; x < in->width; x += sample_x)
        std::copy_n(row + x * lanes, channels, to + x / sample_x * channels);
      return;
    }
    const float* row = context.at<float>(*in) + from;
    if (sample_x == 1 && lanes == channels)
      return kernels.quantise(quantisation, row, in->width * lanes, to);
    for (int x = 0; x < in->width; x += sample_x, to += channels)
      kernels.quantise(quantisation, row + x * lanes, channels, to);
  }
};

Rows make_rows(const Tensor& in, const Window& w, Quantisation quantisation) {
  Rows rows{&in, quantisation, w.top, w.left, in.width + w.left + w.right, 1, 1};
  if (w.kernel_height == 1) rows.sample_y = w.stride_y;
  if (w.kernel_width == 1) rows.sample_x = w.stride_x;
  rows.width = (rows.width - 1) / rows.sample_x + 1;
  return rows;
}

// Bytes that stand for one of the input.
ptrdiff_t unit_of(const ByteConv& conv) { return conv.tables ? kTable / 4 : 1; }

// The bytes of a window whose runs of bytes end within a word. A word for each would be
// mostly empty: they are copied to where several fill one.
struct Tails {
  std::vector<ptrdiff_t> from;  // after the window's first byte
  int together;                 // in a word
  ptrdiff_t plane;              // from word to word

  // To `to` after the first byte of each of the `width` windows, `step` apart.
  void copy(uint8_t* in, ptrdiff_t to, ptrdiff_t step, int width) const {
    for (size_t i = 0; i < from.size(); i += together) {
      uint8_t* const target = in + to + i / together * plane;
      const auto source = [&](size_t j) {  // the last one stands for what is not there
        return in + from[std::min(i + j, from.size() - 1)];
      };
      if (together == 4)
        copy_word(source(0), source(1), source(2), source(3), target, step, width);
      else
        for (int j = 0; j < together; ++j)
          for (int x = 0; x < width; ++x) target[x * step + j] = source(j)[x * step];
    }
  }

 private:
  static void copy_word(const uint8_t* a, const uint8_t* b, const uint8_t* c,
                        const uint8_t* d, uint8_t* to, ptrdiff_t step, int width) {
    for (int x = 0; x < width; ++x, a += step, b += step, c += step, d += step) {
      const uint32_t word = *a | *b << 8 | *c << 16 | uint32_t{*d} << 24;
      std::memcpy(to + x * step, &word, 4);
    }
  }
};

// The words of a window: where they stand, and which weight of a filter meets each of
// their bytes, or -1.
struct Words {
  std::vector<ptrdiff_t> offsets;
  std::vector<int> weights;
  int run = 0, alone = 0;  // see ByteConv
  Tails tails{};
};

// Tails are copied to `behind` after the rows, if there is room.
Words make_words(const ByteConv& conv, const Rows& rows, const Window& w,
                 ptrdiff_t behind) {
  Words words;
  const int pixel = rows.in->channels;
  const bool whole = w.dilation_x == 1;
  const int columns = whole ? 1 : w.kernel_width, runs = w.kernel_height * columns;
  const int run = whole ? w.kernel_width * pixel : pixel, rest = run % 4;
  const ptrdiff_t unit = unit_of(conv);
  Tails& tails = words.tails;
  tails.together = static_cast<int>(std::min<ptrdiff_t>(4, conv.in_step));
  tails.plane = conv.out_width * conv.in_step;
  words.alone = (runs * rest + tails.together - 1) / tails.together;
  // A byte is copied in the time that 32 channels take to multiply a word.
  const bool faster = (runs - words.alone) * conv.out_channels > 32 * runs * rest;
  if (!faster || words.alone * tails.plane > conv.in_down) words.alone = 0;
  const int used = words.alone ? run - rest : run;
  words.run = (used + 3) / 4;
  std::vector<int> last;
  for (int r = 0; r < runs; ++r) {
    const ptrdiff_t start =
        unit * (r / columns * w.dilation_y * static_cast<ptrdiff_t>(rows.bytes()) +
                r % columns * w.dilation_x * pixel);
    for (int i = 0; i < used; i += 4) {
      words.offsets.push_back(start + unit * i);
      for (int j = i; j < i + 4; ++j) words.weights.push_back(j < run ? r * run + j : -1);
    }
    for (int i = used; i < run; ++i) {
      tails.from.push_back(start + i);
      last.push_back(r * run + i);
    }
  }
  for (int word = 0; word < words.alone; ++word) {
    words.offsets.push_back(behind + word * tails.plane);
    for (int i = 0; i < 4; ++i) {
      const size_t tail = word * tails.together + i;
      words.weights.push_back(i < tails.together && tail < last.size() ? last[tail] : -1);
    }
  }
  return words;
}

// A convolution without its words and weights.
ByteConv make_conv(const Rows& rows, const Window& w, int width, int channels,
                   bool tables, bool small) {
  ByteConv conv{};
  conv.tables = tables;
  conv.small = small;
  const ptrdiff_t unit = unit_of(conv);
  conv.in_step = unit * (w.stride_x / rows.sample_x) * rows.in->channels;
  conv.in_down = unit * w.stride_y / rows.sample_y * rows.bytes();
  conv.out_width = width;
  conv.out_channels = channels;
  return conv;
}

// See ByteConv::tables: words must not reach over the end of a pixel.
bool has_tables(const Kernels& kernels, const Tensor& in, Span<int8_t> weights) {
  return kernels.make_tables && in.channels % 4 == 0 &&
         std::all_of(weights.begin(), weights.end(),
                     [](int8_t weight) { return weight == 1 || weight == -1; });
}

bool are_small(Span<int8_t> weights) {
  return std::all_of(weights.begin(), weights.end(), [](int8_t weight) {
    return weight >= -kSmallWeight && weight <= kSmallWeight;
  });
}

// See ByteConv::rest.
const float* spread(Network& network, Span<float> rest, int channels) {
  const size_t from = channels, to = round_up(channels, kGroup);
  std::vector<float> table(rest.size / from * to, 0.0f);
  for (size_t i = 0; i < rest.size; ++i)
    table[i / from * to + i % from] = rest.data[i];
  return network.keep(table);
}

void add_words(Network& network, ByteConv& conv, const Words& words) {
  conv.words = static_cast<int>(words.offsets.size());
  conv.run_words = words.run;
  conv.alone = words.alone;
  conv.offsets = network.keep(words.offsets);
}

void add_weights(Network& network, ByteConv& conv, const ByteWeights& weights,
                 const std::vector<int>& places, int zero) {
  const Kernels* const kernels = network.kernels();
  const int groups = round_up(conv.out_channels, kGroup) / kGroup;
  const size_t bytes = kernels->byte_weight_bytes(conv);
  uint8_t* const packed = network.reserve(bytes * groups);
  std::vector<int32_t> start(groups * kGroup, 0);
  std::vector<int8_t> arranged;
  const size_t filter = weights.values.size / conv.out_channels;
  for (int i = 0; i < conv.out_channels; ++i) {
    const int8_t* const from = weights.values.data + i * filter;
    start[i] = (kernels->byte_start - zero) * std::accumulate(from, from + filter, 0);
    for (const int place : places) arranged.push_back(place < 0 ? 0 : from[place]);
  }
  for (int group = 0; group < groups; ++group)
    kernels->pack_byte_weights(conv, arranged.data(), group, packed + group * bytes);
  conv.weights = packed;
  conv.start = network.keep(start);
  conv.factor = network.keep(weights.factor, groups * kGroup);
  conv.rest = spread(network, weights.rest, conv.out_channels);
}

// By magnitude, of products and what is added to them, for each channel.
std::vector<double> largest_sums(const ByteWeights& weights, size_t depth) {
  const size_t channels = weights.factor.size;
  std::vector<double> rest(channels), sums;
  for (size_t i = 0; i < weights.rest.size; ++i) {
    double& most = rest[i % channels];
    most = std::max<double>(most, std::abs(weights.rest.data[i]));
  }
  for (size_t c = 0; c < channels; ++c)
    sums.push_back(255.0 * 128 * depth * std::abs(weights.factor.data[c]) + rest[c]);
  return sums;
}

// The largest class, and whether there is one for each of `outputs`.
int count_classes(Span<int32_t> classes, int outputs) {
  require(classes.size == static_cast<size_t>(outputs), "classes of the wrong length");
  const auto ends =
      std::minmax_element(classes.begin(), classes.end());
  require(*ends.first >= 0 && *ends.second < outputs, "class out of range");
  return *ends.second + 1;
}

}  // namespace

void add_byte_conv(Network& network, int in_id, Window w, float scale, int zero,
                   const ByteWeights& weights, const EpilogueSpec& epilogue) {
  const Kernels* const kernels = network.kernels();
  const Tensor& in = network.tensor(in_id);
  require(in.kind == Tensor::kBytes || in.kind == Tensor::kFloats,
          "tensor of the wrong kind");
  require(std::isfinite(scale) && zero >= 0 && zero <= 255,
          "quantisation out of range");
  const auto size = out_size(in, w);
  const int height = size.first, width = size.second;
  const size_t depth = size_t{1} * w.kernel_height * w.kernel_width * in.channels;
  require(depth <= kMaxByteWindow, "window too large");
  require(weights.values.size > 0 && weights.values.size % depth == 0,
          "weights of the wrong size");
  const int channels = static_cast<int>(weights.values.size / depth);
  const int row_classes = count_classes(weights.row_class, height);
  const int column_classes = count_classes(weights.column_class, width);
  require(weights.factor.size == static_cast<size_t>(channels) &&
              weights.rest.size == weights.factor.size * row_classes * column_classes,
          "scales of the wrong length");
  const bool by_rows = epilogue.out >= 0 &&
                       network.tensor(epilogue.out).kind == Tensor::kRows;
  EpiloguePlan plan = network.plan(epilogue, height, width, channels, in_id,
                                   by_rows ? Tensor::kRows : Tensor::kFloats);
  network.watch(plan, largest_sums(weights, depth));

  const Rows rows = make_rows(in, w, {scale, zero});
  const bool tables = has_tables(*kernels, in, weights.values);
  ByteConv conv =
      make_conv(rows, w, width, channels, tables, are_small(weights.values));
  const int table = round_up(channels, kGroup);
  conv.row_entry = entries(network, weights.row_class, column_classes * table);
  conv.column_entry = entries(network, weights.column_class, table);

  const int extent = w.extent_y(), threads = network.threads();
  const int down = w.stride_y / rows.sample_y;
  const int row = static_cast<int>(rows.bytes());
  const int rows_in_cache =
      tables ? kBandTables / (row * kTable / 4) : kBandBytes / row;
  const int fit = (rows_in_cache - extent) / down;
  const int most = std::max(1, std::min(fit + 1, (height + threads - 1) / threads));
  const int bands = (height + most - 1) / most;
  const int groups = round_up(channels, kGroup) / kGroup;
  const size_t scratch = aligned(rows.bytes() * ((most - 1) * down + extent));
  const Words words = make_words(conv, rows, w, scratch);
  add_words(network, conv, words);
  add_weights(network, conv, weights, words.weights, zero);
  const size_t behind =
      tables ? scratch * kTable / 4 : words.alone ? most * conv.in_down : 0;
  const size_t floats =
      round_up((scratch + behind) / sizeof(float) + kGap, kFloatLanes);
  // Brings what rows [y0, y1) of the output read into a thread's own memory.
  const auto prepare = [=, tails = words.tails](const Network::Context& context,
                                                int y0, int y1) {
    uint8_t* const bytes = reinterpret_cast<uint8_t*>(context.scratch);
    const int count = (y1 - 1 - y0) * down + extent;
    rows.fill(context, *kernels, y0 * down, count, bytes);
    if (tables) kernels->make_tables(bytes, count * rows.bytes() / 4, bytes + scratch);
    for (int y = 0; y < y1 - y0; ++y)
      tails.copy(bytes + y * conv.in_down, scratch, conv.in_step, width);
    return tables ? bytes + scratch : bytes;
  };
  if (by_rows) {
    require(!plan.bits && !plan.residual, "rows are floats alone");
    const auto make = [=](const Network::Context& context, float* image, int begin,
                          int end) {
      Epilogue e = plan.constant;
      e.nan = context.nan;
      e.out = image;
      for (int y0 = begin, y1; y0 < end; y0 = y1) {
        y1 = std::min(end, y0 + most);
        const uint8_t* const from = prepare(context, y0, y1);
        for (int group = 0; group < groups; ++group)
          kernels->byte_conv(conv, e, 0, from, group, y0, y1);
      }
    };
    network.add(epilogue.out, {make, floats});
    return;
  }
  network.need_scratch(floats);
  const auto run = [=](const Network::Context& context, int begin, int end) {
    const Epilogue e = plan.at(context);
    const uint8_t* from = nullptr;
    for (int item = begin; item < end; ++item) {
      const int band = item / groups;
      const int y0 = height * band / bands, y1 = height * (band + 1) / bands;
      if (item == begin || item % groups == 0) from = prepare(context, y0, y1);
      kernels->byte_conv(conv, e, plan.bits ? plan.bits->pad : 0, from, item % groups,
                         y0, y1);
    }
  };
  network.add({bands * groups, run, groups});
}

}  // namespace mmirnet
