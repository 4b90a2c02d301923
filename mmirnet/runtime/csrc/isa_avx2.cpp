// AVX2 has no popcount. popcount(x ^ w) of four bits is a table of 16 bytes that the
// activations select and the weights index. A byte has room for two pixels' counts:
// one byte shuffle serves four input channels of 32 output channels of both.
#include <immintrin.h>

#include "kernels_impl.h"

namespace mmirnet {
namespace {

// For each four bits of one pixel and, above them, four of the next: a table of the
// counts of both, in the same order.
struct CountTables {
  alignas(64) uint8_t of[256][16];
};

constexpr CountTables make_count_tables() {
  CountTables t{};
  for (int x = 0; x < 256; ++x)
    for (int w = 0; w < 16; ++w)
      for (int bit = 0; bit < 8; ++bit)
        t.of[x][w] += ((x >> bit ^ w >> bit % 4) & 1) << (bit & 4);
  return t;
}

constexpr CountTables kCountTables = make_count_tables();

// A strip's columns, each with the one that stands there in the next pixel's window:
// for each word of both 8 bytes, which select tables.
class PairedWindows {
 public:
  explicit PairedWindows(const BinaryConv& c) : conv_(c) {}

  static int together(const BinaryConv&) { return 2; }

  static int most_pixels(const BinaryConv& c) {
    const int column = 16 * c.kernel * c.in.pixel();
    return std::min(kStrip, (kBytes / column - c.kernel) / step(c) / 2 * 2);
  }

  static bool whole(const BinaryConv&) { return false; }
  static int words(const BinaryConv& c) { return window_words(c); }

  static ptrdiff_t offset(const BinaryConv& c, int word) {
    const WordPlace at(c, word);
    return at.row * row_bytes(c) + 16 * at.column * c.in.pixel() + 8 * at.word;
  }

  void read(const uint64_t* first, int /*top*/, int rows, int pixels,
            CountTask<uint16_t>& task) {
    const BinaryConv& c = conv_;
    const int pixel = c.in.pixel(), stride = c.stride * pixel;
    const ptrdiff_t row = row_bytes(c);
    for (int v = 0; v < rows; ++v, first += c.in.row()) {
      uint8_t* to = bytes_ + v * row;
      if (c.stride <= c.kernel) {
        const int shared = ((pixels - 2) * c.stride + c.kernel) * pixel;
        pair_up(first, first + stride, shared, to);
        pair_up(first + shared, first + shared, stride, to + 16 * shared);
      } else {
        const int window = c.kernel * pixel;
        for (int p = 0; p < pixels; ++p, to += 16 * window) {
          const uint64_t* one = first + p * stride;
          pair_up(one, p + 1 < pixels ? one + stride : one, window, to);
        }
      }
    }
    task.in = reinterpret_cast<const uint32_t*>(bytes_);
    task.in_step = 8 * step(c) * pixel;
  }

 private:
  // Enough for two pixels of the largest window.
  static constexpr int kBytes = 96 << 10;

  // Columns from pixel to pixel: those that no window has are left out.
  static int step(const BinaryConv& c) { return std::min(c.stride, c.kernel); }

  static ptrdiff_t row_bytes(const BinaryConv& c) {
    const int columns = (most_pixels(c) - 1) * step(c) + c.kernel;
    return ptrdiff_t{16} * columns * c.in.pixel();
  }

  // Four bits of each, byte for byte: the lower ones first.
  static void pair_up(const uint64_t* one, const uint64_t* two, int words,
                      uint8_t* to) {
    const __m128i low = _mm_set1_epi8(15);
    const auto choose = [&](__m128i lower, __m128i upper) {
      return _mm_or_si128(_mm_and_si128(low, lower), _mm_andnot_si128(low, upper));
    };
    const auto spread = [&](__m128i a, __m128i b, int word, bool both) {
      const __m128i x = choose(a, _mm_slli_epi16(b, 4));
      const __m128i y = choose(_mm_srli_epi16(a, 4), b);
      __m128i* at = reinterpret_cast<__m128i*>(to) + word;
      _mm_storeu_si128(at, _mm_unpacklo_epi8(x, y));
      if (both) _mm_storeu_si128(at + 1, _mm_unpackhi_epi8(x, y));
    };
    const auto at = [](const uint64_t* p) { return reinterpret_cast<const __m128i*>(p); };
    int i = 0;
    for (; i + 2 <= words; i += 2)
      spread(_mm_loadu_si128(at(one + i)), _mm_loadu_si128(at(two + i)), i, true);
    if (i < words)
      spread(_mm_loadl_epi64(at(one + i)), _mm_loadl_epi64(at(two + i)), i, false);
  }

