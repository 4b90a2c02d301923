// ARM64 with SDOT, of ARMv8.2: the dot products alone. isa_neon.cpp has the rest,
// compiled for every CPU.
#include "isa_neon_dot.h"

#include <arm_neon.h>

namespace mmirnet {
namespace {

// Sums of P pixels in 16 output channels. A register of weights holds 4 channels by 4
// inputs. SDOT takes signed bytes: an image's lose 128, which the start of the sums has.
// The loops over sums are unrolled by force: left to itself, the compiler keeps a copy
// of the sums in memory.
template <int P>
struct Block {
  const int8_t* weights;  // of the next word
  ptrdiff_t weight_step, in_step;
  int8x16_t x[P];
  int32x4_t sum[P][4];

  Block(const DotTask& t, int lane)
      : weights(reinterpret_cast<const int8_t*>(t.weights) + 4 * lane),
        weight_step(4 * t.lanes),
        in_step(t.in_step) {
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) sum[p][v] = vld1q_s32(t.start + lane + 4 * v);
  }

  // Four words of each window, of which the last ones may lie behind it.
  void load(const uint8_t* in) {
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p)
      x[p] = vreinterpretq_s8_u8(
          veorq_u8(vld1q_u8(in + p * in_step), vdupq_n_u8(0x80)));
  }

  // Adds the products of one of these words.
  template <int kIndex>
  void add() {
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      const int8x16_t w = vld1q_s8(weights + 16 * v);
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) {
        sum[p][v] = vdotq_laneq_s32(sum[p][v], w, x[p], kIndex);
        in_place(sum[p][v]);
      }
    }
    weights += weight_step;
    // The next word's weights are loaded behind this: there are no registers for them.
    asm volatile("");
  }

  void store(int32_t* sums) const {
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) vst1q_s32(sums + p * kGroup + 4 * v, sum[p][v]);
  }
};

template <int P>
void dot_block(const DotTask& t, int lane) {
  Block<P> block(t, lane);
  for (int k = 0, words; k < t.words;) {
    const uint8_t* in = t.in + t.offsets[k];
    words = k + t.alone < t.words ? t.run_words : 1;
    k += words;
    for (; words >= 4; words -= 4, in += 16) {
      block.load(in);
      block.template add<0>();
      block.template add<1>();
      block.template add<2>();
      block.template add<3>();
    }
    if (words == 0) continue;
    block.load(in);
    block.template add<0>();
    if (words > 1) block.template add<1>();
    if (words > 2) block.template add<2>();
  }
  block.store(t.sums + lane);
}

}  // namespace

void neon_dot(const DotTask& t) {
  with_pixels<kNeonDotPixels>(t.pixels, [&](auto pixels) {
    for (int lane = 0; lane < t.lanes; lane += 16) dot_block<pixels.value>(t, lane);
  });
}

}  // namespace mmirnet
