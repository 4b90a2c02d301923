// AVX-512 with VPOPCNTDQ, and with BITALG and VNNI, which no CPU with VPOPCNTDQ and BW
// lacks. A register holds 16 output channels by 32 input channels.
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
// which 64 channels are a pair. Of fewer, a word holds one tap; windows are whole, and
// each word stands beside that of the next pixel. Of up to 16 channels, it holds that
// tap of two pixels, which are counted together.
class PairedWindows {
 public:
  explicit PairedWindows(const BinaryConv& c) : conv_(c) {
    if (!whole(c)) {
      row_words_ = row_words(c);
      return;
    }
    plane_ = plane(c);
    phase_ = round_up(plane_ * together(c) + (c.kernel - 1) / c.stride, 8);
    row_bytes_ = std::min(c.kernel, c.stride) * phase_ * 4 / together(c);
    for (int u = 0; u < c.kernel; ++u) columns_[u] = u % c.stride * phase_ + u / c.stride;
    std::memset(cells_, 0, row_bytes_);
  }

  static bool whole(const BinaryConv& c) {
    return c.in.channels <= 32 && c.kernel <= kKernel;
  }
  static int together(const BinaryConv& c) {
    return whole(c) && c.in.channels <= 16 ? 2 : 1;
  }

  static int words(const BinaryConv& c) {
    return c.kernel * c.kernel * (whole(c) ? 1 : 2 * c.in.pixel());
  }

  static int most_pixels(const BinaryConv& c) {
    if (whole(c)) return kStrip;
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
    const int pixel = whole(c) ? 1 : 2 * c.in.pixel();
    const auto plain = [&](int i) {
      const uint32_t sign = sign_word(c, signs, out, i / pixel, i % pixel);
      return together(c) == 2 ? sign | sign << 16 : sign;
    };
    return plain(word) ^ (is_second(word, words(c)) ? plain(word - 1) : 0);
  }

  void read(const uint64_t* first, int top, int rows, int pixels,
            CountTask<int32_t>& task) {
    const BinaryConv& c = conv_;
    task.in = words_;
    if (whole(c)) {
      task.in_step = 1;
      if (together(c) == 2)
        read_planes<uint16_t>(first, top, rows, pixels);
      else
        read_planes<uint32_t>(first, top, rows, pixels);
    } else {
      const int pixel = c.in.pixel(), count = ((pixels - 1) * c.stride + c.kernel) * pixel;
      const ptrdiff_t step = c.in.row(), to = row_words_;
      task.in_step = ptrdiff_t{2} * c.stride * pixel;
      for (int v = 0; v < rows; ++v) copy_row(first + v * step, count, words_ + v * to);
    }
  }

 private:
  static constexpr int kWords = 1 << 14;
  static constexpr int kKernel = 7, kRows = 8;  // of whole windows
  static constexpr int kRowBytes = 4 * kKernel * round_up(kStrip + kKernel - 1, 8);

  // From a word of a window to the next, where each stands beside that of other pixels.
  static int plane(const BinaryConv& c) {
    return round_up(std::min(kStrip, c.out_width), 16 * together(c)) / together(c);
  }

  static ptrdiff_t row_words(const BinaryConv& c) {
    const int pixels = std::min(most_pixels(c), c.out_width);
    return ptrdiff_t{2} * ((pixels - 1) * c.stride + c.kernel) * c.in.pixel();
  }

  template <class Cell>
  void read_planes(const uint64_t* first, int top, int rows, int pixels) {
    // Copies: stores could change what stays behind a reference.
    const int kernel = conv_.kernel, stride = conv_.stride, height = conv_.in.height;
    const ptrdiff_t step = conv_.in.row();
    const int columns = (pixels - 1) * stride + kernel, inside = std::max(0, top);
    const uint64_t* const row = first - inside * step;  // 0 of the image
    const Cell* all[kKernel];
    for (int v = 0, y = top; v < kernel; ++v, ++y)
      all[v] = y < inside || y >= inside + rows ? reinterpret_cast<const Cell*>(cells_)
                                                : cells<Cell>(row + y * step, y, columns);
    for (int x = 0; x < pixels; x += 64 / sizeof(Cell)) {
      uint32_t* const to = words_ + x * static_cast<int>(sizeof(Cell)) / 4;
      kernel == 3 ? put_planes<3>(all, x, to) : put_planes<0>(all, x, to);
    }
    // What was stored in pieces is slow to load as one register right after: the next
    // rows' turn is now, unless other strips come first.
    if (conv_.out_width > kStrip || stride > kRows - kernel) return;
    const int end = std::min(height, top + kernel + stride);
    for (int y = inside + rows; y < end; ++y) cells<Cell>(row + y * step, y, columns);
  }

