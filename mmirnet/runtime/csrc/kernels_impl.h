// The blocked kernels, once for all instruction sets. An instruction set `I`
// brings its vector type and `count`, the loop over xor and popcount:
//
//   I::Float, I::kWidth      a vector of floats, and how many it holds
//   I::load, store, set, fma, mul, add, from_int, from_count
//   I::max(a, b), min(a, b)  b where b is NaN
//   I::signs(v)              bit i set where v[i] >= 0
//   I::at_least(v, w)        bit i set where v[i] >= w[i]
//   I::by_sign(v, a, b)      a where v >= 0, else b
//   I::within(v, limit)      v between -limit and limit, if I::kHasWithin; NaN is lost
//   I::with_registers(lanes, run), put_bits(word, v, bits)
//                            where a vector has kFloatLanes: calls run(V) with the
//                            number of vectors; puts the bits of one, and clears those
//                            of all after it if it is the first. Comparisons then take
//                            a mask of lanes, too
//   I::Found, find_nan(a, b, found), any(found)
//                            whether a NaN was in any a or b
//   I::at_most(p, limit)     bit i set where p[i] <= limit[i]
//   I::pixels(lanes)         most output pixels, or twos that a block cannot part, of one
//                            block of so many channels
//   I::Windows               what a block reads of a strip, see PlainWindows
//   I::Count                 what holds a popcount of a window
//   I::count(task)           popcounts of a block
//   I::byte_pixels(lanes), I::dot(task)
//                            the same of products of bytes
//   I::word_bytes(conv, lanes)
//                            bytes of weights for one word of inputs
//   I::kByteStart            what it takes from each byte before it multiplies
//   I::make_tables           or null, see Kernels
//   I::to_bytes(v, zero, p)  v rounded, plus zero, as bytes
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "kernels.h"

// Of what an innermost loop calls.
#define MMIRNET_INLINE __attribute__((always_inline))
// Of a block: inlined into something larger, some of its sums lose their registers.
#define MMIRNET_ALONE __attribute__((noinline))

namespace mmirnet {

// A block: `pixels` neighbouring outputs of one row, one group of channels.
template <class In, class Sum>
struct Task {
  const In* in;              // first word of the first pixel's window
  const ptrdiff_t* offsets;  // of the window's words
  int words;                 // of the window, 32 bits each
  ptrdiff_t in_step;         // to the next window, of those that are read together
  const uint8_t* weights;    // of the window's first word
  int lanes;                 // output channels of the group, rounded up to 16
  int pixels;
  Sum* sums;  // [pixel][kGroup]
};

template <class Count>
struct CountTask : Task<uint32_t, Count> {
  int channels;  // of the input
  int together;  // pixels that the block cannot part
};

struct DotTask : Task<uint8_t, int32_t> {
  const int32_t* start;  // of the group's sums
  int run_words, alone;  // see ByteConv
  bool tables, small;
};

// Each file that includes this has its own functions: the linker would keep one of
// several that have a name in common, compiled for instructions of its own file.
namespace {

// A sum stays in its register. GCC would add in another order, find itself without
// registers and keep sums in memory.
#if defined(MMIRNET_X86) || defined(MMIRNET_NEON)
template <class Sum>
inline void in_place(Sum& sum) {
#ifdef MMIRNET_X86
  asm("" : "+v"(sum));
#else
  asm("" : "+w"(sum));
#endif
}
#endif

// Calls run(pixels) with the number as a constant.
template <int kMost, class Run>
inline void with_pixels(int pixels, Run run) {
  if constexpr (kMost > 1)
    if (pixels < kMost) return with_pixels<kMost - 1>(pixels, run);
  run(std::integral_constant<int, kMost>{});
}

inline uint32_t load_word(const uint8_t* p) {
  uint32_t word;
  std::memcpy(&word, p, 4);
  return word;
}

// Channels of group `group`, rounded up to whole float vectors.
inline int group_lanes(int channels, int group) {
  return round_up(std::min(kGroup, channels - group * kGroup), kFloatLanes);
}

inline uint64_t group_mask(int channels, int group) {
  int rest = channels - group * kGroup;
  return rest >= 64 ? ~uint64_t{0} : (uint64_t{1} << rest) - 1;
}

// Pixels of a row whose sums are kept for the epilogue.
constexpr int kStrip = 32;

// [window row][column][word], the order of a window's words.
struct WordPlace {
  int row, column, word;
  WordPlace(const BinaryConv& c, int i) {
    const int words = words32(c.in.channels);
    row = i / words / c.kernel;
    column = i / words % c.kernel;
    word = i % words;
  }
};

inline int window_words(const BinaryConv& c) {
  return c.kernel * c.kernel * words32(c.in.channels);
}

// A strip's windows, read where they stand.
class PlainWindows {
 public:
  explicit PlainWindows(const BinaryConv& c) : conv_(c) {}

