// What every instruction set implements, and the tasks it is given.
//
// Layouts. Activations are NHWC. A float pixel holds its channels padded to a
// multiple of 16 with lanes whose values mean nothing. A bit pixel holds 64
// channels per word, channel 0 in bit 0, a set bit for +1; the tail of the last
// word is zero. Rows of bits carry zero columns on both sides for the padding of the
// convolution that reads them; rows above and below do not exist.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "float_conv.h"
#include "limits.h"

namespace mmirnet {

constexpr int kGroup = 64;  // output channels computed together
constexpr int kTable = 32;  // bytes of a table, see Kernels::make_tables
constexpr int kSmallWeight = 64;  // the sum of two products with bytes has 16 bits

constexpr int round_up(int value, int unit) {
  return (value + unit - 1) / unit * unit;
}

// `total` in as few parts as it takes, none larger than `most`; nearly equal ones
// waste least at the end of a row.
struct Split {
  int parts, size, larger;
  Split(int total, int most)
      : parts((total + most - 1) / most),
        size(total / parts),
        larger(total % parts) {}
  int operator[](int part) const { return size + (part < larger); }
};

inline int words32(int channels) { return (channels + 31) / 32; }

// Everything after the sum of products, in one pass over a pixel:
//   v = fma(x * scale, alpha, beta) + residual + before
//   y = clamp(v * (v >= 0 ? positive : negative) + after, low, high)
// `bits` receives y >= threshold. Null pointers leave a part out, but `before`,
// `negative`, `positive`, `after` and `threshold` are all there or none.
// A bit cannot hold NaN: `nan` is set where y is NaN in any channel.
struct Epilogue {
  const float* scale = nullptr;
  const float* alpha = nullptr;
  const float* beta = nullptr;
  const float* before = nullptr;
  const float* negative = nullptr;
  const float* positive = nullptr;
  const float* after = nullptr;
  const float* threshold = nullptr;
  float low = 0, high = 0;
  const float* residual = nullptr;
  float* out = nullptr;
  uint64_t* bits = nullptr;
  std::atomic<bool>* nan = nullptr;
};

// A tensor of bits: `row` words from row to row, `pixel` from pixel to pixel,
// `pad` zero pixels at each end of a row.
struct BitShape {
  int height, width, channels, pad;
  int pixel() const { return (channels + kWord - 1) / kWord; }
  int row() const { return (width + 2 * pad) * pixel(); }
};

struct BinaryConv {
  BitShape in;
  int out_height, out_width, out_channels;
  int kernel, stride, pad;
  const ptrdiff_t* offsets;  // Kernels::offset of a window's words
  const uint8_t* weights;  // Kernels::pack_weights' layout
  // Sums depend on how much of the window lies inside: outputs fall in a few
  // classes of rows and of columns. The tables below are [row class][column
  // class][out_channels rounded up to kGroup]; here is where those of an output
  // begin, its row's place plus its column's.
  const ptrdiff_t *row_entry, *column_entry;
  const float* base;     // dot = base - 2 * popcount
  const int32_t* limit;  // or null: bit = (popcount <= limit) ^ flip
  const uint64_t* flip;  // one word per group
  // Or null. The epilogue then takes no sum but dot * factor + (signs * offset
  // + rest), each operation rounded: `signs` is the sum of the input's signs in
  // the window, 2 * its set bits - inside. `factor` and `offset` are for each
  // channel, `rest` and `inside` are tables as above.
  const float* factor;
  const float* offset;
  const float* rest;
  const int32_t* inside;
};

// A convolution of bytes with 8-bit weights. Windows lie inside of `in`, whose
// rows have their padding, and are read in words of 4 bytes: first those that stand
// side by side, `run_words` at a time, then `alone` single ones. Up to 12 bytes may be
// read behind a word. An output is sum * factor + rest, each operation rounded.
struct ByteConv {
  int words, run_words, alone;
  const ptrdiff_t* offsets;  // of the words, after the window's first byte
  ptrdiff_t in_step, in_down;  // bytes to the window on the right and below
  int out_width, out_channels;
  const uint8_t* weights;  // Kernels::pack_byte_weights' layout
  // Weights are -1 and +1, and `in` holds Kernels::make_tables' tables.
  bool tables;
  bool small;  // weights are within kSmallWeight
  const int32_t* start;  // of the sums, one for each channel
  const float* factor;   // for each channel
  const float* rest;     // a table as BinaryConv's
  const ptrdiff_t *row_entry, *column_entry;
};

// What real numbers become as bytes: rint(x * scale) + zero, within a byte.
struct Quantisation {
  float scale;
  int zero;
};

struct Kernels {
  const char* name;
  bool (*supported)();
  // Bytes of one group of weights, and the layout of one group out of
  // `signs` = [out][kernel * kernel][words] (a set bit for +1).
  size_t (*weight_bytes)(const BinaryConv&);
  void (*pack_weights)(const BinaryConv&, const uint64_t* signs, int group,
                       uint8_t* destination);
  // Words of a window, and where one stands after the first, as binary_conv reads
  // them; and whether its rows outside of the image are zero bits that are counted.
  int (*words)(const BinaryConv&);
  ptrdiff_t (*offset)(const BinaryConv&, int word);
  bool (*whole)(const BinaryConv&);
  // Rows [y0, y1) of output channels [64 * group, 64 * group + 64).
  void (*binary_conv)(const BinaryConv&, const Epilogue&, int bit_pad,
                      const uint64_t* in, int group, int y0, int y1);
  // The same of bytes; `weights` = [out][words][4], and sums begin with
  // the weights' own times `byte_start` less than without a zero point.
  size_t (*byte_weight_bytes)(const ByteConv&);
  void (*pack_byte_weights)(const ByteConv&, const int8_t* weights, int group,
                            uint8_t* destination);
  int byte_start;
  // For each 4 bytes, what their sums with every 4 signs are: kTable bytes. Null
  // where multiplying is faster.
  void (*make_tables)(const uint8_t* in, size_t words, uint8_t* tables);
  // `in` is the first row that output row y0 reads.
  void (*byte_conv)(const ByteConv&, const Epilogue&, int bit_pad,
                    const uint8_t* in, int group, int y0, int y1);
  // Who made the values has looked for NaN, which becomes any byte.
  void (*quantise)(const Quantisation&, const float* in, int count, uint8_t* out);
  // The epilogue over `pixels` float pixels; bits advance one pixel at a time.
  void (*map)(const Epilogue&, int channels, int pixels, const float* in);
  // Maximum over a window, then the epilogue, for one output row.
  void (*max_pool)(const Epilogue&, int channels, int height, int width,
                   const Window&, int out_width, int y, const float* in,
                   float* scratch);
  // Whether no value is NaN or infinite.
  bool (*finite)(const float* in, size_t count);
  // A float convolution in plain loops, for where no library has it. Weights
  // are [out][row][column][in_group]; outputs a multiple of 16.
  void (*float_conv)(const FloatConvShape&, const float* in,
                     const float* weights, float* out);
};

// The kernels for MMIRNET_ISA, or the best that this CPU has.
const Kernels* find_kernels(const char* name);
// Multiply-accumulates a second of nothing but the AVX-512 path's five instructions
// for two words, in registers on this core: what it is measured against. 0 without.
double peak_rate();
extern const Kernels* const kAllKernels[];  // best first, null at the end

}  // namespace mmirnet