  // A register of pixels from x on.
  template <int kSize, class Cell>
  void put_planes(const Cell* const* rows, int x, uint32_t* to) const {
    // Copies: stores could change members.
    const int size = kSize ? kSize : conv_.kernel, plane = plane_;
    __m512i before = _mm512_setzero_si512();
#pragma GCC unroll 3
    for (int v = 0; v < size; ++v)
#pragma GCC unroll 3
      for (int u = 0; u < size; ++u, to += plane) {
        const __m512i word = _mm512_loadu_si512(rows[v] + x + columns_[u]);
        const bool second = is_second(v * size + u, size * size);
        _mm512_storeu_si512(to, second ? _mm512_xor_si512(word, before) : word);
        before = word;
      }
  }

  // The lower bits of the pixels of row y: every stride-th from column 0 on, then from
  // column 1 on, and so forth, as far as a window reads. Windows below read it again.
  template <class Cell>
  const Cell* cells(const uint64_t* from, int y, int columns) {
    const int slot = y & (kRows - 1);
    Cell* const row = reinterpret_cast<Cell*>(cells_ + (1 + slot) * row_bytes_);
    if (source_[slot] == from) return row;
    source_[slot] = from;
    if (conv_.stride == 1) {
      lower_parts(from, columns, row);
    } else {
      const int stride = conv_.stride, phases = std::min(stride, conv_.kernel);
      for (int u = 0; u < phases; ++u) {
        Cell* to = row + u * phase_;
        for (int x = u; x < columns; x += stride) *to++ = static_cast<Cell>(from[x]);
      }
    }
    return row;
  }

  // A multiple of 8 values is written.
  template <class Cell>
  static void lower_parts(const uint64_t* from, int count, Cell* to) {
    each_register(from, count,
                  [&](__m512i v, int i) MMIRNET_INLINE { store_parts(v, to + i); });
  }
  static void store_parts(__m512i v, uint16_t* to) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi64_epi16(v));
  }
  static void store_parts(__m512i v, uint32_t* to) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi64_epi32(v));
  }
  // The upper half of each number as the xor of both. Up to a register more is written.
  static void copy_row(const uint64_t* from, int count, uint32_t* to) {
    each_register(from, count, [&](__m512i v, int i) MMIRNET_INLINE {
      _mm512_storeu_si512(to + 2 * i, _mm512_xor_si512(v, _mm512_slli_epi64(v, 32)));
    });
  }

  // Calls put(numbers, i) with those from i on; nothing is read beyond `count`.
  template <class Put>
  MMIRNET_INLINE static void each_register(const uint64_t* from, int count, Put put) {
    int i = 0;
    for (; i + 8 <= count; i += 8) put(_mm512_loadu_si512(from + i), i);
    if (i < count) put(_mm512_maskz_loadu_epi64((1u << (count - i)) - 1, from + i), i);
  }

  const BinaryConv& conv_;
  ptrdiff_t row_words_ = 0;
  int plane_ = 0, phase_ = 0, row_bytes_ = 0;
  int columns_[kKernel];  // of a window, in cells_
  const uint64_t* source_[kRows] = {};  // of the rows in cells_, which begin with zeros
  alignas(64) uint32_t words_[kWords + 16];
  alignas(64) uint8_t cells_[(1 + kRows) * kRowBytes + 64];
};

// Sums of bits in lanes of 32 bits, or of 16 for two pixels.
struct OnePixel {
  static constexpr int kPixels = 1;
  static __m512i popcnt(__m512i v) { return _mm512_popcnt_epi32(v); }
  // The intrinsic's sum goes to another register, and from there to its own.
  static void add_to(__m512i& sum, __m512i v) {
    asm("vpaddd %1, %0, %0" : "+v"(sum) : "v"(v));
  }
  static void store(__m512i ones, __m512i twos, int32_t* to) {
    _mm512_store_si512(to, _mm512_add_epi32(_mm512_slli_epi32(twos, 1), ones));
  }
};

struct TwoPixels {
  static constexpr int kPixels = 2;
  static __m512i popcnt(__m512i v) { return _mm512_popcnt_epi16(v); }
  static void add_to(__m512i& sum, __m512i v) {
    asm("vpaddw %1, %0, %0" : "+v"(sum) : "v"(v));
  }
  static void store(__m512i ones, __m512i twos, int32_t* to) {
    const __m512i sum = _mm512_add_epi16(_mm512_slli_epi16(twos, 1), ones);
    _mm512_store_si512(to, _mm512_and_si512(sum, _mm512_set1_epi32(0xffff)));
    _mm512_store_si512(to + kGroup, _mm512_srli_epi32(sum, 16));
  }
};