  static int together(const BinaryConv&) { return 1; }  // pixels that a block cannot part
  static int most_pixels(const BinaryConv&) { return kStrip; }
  static bool whole(const BinaryConv&) { return false; }
  static int words(const BinaryConv& c) { return window_words(c); }

  static ptrdiff_t offset(const BinaryConv& c, int word) {
    const WordPlace at(c, word);
    return 2 * (ptrdiff_t{at.row} * c.in.row() + at.column * c.in.pixel()) + at.word;
  }

  // Those of `pixels` outputs. `top` is the window's first row, `first` the first word
  // of its `rows` inside of the image.
  template <class Task>
  void read(const uint64_t* first, int /*top*/, int /*rows*/, int /*pixels*/, Task& task) {
    task.in = reinterpret_cast<const uint32_t*>(first);
    task.in_step = ptrdiff_t{2} * conv_.stride * conv_.in.pixel();
  }

 private:
  const BinaryConv& conv_;
};

template <class I>
struct Implementation {
  using Float = typename I::Float;

  // Parts of an epilogue, and of what comes before it.
  enum Parts {
    kAffine = 1,
    kResidual = 2,
    kOut = 4,
    kScale = 8,
    kActivation = 16,  // and threshold
    kTerms = 32,
    kSymmetric = 64,  // low = -high, and y cannot be NaN
  };

  // Which may make NaN of sums; see Network::watch for the others.
  template <int kParts>
  static constexpr bool kMakeNan = kParts & (kScale | kActivation | kTerms);

  // Stores to what is not in the nearest cache wait for each other: it is fetched so
  // many floats before.
  static constexpr int kAhead = 256;

  // What the epilogue has for one vector of channels. The parts in use are
  // template arguments, so that the innermost loops have no branches.
  template <int kParts>
  struct Vector {
    Float low, high, scale, alpha, beta, before, negative, positive, after, threshold;

    Vector() = default;
    Vector(const Epilogue& e, int channel) : low(I::set(e.low)), high(I::set(e.high)) {
      if (kParts & kScale) scale = I::load(e.scale + channel);
      if (kParts & kAffine) {
        alpha = I::load(e.alpha + channel);
        beta = I::load(e.beta + channel);
      }
      if (kParts & kActivation) {
        before = I::load(e.before + channel);
        negative = I::load(e.negative + channel);
        positive = I::load(e.positive + channel);
        after = I::load(e.after + channel);
        threshold = I::load(e.threshold + channel);
      }
    }

    Float value(const Epilogue& e, Float y, ptrdiff_t at) const {
      if (kParts & kScale) y = I::mul(y, scale);
      if (kParts & kAffine) y = I::fma(y, alpha, beta);
      if (kParts & kResidual) y = I::add(y, I::load(e.residual + at));
      if (kParts & kActivation) {
        y = I::add(y, before);
        y = I::mul(y, I::by_sign(y, positive, negative));
        y = I::add(y, after);
      }
      if constexpr (kParts & kSymmetric)
        y = I::within(y, high);
      else
        y = I::min(high, I::max(low, y));
      if (kParts & kOut) {
        I::store(e.out + at, y);
        if (!(kParts & kResidual)) __builtin_prefetch(e.out + at + kAhead);
      }
      return y;
    }

