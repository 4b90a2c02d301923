// AVX-512 with VPOPCNTDQ and VNNI, which no CPU with the former lacks: a register holds 16 output channels by 32 input
// channels; a block is 7 pixels by 4 registers.
#include <immintrin.h>

#include <chrono>

#include "kernels_impl.h"

namespace mmirnet {
namespace {

struct Avx512 {
  using Float = __m512;
  static constexpr int kWidth = 16;
  static constexpr int kPixels = 7;
  static constexpr int kBytePixels = 7;
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
    return _mm512_cmple_epi32_mask(_mm512_load_si512(p),
                                   _mm512_loadu_si512(limit));
  }

  static constexpr auto weight_bytes = lane_weight_bytes;
  static constexpr auto pack_weights = lane_pack_weights;

  static constexpr auto byte_weight_bytes = lane_byte_weight_bytes;
  static constexpr auto pack_byte_weights = lane_pack_byte_weights;

  static void to_bytes(Float v, int zero, uint8_t* p) {
    const __m512i q =
        _mm512_add_epi32(_mm512_cvtps_epi32(v), _mm512_set1_epi32(zero));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(q));
  }

  template <int P, int V>
  static void block(const DotTask& t) {
    __m512i sum[P][V];
    for (int p = 0; p < P; ++p)
      for (int v = 0; v < V; ++v) sum[p][v] = _mm512_load_si512(t.start + 16 * v);
    const uint8_t* w = t.weights;
    for (int r = 0; r < t.rows; ++r)
      for (int c = 0; c < t.columns; ++c) {
        const uint8_t* in = t.in + r * t.in_row + c * t.in_column;
        for (int i = 0; i < t.words; ++i, w += 64 * V)
          for (int p = 0; p < P; ++p) {
            const __m512i x = _mm512_set1_epi32(
                static_cast<int>(load_word(in + p * t.in_step + 4 * i)));
            for (int v = 0; v < V; ++v)
              sum[p][v] = _mm512_dpbusd_epi32(sum[p][v], x,
                                              _mm512_load_si512(w + 64 * v));
          }
      }
    for (int p = 0; p < P; ++p)
      for (int v = 0; v < V; ++v)
        _mm512_store_si512(t.sums + p * kGroup + 16 * v, sum[p][v]);
  }

  static void dot(const DotTask& t) { blocks(t); }

  template <int P, int V>
  static void block(const CountTask& t) {
    __m512i sum[P][V];
    for (int p = 0; p < P; ++p)
      for (int v = 0; v < V; ++v) sum[p][v] = _mm512_setzero_si512();
    for (int r = 0; r < t.rows; ++r) {
      const uint8_t* w =
          t.weights + size_t{4} * r * t.columns * t.words * kGroup;
      for (int c = 0; c < t.columns; ++c) {
        const uint32_t* in = t.in + r * t.in_row + c * t.in_pixel;
        for (int i = 0; i < t.words; ++i, w += 64 * V)
          for (int p = 0; p < P; ++p) {
            const __m512i x = _mm512_set1_epi32(in[p * t.in_step + i]);
            for (int v = 0; v < V; ++v)
              sum[p][v] = _mm512_add_epi32(
                  sum[p][v], _mm512_popcnt_epi32(_mm512_xor_si512(
                                 x, _mm512_load_si512(w + 64 * v))));
          }
      }
    }
    for (int p = 0; p < P; ++p)
      for (int v = 0; v < V; ++v)
        _mm512_store_si512(t.counts + p * kGroup + 16 * v, sum[p][v]);
  }

  template <int P, class Task>
  static void lanes(const Task& t) {
    switch (t.lanes) {
      case 16: return block<P, 1>(t);
      case 32: return block<P, 2>(t);
      case 48: return block<P, 3>(t);
      default: return block<P, 4>(t);
    }
  }

  static void count(const CountTask& t) { blocks(t); }

  template <class Task>
  static void blocks(const Task& t) {
    switch (t.pixels) {
      case 1: return lanes<1>(t);
      case 2: return lanes<2>(t);
      case 3: return lanes<3>(t);
      case 4: return lanes<4>(t);
      case 5: return lanes<5>(t);
      case 6: return lanes<6>(t);
      default: return lanes<7>(t);
    }
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
