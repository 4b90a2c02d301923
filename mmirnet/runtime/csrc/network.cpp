#include "network.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <map>
#include <mutex>
#include <stdexcept>
#include <thread>

namespace mmirnet {
namespace {

constexpr size_t kAlign = 64;
// The vector copies read and write up to a register past the end.
constexpr size_t kSlack = 256;
// Float convolutions compute bands of about this many values: the epilogue
// then finds them in the second-level cache.
constexpr int kBandFloats = 1 << 16;

void require(bool condition, const char* what) {
  if (!condition) throw std::invalid_argument(what);
}

using Bytes = std::unique_ptr<uint8_t[], void (*)(void*)>;

Bytes allocate(size_t bytes) {
  const size_t size = (bytes + kSlack + kAlign - 1) / kAlign * kAlign;
  void* memory = std::aligned_alloc(kAlign, size);
  if (!memory) throw std::bad_alloc();
  std::memset(memory, 0, size);
  return {static_cast<uint8_t*>(memory), std::free};
}

// Rows and columns of what a window gives; throws for one that does not fit.
std::pair<int, int> out_size(const Tensor& in, const Window& w) {
  constexpr int kMost = 4096;
  for (const int side : {w.kernel_height, w.kernel_width, w.stride_y,
                         w.stride_x, w.dilation_y, w.dilation_x})
    require(side > 0 && side <= kMost, "window out of range");
  for (const int pad : {w.top, w.bottom})
    require(pad >= 0 && pad < w.extent_y(), "padding out of range");
  for (const int pad : {w.left, w.right})
    require(pad >= 0 && pad < w.extent_x(), "padding out of range");
  const int rows = in.height + w.top + w.bottom - w.extent_y();
  const int columns = in.width + w.left + w.right - w.extent_x();
  require(rows >= 0 && columns >= 0, "window larger than the image");
  return {rows / w.stride_y + 1, columns / w.stride_x + 1};
}

// Whether every window of a pooling holds a pixel.
bool holds_pixels(const Tensor& in, const Window& w, std::pair<int, int> out) {
  return w.dilation_y == 1 && w.dilation_x == 1 &&
         (out.first - 1) * w.stride_y - w.top < in.height &&
         (out.second - 1) * w.stride_x - w.left < in.width;
}

// The part of a window of `kernel` that starts at `start` and lies in [0, size).
std::pair<int, int> inside(int start, int kernel, int size) {
  return {std::max(0, -start), std::min(kernel, size - start)};
}

// Numbers the distinct parts of the window over all outputs.
struct Classes {
  std::vector<int32_t> of;
  std::vector<std::pair<int, int>> parts;

  Classes(int outputs, int kernel, int stride, int pad, int size) {
    std::map<std::pair<int, int>, int32_t> seen;
    for (int i = 0; i < outputs; ++i) {
      const auto range = inside(i * stride - pad, kernel, size);
      const auto found = seen.try_emplace(range, parts.size());
      if (found.second) parts.push_back(range);
      of.push_back(found.first->second);
    }
  }
};

// The smallest integer in [low, high] for which `test` holds, or high + 1;
// `test` must be false up to some point and true after it.
template <class Test>
int first_true(int low, int high, Test test) {
  while (low <= high) {
    const int middle = low + (high - low) / 2;
    if (test(middle))
      high = middle - 1;
    else
      low = middle + 1;
  }
  return low;
}

int floor_half(int value) { return (value - (value & 1)) / 2; }

}  // namespace

size_t Tensor::bytes() const {
  if (kind == kBits) return size_t{8} * height * bit_shape().row();
  return size_t{4} * height * width * lanes();
}

// A EpilogueSpec whose tensors and constants have been looked up.
struct Network::EpiloguePlan {
  Epilogue constant;
  const Tensor *residual = nullptr, *out = nullptr, *bits = nullptr;