    template <class... Mask>
    auto bits(Float y, Mask... mask) const {
      if constexpr (kParts & kActivation)
        return I::at_least(y, threshold, mask...);
      else
        return I::signs(y, mask...);
    }
  };

  // Words of bits, `pixel` apart, of the lanes in `mask`.
  struct BitRow {
    uint64_t* words;  // or null
    ptrdiff_t pixel;
    uint64_t mask;
  };

  // The epilogue of `lanes` channels from `channel` on, for `pixels` neighbours, of which
  // load(p, i) has the lanes from i on. One comparison finds a NaN in two vectors.
  template <int kParts, bool kFindNan, class Load>
  MMIRNET_INLINE static void epilogue(const Epilogue& e, int lanes, int pixels,
                                      ptrdiff_t at, ptrdiff_t step, int channel,
                                      typename I::Found& nan, BitRow row, Load load) {
    if constexpr (I::kWidth == kFloatLanes)
      I::with_registers(lanes, [&](auto v) MMIRNET_INLINE {
        epilogue_in<v.value, kParts, kFindNan>(e, pixels, at, step, channel, nan, row,
                                               load);
      });
    else
      epilogue_of_many<kParts, kFindNan>(e, lanes, pixels, at, step, channel, nan, row,
                                         load);
  }

  // Of many vectors, whose constants are read again for each pixel.
  template <int kParts, bool kFindNan, class Load>
  MMIRNET_INLINE static void epilogue_of_many(const Epilogue& e, int lanes, int pixels,
                                              ptrdiff_t at, ptrdiff_t step, int channel,
                                              typename I::Found& nan, BitRow row,
                                              Load load) {
    typename I::Found found = nan;
    for (int p = 0; p < pixels; ++p) {
      uint64_t word = 0;
      const auto one = [&](int i) MMIRNET_INLINE {
        const Vector<kParts> vector(e, channel + i);
        const Float y = vector.value(e, load(p, i), at + p * step + i);
        word |= vector.bits(y) << i;
        return y;
      };
      int i = 0;
      for (; i + 2 * I::kWidth <= lanes; i += 2 * I::kWidth) {
        const Float y = one(i), z = one(i + I::kWidth);
        if (kFindNan) I::find_nan(y, z, found);
      }
      if (i < lanes) {
        const Float y = one(i);
        if (kFindNan) I::find_nan(y, y, found);
      }
      if (row.words) row.words[p * row.pixel] = word & row.mask;
    }
    nan = found;
  }

  // Of V vectors, whose constants stay in registers.
  template <int V, int kParts, bool kFindNan, class Load>
  MMIRNET_INLINE static void epilogue_in(const Epilogue& e, int pixels, ptrdiff_t at,
                                         ptrdiff_t step, int channel,
                                         typename I::Found& nan, BitRow row, Load load) {
    typename I::Found found = nan;
    alignas(64) Vector<kParts> vectors[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) vectors[v] = {e, channel + v * I::kWidth};
    for (int p = 0; p < pixels; ++p) {
      Float y[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        const int i = v * I::kWidth;
        y[v] = vectors[v].value(e, load(p, i), at + p * step + i);
        if (row.words)
          I::put_bits(row.words + p * row.pixel, v, vectors[v].bits(y[v], row.mask >> i));
      }
#pragma GCC unroll 2
      for (int v = 0; v < V; v += 2)
        if (kFindNan) I::find_nan(y[v], y[std::min(v + 1, V - 1)], found);
    }
    nan = found;
  }

  // Runs with the parts in use as a constant: one after the other is looked at.
  template <int kParts = 0, int kPart = 1, class Run>
  static void with_parts(int parts, Run run) {
    if constexpr (kPart > kActivation) {
      run(std::integral_constant<int, kParts>{});
    } else if (parts & kPart) {
      with_parts<kParts | kPart, 2 * kPart>(parts, run);
    } else {
      with_parts<kParts, 2 * kPart>(parts, run);
    }
  }