struct Avx512 {
  using Float = __m512;
  using Windows = PairedWindows;
  using Count = int32_t;
  static constexpr int kWidth = 16;
  static constexpr bool kHasWithin = true;
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
  // The smaller magnitude, with the first one's sign.
  static Float within(Float v, Float limit) { return _mm512_range_ps(v, limit, 2); }
  static __mmask16 signs(Float v, __mmask16 mask) {
    return _mm512_mask_cmp_ps_mask(mask, v, _mm512_setzero_ps(), _CMP_GE_OQ);
  }
  static __mmask16 at_least(Float v, Float w, __mmask16 mask) {
    return _mm512_mask_cmp_ps_mask(mask, v, w, _CMP_GE_OQ);
  }
  // Straight to memory, without a port of vectors. Comparisons clear a mask's upper bits.
  static void put_bits(uint64_t* word, int v, __mmask16 bits) {
    if (v == 0)
      asm("kmovq %1, %0" : "=m"(*word) : "k"(bits));
    else
      asm("kmovw %1, %0" : "=m"(reinterpret_cast<__mmask16*>(word)[v]) : "k"(bits));
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
  static __mmask16 at_most(const int32_t* p, const int32_t* limit, __mmask16 mask) {
    return _mm512_mask_cmple_epi32_mask(mask, _mm512_load_si512(p),
                                        _mm512_loadu_si512(limit));
  }

  // Calls run(V) with the number of registers that lanes take.
  template <class Run>
  MMIRNET_INLINE static void with_registers(int lanes, Run run) {
    switch (lanes) {
      case 16: return run(std::integral_constant<int, 1>{});
      case 32: return run(std::integral_constant<int, 2>{});
      case 48: return run(std::integral_constant<int, 3>{});
      default: return run(std::integral_constant<int, 4>{});
    }
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
  template <class Sum, int V>
  static void add_pair(__m512i before, __m512i a, __m512i ab, const __m512i* w,
                       __m512i& parity, __m512i& carried) {
    // Weights are loaded for each pixel: copies of a register would cost more.
    asm("" : "+r"(w));
    parity = _mm512_ternarylogic_epi32(_mm512_load_si512(w + V), before, ab, kParity);
    const __m512i carries = _mm512_ternarylogic_epi32(
        _mm512_xor_si512(a, _mm512_load_si512(w)), before, parity, kCarries);
    Sum::add_to(carried, Sum::popcnt(carries));
  }

  // Popcounts of P windows in V registers of lanes. Words are kStep from one to the next,
  // or else t.in_step. Two pairs at a time: the parity moves to another register and back.
  template <class Sum, int P, int V, int kStep>
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
          add_pair<Sum, V>(parity[p][v], a, ab, w + v, between, carried[p][v]);
          add_pair<Sum, V>(between, c, cd, w + 2 * V + v, parity[p][v], carried[p][v]);
          in_place(parity[p][v]);
        }
      }
    if (k < t.words)
#pragma GCC unroll 12
      for (int p = 0; p < P; ++p) {
        const __m512i a = spread(k, p), ab = spread(k + 1, p);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v)
          add_pair<Sum, V>(parity[p][v], a, ab, w + v, parity[p][v], carried[p][v]);
      }
    Count* const sums = t.sums;
#pragma GCC unroll 12
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v)
        Sum::store(Sum::popcnt(parity[p][v]), carried[p][v],
                   sums + Sum::kPixels * p * kGroup + 16 * v);
  }

  static void dot(const DotTask& t) {
    with_registers(t.lanes, [&](auto v) {
      with_pixels<kBytePixelsOf[v.value]>(
          t.pixels, [&](auto p) { dot_block<p.value, v.value>(t); });
    });
  }

  static void count(const CountTask<Count>& t) {
    with_registers(t.lanes, [&](auto v) {
      const bool two = t.together == 2;
      with_pixels<kPixelsOf[v.value]>(two ? (t.pixels + 1) / 2 : t.pixels, [&](auto p) {
        two               ? count_block<TwoPixels, p.value, v.value, 1>(t)
        : t.in_step == 1 ? count_block<OnePixel, p.value, v.value, 1>(t)
                         : count_block<OnePixel, p.value, v.value, 0>(t);
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
         __builtin_cpu_supports("avx512bitalg") &&
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
