// Plain C++ for any CPU; also what the other paths are tested against.
#include "kernels_impl.h"

namespace mmirnet {
namespace {

struct Portable {
  using Float = float;
  using Windows = PlainWindows;
  using Count = uint16_t;
  static constexpr int kWidth = 1;
  static constexpr int kPixels = 1;
  static constexpr int kBytePixels = 1;
  static constexpr bool kHasWithin = false;
  static constexpr int kByteStart = 0;

  static Float load(const float* p) { return *p; }
  static void store(float* p, Float v) { *p = v; }
  static Float set(float v) { return v; }
  static Float fma(Float a, Float b, Float c) { return std::fma(a, b, c); }
  static Float mul(Float a, Float b) { return a * b; }
  static Float add(Float a, Float b) { return a + b; }
  static Float max(Float a, Float b) { return a > b ? a : b; }
  static Float min(Float a, Float b) { return a < b ? a : b; }
  static Float from_int(const int32_t* p) { return static_cast<float>(*p); }
  static Float from_count(const uint16_t* p) { return static_cast<float>(*p); }
  static uint64_t signs(Float v) { return v >= 0; }
  static uint64_t at_least(Float v, Float w) { return v >= w; }
  static Float by_sign(Float v, Float a, Float b) { return v >= 0 ? a : b; }
  using Found = bool;
  static void find_nan(Float a, Float b, Found& found) {
    found |= a != a || b != b;
  }
  static bool any(Found found) { return found; }
  static uint64_t at_most(const uint16_t* p, const int32_t* limit) {
    return *p <= *limit;
  }

  static int pixels(int) { return kPixels; }
  static int byte_pixels(int) { return kBytePixels; }

  static constexpr auto word_bytes = lane_word_bytes;
  static constexpr auto pack_weights = lane_pack_weights;

  static constexpr std::nullptr_t make_tables = nullptr;
  static constexpr auto byte_weight_bytes = lane_byte_weight_bytes;
  static constexpr auto pack_byte_weights = lane_pack_byte_weights;

  static void to_bytes(Float v, int zero, uint8_t* p) {
    *p = static_cast<uint8_t>(static_cast<int>(std::nearbyint(v)) + zero);
  }

  static void dot(const DotTask& t) {
    std::memcpy(t.sums, t.start, sizeof(int32_t) * t.lanes);
    const int8_t* w = reinterpret_cast<const int8_t*>(t.weights);
    for (int k = 0; k < t.words; ++k, w += 4 * t.lanes)
      for (int lane = 0; lane < t.lanes; ++lane)
        for (int i = 0; i < 4; ++i)
          t.sums[lane] += t.in[t.offsets[k] + i] * w[4 * lane + i];
  }

  static uint32_t popcount(uint32_t v) {
    v -= v >> 1 & 0x55555555u;
    v = (v & 0x33333333u) + (v >> 2 & 0x33333333u);
    return ((v + (v >> 4)) & 0x0f0f0f0fu) * 0x01010101u >> 24;
  }

  static void count(const CountTask<Count>& t) {
    std::memset(t.sums, 0, sizeof(uint16_t) * kGroup);
    const uint32_t* w = reinterpret_cast<const uint32_t*>(t.weights);
    for (int k = 0; k < t.words; ++k, w += t.lanes)
      for (int lane = 0; lane < t.lanes; ++lane)
        t.sums[lane] += popcount(t.in[t.offsets[k]] ^ w[lane]);
  }
};

bool supported() { return true; }

}  // namespace

extern const Kernels kPortable;
const Kernels kPortable =
    Implementation<Portable>::table("portable", supported);

}  // namespace mmirnet