  // Of an epilogue behind sums, where a symmetric clamp can be one instruction.
  template <class Run>
  static void with_sum_parts(const Epilogue& e, Run run) {
    with_parts(parts_of(e), [&](auto parts) {
      constexpr int kParts = parts.value;
      if constexpr (I::kHasWithin && !kMakeNan<kParts>)
        if (e.low == -e.high) return run(std::integral_constant<int, kParts | kSymmetric>{});
      run(parts);
    });
  }

  static int parts_of(const Epilogue& e) {
    return (e.alpha ? kAffine : 0) | (e.residual ? kResidual : 0) |
           (e.out ? kOut : 0) | (e.scale ? kScale : 0) |
           (e.threshold ? kActivation : 0);
  }

  static size_t weight_bytes(const BinaryConv& c) {
    return size_t{1} * I::Windows::words(c) * I::word_bytes(c, kGroup);
  }

  static void binary_conv(const BinaryConv& c, const Epilogue& e, int bit_pad,
                          const uint64_t* in, int group, int y0, int y1) {
    with_sum_parts(e, [&](auto parts) {
      if (c.rest)
        conv_rows<(parts.value & ~(kScale | kSymmetric)) | kTerms>(c, e, bit_pad, in,
                                                                   group, y0, y1);
      else
        conv_rows<parts.value>(c, e, bit_pad, in, group, y0, y1);
    });
  }

  // A group's words in row y, after the zero columns of that row were cleared.
  static BitRow bit_row(const Epilogue& e, int channels, int width, int pad, int group,
                        int y) {
    if (!e.bits) return {};
    const int pixel = (channels + 63) / 64;
    uint64_t* bits = e.bits + ptrdiff_t{y} * (width + 2 * pad) * pixel + group;
    for (int x = 0; x < pad; ++x) {
      bits[x * pixel] = 0;
      bits[(pad + width + x) * pixel] = 0;
    }
    return {bits + pad * pixel, pixel, group_mask(channels, group)};
  }

  // The blocks of smaller and of larger strips, made once: it takes divisions.
  static std::array<Split, 2> blocks_of(const Split& strips, int together, int most) {
    const auto of = [&](int width) {
      return Split((width + together - 1) / together, most);
    };
    return {of(strips.size), of(strips.size + 1)};
  }

  // The sums of `width` pixels, `together` at once in each block.
  template <class Task, class Sum>
  static void each_block(Task& task, int width, int together, const Split& blocks,
                         Sum* sums, void (*run)(const Task&)) {
    for (int block = 0; block < blocks.parts; ++block) {
      task.pixels = std::min(width, together * blocks[block]);
      task.sums = sums;
      run(task);
      task.in += blocks[block] * task.in_step;
      sums += task.pixels * kGroup;
      width -= task.pixels;
    }
  }

  // Sums of the input's signs in the windows of a strip, of which `in` is the
  // first word, as Kernels::binary_conv finds it: columns first.
  static void sum_signs(const BinaryConv& c, const uint64_t* in, int rows,
                        int pixels, int32_t* sums) {
    int32_t column[(kStrip - 1) * kMaxStride + kMaxBinaryKernel];
    const int words = c.in.pixel();
    const int columns = (pixels - 1) * c.stride + c.kernel;
    for (int u = 0; u < columns; ++u) {
      column[u] = 0;
      for (int v = 0; v < rows; ++v)
        for (int i = 0; i < words; ++i)
          column[u] += __builtin_popcountll(
              in[ptrdiff_t{v} * c.in.row() + ptrdiff_t{u} * words + i]);
    }
    for (int p = 0; p < pixels; ++p) {
      sums[p] = 0;
      for (int u = 0; u < c.kernel; ++u) sums[p] += 2 * column[p * c.stride + u];
    }
  }