  // Pointers to the whole tensors.
  Epilogue at(const Context& context) const {
    Epilogue e = constant;
    e.nan = context.nan;
    if (residual) e.residual = context.at<float>(*residual);
    if (out) e.out = context.at<float>(*out);
    if (bits) e.bits = context.at<uint64_t>(*bits);
    return e;
  }

  // Pointers to row y; clears the zero columns of its bits.
  Epilogue at(const Context& context, int y) const {
    Epilogue e = at(context);
    if (residual)
      e.residual += ptrdiff_t{y} * residual->width * residual->lanes();
    if (out) e.out += ptrdiff_t{y} * out->width * out->lanes();
    if (bits) {
      const BitShape shape = bits->bit_shape();
      const int edge = shape.pad * shape.pixel();
      e.bits += ptrdiff_t{y} * shape.row();
      std::fill_n(e.bits, edge, 0);
      std::fill_n(e.bits + shape.row() - edge, edge, 0);
      e.bits += edge;
    }
    return e;
  }
};

// What calls of `run` share, which is one after another.
struct Network::State {
  const int process = process_id();
  const std::shared_ptr<ThreadPool> pool = ThreadPool::shared();
  std::timed_mutex mutex;
  std::atomic<std::thread::id> caller{};  // who holds it
  std::vector<Bytes> arenas;  // one a thread
};

Network::Network(const std::string& isa, const std::string& library,
                 int threads, size_t arena_bytes)
    : kernels_(find_kernels(isa.empty() ? nullptr : isa.c_str())),
      threads_(threads),
      arena_bytes_(arena_bytes) {
  require(kernels_, "this CPU does not have the instruction set asked for");
  require(threads >= 1 && threads <= 1024, "threads must be 1 to 1024");
  load_float_library(library);
  tensors_.reserve(4096);  // plans keep pointers to them
  state_ = new State;
}

// A child that was forked during a call leaves its parent's state alone, for
// ever: nobody there will unlock it, nor end the call.
Network::State& Network::state() {
  State* found = state_.load();
  if (found->process == process_id()) return *found;
  auto fresh = std::make_unique<State>();
  if (state_.compare_exchange_strong(found, fresh.get()))
    return *fresh.release();
  return *found;
}

Network::~Network() {
  if (state_.load()->process == process_id()) delete state_.load();
}

int Network::add_tensor(Tensor::Kind kind, int height, int width, int channels,
                        int pad, size_t offset) {
  constexpr int kMost = 1 << 20;
  require(height > 0 && width > 0 && channels > 0 && height <= kMost &&
              width <= kMost && channels <= kMost && pad >= 0 && pad < 1024,
          "tensor size out of range");
  require(tensors_.size() < tensors_.capacity(), "too many tensors");
  const Tensor tensor{kind, height, width, channels, pad, offset};
  require(offset % kAlign == 0 && offset <= arena_bytes_ &&
              tensor.bytes() <= arena_bytes_ - offset,
          "tensor outside of the arena");
  tensors_.push_back(tensor);
  return static_cast<int>(tensors_.size()) - 1;
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

// A copy of `values` that lives as long as the network, zero up to `padded`.
template <class T>
const T* Network::keep(size_t count, const T* values, size_t padded) {
  constants_.push_back(allocate(sizeof(T) * padded));
  std::memcpy(constants_.back().get(), values, sizeof(T) * count);
  return reinterpret_cast<const T*>(constants_.back().get());
}

Network::EpiloguePlan Network::plan(const EpilogueSpec& epilogue, int height, int width,
                                  int channels, int in) {
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
  plan.out = look_up(epilogue.out, Tensor::kFloats);
  plan.bits = look_up(epilogue.bits, Tensor::kBits);
  require(plan.out || plan.bits, "an operation needs an output");
  const size_t size = channels;
  require(epilogue.alpha.size == epilogue.beta.size &&
              (epilogue.alpha.size == 0 || epilogue.alpha.size == size),
          "affine of the wrong length");
  if (epilogue.alpha.size) {
    const size_t padded = round_up(channels, kGroup);
    plan.constant.alpha = keep(size, epilogue.alpha.data, padded);
    plan.constant.beta = keep(size, epilogue.beta.data, padded);
  }
  plan.constant.low = epilogue.low;
  plan.constant.high = epilogue.high;
  return plan;
}

void Network::set_input(int id, Span<float> mean, Span<float> std) {
  const Tensor& image = tensor(id, Tensor::kImage);
  const size_t channels = image.channels;
  require(mean.size == channels && std.size == channels,
          "normalisation of the wrong length");
  mean_.assign(mean.data, mean.data + channels);
  std_.assign(std.data, std.data + channels);
  input_ = id;
}

void Network::set_output(int id) {
  const Tensor& logits = tensor(id, Tensor::kFloats);
  require(logits.height == 1 && logits.width == 1, "output is not a vector");
  output_ = id;
}

void Network::add_binary_conv(int in_id, Window window, Span<uint64_t> signs,
                              const EpilogueSpec& epilogue) {
  const Tensor& in = tensor(in_id, Tensor::kBits);
  const auto size = out_size(in, window);
  const int height = size.first, width = size.second;
  const int k = window.kernel_height, stride = window.stride_y, pad = window.top;
  const Window square = Window::square(k, stride, pad);
  require(std::memcmp(&square, &window, sizeof square) == 0,
          "binary kernels are square");
  require(k <= 31 && stride <= 64, "convolution parameters out of range");
  require(in.pad >= pad, "too few zero columns for this padding");
  // 16-bit partial sums, and floats that hold every sum exactly.
  require(int64_t{k} * k * in.channels <= 65535, "window too large");
  const int words = in.bit_shape().pixel();
  const size_t filter = size_t{1} * k * k * words;
  require(signs.size > 0 && signs.size % filter == 0,
          "weights of the wrong size");
  const int channels = static_cast<int>(signs.size / filter);
  const EpiloguePlan plan = this->plan(epilogue, height, width, channels, in_id);

  BinaryConv conv{};
  conv.in = in.bit_shape();
  conv.out_height = height;
  conv.out_width = width;
  conv.out_channels = channels;
  conv.kernel = k;
  conv.stride = stride;
  conv.pad = pad;

  const int groups = (channels + kGroup - 1) / kGroup;
  const size_t group_bytes = kernels_->weight_bytes(conv);
  constants_.push_back(allocate(group_bytes * groups));
  uint8_t* weights = constants_.back().get();
  for (int group = 0; group < groups; ++group)
    kernels_->pack_weights(conv, signs.data, group,
                           weights + group * group_bytes);
  conv.weights = weights;

  const Classes rows(height, k, stride, pad, in.height);
  const Classes columns(width, k, stride, pad, in.width);
  conv.row_class = keep(rows.of.size(), rows.of.data(), rows.of.size());
  conv.column_class =
      keep(columns.of.size(), columns.of.data(), columns.of.size());
  conv.column_classes = static_cast<int>(columns.parts.size());

  // Rows outside are skipped. Columns outside read zero bits: there the
  // popcount is the weights' own, which the base takes back.
  const int table = groups * kGroup;
  const auto base_of = [&](int out, std::pair<int, int> row,
                           std::pair<int, int> column) {
    int base = 0;
    for (int v = row.first; v < row.second; ++v)
      for (int u = 0; u < k; ++u) {
        if (u >= column.first && u < column.second) {
          base += in.channels;
          continue;
        }
        const uint64_t* word =
            signs.data + (size_t{1} * out * k * k + v * k + u) * words;
        for (int i = 0; i < words; ++i)
          base += 2 * __builtin_popcountll(word[i]);
      }
    return base;
  };
  std::vector<float> base(rows.parts.size() * columns.parts.size() * table);
  std::vector<int32_t> limit(base.size());
  std::vector<uint64_t> flip(groups);

  // With nothing but a sign to produce, the epilogue is a step function of
  // the integer sum: find the step instead of computing the function.
  const bool only_sign = !plan.out && !plan.residual;
  for (int out = 0; out < channels; ++out) {
    const float alpha = epilogue.alpha.size ? epilogue.alpha.data[out] : 1.0f;
    const float beta = epilogue.alpha.size ? epilogue.beta.data[out] : 0.0f;
    const auto positive = [&](int dot) {
      const float y = std::fma(static_cast<float>(dot), alpha, beta);
      return std::min(std::max(y, epilogue.low), epilogue.high) >= 0;
    };
    const int most = k * k * in.channels;
    const bool falling = alpha < 0;
    // The bit is dot >= step, or its opposite where the slope is negative.
    const int step = falling ? first_true(-most, most,
                                          [&](int dot) { return !positive(dot); })
                             : first_true(-most, most, positive);
    if (falling) flip[out / kGroup] |= uint64_t{1} << (out % kGroup);
    for (size_t r = 0; r < rows.parts.size(); ++r)
      for (size_t c = 0; c < columns.parts.size(); ++c) {
        const size_t at = (r * columns.parts.size() + c) * table + out;
        const int value = base_of(out, rows.parts[r], columns.parts[c]);
        base[at] = static_cast<float>(value);
        limit[at] = floor_half(value - step);
      }
  }
  conv.base = keep(base.size(), base.data(), base.size());
  if (only_sign) {
    conv.limit = keep(limit.size(), limit.data(), limit.size());
    conv.flip = keep(flip.size(), flip.data(), flip.size());
  }

  const auto run = [this, conv, plan, &in](const Context& context, int begin,
                                           int end) {
    const Epilogue e = plan.at(context);
    for (int item = begin; item < end;) {
      const int group = item / conv.out_height, y = item % conv.out_height;
      const int rows = std::min(conv.out_height - y, end - item);
      kernels_->binary_conv(conv, e, plan.bits ? plan.bits->pad : 0,
                            context.at<uint64_t>(in), group, y, y + rows);
      item += rows;
    }
  };
  operations_.push_back({groups * height, run});
}

void Network::add_conv(int in_id, Window w, int groups, Span<float> weight,
                       const EpilogueSpec& epilogue) {
  const Tensor& in = tensor(in_id);
  require(in.kind != Tensor::kBits, "tensor of the wrong kind");
  const auto size = out_size(in, w);
  const int height = size.first, width = size.second;
  require(groups > 0 && in.channels % groups == 0, "groups of unequal size");
  int in_group = in.channels / groups;
  const size_t depth = size_t{1} * w.kernel_height * w.kernel_width * in_group;
  require(depth < (size_t{1} << 30) && weight.size > 0 &&
              weight.size % depth == 0,
          "weights of the wrong size");
  const int channels = static_cast<int>(weight.size / depth);
  require(channels % groups == 0, "groups of unequal size");
  const EpiloguePlan plan = this->plan(epilogue, height, width, channels, in_id);
  const int in_lanes = in.lanes(), lanes = round_up(channels, kFloatLanes);
  const int taps = w.kernel_height * w.kernel_width, in_real = in_group;
  int out_group = channels / groups;
  // Where that keeps the groups, lanes beyond the channels are computed too,
  // with weights of zero: a library computes all lanes or none.
  if (groups == 1) {
    in_group = in_lanes;
    out_group = lanes;
  } else if (in_group == 1 && out_group == 1 && in_lanes == lanes) {
    groups = lanes;
  }
  auto weights = std::make_shared<std::vector<float>>(
      size_t{1} * groups * out_group * taps * in_group);
  for (ptrdiff_t i = 0; i < ptrdiff_t{channels} * taps; ++i)
    std::copy_n(weight.data + i * in_real, in_real,
                weights->data() + i * in_group);

  struct Band {
    int begin, end, first_row;
    std::shared_ptr<FloatConv> conv;
    FloatConvShape shape;
  };
  std::vector<Band> bands;
  const int most = std::max(1, std::min(kBandFloats / (width * lanes),
                                        (height + threads_ - 1) / threads_));
  const int count = (height + most - 1) / most;
  bool fast = true;
  size_t scratch = 0;
  for (int i = 0; i < count; ++i) {
    Band band{height * i / count, height * (i + 1) / count, 0, nullptr, {}};
    const int first = band.begin * w.stride_y - w.top;
    const int last = (band.end - 1) * w.stride_y - w.top + w.extent_y();
    band.first_row = std::max(0, first);
    band.shape = {std::min(in.height, last) - band.first_row,
                  in.width,
                  in_lanes,
                  band.end - band.begin,
                  width,
                  lanes,
                  groups,
                  in_group,
                  out_group,
                  w};
    band.shape.window.top = std::max(0, -first);
    band.shape.window.bottom = std::max(0, last - in.height);
    for (const Band& other : bands)
      if (std::memcmp(&other.shape, &band.shape, sizeof band.shape) == 0)
        band.conv = other.conv;
    if (!band.conv)
      band.conv = FloatConv::make(band.shape, weights->data(),
                                  bands.empty() ? nullptr : bands[0].conv.get());
    fast = fast && band.conv;
    if (band.conv) scratch = std::max(scratch, band.conv->scratch_floats());
    bands.push_back(band);
  }
  if (fast) weights.reset();
  library_layers_ += fast;
  // A residual may share its memory with the output: no sum goes there.
  const bool in_place = plan.out && !plan.residual;
  const size_t sums = in_place ? 0 : size_t{1} * most * width * lanes;
  scratch_floats_ = std::max(scratch_floats_, sums + scratch + kSlack);

  const auto run = [=, &in](const Context& context, int first, int end) {
    for (int i = first; i < end; ++i) {
      const Band& band = bands[i];
      const float* from = context.at<float>(in) +
                          ptrdiff_t{band.first_row} * in.width * in_lanes;
      float* to = in_place ? context.at<float>(*plan.out) +
                                 ptrdiff_t{band.begin} * width * lanes
                           : context.scratch;
      if (fast)
        band.conv->run(from, to, context.scratch + sums);
      else
        kernels_->float_conv(band.shape, from, weights->data(), to);
      // Zero times infinity is NaN: it must not spread from the lanes of zero.
      if (channels < lanes)
        for (int p = 0; p < (band.end - band.begin) * width; ++p)
          std::fill(to + ptrdiff_t{p} * lanes + channels,
                    to + ptrdiff_t{p + 1} * lanes, 0.0f);
      for (int y = band.begin; y < band.end; ++y)
        kernels_->map(plan.at(context, y), channels, width,
                      to + ptrdiff_t{y - band.begin} * width * lanes);
    }
  };
  operations_.push_back({count, run});
}

void Network::add_max_pool(int in_id, Window w, const EpilogueSpec& epilogue) {
  const Tensor& in = tensor(in_id, Tensor::kFloats);
  const auto size = out_size(in, w);
  const int height = size.first, width = size.second;
  require(holds_pixels(in, w, size), "a window without a pixel");
  const EpiloguePlan plan = this->plan(epilogue, height, width, in.channels, in_id);
  scratch_floats_ =
      std::max(scratch_floats_, size_t{1} * width * in.lanes() + kSlack);
  const auto run = [=, &in](const Context& context, int begin, int end) {
    for (int y = begin; y < end; ++y)
      kernels_->max_pool(plan.at(context, y), in.channels, in.height, in.width,
                         w, width, y, context.at<float>(in), context.scratch);
  };
  operations_.push_back({height, run});
}

void Network::add_map(int in_id, const EpilogueSpec& epilogue) {
  const Tensor& in = tensor(in_id);
  require(in.kind != Tensor::kBits, "tensor of the wrong kind");
  // Reading and writing the same place is safe here, so the input may be out.
  const EpiloguePlan plan =
      this->plan(epilogue, in.height, in.width, in.channels, -1);
  // The pixels of an image have no lanes beyond its channels.
  const int lanes = round_up(in.channels, kFloatLanes);
  const bool spread = in.lanes() != lanes;
  if (spread)
    scratch_floats_ = std::max(scratch_floats_, size_t{1} * in.width * lanes + kSlack);
  const auto run = [=, &in](const Context& context, int begin, int end) {
    for (int y = begin; y < end; ++y) {
      const float* from =
          context.at<float>(in) + ptrdiff_t{y} * in.width * in.lanes();
      if (spread) {
        std::fill_n(context.scratch, ptrdiff_t{in.width} * lanes, 0.0f);
        for (int x = 0; x < in.width; ++x)
          std::copy_n(from + ptrdiff_t{x} * in.channels, in.channels,
                      context.scratch + ptrdiff_t{x} * lanes);
        from = context.scratch;
      }
      kernels_->map(plan.at(context, y), in.channels, in.width, from);
    }
  };
  operations_.push_back({in.height, run});
}

void Network::add_average_pool(int in_id, Window w, bool include_pad,
                               int out_id) {
  const Tensor& in = tensor(in_id, Tensor::kFloats);
  const Tensor& out = tensor(out_id, Tensor::kFloats);
  const auto size = out_size(in, w);
  require(holds_pixels(in, w, size), "a window without a pixel");
  require(out.height == size.first && out.width == size.second &&
              out.channels == in.channels && in_id != out_id,
          "tensor of the wrong shape");
  const auto run = [=, &in, &out](const Context& context, int begin, int end) {
    const int lanes = in.lanes();
    for (int y = begin; y < end; ++y)
      for (int x = 0; x < out.width; ++x) {
        const int top = y * w.stride_y - w.top, left = x * w.stride_x - w.left;
        const auto rows = inside(top, w.kernel_height, in.height);
        const auto columns = inside(left, w.kernel_width, in.width);
        float* sum = context.at<float>(out) + (ptrdiff_t{y} * out.width + x) * lanes;
        std::fill_n(sum, lanes, 0.0f);
        for (int v = rows.first; v < rows.second; ++v)
          for (int u = columns.first; u < columns.second; ++u) {
            const float* from =
                context.at<float>(in) +
                (ptrdiff_t{top + v} * in.width + left + u) * lanes;
            for (int c = 0; c < lanes; ++c) sum[c] += from[c];
          }
        const int pixels = include_pad ? w.kernel_height * w.kernel_width
                                       : (rows.second - rows.first) *
                                             (columns.second - columns.first);
        bool nan = false;  // of infinities of both signs
        for (int c = 0; c < lanes; ++c) {
          sum[c] /= static_cast<float>(pixels);
          nan = nan || sum[c] != sum[c];
        }
        if (nan) *context.nan = true;
      }
  };
  operations_.push_back({out.height, run});
}

void Network::add_sign(int in_id, int out_id) {
  const Tensor& in = tensor(in_id, Tensor::kFloats);
  const Tensor& out = tensor(out_id, Tensor::kFloats);
  require(out.height == in.height && out.width == in.width &&
              out.channels == in.channels && in_id != out_id,
          "tensor of the wrong shape");
  const auto run = [&in, &out](const Context& context, int begin, int end) {
    const ptrdiff_t row = ptrdiff_t{in.width} * in.lanes();
    const float* from = context.at<float>(in);
    float* to = context.at<float>(out);
    for (ptrdiff_t i = begin * row; i < end * row; ++i)
      to[i] = from[i] >= 0 ? 1.0f : -1.0f;
  };
  operations_.push_back({in.height, run});
}

void Network::add_vector(int in_id, int out_id) {
  const Tensor& in = tensor(in_id, Tensor::kFloats);
  const Tensor& out = tensor(out_id, Tensor::kFloats);
  const int pixels = in.height * in.width;
  require(out.height == 1 && out.width == 1 &&
              out.channels == in.channels * int64_t{pixels} && in_id != out_id,
          "tensor of the wrong shape");
  const auto run = [=, &in, &out](const Context& context, int begin, int end) {
    const float* from = context.at<float>(in);
    float* to = context.at<float>(out);
    for (int c = begin; c < end; ++c)
      for (int p = 0; p < pixels; ++p)
        to[ptrdiff_t{c} * pixels + p] = from[ptrdiff_t{p} * in.lanes() + c];
    if (end == in.channels)
      std::fill(to + out.channels, to + out.lanes(), 0.0f);
  };
  operations_.push_back({in.channels, run});
}

void Network::add_shortcut(int in_id, int stride, int before, int out_id) {
  const Tensor& in = tensor(in_id, Tensor::kFloats);
  const Tensor& out = tensor(out_id, Tensor::kFloats);
  require(stride > 0 && stride <= 64 && before >= 0 && in_id != out_id &&
              out.height == (in.height - 1) / stride + 1 &&
              out.width == (in.width - 1) / stride + 1 &&
              before <= out.channels - in.channels,
          "tensor of the wrong shape");
  const auto run = [=, &in, &out](const Context& context, int begin, int end) {
    for (int y = begin; y < end; ++y)
      for (int x = 0; x < out.width; ++x) {
        float* to = context.at<float>(out) +
                    (ptrdiff_t{y} * out.width + x) * out.lanes();
        const float* from =
            context.at<float>(in) +
            (ptrdiff_t{y} * stride * in.width + x * stride) * in.lanes();
        std::fill_n(to, out.lanes(), 0.0f);
        std::copy_n(from, in.channels, to + before);
      }
  };
  operations_.push_back({out.height, run});
}

template <>
void Network::load_rows(const Context& context, const uint8_t* image, int begin,
                        int end) const {
  const Tensor& in = input();
  const size_t row = size_t{1} * in.width * in.channels;
  kernels_->normalize(image + begin * row, (end - begin) * row, in.channels,
                      mean_.data(), std_.data(),
                      context.at<float>(in) + begin * row);
}

template <>
void Network::load_rows(const Context& context, const float* image, int begin,
                        int end) const {
  const Tensor& in = input();
  const size_t plane = size_t{1} * in.height * in.width, width = in.width;
  for (int y = begin; y < end; ++y) {
    float* to = context.at<float>(in) + y * width * in.channels;
    for (int c = 0; c < in.channels; ++c) {
      const float* row = image + c * plane + y * width;
      if (!kernels_->finite(row, width)) *context.nan = true;
      for (size_t x = 0; x < width; ++x) to[x * in.channels + c] = row[x];
    }
  }
}

namespace {

// How far the threads that share an image have come with one operation. Each
// takes what is left to take, so that none waits for one that has lost its
// core, unless that one holds a part.
struct Progress {
  std::atomic<int> taken{0}, done{0};

  template <class Run>
  void work(int items, int threads, const std::atomic<bool>& stop, Run run) {
    const int piece = std::max(1, items / (4 * threads));
    for (int begin; !stop && (begin = taken.fetch_add(piece)) < items;) {
      const int end = std::min(items, begin + piece);
      run(begin, end);
      done.fetch_add(end - begin, std::memory_order_release);
    }
    for (int rounds = 0;
         !stop && done.load(std::memory_order_acquire) < items; ++rounds)
      wait_a_little(rounds);
  }
};

// How long a call may stay deaf to Ctrl-C.
constexpr auto kPatience = std::chrono::milliseconds(50);

}  // namespace

// One call's turn to use the state.
struct Network::Turn {
  Turn(State& state, const Interrupt& interrupt)
      : state(state), lock(state.mutex, std::defer_lock) {
    if (state.caller == std::this_thread::get_id())
      throw std::runtime_error(
          "a signal's handler predicts with the runtime that it has interrupted");
    // ThreadSanitizer sees the lock when the wait goes by the system's clock.
    while (!lock.try_lock_until(std::chrono::system_clock::now() + kPatience))
      if (interrupt && interrupt()) throw Interrupted();
    state.caller = std::this_thread::get_id();
  }
  ~Turn() { state.caller = std::thread::id(); }

  State& state;
  std::unique_lock<std::timed_mutex> lock;
};

template <class Pixel>
void Network::run_images(const Pixel* images, int count, float* logits,
                         const Interrupt& interrupt) {
  require(input_ >= 0 && output_ >= 0, "the network has no input or output");
  if (count == 0) return;
  State& state = this->state();
  const Turn turn(state, interrupt);
  const int threads = threads_, classes = output().channels;
  const size_t pixels =
      size_t{1} * input().height * input().width * input().channels;
  // With an image for every thread, threads need not share one.
  const bool alone = threads == 1 || count >= threads;
  const size_t scratch = round_up(scratch_floats_ + kSlack, kFloatLanes);
  const size_t start = (arena_bytes_ + kSlack + kAlign - 1) / kAlign * kAlign;
  std::vector<Bytes>& arenas = state.arenas;
  while (arenas.size() < static_cast<size_t>(alone ? threads : 1))
    arenas.push_back(
        allocate(start + 4 * scratch * (arenas.empty() ? threads : 1)));

  // Around the operations: the image comes in, its logits go out.
  const int steps = static_cast<int>(operations_.size()) + 2;
  std::vector<Progress> progress(alone ? 0 : count * steps);
  std::vector<std::atomic<bool>> nan(count);
  std::atomic<int> next{0};
  std::atomic<bool> stop{false};

  const auto step = [&](const Context& context, int i, int s, int begin,
                        int end) {
    float* out = logits + ptrdiff_t{i} * classes;
    if (s == 0)
      load_rows(context, images + i * pixels, begin, end);
    else if (s < steps - 1)
      operations_[s - 1].run(context, begin, end);
    else if (*context.nan)
      std::fill_n(out, classes, std::numeric_limits<float>::quiet_NaN());
    else
      std::copy_n(context.at<float>(output()), classes, out);
  };
  const auto work = [&](int thread) {
    const SingleThreaded library;
    Context context;
    context.arena = arenas[alone ? thread : 0].get();
    context.scratch = reinterpret_cast<float*>(context.arena + start) +
                      (alone ? 0 : thread * scratch);
    auto asked = std::chrono::steady_clock::now();
    for (int i = alone ? next++ : 0; i < count; i = alone ? next++ : i + 1) {
      context.nan = &nan[i];
      for (int s = 0; s < steps; ++s) {
        if (stop) return;
        if (thread == 0 && interrupt) {
          const auto now = std::chrono::steady_clock::now();
          if (now - asked > kPatience && interrupt()) throw Interrupted();
          if (now - asked > kPatience) asked = now;
        }
        const int items = s == 0           ? input().height
                          : s == steps - 1 ? 1
                                           : operations_[s - 1].items;
        if (alone)
          step(context, i, s, 0, items);
        else
          progress[i * steps + s].work(
              items, threads, stop,
              [&](int begin, int end) { step(context, i, s, begin, end); });
      }
    }
  };
  state.pool->run(threads - 1, [&](int thread) {
    try {
      work(thread);
    } catch (...) {
      stop = true;  // nobody waits for this one's part
      throw;
    }
  });
}

std::vector<std::vector<double>> Network::time_operations(int repeats) {
  const SingleThreaded library;
  const auto memory = allocate(arena_bytes_ + kSlack + kAlign);
  const auto scratch = allocate(4 * (scratch_floats_ + kSlack));
  std::atomic<bool> nan{false};
  const Context context{memory.get(), reinterpret_cast<float*>(scratch.get()),
                        &nan};
  std::vector<std::vector<double>> seconds(repeats);
  for (std::vector<double>& times : seconds)
    for (const Operation& operation : operations_) {
      const auto start = std::chrono::steady_clock::now();
      operation.run(context, 0, operation.items);
      const auto end = std::chrono::steady_clock::now();
      times.push_back(std::chrono::duration<double>(end - start).count());
    }
  return seconds;
}

void Network::run(const uint8_t* images, int count, float* logits,
                  const Interrupt& interrupt) {
  run_images(images, count, logits, interrupt);
}

void Network::run(const float* images, int count, float* logits,
                  const Interrupt& interrupt) {
  run_images(images, count, logits, interrupt);
}

}  // namespace mmirnet
