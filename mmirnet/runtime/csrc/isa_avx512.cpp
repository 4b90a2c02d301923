// AVX-512 with VPOPCNTDQ, and with VNNI, which no CPU with VPOPCNTDQ and BW lacks. A
// register holds 16 output channels by 32 input channels.
//
// Bits are added before they are counted. For words x and y of a window, a full adder
// makes of x, y and the parity of all words before them their common parity and the
// carries, of which each counts twice:
//
//   parity' = parity ^ x ^ y     carries = (parity & x) | (parity & y) | (x & y)
//
// The parity takes one instruction, parity ^ both ^ weights, where `both` and `weights`
// are the xor of the two words of activations and of weights, made once. So the second
// word of a pair is stored as the xor of both, y follows from parity', and two words take
// five instructions: x, parity', carries, a popcount and an addition.
#include <immintrin.h>

#include <chrono>

#include "kernels_impl.h"

namespace mmirnet {
namespace {

// Of a pair of words; of an odd number, the first stands alone.
inline bool is_second(int word, int words) {
  return word > 0 && word % 2 == (words + 1) % 2;
}

constexpr int kParity = 0x96;   // a ^ b ^ c
constexpr int kCarries = 0xd4;  // of x, parity and parity'

// The windows of a strip as pairs of words. Of more than 32 channels, rows are copied, in
// which 64 channels are a pair. Of fewer, a word holds one tap, or two of up to 16
// channels; windows are whole, and each word stands beside that of the next pixel.
class PairedWindows {
 public:
  static constexpr int kTogether = 1;

  static bool whole(const BinaryConv& c) { return c.in.channels <= 32; }

  static int words(const BinaryConv& c) {
    const int taps = c.kernel * c.kernel;
    return whole(c) ? (taps + taps_of(c) - 1) / taps_of(c) : 2 * taps * c.in.pixel();
  }

  static int most_pixels(const BinaryConv& c) {
    if (whole(c)) return kStrip * words(c) <= kWords ? kStrip : kStrip / 2;
    const int columns = kWords / (2 * c.kernel * c.in.pixel());
    return std::min(kStrip, (columns - c.kernel) / c.stride + 1);
  }

  static ptrdiff_t offset(const BinaryConv& c, int word) {
    if (whole(c)) return ptrdiff_t{word} * plane(c);
    const int row = 2 * c.kernel * c.in.pixel();
    return word / row * row_words(c) + word % row;
  }

  static uint32_t weight(const BinaryConv& c, const uint64_t* signs, int out,
                         int word) {
    const int all = words(c);
    const auto plain = [&](int i) {
      const int pixel = 2 * c.in.pixel();
      if (!whole(c)) return sign_word(c, signs, out, i / pixel, i % pixel);
      if (taps_of(c) == 1) return sign_word(c, signs, out, i, 0);
      const bool last = 2 * i + 1 == c.kernel * c.kernel;
      return sign_word(c, signs, out, 2 * i, 0) |
             (last ? 0 : sign_word(c, signs, out, 2 * i + 1, 0) << 16);
    };
    return plain(word) ^ (is_second(word, all) ? plain(word - 1) : 0);
  }

  void read(const BinaryConv& c, const uint64_t* first, int skip, int rows, int pixels,
            CountTask<int32_t>& task) {
    task.in = words_;
    if (whole(c)) {
      task.in_step = 1;
      for (int x = 0; x < pixels; x += 16) read_planes(c, first, skip, rows, pixels, x);
    } else {
      task.in_step = ptrdiff_t{2} * c.stride * c.in.pixel();
      const int count = ((pixels - 1) * c.stride + c.kernel) * c.in.pixel();
      for (int v = 0; v < rows; ++v)
        copy_row(first + ptrdiff_t{v} * c.in.row(), count, words_ + v * row_words(c));
    }
  }

 private:
  static constexpr int kWords = 1 << 14;

  // Taps that a word holds, of up to 32 channels.
  static int taps_of(const BinaryConv& c) { return c.in.channels <= 16 ? 2 : 1; }

  // From a word of a window to the next, where each stands beside that of other pixels.
  static int plane(const BinaryConv& c) {
    return std::min(most_pixels(c), round_up(c.out_width, 16));
  }