  // The bits of sums that a step function makes, see BinaryConv::limit.
  MMIRNET_INLINE static void put_steps(const typename I::Count* counts,
                                       const int32_t* limit, const ptrdiff_t* column,
                                       int pixels, int lanes, uint64_t flip, BitRow row) {
    if constexpr (I::kWidth == kFloatLanes) {
      I::with_registers(lanes, [&](auto v) MMIRNET_INLINE {
        flip ? put_steps_in<v.value, true>(counts, limit, column, pixels, flip, row)
             : put_steps_in<v.value, false>(counts, limit, column, pixels, flip, row);
      });
    } else {
      for (int p = 0; p < pixels; ++p, counts += kGroup) {
        uint64_t word = flip;
        for (int i = 0; i < lanes; i += I::kWidth)
          word ^= I::at_most(counts + i, limit + column[p] + i) << i;
        row.words[p * row.pixel] = word & row.mask;
      }
    }
  }

  template <int V, bool kFlip>
  MMIRNET_INLINE static void put_steps_in(const typename I::Count* counts,
                                          const int32_t* limit, const ptrdiff_t* column,
                                          int pixels, uint64_t flip, BitRow row) {
    for (int p = 0; p < pixels; ++p, counts += kGroup)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        const int i = v * I::kWidth;
        auto bits = I::at_most(counts + i, limit + column[p] + i, row.mask >> i);
        if (kFlip) bits ^= static_cast<decltype(bits)>((flip & row.mask) >> i);
        I::put_bits(row.words + p * row.pixel, v, bits);
      }
  }

  // Its own copies of `c` and `e`: no store can then change their members, which
  // stay in registers.
  template <int kParts>
  static void conv_rows(const BinaryConv c, const Epilogue e, int bit_pad,
                        const uint64_t* in, int group, int y0, int y1) {
    alignas(64) typename I::Count counts[kStrip * kGroup];
    int32_t sums[kStrip];
    const int channel = group * kGroup;
    const int lanes = group_lanes(c.out_channels, group);
    const int float_pixel = round_up(c.out_channels, kFloatLanes);
    const uint64_t flip = c.limit ? c.flip[group] : 0;
    typename I::Found nan{};
    const bool whole = I::Windows::whole(c);
    const int together = I::Windows::together(c);
    const int window = I::Windows::words(c);
    const int row_words = window / c.kernel;  // of windows that are not whole
    const size_t row_bytes = row_words * I::word_bytes(c, lanes);
    const uint8_t* const weights = c.weights + group * weight_bytes(c);
    typename I::Windows windows(c);
    const Split strips(c.out_width, windows.most_pixels(c));
    const auto blocks = blocks_of(strips, together, I::pixels(lanes));

    CountTask<typename I::Count> task;
    task.offsets = c.offsets;
    task.channels = c.in.channels;
    task.together = together;
    task.lanes = lanes;
    for (int y = y0; y < y1; ++y) {
      const int top = y * c.stride - c.pad;
      const int skip = std::max(0, -top);
      const int rows = std::min(c.kernel, c.in.height - top) - skip;
      task.words = whole ? window : rows * row_words;
      const uint64_t* first = in + ptrdiff_t{top + skip} * c.in.row() +
                              (c.in.pad - c.pad) * c.in.pixel();
      task.weights = weights + (whole ? 0 : skip * row_bytes);
      BitRow bits = bit_row(e, c.out_channels, c.out_width, bit_pad, group, y);

      for (int strip = 0, x0 = 0; strip < strips.parts; x0 += strips[strip++]) {
        const int width = strips[strip];
        if (kParts & kTerms) sum_signs(c, first, rows, width, sums);
        windows.read(first, top, rows, width, task);
        first += ptrdiff_t{width} * c.stride * c.in.pixel();
        each_block(task, width, together, blocks[width - strips.size], counts, I::count);
        // Where the tables have pixel p.
        const ptrdiff_t* const column = c.column_entry + x0;
        const ptrdiff_t entries = c.row_entry[y] + channel;
        if (c.limit) {
          put_steps(counts, c.limit + entries, column, width, lanes, flip, bits);
        } else {
          const ptrdiff_t at = (ptrdiff_t{y} * c.out_width + x0) * float_pixel;
          epilogue<kParts, kMakeNan<kParts>>(
              e, lanes, width, at + channel, float_pixel, channel, nan, bits,
              [&](int p, int i) MMIRNET_INLINE {
                const ptrdiff_t entry = entries + column[p] + i;
                const Float dot =
                    I::fma(I::from_count(counts + p * kGroup + i), I::set(-2.0f),
                           I::load(c.base + entry));
                if (!(kParts & kTerms)) return dot;
                const Float signs = I::set(
                    static_cast<float>(sums[p] - c.inside[entry]));
                const Float rest =
                    I::add(I::mul(signs, I::load(c.offset + channel + i)),
                           I::load(c.rest + entry));
                return I::add(I::mul(dot, I::load(c.factor + channel + i)), rest);
              });
        }
        bits.words += width * bits.pixel;
      }
    }
    if (I::any(nan)) e.nan->store(true, std::memory_order_relaxed);
  }

