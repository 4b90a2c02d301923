#include "network.h"

#include <cmath>
#include <cstdlib>
#include <limits>
#include <stdexcept>

namespace mmirnet {

void require(bool condition, const char* what) {
  if (!condition) throw std::invalid_argument(what);
}

Bytes allocate(size_t bytes) {
  const size_t size = aligned(bytes + kGap);
  void* memory = std::aligned_alloc(kAlignment, size);
  if (!memory) throw std::bad_alloc();
  std::memset(memory, 0, size);
  return {static_cast<uint8_t*>(memory), std::free};
}

size_t Tensor::bytes() const {
  if (kind == kBits) return size_t{8} * height * bit_shape().row();
  return (kind == kBytes ? size_t{1} : size_t{4}) * height * width * lanes();
}

Network::Network(const std::string& isa, const std::string& library,
                 int threads, size_t arena_bytes)
    : kernels_(find_kernels(isa.empty() ? nullptr : isa.c_str())),
      threads_(threads),
      arena_bytes_(arena_bytes) {
  require(kernels_, "this CPU does not have the instruction set asked for");
  require(threads >= 1 && threads <= kMaxThreads, "threads must be 1 to 1024");
  load_float_library(library);
  state_ = new_state();
}

namespace {

Tensor make_tensor(Tensor::Kind kind, int height, int width, int channels, int pad,
                   size_t offset) {
  constexpr int kMost = 1 << 20;
  require(height > 0 && width > 0 && channels > 0 && height <= kMost &&
              width <= kMost && channels <= kMost && pad >= 0 && pad < 1024,
          "tensor size out of range");
  return {kind, height, width, channels, pad, offset};
}

}  // namespace

int Network::add_tensor(Tensor::Kind kind, int height, int width, int channels,
                        int pad, size_t offset) {
  require(kind != Tensor::kRows, "rows have no place in the arena");
  const Tensor tensor = make_tensor(kind, height, width, channels, pad, offset);
  require(offset % kAlignment == 0 && offset <= arena_bytes_ &&
              tensor.bytes() <= arena_bytes_ - offset,
          "tensor outside of the arena");
  tensors_.push_back(tensor);
  return static_cast<int>(tensors_.size()) - 1;
}

int Network::add_rows(int height, int width, int channels) {
  tensors_.push_back(make_tensor(Tensor::kRows, height, width, channels, 0, 0));
  return static_cast<int>(tensors_.size()) - 1;
}

const Network::RowMaker& Network::maker(int rows) const {
  const auto found = makers_.find(rows);
  require(found != makers_.end(), "nothing makes these rows");
  return found->second;
}

const Tensor& Network::tensor(int id) const {
  require(id >= 0 && id < static_cast<int>(tensors_.size()), "no such tensor");
  return tensors_[id];
}

const Tensor& Network::tensor(int id, Tensor::Kind kind) const {
  const Tensor& found = tensor(id);
  require(found.kind == kind, "tensor of the wrong kind");
  return found;
}

EpiloguePlan Network::plan(const EpilogueSpec& epilogue, int height, int width,
                           int channels, int in, Tensor::Kind out) {
  EpiloguePlan plan;
  const auto look_up = [&](int id, Tensor::Kind kind) -> const Tensor* {
    if (id < 0) return nullptr;
    const Tensor& found = tensor(id, kind);
    require(found.height == height && found.width == width &&
                found.channels == channels,
            "tensor of the wrong shape");
    return &found;
  };
  for (const int id : {epilogue.out, epilogue.bits})
    require(id < 0 || id != in, "an operation cannot overwrite its input");
  plan.residual = look_up(epilogue.residual, Tensor::kFloats);
  plan.out = look_up(epilogue.out, out);
  plan.bits = look_up(epilogue.bits, Tensor::kBits);
  require(plan.out || plan.bits, "an operation needs an output");
  const size_t size = channels;
  require(epilogue.alpha.size == epilogue.beta.size &&
              (epilogue.alpha.size == 0 || epilogue.alpha.size == size),
          "affine of the wrong length");
  if (epilogue.alpha.size) {
    const size_t padded = round_up(channels, kGroup);
    plan.constant.alpha = keep(epilogue.alpha, padded);
    plan.constant.beta = keep(epilogue.beta, padded);
  }
  require(epilogue.scale.size == 0 || epilogue.scale.size == size,
          "scale of the wrong length");
  if (epilogue.scale.size)
    plan.constant.scale = keep(epilogue.scale, round_up(channels, kGroup));
  plan_activation(epilogue, channels, plan.constant);
  plan.constant.low = epilogue.low;
  plan.constant.high = epilogue.high;
  return plan;
}

void Network::plan_activation(const EpilogueSpec& epilogue, int channels,
                              Epilogue& constant) {
  const Span<float> activation = epilogue.activation;
  const Span<float> threshold = epilogue.threshold;
  const size_t size = channels;
  require(activation.size == 0 || activation.size == 4 * size,
          "activation of the wrong length");
  require(threshold.size == 0 || threshold.size == size,
          "threshold of the wrong length");
  if (!activation.size && !threshold.size) return;
  fill_activation(activation, threshold, size, constant);
}

bool Network::watch(EpiloguePlan& plan, const std::vector<double>& most) {
  Epilogue& e = plan.constant;
  constexpr double kLimit = 0.99 * std::numeric_limits<float>::max();
  const bool safe = [&] {
    for (size_t c = 0; c < most.size(); ++c) {
      const double scaled = most[c] * (e.scale ? std::abs(e.scale[c]) : 1);
      const double sum =
          e.alpha ? scaled * std::abs(e.alpha[c]) + std::abs(e.beta[c]) : scaled;
      if (!(scaled <= kLimit && sum <= kLimit)) return false;
    }
    return true;
  }();
  if (!safe && !e.threshold) fill_activation({}, {}, most.size(), e);
  return safe;
}

void Network::fill_activation(Span<float> activation, Span<float> threshold, size_t size,
                              Epilogue& constant) {
  const size_t padded = round_up(static_cast<int>(size), kGroup);
  // Parts that change nothing. No number changes where -0 is added.
  const std::vector<float> none(size, -0.0f), one(size, 1.0f), zero(size, 0.0f);
  const auto part = [&](Span<float> from, size_t index,
                        const std::vector<float>& otherwise) {
    return keep(from.size ? Span<float>{from.data + index * size, size}
                          : Span<float>{otherwise.data(), size},
                padded);
  };
  constant.before = part(activation, 0, none);
  constant.negative = part(activation, 1, one);
  constant.positive = part(activation, 2, one);
  constant.after = part(activation, 3, none);
  constant.threshold = part(threshold, 0, zero);
}

void Network::set_input(int floats, int bytes, Span<float> mean,
                        Span<float> std) {
  if (floats >= 0) tensor(floats, Tensor::kImage);
  if (bytes >= 0) tensor(bytes, Tensor::kBytes);
  input_ = floats;
  pixels_ = bytes;
  const Tensor& image = input();
  if (floats >= 0 && bytes >= 0) {
    const Tensor& pixels = tensor(bytes);
    require(pixels.height == image.height && pixels.width == image.width &&
                pixels.channels == image.channels,
            "images of two sizes");
  }
  const size_t channels = image.channels;
  require(mean.size == channels && std.size == channels,
          "normalisation of the wrong length");
  mean_.assign(mean.data, mean.data + channels);
  std_.assign(std.data, std.data + channels);
  levels_.clear();
  for (size_t c = 0; c < channels; ++c)
    for (int level = 0; level < 256; ++level)
      levels_.push_back((static_cast<float>(level) - mean_[c]) / std_[c]);
}

void Network::set_output(int id) {
  const Tensor& logits = tensor(id, Tensor::kFloats);
  require(logits.height == 1 && logits.width == 1, "output is not a vector");
  output_ = id;
}

uint8_t* Network::reserve(size_t bytes) {
  constants_.push_back(allocate(bytes));
  return constants_.back().get();
}

}  // namespace mmirnet
