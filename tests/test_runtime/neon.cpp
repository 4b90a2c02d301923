// Compares every path that this CPU has with the portable one, bit for bit.
// Built by test_neon.py for ARM64, and run under qemu on CPUs of both kinds.
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "operators.h"

using namespace mmirnet;

namespace {

std::mt19937 random_bits(1);

// What an epilogue and the sums before it have.
enum class Form { kAffine, kActivation, kTerms };

std::vector<float> run(const char* isa, int channels, int out, int kernel,
                       int stride, int pad, int height, int width, bool sign,
                       Form form) {
  random_bits.seed(channels * 7919 + out);
  std::vector<float> eye(channels * channels, 0.0f);
  for (int i = 0; i < channels; ++i) eye[i * channels + i] = 1.0f;
  const int out_height = (height + 2 * pad - kernel) / stride + 1;
  const int out_width = (width + 2 * pad - kernel) / stride + 1;
  const size_t place = 1 << 18;
  Network network(isa, "", 2, 8 * place);
  const int image = network.add_tensor(Tensor::kImage, height, width, channels, 0, 0);
  const int bits =
      network.add_tensor(Tensor::kBits, height, width, channels, pad, place);
  const int sums =
      network.add_tensor(Tensor::kFloats, out_height, out_width, out, 0, 2 * place);
  const int signs =
      network.add_tensor(Tensor::kBits, out_height, out_width, out, 0, 3 * place);
  const int again =
      network.add_tensor(Tensor::kFloats, out_height, out_width, 16, 0, 4 * place);
  const int pooled = network.add_tensor(Tensor::kFloats, 1, 1, sign ? 16 : out, 0,
                                        5 * place);
  const std::vector<float> zero(channels, 0.0f), one(channels, 1.0f);
  network.set_input(image, -1, {zero.data(), zero.size()}, {one.data(), one.size()});
  EpilogueSpec epilogue{{}, {}, -INFINITY, INFINITY, -1, -1, bits};
  add_conv(network, image, Window::square(1, 1, 0), 1, {eye.data(), eye.size()},
           epilogue);

  const auto random_words = [](int filters, int taps, int in) {
    const int words = (in + 63) / 64;
    std::vector<uint64_t> all(size_t{1} * filters * taps * words);
    for (size_t i = 0; i < all.size(); ++i) {
      all[i] = uint64_t{random_bits()} << 32 | random_bits();
      const int rest = in - static_cast<int>(i % words) * 64;
      if (rest < 64) all[i] &= (uint64_t{1} << rest) - 1;
    }
    return all;
  };
  const auto weights = random_words(out, kernel * kernel, channels);
  std::vector<float> alpha(out), beta(out);
  for (int i = 0; i < out; ++i) {
    alpha[i] = static_cast<float>(random_bits() % 7) - 3.0f;
    beta[i] = static_cast<float>(random_bits() % 9) - 4.0f;
  }
  epilogue = {{alpha.data(), alpha.size()}, {beta.data(), beta.size()}, -1, 1, -1, -1, -1};
  (sign ? epilogue.bits : epilogue.out) = sign ? signs : sums;
  // Numbers that round, of both signs; the slopes below zero are negative, too.
  const auto reals = [&](size_t count) {
    std::vector<float> all(count);
    for (float& value : all)
      value = static_cast<float>(random_bits() % 2001) / 1000.0f - 1.0f;
    return all;
  };
  const auto scale = reals(out), activation = reals(4 * out);
  const auto threshold = reals(out), offset = reals(out), affine = reals(2);
  if (form != Form::kAffine) {
    epilogue.scale = {scale.data(), scale.size()};
    epilogue.activation = {activation.data(), activation.size()};
    epilogue.threshold = {threshold.data(), threshold.size()};
  }
  const bool terms = form == Form::kTerms;
  add_binary_conv(network, bits, Window::square(kernel, stride, pad),
                  {weights.data(), weights.size()}, epilogue,
                  terms ? Span<float>{offset.data(), offset.size()} : Span<float>{},
                  terms ? Span<float>{affine.data(), affine.size()} : Span<float>{});
  if (sign) {
    const auto last = random_words(16, 1, out);
    add_binary_conv(network, signs, Window::square(1, 1, 0),
                    {last.data(), last.size()},
                    {{}, {}, -INFINITY, INFINITY, -1, again, -1});
  }
  const Window whole{out_height, out_width, 1, 1, 0, 0, 0, 0, 1, 1};
  add_average_pool(network, sign ? again : sums, whole, false, pooled);
  network.set_output(pooled);

  std::vector<float> images(size_t{2} * channels * height * width);
  for (float& value : images)
    value = static_cast<float>(random_bits() % 5) - 2.0f;
  std::vector<float> logits(2 * (sign ? 16 : out));
  network.run(images.data(), 2, logits.data());
  return logits;
}

// Pixels through a convolution of bytes, and its floats through another one.
std::vector<float> run_bytes(const char* isa, int channels, int out, int kernel,
                             int stride, int pad, int height, int width) {
  random_bits.seed(channels * 7919 + out);
  const int out_height = (height + 2 * pad - kernel) / stride + 1;
  const int out_width = (width + 2 * pad - kernel) / stride + 1;
  const size_t place = 1 << 18;
  Network network(isa, "", 2, 4 * place);
  const int image = network.add_tensor(Tensor::kBytes, height, width, channels, 0, 0);
  const int first = network.add_tensor(Tensor::kFloats, out_height, out_width, out, 0,
                                       place);
  const int second = network.add_tensor(Tensor::kFloats, out_height, out_width, 16, 0,
                                        2 * place);
  const int pooled = network.add_tensor(Tensor::kFloats, 1, 1, 16, 0, 3 * place);
  const std::vector<float> zero(channels, 0.0f), one(channels, 1.0f);
  network.set_input(-1, image, {zero.data(), zero.size()}, {one.data(), one.size()});
  const auto add = [&](int from, int to, int in, int filters, const Window& window,
                       float scale, int zero_point) {
    std::vector<int8_t> values(size_t{1} * filters * window.kernel_height *
                               window.kernel_width * in);
    for (int8_t& value : values) value = static_cast<int8_t>(random_bits());
    std::vector<float> factor(filters), rest(filters);
    for (int i = 0; i < filters; ++i) {
      factor[i] = static_cast<float>(random_bits() % 2001) / 1e6f;
      rest[i] = static_cast<float>(random_bits() % 2001) / 1e3f - 1.0f;
    }
    const std::vector<int32_t> rows(out_height, 0), columns(out_width, 0);
    add_byte_conv(network, from, window, scale, zero_point,
                  {{values.data(), values.size()},
                   {factor.data(), factor.size()},
                   {rest.data(), rest.size()},
                   {rows.data(), rows.size()},
                   {columns.data(), columns.size()}},
                  {{}, {}, -2, 2, -1, to, -1});
  };
  add(image, first, channels, out, Window::square(kernel, stride, pad), 1, 0);
  add(first, second, out, 16, Window::square(1, 1, 0), 63.75f, 127);
  add_average_pool(network, second,
                   Window{out_height, out_width, 1, 1, 0, 0, 0, 0, 1, 1}, false, pooled);
  network.set_output(pooled);
  std::vector<uint8_t> images(size_t{2} * channels * height * width);
  for (uint8_t& value : images) value = static_cast<uint8_t>(random_bits());
  std::vector<float> logits(2 * 16);
  network.run(images.data(), 2, logits.data());
  return logits;
}

}  // namespace

