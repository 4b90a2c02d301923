// WebAssembly with SIMD: as on ARM64, a register holds 4 output channels by 32
// input channels, and bits are counted per byte.
//
// It has no fused multiply-add that is the same on every machine: one is made of
// doubles.
#include <wasm_simd128.h>

#include "kernels_impl.h"

namespace mmirnet {
namespace {

// a * b + c of the two lower lanes, in double. A product of floats is exact there.
// The sum is rounded to odd, so that the rounding to float which follows gives the
// float next to the exact value.
inline v128_t fma_low(v128_t a, v128_t b, v128_t c) {
  const v128_t product = wasm_f64x2_mul(wasm_f64x2_promote_low_f32x4(a),
                                        wasm_f64x2_promote_low_f32x4(b));
  const v128_t addend = wasm_f64x2_promote_low_f32x4(c);
  const v128_t sum = wasm_f64x2_add(product, addend);
  // What the sum lacks, exactly (Knuth's TwoSum); NaN where it is infinite.
  const v128_t part = wasm_f64x2_sub(sum, product);
  const v128_t rest =
      wasm_f64x2_add(wasm_f64x2_sub(product, wasm_f64x2_sub(sum, part)),
                     wasm_f64x2_sub(addend, part));
  const v128_t inexact = wasm_f64x2_gt(wasm_f64x2_abs(rest), wasm_f64x2_const_splat(0));
  // One step towards zero where the sum is too large, then the last bit is set.
  const v128_t too_large = wasm_i64x2_shr(wasm_v128_xor(sum, rest), 63);
  return wasm_v128_or(
      wasm_i64x2_add(sum, wasm_v128_and(too_large, inexact)),
      wasm_v128_and(inexact, wasm_i64x2_const_splat(1)));
}

struct Wasm {
  using Float = v128_t;
  using Windows = PlainWindows;
  using Count = uint16_t;
  static constexpr int kWidth = 4;
  static constexpr int kPixels = 4;
  static constexpr int kBytePixels = 4;
  static constexpr bool kHasWithin = false;
  static constexpr int kByteStart = 0;

  static Float load(const float* p) { return wasm_v128_load(p); }
  static void store(float* p, Float v) { wasm_v128_store(p, v); }
  static Float set(float v) { return wasm_f32x4_splat(v); }
  static Float high(Float v) { return wasm_i64x2_shuffle(v, v, 1, 1); }
  static Float fma(Float a, Float b, Float c) {
    const Float low = wasm_f32x4_demote_f64x2_zero(fma_low(a, b, c));
    const Float upper =
        wasm_f32x4_demote_f64x2_zero(fma_low(high(a), high(b), high(c)));
    return wasm_i64x2_shuffle(low, upper, 0, 2);
  }
  static Float mul(Float a, Float b) { return wasm_f32x4_mul(a, b); }
  static Float add(Float a, Float b) { return wasm_f32x4_add(a, b); }
  static Float max(Float a, Float b) { return wasm_f32x4_pmax(b, a); }
  static Float min(Float a, Float b) { return wasm_f32x4_pmin(b, a); }
  static Float from_int(const int32_t* p) {
    return wasm_f32x4_convert_i32x4(wasm_v128_load(p));
  }
  static Float from_count(const uint16_t* p) {
    return wasm_f32x4_convert_i32x4(wasm_u32x4_load16x4(p));
  }
  static uint64_t signs(Float v) { return at_least(v, set(0)); }
  static uint64_t at_least(Float v, Float w) {
    return wasm_i32x4_bitmask(wasm_f32x4_ge(v, w));
  }
  static Float by_sign(Float v, Float a, Float b) {
    return wasm_v128_bitselect(a, b, wasm_f32x4_ge(v, set(0)));
  }
  using Found = v128_t;
  static void find_nan(Float a, Float b, Found& found) {
    const Found either = wasm_v128_or(wasm_f32x4_ne(a, a), wasm_f32x4_ne(b, b));
    found = wasm_v128_or(found, either);
  }
  static bool any(Found found) { return wasm_v128_any_true(found); }
  static uint64_t at_most(const uint16_t* p, const int32_t* limit) {
    return wasm_i32x4_bitmask(
        wasm_i32x4_le(wasm_u32x4_load16x4(p), wasm_v128_load(limit)));
  }

  static int pixels(int) { return kPixels; }
  static int byte_pixels(int) { return kBytePixels; }

  static constexpr auto word_bytes = lane_word_bytes;
  static constexpr auto pack_weights = lane_pack_weights;

  static constexpr std::nullptr_t make_tables = nullptr;
  static constexpr auto byte_weight_bytes = lane_byte_weight_bytes;
  static constexpr auto pack_byte_weights = lane_pack_byte_weights;

  static void to_bytes(Float v, int zero, uint8_t* p) {
    int32_t q[kWidth];
    wasm_v128_store(q, wasm_i32x4_trunc_sat_f32x4(wasm_f32x4_nearest(v)));
    for (int i = 0; i < kWidth; ++i) p[i] = static_cast<uint8_t>(q[i] + zero);
  }

