// AVX-512 with VPOPCNTDQ, and with BITALG and VNNI, which no CPU with VPOPCNTDQ and
// BW lacks. A register holds 16 output channels by 32 input channels.
#include <immintrin.h>

#include <chrono>

#include "kernels_impl.h"

namespace mmirnet {
namespace {

struct Avx512 {
  using Float = __m512;
  using Windows = PlainWindows;
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
  static __m512i load_counts(const uint16_t* p) {
    return _mm512_cvtepu16_epi32(
        _mm256_load_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static Float from_count(const uint16_t* p) {
    return _mm512_cvtepi32_ps(load_counts(p));
  }
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
  static uint64_t at_most(const uint16_t* p, const int32_t* limit) {
    return _mm512_cmple_epi32_mask(load_counts(p), _mm512_loadu_si512(limit));
  }

  // Of a block of 16, 32, 48 and 64 channels: as many as there are registers for.
  static constexpr int kPixelsOf[] = {0, 16, 12, 7, 7};
  static int pixels(int lanes) { return kPixelsOf[lanes / 16]; }
  static constexpr auto byte_pixels = pixels;

  // Of up to 16 input channels, words have 16 bits: twice as many fit a register.
  static bool halves(int channels) { return channels <= 16; }

  static size_t word_bytes(const BinaryConv& c, int lanes) {
    return size_t{halves(c.in.channels) ? 2u : 4u} * lanes;
  }

  static void pack_weights(const BinaryConv& c, const uint64_t* signs, int group,
                           uint8_t* destination) {
    if (!halves(c.in.channels))
      return lane_pack_weights(c, signs, group, destination);
    const int lanes = group_lanes(c.out_channels, group);
    for (int tap = 0; tap < c.kernel * c.kernel; ++tap)
      for (int lane = 0; lane < lanes; ++lane, destination += 2) {
        const uint16_t bits = sign_word(c, signs, group * kGroup + lane, tap, 0);
        std::memcpy(destination, &bits, 2);
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

  // What a block adds up: the first sum of a register of lanes, a word of a pixel's
  // window in every lane, a sum with that word's part, and where sums go.
  struct Products {
    static __m512i start(const DotTask& t, int v) {
      return _mm512_load_si512(t.start + 16 * v);
    }
    static __m512i spread(const uint8_t* in) {
      return _mm512_set1_epi32(static_cast<int>(load_word(in)));
    }
    static void add(__m512i& sum, __m512i x, const __m512i* w) {
      sum = _mm512_dpbusd_epi32(sum, x, _mm512_load_si512(w));
      in_place(sum);
    }
    static void store(int32_t* to, __m512i sum) { _mm512_store_si512(to, sum); }
  };

  struct Counts {
    static __m512i start(const CountTask&, int) { return _mm512_setzero_si512(); }
    static __m512i spread(const uint32_t* in) { return _mm512_set1_epi32(*in); }
    static void add(__m512i& sum, __m512i x, const __m512i* w) {
      sum = _mm512_add_epi32(
          sum, _mm512_popcnt_epi32(_mm512_xor_si512(x, _mm512_load_si512(w))));
      in_place(sum);
    }
    static void store(uint16_t* to, __m512i sum) {
      HalfCounts::store(to, _mm512_cvtepi32_epi16(sum));
    }
  };

  struct HalfCounts {
    static __m256i start(const CountTask&, int) { return _mm256_setzero_si256(); }
    static __m256i spread(const uint32_t* in) {
      return _mm256_set1_epi16(static_cast<short>(*in));
    }
    static void add(__m256i& sum, __m256i x, const __m256i* w) {
      sum = _mm256_add_epi16(
          sum, _mm256_popcnt_epi16(_mm256_xor_si256(x, _mm256_load_si256(w))));
    }
    static void store(uint16_t* to, __m256i sum) {
      _mm256_store_si256(reinterpret_cast<__m256i*>(to), sum);
    }
  };

  // P pixels by V registers of lanes. The loops over sums are unrolled by force: left
  // to itself, the compiler keeps a copy of the sums in memory.
  template <class Sums, int P, int V, class Task>
  static void block(const Task& t) {
    using Register = decltype(Sums::start(t, 0));
    Register sum[P][V];
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[p][v] = Sums::start(t, v);
    const Register* w = reinterpret_cast<const Register*>(t.weights);
    for (int k = 0; k < t.words; ++k, w += V) {
      const auto* in = t.in + t.offsets[k];
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) {
        const Register x = Sums::spread(in + p * t.in_step);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) Sums::add(sum[p][v], x, w + v);
      }
    }
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v)
        Sums::store(t.sums + p * kGroup + 16 * v, sum[p][v]);
  }

  template <class Sums, int V, class Task>
  static void blocks(const Task& t) {
    with_pixels<kPixelsOf[V]>(t.pixels,
                              [&](auto pixels) { block<Sums, pixels.value, V>(t); });
  }

  template <class Sums, class Task>
  static void sum_up(const Task& t) {
    switch (t.lanes) {
      case 16: return blocks<Sums, 1>(t);
      case 32: return blocks<Sums, 2>(t);
      case 48: return blocks<Sums, 3>(t);
      default: return blocks<Sums, 4>(t);
    }
  }

  static void dot(const DotTask& t) { sum_up<Products>(t); }

  static void count(const CountTask& t) {
    halves(t.channels) ? sum_up<HalfCounts>(t) : sum_up<Counts>(t);
  }
};

bool supported() {
  return __builtin_cpu_supports("avx512f") &&
         __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni") &&
         __builtin_cpu_supports("avx512bitalg") &&
         __builtin_cpu_supports("avx512vpopcntdq");
}

}  // namespace

// Twelve independent sums hide every latency. The empty assembler statement
// keeps the compiler from computing the same word once for all rounds.
double avx512_peak_rate() {
  constexpr int kSums = 12, kRounds = 400000;
  __m512i sum[kSums], x = _mm512_set1_epi32(0x12345678), w = x;
  for (__m512i& s : sum) s = _mm512_setzero_si512();
  const auto start = std::chrono::steady_clock::now();
  for (int round = 0; round < kRounds; ++round)
#pragma GCC unroll 12
    for (int i = 0; i < kSums; ++i) {
      asm volatile("" : "+v"(x));
      sum[i] = _mm512_add_epi32(
          sum[i], _mm512_popcnt_epi32(_mm512_xor_si512(x, w)));
    }
  const std::chrono::duration<double> seconds =
      std::chrono::steady_clock::now() - start;
  for (__m512i& s : sum) asm volatile("" : : "v"(s));
  return 512.0 * kSums * kRounds / seconds.count();
}

extern const Kernels kAvx512;
const Kernels kAvx512 = Implementation<Avx512>::table("avx512", supported);

}  // namespace mmirnet