  static void byte_conv(const ByteConv& c, const Epilogue& e, int bit_pad,
                        const uint8_t* in, int group, int y0, int y1) {
    with_sum_parts(e, [&](auto parts) {
      byte_rows<parts.value>(c, e, bit_pad, in, group, y0, y1);
    });
  }

  // With copies as in conv_rows.
  template <int kParts>
  static void byte_rows(const ByteConv c, const Epilogue e, int bit_pad,
                        const uint8_t* in, int group, int y0, int y1) {
    alignas(64) int32_t sums[kStrip * kGroup];
    const int channel = group * kGroup;
    const int lanes = group_lanes(c.out_channels, group);
    const int float_pixel = round_up(c.out_channels, kFloatLanes);
    typename I::Found nan{};
    const Split strips(c.out_width, kStrip);
    const auto blocks = blocks_of(strips, 1, I::byte_pixels(lanes));

    DotTask task;
    task.offsets = c.offsets;
    task.in_step = c.in_step;
    task.words = c.words;
    task.run_words = c.run_words;
    task.alone = c.alone;
    task.weights = c.weights + group * I::byte_weight_bytes(c);
    task.start = c.start + channel;
    task.lanes = lanes;
    task.tables = c.tables;
    task.small = c.small;
    for (int y = y0; y < y1; ++y) {
      const uint8_t* row = in + (y - y0) * c.in_down;
      BitRow bits = bit_row(e, c.out_channels, c.out_width, bit_pad, group, y);
      for (int strip = 0, x0 = 0; strip < strips.parts; x0 += strips[strip++]) {
        const int width = strips[strip];
        task.in = row + x0 * c.in_step;
        each_block(task, width, 1, blocks[width - strips.size], sums, I::dot);
        const ptrdiff_t* const column = c.column_entry + x0;
        const ptrdiff_t first = c.row_entry[y] + channel;
        const ptrdiff_t at = (ptrdiff_t{y} * c.out_width + x0) * float_pixel;
        epilogue<kParts, kMakeNan<kParts>>(
            e, lanes, width, at + channel, float_pixel, channel, nan, bits,
            [&](int p, int i) MMIRNET_INLINE {
              const Float dot = I::mul(I::from_int(sums + p * kGroup + i),
                                       I::load(c.factor + channel + i));
              return I::add(dot, I::load(c.rest + first + column[p] + i));
            });
        bits.words += width * bits.pixel;
      }
    }
    if (I::any(nan)) e.nan->store(true, std::memory_order_relaxed);
  }

  static void quantise(const Quantisation& q, const float* in, int count,
                       uint8_t* out) {
    const Float scale = I::set(q.scale);
    const Float low = I::set(static_cast<float>(-q.zero));
    const Float high = I::set(static_cast<float>(255 - q.zero));
    const auto bytes = [&](const float* from, uint8_t* to) {
      const Float v = I::max(I::mul(I::load(from), scale), low);
      I::to_bytes(I::min(v, high), q.zero, to);
    };
    int i = 0;
    for (; i + I::kWidth <= count; i += I::kWidth) bytes(in + i, out + i);
    if (i < count) {
      float tail[I::kWidth] = {};
      uint8_t made[I::kWidth];
      std::copy(in + i, in + count, tail);
      bytes(tail, made);
      std::copy_n(made, count - i, out + i);
    }
  }