  const BinaryConv& conv_;
  alignas(32) uint8_t bytes_[kBytes];
};

struct Avx2 {
  using Float = __m256;
  using Windows = PairedWindows;
  using Count = uint16_t;
  static constexpr int kWidth = 8;
  static constexpr int kBytePixels = 3;
  static constexpr bool kHasWithin = false;
  static constexpr int kByteStart = 0;

  static Float load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, Float v) { _mm256_storeu_ps(p, v); }
  static Float set(float v) { return _mm256_set1_ps(v); }
  static Float fma(Float a, Float b, Float c) {
    return _mm256_fmadd_ps(a, b, c);
  }
  static Float mul(Float a, Float b) { return _mm256_mul_ps(a, b); }
  static Float add(Float a, Float b) { return _mm256_add_ps(a, b); }
  static Float max(Float a, Float b) { return _mm256_max_ps(a, b); }
  static Float min(Float a, Float b) { return _mm256_min_ps(a, b); }
  static __m256i load_int(const int32_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static Float from_int(const int32_t* p) {
    return _mm256_cvtepi32_ps(load_int(p));
  }
  static __m256i load_counts(const uint16_t* p) {
    return _mm256_cvtepu16_epi32(
        _mm_load_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static Float from_count(const uint16_t* p) {
    return _mm256_cvtepi32_ps(load_counts(p));
  }
  static uint64_t mask(Float v) {
    return static_cast<uint32_t>(_mm256_movemask_ps(v));
  }
  static uint64_t signs(Float v) {
    return mask(_mm256_cmp_ps(v, _mm256_setzero_ps(), _CMP_GE_OQ));
  }
  static uint64_t at_least(Float v, Float w) {
    return mask(_mm256_cmp_ps(v, w, _CMP_GE_OQ));
  }
  static Float by_sign(Float v, Float a, Float b) {
    return _mm256_blendv_ps(
        b, a, _mm256_cmp_ps(v, _mm256_setzero_ps(), _CMP_GE_OQ));
  }
  using Found = __m256;
  static void find_nan(Float a, Float b, Found& found) {
    found = _mm256_or_ps(found, _mm256_cmp_ps(a, b, _CMP_UNORD_Q));
  }
  static bool any(Found found) { return mask(found) != 0; }
  static uint64_t at_most(const uint16_t* p, const int32_t* limit) {
    return 0xff ^ mask(_mm256_castsi256_ps(
                      _mm256_cmpgt_epi32(load_counts(p), load_int(limit))));
  }

  static int pixels(int lanes) { return lanes > 32 ? 2 : 4; }
  static int byte_pixels(int) { return kBytePixels; }

  // Of a word of inputs: fewer where one alone has them all.
  static int nibbles(int channels) { return channels <= 16 ? 4 : 8; }

  // Where the byte of a channel stands: the even and the odd bytes of a register
  // are two runs of 16 channels, so that widening to 16 bits needs no shuffle.
  static int byte_of(int lane) {
    return lane / 32 * 32 + lane % 16 * 2 + lane / 16 % 2;
  }

  // [window row][column][word][nibble][64 bytes, one an output channel].
  static size_t word_bytes(const BinaryConv& c, int) {
    return size_t{1} * nibbles(c.in.channels) * kGroup;
  }

  static void pack_weights(const BinaryConv& c, const uint64_t* signs,
                           int group, uint8_t* destination) {
    const int words = words32(c.in.channels), count = nibbles(c.in.channels);
    for (int tap = 0; tap < c.kernel * c.kernel; ++tap)
      for (int word = 0; word < words; ++word, destination += count * kGroup)
        for (int lane = 0; lane < kGroup; ++lane) {
          const uint32_t bits =
              sign_word(c, signs, group * kGroup + lane, tap, word);
          for (int n = 0; n < count; ++n)
            destination[n * kGroup + byte_of(lane)] = bits >> (4 * n) & 15;
        }
  }

  static void to_bytes(Float v, int zero, uint8_t* p) {
    const __m256i q =
        _mm256_add_epi32(_mm256_cvtps_epi32(v), _mm256_set1_epi32(zero));
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(q),
                                           _mm256_extracti128_si256(q, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(words, words));
  }

  // The sums of 4 bytes with the 16 choices of 4 signs are looked up, as those of
  // bits are: a table of their lower bytes and one of their upper bytes. Small weights
  // are bytes, as pmaddubsw takes them, which saturates with others: these are 16 bits
  // wide, as pmaddwd takes them.
  static size_t byte_weight_bytes(const ByteConv& c) {
    const size_t bytes = lane_byte_weight_bytes(c);
    return c.tables ? bytes / 4 : c.small ? bytes : 2 * bytes;
  }

  static void pack_byte_weights(const ByteConv& c, const int8_t* weights,
                                int group, uint8_t* destination) {
    if (c.small && !c.tables)
      return lane_pack_byte_weights(c, weights, group, destination);
    const int lanes = group_lanes(c.out_channels, group);
    each_byte_weight(c, weights, group, [&](ptrdiff_t at, int16_t weight) {
      if (!c.tables) {
        std::memcpy(destination + 2 * at, &weight, 2);
        return;
      }
      const ptrdiff_t word = at / 4 / lanes, lane = at / 4 % lanes;
      destination[word * kGroup + byte_of(lane)] |= (weight > 0) << at % 4;
    });
  }

  static void make_tables(const uint8_t* in, size_t words, uint8_t* tables) {
    const auto bytes = [](int i) { return _mm256_set1_epi16(0x8000 | i); };
    const __m256i zero = bytes(0), one = bytes(1), two = bytes(2), three = bytes(3);
    // -1 where bit i of the lane's index is clear.
    const auto signs = [](int i) {
      alignas(32) int16_t sign[16];
      for (int w = 0; w < 16; ++w) sign[w] = w >> i & 1 ? 1 : -1;
      return _mm256_load_si256(reinterpret_cast<const __m256i*>(sign));
    };
    const __m256i sign0 = signs(0), sign1 = signs(1), sign2 = signs(2),
                  sign3 = signs(3), low = _mm256_set1_epi16(0xff);
    for (size_t k = 0; k < words; ++k) {
      const __m256i x = _mm256_set1_epi32(static_cast<int>(load_word(in + 4 * k)));
      const __m256i sum = _mm256_add_epi16(
          _mm256_add_epi16(_mm256_sign_epi16(_mm256_shuffle_epi8(x, zero), sign0),
                           _mm256_sign_epi16(_mm256_shuffle_epi8(x, one), sign1)),
          _mm256_add_epi16(_mm256_sign_epi16(_mm256_shuffle_epi8(x, two), sign2),
                           _mm256_sign_epi16(_mm256_shuffle_epi8(x, three), sign3)));
      const __m256i both = _mm256_packus_epi16(_mm256_and_si256(sum, low),
                                               _mm256_srli_epi16(sum, 8));
      _mm256_store_si256(reinterpret_cast<__m256i*>(tables + kTable * k),
                         _mm256_permute4x64_epi64(both, 0xd8));
    }
  }

  // Four times the same 4 bytes. A load alone, where a shuffle would compete.
  static __m128i spread_word(const uint8_t* p) {
    return _mm_castps_si128(_mm_broadcast_ss(reinterpret_cast<const float*>(p)));
  }

  // Twice the same table of 16 bytes.
  static __m256i spread_table(const uint8_t* p) {
    return _mm256_broadcastsi128_si256(
        _mm_load_si128(reinterpret_cast<const __m128i*>(p)));
  }

  // 16 channels from `lane` on. A register holds 4 channels by 4 inputs; the two
  // sums of a channel are added at the end.
  template <int P>
  MMIRNET_ALONE static void wide_dot(const DotTask& t, int lane) {
    __m256i sum[P][4];
    for (int p = 0; p < P; ++p)
      for (int v = 0; v < 4; ++v) sum[p][v] = _mm256_setzero_si256();
    const uint8_t* w = t.weights + 8 * lane;
    for (int k = 0; k < t.words; ++k, w += 8 * t.lanes) {
      const uint8_t* in = t.in + t.offsets[k];
      __m256i x[P];
      for (int p = 0; p < P; ++p)
        x[p] = _mm256_cvtepu8_epi16(spread_word(in + p * t.in_step));
      for (int v = 0; v < 4; ++v)
        for (int p = 0; p < P; ++p)
          sum[p][v] = _mm256_add_epi32(
              sum[p][v], _mm256_madd_epi16(
                             x[p], _mm256_load_si256(
                                       reinterpret_cast<const __m256i*>(w) + v)));
    }
    // A loop left here would keep the sums in memory all the time.
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        const __m256i both = _mm256_permute4x64_epi64(
            _mm256_hadd_epi32(sum[p][2 * half], sum[p][2 * half + 1]), 0xd8);
        const int at = lane + 8 * half;
        _mm256_store_si256(reinterpret_cast<__m256i*>(t.sums + p * kGroup + at),
                           _mm256_add_epi32(both, load_int(t.start + at)));
      }
  }

  // 8 * V channels from `lane` on, 8 by 4 inputs in a register.
  template <int P, int V>
  MMIRNET_ALONE static void small_dot(const DotTask& t, int lane) {
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i sum[P][V];
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[p][v] = load_int(t.start + lane + 8 * v);
    const uint8_t* w = t.weights + 4 * lane;
    for (int k = 0; k < t.words; ++k, w += 4 * t.lanes) {
      const uint8_t* in = t.in + t.offsets[k];
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) {
        const __m256i x =
            _mm256_set1_epi32(static_cast<int>(load_word(in + p * t.in_step)));
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
          const __m256i pairs = _mm256_maddubs_epi16(
              x, _mm256_load_si256(reinterpret_cast<const __m256i*>(w) + v));
          sum[p][v] = _mm256_add_epi32(sum[p][v], _mm256_madd_epi16(pairs, ones));
          in_place(sum[p][v]);
        }
      }
    }
    int32_t* const sums = t.sums + lane;
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v)
        _mm256_store_si256(reinterpret_cast<__m256i*>(sums + p * kGroup + 8 * v),
                           sum[p][v]);
  }