  // 4 output channels from `lane` on, by 4 inputs, as 16-bit numbers. A register
  // of sums has two for each of 2 channels.
  template <int P>
  static void dot_block(const DotTask& t, int lane) {
    v128_t low[P], high[P];
    for (int p = 0; p < P; ++p) low[p] = high[p] = wasm_i32x4_const_splat(0);
    const uint8_t* w = t.weights + 4 * lane;
    for (int k = 0; k < t.words; ++k, w += 4 * t.lanes) {
      const v128_t first = wasm_i16x8_load8x8(w), last = wasm_i16x8_load8x8(w + 8);
      for (int p = 0; p < P; ++p) {
        const v128_t x = wasm_u16x8_extend_low_u8x16(
            wasm_v128_load32_splat(t.in + t.offsets[k] + p * t.in_step));
        low[p] = wasm_i32x4_add(low[p], wasm_i32x4_dot_i16x8(x, first));
        high[p] = wasm_i32x4_add(high[p], wasm_i32x4_dot_i16x8(x, last));
      }
    }
    for (int p = 0; p < P; ++p) {
      const v128_t sum =
          wasm_i32x4_add(wasm_i32x4_shuffle(low[p], high[p], 0, 2, 4, 6),
                         wasm_i32x4_shuffle(low[p], high[p], 1, 3, 5, 7));
      wasm_v128_store(t.sums + p * kGroup + lane,
                      wasm_i32x4_add(sum, wasm_v128_load(t.start + lane)));
    }
  }

  static void dot(const DotTask& t) {
    with_pixels<kBytePixels>(t.pixels, [&](auto pixels) {
      for (int lane = 0; lane < t.lanes; lane += 4) dot_block<pixels.value>(t, lane);
    });
  }

  // 16 output channels from `lane` on.
  template <int P>
  static void block(const CountTask<Count>& t, int lane) {
    constexpr int V = 4;
    v128_t sum[P][V], wide[P][V];
    for (int p = 0; p < P; ++p)
      for (int v = 0; v < V; ++v) sum[p][v] = wide[p][v] = wasm_i32x4_const_splat(0);
    const auto widen = [&] {
      for (int p = 0; p < P; ++p)
        for (int v = 0; v < V; ++v) {
          const v128_t pairs = wasm_u16x8_extadd_pairwise_u8x16(sum[p][v]);
          wide[p][v] =
              wasm_i32x4_add(wide[p][v], wasm_u32x4_extadd_pairwise_u16x8(pairs));
          sum[p][v] = wasm_i32x4_const_splat(0);
        }
    };
    int words = 0;  // since the last widening; 31 words of 8 bits fit a byte
    const uint32_t* w = reinterpret_cast<const uint32_t*>(t.weights) + lane;
    for (int k = 0; k < t.words; ++k, w += t.lanes) {
      for (int v = 0; v < V; ++v) {
        const v128_t weight = wasm_v128_load(w + 4 * v);
        for (int p = 0; p < P; ++p) {
          const v128_t x =
              wasm_v128_load32_splat(t.in + t.offsets[k] + p * t.in_step);
          sum[p][v] = wasm_i8x16_add(
              sum[p][v], wasm_i8x16_popcnt(wasm_v128_xor(x, weight)));
        }
      }
      if (++words == 31) {
        widen();
        words = 0;
      }
    }
    widen();
    for (int p = 0; p < P; ++p)
      for (int v = 0; v < V; ++v)
        wasm_v128_store64_lane(t.sums + p * kGroup + lane + 4 * v,
                               wasm_u16x8_narrow_i32x4(wide[p][v], wide[p][v]), 0);
  }

  static void count(const CountTask<Count>& t) {
    with_pixels<kPixels>(t.pixels, [&](auto pixels) {
      for (int lane = 0; lane < t.lanes; lane += 16) block<pixels.value>(t, lane);
    });
  }

  // One value of each of 4 filters.
  static Float gather(const float* p, ptrdiff_t filter) {
    return wasm_f32x4_make(p[0], p[filter], p[2 * filter], p[3 * filter]);
  }

  // As in kernels_impl.h, 16 outputs at a time: no library computes it here.
  static void float_conv(const FloatConvShape& s, const float* in,
                         const float* weights, float* out) {
    if (s.groups != 1)
      return Implementation<Wasm>::float_conv(s, in, weights, out);
    constexpr int V = 4;
    static_assert(V * kWidth == kFloatLanes, "lanes of a pixel");
    const Window& w = s.window;
    const ptrdiff_t filter =
        ptrdiff_t{w.kernel_height} * w.kernel_width * s.in_group;
    for (int y = 0; y < s.out_height; ++y)
      for (int x = 0; x < s.out_width; ++x) {
        const int top = y * w.stride_y - w.top, left = x * w.stride_x - w.left;
        float* to = out + (ptrdiff_t{y} * s.out_width + x) * s.out_channels;
        for (int o = 0; o < s.out_group; o += kFloatLanes) {
          Float sum[V];
          for (Float& part : sum) part = set(0);
          for (int v = 0; v < w.kernel_height; ++v) {
            const int row = top + v * w.dilation_y;
            if (row < 0 || row >= s.in_height) continue;
            for (int u = 0; u < w.kernel_width; ++u) {
              const int column = left + u * w.dilation_x;
              if (column < 0 || column >= s.in_width) continue;
              const float* a =
                  in + (ptrdiff_t{row} * s.in_width + column) * s.in_channels;
              const float* b = weights + o * filter +
                               (v * w.kernel_width + u) * ptrdiff_t{s.in_group};
              for (int i = 0; i < s.in_group; ++i)
                for (int j = 0; j < V; ++j)
                  sum[j] = fma(set(a[i]), gather(b + j * kWidth * filter + i, filter),
                               sum[j]);
            }
          }
          for (int j = 0; j < V; ++j) store(to + o + j * kWidth, sum[j]);
        }
      }
  }

  static constexpr Kernels table(bool (*supported)()) {
    Kernels kernels = Implementation<Wasm>::table("wasm", supported);
    kernels.float_conv = float_conv;
    return kernels;
  }
};

bool supported() { return true; }

}  // namespace

extern const Kernels kWasm;
const Kernels kWasm = Wasm::table(supported);

}  // namespace mmirnet