  static void map(const Epilogue& given, int channels, int pixels,
                  const float* in) {
    with_parts(parts_of(given), [&](auto parts) {
      const Epilogue e = given;  // a copy as in conv_rows
      const int stride = round_up(channels, kFloatLanes);
      const int groups = (channels + 63) / 64;
      typename I::Found nan{};
      for (int p = 0; p < pixels; p += kStrip)
        for (int g = 0; g < groups; ++g) {
          const int count = std::min(kStrip, pixels - p);
          const int channel = g * kGroup;
          const ptrdiff_t at = ptrdiff_t{p} * stride + channel;
          BitRow bits{};
          if (e.bits) bits = {e.bits + p * groups + g, groups, group_mask(channels, g)};
          epilogue<parts.value, true>(
              e, group_lanes(channels, g), count, at, stride, channel, nan, bits,
              [&](int q, int i) MMIRNET_INLINE {
                return I::load(in + at + q * stride + i);
              });
        }
      if (I::any(nan)) e.nan->store(true, std::memory_order_relaxed);
    });
  }

  // The maximum of V vectors over `rows` by `columns` pixels.
  template <int V>
  static void largest(const float* from, int rows, int columns, ptrdiff_t width,
                      ptrdiff_t pixel, float* to) {
    Float best[V];
    for (Float& v : best) v = I::set(-std::numeric_limits<float>::infinity());
    for (int y = 0; y < rows; ++y)
      for (int x = 0; x < columns; ++x)
        for (int v = 0; v < V; ++v)
          best[v] = I::max(
              best[v], I::load(from + (y * width + x) * pixel + v * I::kWidth));
    for (int v = 0; v < V; ++v) I::store(to + v * I::kWidth, best[v]);
  }

  static void max_pool(const Epilogue& e, int channels, int height, int width,
                       const Window& window, int out_width, int y,
                       const float* in, float* scratch) {
    const int pixel = round_up(channels, kFloatLanes);
    const int first = y * window.stride_y - window.top;
    const int top = std::max(0, first);
    const int bottom = std::min(height, first + window.kernel_height);
    for (int x = 0; x < out_width; ++x) {
      const int start = x * window.stride_x - window.left;
      const int left = std::max(0, start);
      const int right = std::min(width, start + window.kernel_width);
      const float* from = in + (ptrdiff_t{top} * width + left) * pixel;
      float* to = scratch + x * pixel;
      int c = 0;
      for (; c + 4 * I::kWidth <= pixel; c += 4 * I::kWidth)
        largest<4>(from + c, bottom - top, right - left, width, pixel, to + c);
      for (; c < pixel; c += I::kWidth)
        largest<1>(from + c, bottom - top, right - left, width, pixel, to + c);
    }
    map(e, channels, out_width, scratch);
  }

  static bool finite(const float* in, size_t count) {
    // 0 * x is 0, or NaN, and stays so.
    constexpr int kSums = 4, kStep = kSums * I::kWidth;
    Float sums[kSums];
    for (Float& sum : sums) sum = I::set(0);
    size_t i = 0;
    for (; i + kStep <= count; i += kStep)
      for (int s = 0; s < kSums; ++s)
        sums[s] = I::fma(I::load(in + i + s * I::kWidth), I::set(0), sums[s]);
    typename I::Found nan{};
    for (int s = 0; s < kSums; s += 2) I::find_nan(sums[s], sums[s + 1], nan);
    bool finite = !I::any(nan);
    for (; i < count; ++i) finite = finite && std::isfinite(in[i]);
    return finite;
  }

