// ARM64: a register holds 4 output channels by 32 input channels; `cnt` counts
// bits per byte, widened before a byte can overflow.
#include <arm_neon.h>

#ifdef __linux__
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

#include "isa_neon_dot.h"

namespace mmirnet {
namespace {

struct Neon {
  using Float = float32x4_t;
  using Windows = PlainWindows;
  using Count = uint16_t;
  static constexpr int kWidth = 4;
  static constexpr int kPixels = 4;
  static constexpr int kBytePixels = 2;  // with two registers of sums for 4 channels
  static constexpr bool kHasWithin = false;
  static constexpr int kByteStart = 128;

  static Float load(const float* p) { return vld1q_f32(p); }
  static void store(float* p, Float v) { vst1q_f32(p, v); }
  static Float set(float v) { return vdupq_n_f32(v); }
  static Float fma(Float a, Float b, Float c) { return vfmaq_f32(c, a, b); }
  static Float mul(Float a, Float b) { return vmulq_f32(a, b); }
  static Float add(Float a, Float b) { return vaddq_f32(a, b); }
  static Float max(Float a, Float b) { return vmaxq_f32(a, b); }
  static Float min(Float a, Float b) { return vminq_f32(a, b); }
  static Float from_int(const int32_t* p) {
    return vcvtq_f32_s32(vld1q_s32(p));
  }
  static Float from_count(const uint16_t* p) {
    return vcvtq_f32_u32(vmovl_u16(vld1_u16(p)));
  }
  static uint64_t mask(uint32x4_t v) {
    const uint32x4_t bit = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(v, bit));
  }
  static uint64_t signs(Float v) { return mask(vcgezq_f32(v)); }
  static uint64_t at_least(Float v, Float w) { return mask(vcgeq_f32(v, w)); }
  static Float by_sign(Float v, Float a, Float b) {
    return vbslq_f32(vcgezq_f32(v), a, b);
  }
  using Found = uint32x4_t;
  static void find_nan(Float a, Float b, Found& found) {
    const Found both = vandq_u32(vceqq_f32(a, a), vceqq_f32(b, b));
    found = vornq_u32(found, both);
  }
  static bool any(Found found) { return vmaxvq_u32(found) != 0; }
  static uint64_t at_most(const uint16_t* p, const int32_t* limit) {
    const int32x4_t counts = vreinterpretq_s32_u32(vmovl_u16(vld1_u16(p)));
    return mask(vcleq_s32(counts, vld1q_s32(limit)));
  }

  static int pixels(int) { return kPixels; }
  static int byte_pixels(int) { return kBytePixels; }

  static constexpr auto word_bytes = lane_word_bytes;
  static constexpr auto pack_weights = lane_pack_weights;

  static constexpr std::nullptr_t make_tables = nullptr;
  static constexpr auto byte_weight_bytes = lane_byte_weight_bytes;
  static constexpr auto pack_byte_weights = lane_pack_byte_weights;

  static void to_bytes(Float v, int zero, uint8_t* p) {
    const int32x4_t q = vaddq_s32(vcvtnq_s32_f32(v), vdupq_n_s32(zero));
    for (int i = 0; i < 4; ++i) p[i] = static_cast<uint8_t>(q[i]);
  }

  // 16 output channels from `lane` on, 4 by 4 inputs in a register. Products of
  // signed bytes: those of an image lose 128, which the start of the sums has.
  template <int P>
  static void dot_block(const DotTask& t, int lane) {
    int32x4_t low[P][4], high[P][4];  // of the first two and the last two channels
    for (int p = 0; p < P; ++p)
      for (int v = 0; v < 4; ++v) low[p][v] = high[p][v] = vdupq_n_s32(0);
    const int8_t* w = reinterpret_cast<const int8_t*>(t.weights) + 4 * lane;
    for (int k = 0; k < t.words; ++k, w += 4 * t.lanes)
      for (int p = 0; p < P; ++p) {
        const int8x16_t x = vreinterpretq_s8_u32(vdupq_n_u32(
            load_word(t.in + t.offsets[k] + p * t.in_step) ^ 0x80808080u));
        for (int v = 0; v < 4; ++v) {
          const int8x16_t weight = vld1q_s8(w + 16 * v);
          low[p][v] = vpadalq_s16(
              low[p][v], vmull_s8(vget_low_s8(x), vget_low_s8(weight)));
          high[p][v] = vpadalq_s16(high[p][v], vmull_high_s8(x, weight));
        }
      }
    for (int p = 0; p < P; ++p)
      for (int v = 0; v < 4; ++v) {
        const int at = lane + 4 * v;
        vst1q_s32(t.sums + p * kGroup + at,
                  vaddq_s32(vld1q_s32(t.start + at),
                            vpaddq_s32(low[p][v], high[p][v])));
      }
  }