  // 32 channels from 32 * half on.
  template <int P>
  MMIRNET_ALONE static void table_dot(const DotTask& t, int half) {
    // Of the lower bytes all (the odd ones times 256) and the odd ones, as 16
    // bits; of the upper bytes, as bytes.
    __m256i all[P], odd[P], upper[P];
    const auto total = [&](int p, int i) {
      return reinterpret_cast<__m256i*>(t.sums + p * kGroup + 32 * half) + i;
    };
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p)
      for (int i = 0; i < 4; ++i)
        _mm256_store_si256(total(p, i), load_int(t.start + 32 * half + 8 * i));
    const auto add = [](__m256i* to, __m128i v) {
      _mm256_store_si256(
          to, _mm256_add_epi32(_mm256_load_si256(to), _mm256_cvtepi16_epi32(v)));
    };
    const uint8_t* w = t.weights + 32 * half;
    for (int k = 0; k < t.words;) {
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) all[p] = odd[p] = upper[p] = _mm256_setzero_si256();
      // Upper bytes are -4 to 3, and sums of 31 words fit 16 bits.
      const int end = std::min(t.words, k + 31);
      for (; k < end; ++k, w += kGroup) {
        const __m256i signs = _mm256_load_si256(reinterpret_cast<const __m256i*>(w));
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) {
          const uint8_t* table = t.in + t.offsets[k] + p * t.in_step;
          const __m256i lower = _mm256_shuffle_epi8(spread_table(table), signs);
          all[p] = _mm256_add_epi16(all[p], lower);
          odd[p] = _mm256_add_epi16(odd[p], _mm256_srli_epi16(lower, 8));
          upper[p] = _mm256_add_epi8(
              upper[p], _mm256_shuffle_epi8(spread_table(table + kTable / 2), signs));
          in_place(all[p]);
          in_place(odd[p]);
          in_place(upper[p]);
        }
      }
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) {
        const __m256i first = _mm256_add_epi16(
            _mm256_sub_epi16(all[p], _mm256_slli_epi16(odd[p], 8)),
            _mm256_slli_epi16(upper[p], 8));
        const __m256i last = _mm256_add_epi16(
            odd[p], _mm256_andnot_si256(_mm256_set1_epi16(0xff), upper[p]));
        add(total(p, 0), _mm256_castsi256_si128(first));
        add(total(p, 1), _mm256_extracti128_si256(first, 1));
        add(total(p, 2), _mm256_castsi256_si128(last));
        add(total(p, 3), _mm256_extracti128_si256(last, 1));
      }
    }
  }

  static void dot(const DotTask& t) {
    with_pixels<kBytePixels>(t.pixels, [&](auto pixels) {
      if (t.tables) {
        for (int half = 0; 32 * half < t.lanes; ++half)
          table_dot<pixels.value>(t, half);
      } else if (t.small) {
        int lane = 0;
        for (; lane + 32 <= t.lanes; lane += 32) small_dot<pixels.value, 4>(t, lane);
        if (lane < t.lanes) small_dot<pixels.value, 2>(t, lane);
      } else {
        for (int lane = 0; lane < t.lanes; lane += 16)
          wide_dot<pixels.value>(t, lane);
      }
    });
  }

  // Adds H halves of 32 channels for P pairs of pixels, with N nibbles to a word.
  // Counts of up to three nibbles fit four bits, those of 7 words a byte, and those of
  // the caller's windows 16 bits.
  template <int P, int H, int N>
  MMIRNET_ALONE static void block(const CountTask<Count>& t) {
    // Of both counts as one byte, modulo 256, and without the lower one: shifted as 16
    // bits, so that a lower byte has its neighbour's bits above its own.
    __m256i both[P][H], upper[P][H];
    const auto total = [sums = t.sums](int pixel, int h) {
      return reinterpret_cast<__m256i*>(sums + pixel * kGroup + 32 * h);
    };
    const uint8_t* w = t.weights;
    for (int k = 0; k < t.words;) {
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p)
#pragma GCC unroll 2
        for (int h = 0; h < H; ++h) both[p][h] = upper[p][h] = _mm256_setzero_si256();
      const bool first = k == 0;
      const auto add = [first](__m256i* to, __m256i v) {
        _mm256_store_si256(
            to, first ? v : _mm256_add_epi16(_mm256_load_si256(to), v));
      };
      const int end = std::min(t.words, k + 63 / N);
      for (; k < end; ++k, w += N * kGroup) {
        const uint8_t* in[P];
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p)
          in[p] = reinterpret_cast<const uint8_t*>(t.in + p * t.in_step) +
                  t.offsets[k];
        __m256i count[P][H];
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) {
          __m256i signs[H];
#pragma GCC unroll 2
          for (int h = 0; h < H; ++h) {
            signs[h] = _mm256_load_si256(
                reinterpret_cast<const __m256i*>(w + n * kGroup + 32 * h));
            in_place(signs[h]);
          }
#pragma GCC unroll 4
          for (int p = 0; p < P; ++p) {
            const __m256i table = spread_table(kCountTables.of[in[p][n]]);
#pragma GCC unroll 2
            for (int h = 0; h < H; ++h) {
              const __m256i found = _mm256_shuffle_epi8(table, signs[h]);
              count[p][h] = n % 3 ? _mm256_add_epi8(count[p][h], found) : found;
              in_place(count[p][h]);
            }
          }
          if (n % 3 < 2 && n + 1 < N) continue;
#pragma GCC unroll 4
          for (int p = 0; p < P; ++p)
#pragma GCC unroll 2
            for (int h = 0; h < H; ++h) {
              both[p][h] = _mm256_add_epi8(both[p][h], count[p][h]);
              upper[p][h] =
                  _mm256_add_epi8(upper[p][h], _mm256_srli_epi16(count[p][h], 4));
              in_place(both[p][h]);
              in_place(upper[p][h]);
            }
        }
      }
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p)
#pragma GCC unroll 2
        for (int h = 0; h < H; ++h) {
          // a - 16 * b, as bytes in 16 bits.
          const auto rest = [](__m256i a, __m256i b) {
            return _mm256_and_si256(_mm256_sub_epi16(a, _mm256_slli_epi16(b, 4)),
                                    _mm256_set1_epi16(0xff));
          };
          const __m256i odd_two = _mm256_srli_epi16(upper[p][h], 8);
          const __m256i odd_one = rest(_mm256_srli_epi16(both[p][h], 8), odd_two);
          const __m256i even_two = rest(upper[p][h], odd_one);
          const __m256i even_one = rest(both[p][h], even_two);
          add(total(2 * p, h), even_one);
          add(total(2 * p, h) + 1, odd_one);
          add(total(2 * p + 1, h), even_two);
          add(total(2 * p + 1, h) + 1, odd_two);
        }
    }
  }

  static void count(const CountTask<Count>& t) {
    const bool few = nibbles(t.channels) == 4;
    const int pairs = (t.pixels + 1) / 2;
    if (t.lanes > 32)
      with_pixels<2>(pairs, [&](auto p) {
        few ? block<p.value, 2, 4>(t) : block<p.value, 2, 8>(t);
      });
    else
      with_pixels<4>(pairs, [&](auto p) {
        few ? block<p.value, 1, 4>(t) : block<p.value, 1, 8>(t);
      });
  }
};

bool supported() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

}  // namespace

extern const Kernels kAvx2;
const Kernels kAvx2 = Implementation<Avx2>::table("avx2", supported);

}  // namespace mmirnet