  static ptrdiff_t row_words(const BinaryConv& c) {
    const int pixels = std::min(most_pixels(c), c.out_width);
    return ptrdiff_t{2} * ((pixels - 1) * c.stride + c.kernel) * c.in.pixel();
  }

  // The words of 16 pixels from x on.
  void read_planes(const BinaryConv& c, const uint64_t* first, int skip, int rows,
                   int pixels, int x) {
    const __mmask16 mask = (1u << std::min(16, pixels - x)) - 1;
    const int kernel = c.kernel, taps = taps_of(c), step = plane(c), all = words(c);
    const uint64_t* row = first + ptrdiff_t{x} * c.stride;
    uint32_t* to = words_ + x;
    __m512i half = _mm512_setzero_si512(), before = half;
    bool lower = true;
    int i = 0;
    const auto put = [&](__m512i word) MMIRNET_INLINE {
      const __m512i both = _mm512_xor_si512(word, before);
      _mm512_storeu_si512(to, is_second(i++, all) ? both : word);
      to += step;
      before = word;
    };
    for (int v = 0; v < kernel; ++v) {
      const bool inside = v >= skip && v < skip + rows;
      for (int u = 0; u < kernel; ++u) {
        const __m512i tap = inside ? lower_halves(row + u, c.stride, mask)
                                   : _mm512_setzero_si512();
        if (taps == 1) {
          put(tap);
        } else if (lower) {
          half = tap;
          lower = false;
        } else {
          put(_mm512_or_si512(half, _mm512_slli_epi32(tap, 16)));
          lower = true;
        }
      }
      if (inside) row += c.in.row();
    }
    if (!lower) put(half);
  }

  // Of 16 numbers, `stride` apart.
  static __m512i lower_halves(const uint64_t* p, int stride, __mmask16 mask) {
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13,
                                            14, 15);
    if (stride > 1)
      return _mm512_mask_i32gather_epi32(
          _mm512_setzero_si512(), mask,
          _mm512_mullo_epi32(lanes, _mm512_set1_epi32(stride)), p, 8);
    return _mm512_permutex2var_epi32(_mm512_maskz_loadu_epi64(mask, p),
                                     _mm512_slli_epi32(lanes, 1),
                                     _mm512_maskz_loadu_epi64(mask >> 8, p + 8));
  }

  // The upper half of each number as the xor of both. Up to a register more is written.
  static void copy_row(const uint64_t* from, int count, uint32_t* to) {
    for (int i = 0; i < count; i += 8) {
      const __mmask8 mask = (1u << std::min(8, count - i)) - 1;
      const __m512i v = _mm512_maskz_loadu_epi64(mask, from + i);
      _mm512_storeu_si512(to + 2 * i, _mm512_xor_si512(v, _mm512_slli_epi64(v, 32)));
    }
  }

  alignas(64) uint32_t words_[kWords + 16];
};

struct Avx512 {
  using Float = __m512;
  using Windows = PairedWindows;
  using Count = int32_t;
  static constexpr int kWidth = 16;
  static constexpr int kByteStart = 0;