  static void dot(const DotTask& t) {
    with_pixels<kBytePixels>(t.pixels, [&](auto pixels) {
      for (int lane = 0; lane < t.lanes; lane += 16) dot_block<pixels.value>(t, lane);
    });
  }

  // 16 output channels from `lane` on.
  template <int P>
  static void block(const CountTask<Count>& t, int lane) {
    constexpr int V = 4;
    uint8x16_t sum[P][V];
    uint32x4_t wide[P][V];
    for (int p = 0; p < P; ++p)
      for (int v = 0; v < V; ++v) {
        sum[p][v] = vdupq_n_u8(0);
        wide[p][v] = vdupq_n_u32(0);
      }
    auto widen = [&] {
      for (int p = 0; p < P; ++p)
        for (int v = 0; v < V; ++v) {
          wide[p][v] = vpadalq_u16(wide[p][v], vpaddlq_u8(sum[p][v]));
          sum[p][v] = vdupq_n_u8(0);
        }
    };
    int words = 0;  // since the last widening; 31 words of 8 bits fit a byte
    const uint32_t* w = reinterpret_cast<const uint32_t*>(t.weights) + lane;
    for (int k = 0; k < t.words; ++k, w += t.lanes) {
      uint32x4_t weight[V];
      for (int v = 0; v < V; ++v) weight[v] = vld1q_u32(w + 4 * v);
      for (int p = 0; p < P; ++p) {
        const uint32x4_t x = vdupq_n_u32(t.in[t.offsets[k] + p * t.in_step]);
        for (int v = 0; v < V; ++v)
          sum[p][v] = vaddq_u8(sum[p][v], vcntq_u8(vreinterpretq_u8_u32(
                                              veorq_u32(x, weight[v]))));
      }
      if (++words == 31) {
        widen();
        words = 0;
      }
    }
    widen();
    for (int p = 0; p < P; ++p)
      for (int v = 0; v < V; ++v)
        vst1_u16(t.sums + p * kGroup + lane + 4 * v, vmovn_u32(wide[p][v]));
  }

  static void count(const CountTask<Count>& t) {
    with_pixels<kPixels>(t.pixels, [&](auto pixels) {
      for (int lane = 0; lane < t.lanes; lane += 16) block<pixels.value>(t, lane);
    });
  }
};

// For byte convolutions alone.
struct NeonDot : Neon {
  static int byte_pixels(int) { return kNeonDotPixels; }
  static constexpr auto dot = neon_dot;
};

bool supported() { return true; }

bool dot_supported() {
#ifdef __linux__
  return getauxval(AT_HWCAP) >> 20 & 1;  // HWCAP_ASIMDDP, which old headers lack
#elif defined(__APPLE__)
  int has = 0;
  size_t size = sizeof has;
  return sysctlbyname("hw.optional.arm.FEAT_DotProd", &has, &size, nullptr, 0) == 0 &&
         has;
#else
  return false;
#endif
}

constexpr Kernels plain() { return Implementation<Neon>::table("neon", supported); }

// All but byte convolutions are the same code.
constexpr Kernels with_dot() {
  Kernels kernels = plain();
  kernels.name = "neon-dot";
  kernels.supported = dot_supported;
  kernels.byte_conv = Implementation<NeonDot>::byte_conv;
  return kernels;
}

}  // namespace

extern const Kernels kNeon, kNeonDot;
const Kernels kNeon = plain();
const Kernels kNeonDot = with_dot();

}  // namespace mmirnet