  static void float_conv(const FloatConvShape& s, const float* in,
                         const float* weights, float* out) {
    const Window& w = s.window;
    const int outputs = s.groups * s.out_group;
    // Without dilation and groups, a row of the window is one run of values.
    const bool run = w.dilation_x == 1 && s.in_group == s.in_channels;
    for (int y = 0; y < s.out_height; ++y)
      for (int x = 0; x < s.out_width; ++x) {
        const int top = y * w.stride_y - w.top, left = x * w.stride_x - w.left;
        float* to = out + (ptrdiff_t{y} * s.out_width + x) * s.out_channels;
        for (int o = 0; o < outputs; ++o) {
          const float* group = in + ptrdiff_t{o / s.out_group} * s.in_group;
          float sum = 0;
          for (int v = 0; v < w.kernel_height; ++v) {
            const int row = top + v * w.dilation_y;
            if (row < 0 || row >= s.in_height) continue;
            for (int u = run ? std::max(0, -left) : 0; u < w.kernel_width; ++u) {
              const int column = left + u * w.dilation_x;
              if (column < 0 || column >= s.in_width) continue;
              const float* a =
                  group + (ptrdiff_t{row} * s.in_width + column) * s.in_channels;
              const float* b =
                  weights + ((ptrdiff_t{o} * w.kernel_height + v) * w.kernel_width +
                             u) * s.in_group;
              int count = s.in_group;
              if (run) {
                const int last = std::min(w.kernel_width, s.in_width - left);
                count *= last - u;
                u = last - 1;
              }
              for (int i = 0; i < count; ++i) sum = std::fma(a[i], b[i], sum);
            }
          }
          to[o] = sum;
        }
        std::fill(to + outputs, to + s.out_channels, 0.0f);
      }
  }

  static constexpr Kernels table(const char* name, bool (*supported)()) {
    return {name,
            supported,
            weight_bytes,
            I::pack_weights,
            I::Windows::words,
            I::Windows::offset,
            I::Windows::whole,
            binary_conv,
            I::byte_weight_bytes,
            I::pack_byte_weights,
            I::kByteStart,
            I::make_tables,
            byte_conv,
            quantise,
            map,
            max_pool,
            finite,
            float_conv};
  }
};

// The layout shared by the paths whose lanes are output channels with 32-bit
// words of input channels: [window row][column][word][lane].
inline size_t lane_word_bytes(const BinaryConv&, int lanes) {
  return size_t{4} * lanes;
}

inline uint32_t sign_word(const BinaryConv& c, const uint64_t* signs, int out,
                          int tap, int word) {
  if (out >= c.out_channels) return 0;
  const ptrdiff_t at =
      (ptrdiff_t{out} * c.kernel * c.kernel + tap) * c.in.pixel() + word / 2;
  return static_cast<uint32_t>(signs[at] >> (32 * (word % 2)));
}

inline void lane_pack_weights(const BinaryConv& c, const uint64_t* signs,
                              int group, uint8_t* destination) {
  const int lanes = group_lanes(c.out_channels, group);
  const int words = words32(c.in.channels);
  for (int tap = 0; tap < c.kernel * c.kernel; ++tap)
    for (int word = 0; word < words; ++word)
      for (int lane = 0; lane < lanes; ++lane, destination += 4) {
        const uint32_t bits = sign_word(c, signs, group * kGroup + lane, tap, word);
        std::memcpy(destination, &bits, 4);
      }
}

// The layout shared by the paths whose lanes are output channels with 4 inputs
// each: [word][lane][4].
inline size_t lane_byte_weight_bytes(const ByteConv& c) {
  return size_t{4} * c.words * kGroup;
}

// Calls put(position, weight), with positions of single weights in that layout.
template <class Put>
void each_byte_weight(const ByteConv& c, const int8_t* weights, int group,
                      Put put) {
  const int lanes = group_lanes(c.out_channels, group);
  const int channels = std::min(kGroup, c.out_channels - group * kGroup);
  weights += ptrdiff_t{4} * group * kGroup * c.words;
  for (int lane = 0; lane < channels; ++lane)
    for (int i = 0; i < 4 * c.words; ++i)
      put((ptrdiff_t{i / 4} * lanes + lane) * 4 + i % 4, *weights++);
}

inline void lane_pack_byte_weights(const ByteConv& c, const int8_t* weights,
                                   int group, uint8_t* destination) {
  each_byte_weight(c, weights, group, [&](ptrdiff_t at, int8_t weight) {
    destination[at] = static_cast<uint8_t>(weight);
  });
}

}  // namespace
}  // namespace mmirnet