  static Float load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, Float v) { _mm512_storeu_ps(p, v); }
  static Float set(float v) { return _mm512_set1_ps(v); }
  static Float fma(Float a, Float b, Float c) {
    return _mm512_fmadd_ps(a, b, c);
  }
  static Float mul(Float a, Float b) { return _mm512_mul_ps(a, b); }
  static Float add(Float a, Float b) { return _mm512_add_ps(a, b); }
  static Float max(Float a, Float b) { return _mm512_max_ps(a, b); }
  static Float min(Float a, Float b) { return _mm512_min_ps(a, b); }
  static Float from_int(const int32_t* p) {
    return _mm512_cvtepi32_ps(_mm512_load_si512(p));
  }
  static constexpr auto from_count = from_int;
  static uint64_t signs(Float v) {
    return _mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_GE_OQ);
  }
  static uint64_t at_least(Float v, Float w) {
    return _mm512_cmp_ps_mask(v, w, _CMP_GE_OQ);
  }
  static Float by_sign(Float v, Float a, Float b) {
    return _mm512_mask_blend_ps(
        _mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_GE_OQ), b, a);
  }
  using Found = __mmask16;
  static void find_nan(Float a, Float b, Found& found) {
    found |= _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q);
  }
  static bool any(Found found) { return found != 0; }
  static uint64_t at_most(const int32_t* p, const int32_t* limit) {
    return _mm512_cmple_epi32_mask(_mm512_load_si512(p), _mm512_loadu_si512(limit));
  }

  // Of a block of 16, 32, 48 and 64 channels: as many as there are registers for.
  static constexpr int kPixelsOf[] = {0, 12, 6, 4, 3};
  static constexpr int kBytePixelsOf[] = {0, 16, 12, 7, 7};
  static int pixels(int lanes) { return kPixelsOf[lanes / 16]; }
  static int byte_pixels(int lanes) { return kBytePixelsOf[lanes / 16]; }

  static constexpr auto word_bytes = lane_word_bytes;

  static void pack_weights(const BinaryConv& c, const uint64_t* signs, int group,
                           uint8_t* destination) {
    const int lanes = group_lanes(c.out_channels, group), words = Windows::words(c);
    for (int word = 0; word < words; ++word)
      for (int lane = 0; lane < lanes; ++lane, destination += 4) {
        const uint32_t bits = Windows::weight(c, signs, group * kGroup + lane, word);
        std::memcpy(destination, &bits, 4);
      }
  }

  static constexpr std::nullptr_t make_tables = nullptr;
  static constexpr auto byte_weight_bytes = lane_byte_weight_bytes;
  static constexpr auto pack_byte_weights = lane_pack_byte_weights;

  static void to_bytes(Float v, int zero, uint8_t* p) {
    const __m512i q =
        _mm512_add_epi32(_mm512_cvtps_epi32(v), _mm512_set1_epi32(zero));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(q));
  }

  // P pixels by V registers of lanes. The loops over sums are unrolled by force: left
  // to itself, the compiler keeps a copy of the sums in memory.
  template <int P, int V>
  MMIRNET_ALONE static void dot_block(const DotTask& t) {
    __m512i sum[P][V];
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[p][v] = _mm512_load_si512(t.start + 16 * v);
    const __m512i* w = reinterpret_cast<const __m512i*>(t.weights);
    for (int k = 0; k < t.words; ++k, w += V) {
      const uint8_t* in = t.in + t.offsets[k];
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) {
        const __m512i x =
            _mm512_set1_epi32(static_cast<int>(load_word(in + p * t.in_step)));
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
          sum[p][v] = _mm512_dpbusd_epi32(sum[p][v], x, _mm512_load_si512(w + v));
          in_place(sum[p][v]);
        }
      }
    }
    int32_t* const sums = t.sums;
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v)
        _mm512_store_si512(sums + p * kGroup + 16 * v, sum[p][v]);
  }

  // Adds a pair of words, `a` and the xor `ab` of both, with their V weights each.
  template <int V>
  static void add_pair(__m512i before, __m512i a, __m512i ab, const __m512i* w,
                       __m512i& parity, __m512i& carried) {
    // Weights are loaded for each pixel: copies of a register would cost more.
    asm("" : "+r"(w));
    parity = _mm512_ternarylogic_epi32(_mm512_load_si512(w + V), before, ab, kParity);
    const __m512i carries = _mm512_ternarylogic_epi32(
        _mm512_xor_si512(a, _mm512_load_si512(w)), before, parity, kCarries);
    // The intrinsic's sum goes to another register, and from there to its own.
    asm("vpaddd %1, %0, %0" : "+v"(carried) : "v"(_mm512_popcnt_epi32(carries)));
  }

  // Popcounts of P pixels in V registers of lanes. Words are kStep from pixel to pixel,
  // or else t.in_step. Two pairs at a time: the parity moves to another register and back.
  template <int P, int V, int kStep>
  MMIRNET_ALONE static void count_block(const CountTask<Count>& t) {
    const ptrdiff_t step = kStep ? kStep : t.in_step;
    const auto spread = [&](int k, int p) MMIRNET_INLINE {
      return _mm512_set1_epi32(static_cast<int>(t.in[t.offsets[k] + p * step]));
    };
    const __m512i* w = reinterpret_cast<const __m512i*>(t.weights);
    __m512i parity[P][V], carried[P][V];
    int k = t.words % 2;
#pragma GCC unroll 12
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        carried[p][v] = _mm512_setzero_si512();
        parity[p][v] = k ? _mm512_xor_si512(spread(0, p), _mm512_load_si512(w + v))
                         : _mm512_setzero_si512();
      }
    w += k * V;
    for (; k + 4 <= t.words; k += 4, w += 4 * V)