int main() {
  const int shapes[][7] = {{64, 64, 3, 1, 1, 7, 7}, {16, 16, 3, 1, 1, 9, 5},
                           {63, 65, 3, 2, 1, 5, 6}, {33, 31, 1, 2, 0, 7, 7},
                           {20, 70, 5, 1, 2, 3, 3}, {1, 1, 3, 1, 1, 4, 4},
                           {60, 5, 2, 1, 1, 3, 4},  {200, 130, 3, 1, 1, 4, 6},
                           {60, 16, 31, 1, 0, 31, 31}, {3, 43, 3, 1, 0, 4, 4}};
  std::vector<const char*> names;
  for (const Kernels* const* k = kAllKernels; *k; ++k)
    if ((*k)->supported() && std::strcmp((*k)->name, "portable") != 0)
      names.push_back((*k)->name);
  int compared = 0, differing = 0;
  const auto compare = [&](const char* what, auto logits) {
    const auto wanted = logits("portable");
    for (const char* name : names) {
      ++compared;
      if (logits(name) == wanted) continue;
      ++differing;
      std::printf("%s differs in %s\n", name, what);
    }
  };
  for (const auto& s : shapes) {
    for (const bool sign : {false, true})
      for (const Form form : {Form::kAffine, Form::kActivation, Form::kTerms})
        compare("bits", [&](const char* isa) {
          return run(isa, s[0], s[1], s[2], s[3], s[4], s[5], s[6], sign, form);
        });
    compare("bytes", [&](const char* isa) {
      return run_bytes(isa, s[0], s[1], s[2], s[3], s[4], s[5], s[6]);
    });
  }
  for (const char* name : names) std::printf("%s ", name);
  std::printf("compared %d, chosen %s\n", compared, find_kernels(nullptr)->name);
  return differing != 0;
}