#pragma GCC unroll 12
      for (int p = 0; p < P; ++p) {
        const __m512i a = spread(k, p), ab = spread(k + 1, p), c = spread(k + 2, p),
                      cd = spread(k + 3, p);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
          __m512i between;
          add_pair<V>(parity[p][v], a, ab, w + v, between, carried[p][v]);
          add_pair<V>(between, c, cd, w + 2 * V + v, parity[p][v], carried[p][v]);
          in_place(parity[p][v]);
        }
      }
    if (k < t.words)
#pragma GCC unroll 12
      for (int p = 0; p < P; ++p) {
        const __m512i a = spread(k, p), ab = spread(k + 1, p);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v)
          add_pair<V>(parity[p][v], a, ab, w + v, parity[p][v], carried[p][v]);
      }
    Count* const sums = t.sums;
#pragma GCC unroll 12
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v)
        _mm512_store_si512(sums + p * kGroup + 16 * v,
                           _mm512_add_epi32(_mm512_slli_epi32(carried[p][v], 1),
                                            _mm512_popcnt_epi32(parity[p][v])));
  }

  // Calls run(V) with the number of registers that lanes take.
  template <class Run>
  static void with_registers(int lanes, Run run) {
    switch (lanes) {
      case 16: return run(std::integral_constant<int, 1>{});
      case 32: return run(std::integral_constant<int, 2>{});
      case 48: return run(std::integral_constant<int, 3>{});
      default: return run(std::integral_constant<int, 4>{});
    }
  }

  static void dot(const DotTask& t) {
    with_registers(t.lanes, [&](auto v) {
      with_pixels<kBytePixelsOf[v.value]>(
          t.pixels, [&](auto p) { dot_block<p.value, v.value>(t); });
    });
  }

  static void count(const CountTask<Count>& t) {
    with_registers(t.lanes, [&](auto v) {
      with_pixels<kPixelsOf[v.value]>(t.pixels, [&](auto p) {
        t.in_step == 1 ? count_block<p.value, v.value, 1>(t)
                       : count_block<p.value, v.value, 0>(t);
      });
    });
  }
};

bool supported() {
  return __builtin_cpu_supports("avx512f") &&
         __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni") &&
         __builtin_cpu_supports("avx512vpopcntdq");
}

}  // namespace

// Twelve independent sums hide every latency. The empty assembler statement
// keeps the compiler from computing the same word once for all rounds.
double avx512_peak_rate() {
  constexpr int kSums = 12, kRounds = 400000;
  __m512i parity[kSums], carried[kSums], x = _mm512_set1_epi32(0x12345678), w = x;
  for (int i = 0; i < kSums; ++i) parity[i] = carried[i] = _mm512_setzero_si512();
  const auto start = std::chrono::steady_clock::now();
  for (int round = 0; round < kRounds; ++round)
#pragma GCC unroll 12
    for (int i = 0; i < kSums; ++i) {
      asm volatile("" : "+v"(x));
      const __m512i next = _mm512_ternarylogic_epi32(parity[i], x, w, kParity);
      const __m512i carries = _mm512_ternarylogic_epi32(_mm512_xor_si512(x, w), parity[i],
                                                        next, kCarries);
      parity[i] = next;
      carried[i] = _mm512_add_epi32(carried[i], _mm512_popcnt_epi32(carries));
    }
  const std::chrono::duration<double> seconds =
      std::chrono::steady_clock::now() - start;
  for (int i = 0; i < kSums; ++i) asm volatile("" : : "v"(parity[i]), "v"(carried[i]));
  return 1024.0 * kSums * kRounds / seconds.count();
}

extern const Kernels kAvx512;
const Kernels kAvx512 = Implementation<Avx512>::table("avx512", supported);

}  // namespace mmirnet
