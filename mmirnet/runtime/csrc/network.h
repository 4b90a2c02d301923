// A network as a list of operations over tensors in one arena. network.cpp
// builds it, the operators of operators.h add to it, scheduler.cpp runs it.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "float_conv.h"
#include "kernels.h"
#include "limits.h"
#include "thread_pool.h"

namespace mmirnet {

// Throws std::invalid_argument where a condition does not hold.
void require(bool condition, const char* what);

// Aligned memory of zeros, with a gap behind it.
using Bytes = std::unique_ptr<uint8_t[], void (*)(void*)>;
Bytes allocate(size_t bytes);
constexpr size_t aligned(size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

// The first of `size` things in a part of nearly equal `parts`.
inline int first_of(int part, int size, int parts) {
  return static_cast<int>(int64_t{size} * part / parts);
}

template <class T>
struct Span {
  const T* data = nullptr;
  size_t size = 0;
  const T* begin() const { return data; }
  const T* end() const { return data + size; }
};

struct Tensor {
  // kBytes are an image's pixels, kRows floats that are never whole.
  enum Kind { kImage, kFloats, kBits, kBytes, kRows };
  Kind kind;
  int height, width, channels;
  int pad;        // zero columns on both sides of a row of bits
  size_t offset;  // in the arena

  int lanes() const {  // values from pixel to pixel
    return kind == kImage || kind == kBytes ? channels : round_up(channels, kFloatLanes);
  }
  BitShape bit_shape() const { return {height, width, channels, pad}; }
  size_t bytes() const;
};

// What follows the sum of products; -1 and empty spans leave a part out.
struct EpilogueSpec {
  Span<float> alpha, beta;
  float low, high;
  int residual = -1, out = -1, bits = -1;
  Span<float> scale;
  Span<float> activation;  // before, negative, positive and after, in this order
  Span<float> threshold;
};

struct EpiloguePlan;

// Thrown by `run` when it was told to stop.
struct Interrupted {};

class Network {
 public:
  // Where one image is being computed, this thread's own memory, and whether
  // one of the image's values is NaN.
  struct Context {
    uint8_t* arena;
    float* scratch;
    std::atomic<bool>* nan;
    template <class T>
    T* at(const Tensor& tensor) const {
      return reinterpret_cast<T*>(arena + tensor.offset);
    }
  };
  // Work in `items` that may run in any order on any thread. Items beside each
  // other belong together: `together` of them share what they prepare.
  struct Operation {
    int items;
    std::function<void(const Context&, int begin, int end)> run;
    int together = 1;
  };

  // Throws std::invalid_argument, as every method here, for what does not fit.
  Network(const std::string& isa, const std::string& library, int threads,
          size_t arena_bytes);
  ~Network();

  int add_tensor(Tensor::Kind kind, int height, int width, int channels,
                 int pad, size_t offset);
  // Of kRows: the operation that reads them has them made as it needs them. The
  // operation that makes them is added first.
  int add_rows(int height, int width, int channels);
  // The image as floats, as bytes or both; -1 for what nobody reads.
  void set_input(int floats, int bytes, Span<float> mean, Span<float> std);
  void set_output(int tensor);

  // What operators build with.
  const Tensor& tensor(int id) const;
  const Tensor& tensor(int id, Tensor::Kind kind) const;
  const Kernels* kernels() const { return kernels_; }
  // Looks up tensors and constants of what ends an operation whose result has
  // this shape and which reads `in`. `out` is whole, or else may be `kRows`.
  EpiloguePlan plan(const EpilogueSpec& epilogue, int height, int width,
                    int channels, int in, Tensor::Kind out = Tensor::kFloats);
  // Whether sums of up to `most` in a channel stay numbers until the residual. Kernels
  // look for NaN only behind an activation, a scale or terms. Adds an activation
  // that changes nothing where sums could overflow without one: infinities of both signs
  // make a NaN. A number and an infinite residual do not, and who made a residual of NaN
  // has found it.
  bool watch(EpiloguePlan& plan, const std::vector<double>& most);
  // Memory of zeros that lives as long as the network.
  uint8_t* reserve(size_t bytes);
  // A copy of `values` there, with zeros behind it up to `size`.
  template <class T>
  const T* keep(Span<T> values, size_t size) {
    uint8_t* const copy = reserve(sizeof(T) * size);
    if (values.size) std::memcpy(copy, values.data, sizeof(T) * values.size);
    return reinterpret_cast<const T*>(copy);
  }
  template <class T>
  const T* keep(const std::vector<T>& values) {
    return keep(Span<T>{values.data(), values.size()}, values.size());
  }
  // How many floats of a thread's own memory an operation needs.
  void need_scratch(size_t floats) {
    scratch_floats_ = std::max(scratch_floats_, floats);
  }
  void add(Operation operation) { operations_.push_back(std::move(operation)); }
  // Makes rows [begin, end) where `image` would have them, in `floats` of a
  // thread's own memory.
  struct RowMaker {
    std::function<void(const Context&, float* image, int begin, int end)> run;
    size_t floats;
  };
  void add(int rows, RowMaker maker) { makers_[rows] = std::move(maker); }
  const RowMaker& maker(int rows) const;
  void count_library_layer() { ++library_layers_; }

  // Whether to stop; asked now and then by the thread that called `run`.
  using Interrupt = std::function<bool()>;
  // `images` is uint8 NHWC, or float NCHW already normalised. The logits of an
  // image that holds NaN or infinity, or where one of its values becomes NaN on
  // the way, are all NaN: as bits it would be lost. Any number of threads may
  // call at the same time.
  void run(const uint8_t* images, int count, float* logits,
           const Interrupt& interrupt = {});
  void run(const float* images, int count, float* logits,
           const Interrupt& interrupt = {});

  // How long an image must take for each thread that shares it; 0 for all threads.
  static void share_from(float seconds);

  // Seconds of each operation, `repeats` times, on one thread, on whatever the
  // tensors hold.
  std::vector<std::vector<double>> time_operations(int repeats);

  const char* isa() const { return kernels_->name; }
  int threads() const { return threads_; }
  // How many of the float layers the library computes.
  int library_layers() const { return library_layers_; }
  // Either of the two, for the image's size.
  const Tensor& input() const { return tensor(input_ < 0 ? pixels_ : input_); }
  const Tensor& output() const { return tensor(output_); }

 private:
  void plan_activation(const EpilogueSpec& epilogue, int channels,
                       Epilogue& constant);
  void fill_activation(Span<float> activation, Span<float> threshold, size_t size,
                       Epilogue& constant);
  struct State;
  struct Workspace;
  static State* new_state();
  State& state();
  template <class Pixel>
  void run_images(const Pixel* images, int count, float* logits,
                  const Interrupt& interrupt);
  template <class Pixel>
  void load_rows(const Context& context, const Pixel* image, int begin,
                 int end) const;

  const Kernels* kernels_;
  const int threads_;
  std::atomic<State*> state_;
  size_t arena_bytes_, scratch_floats_ = 0;
  std::deque<Tensor> tensors_;  // where they stay: operators refer to them
  std::vector<Operation> operations_;
  std::map<int, RowMaker> makers_;
  std::vector<Bytes> constants_;
  int input_ = -1, pixels_ = -1, output_ = -1, library_layers_ = 0;
  std::vector<float> mean_, std_;
  std::vector<float> levels_;  // (u8 - mean) / std, [channel][256]
};

// An EpilogueSpec whose tensors and constants have been looked up.
struct EpiloguePlan {
  Epilogue constant;
  const Tensor *residual = nullptr, *out = nullptr, *bits = nullptr;

  // Pointers to the whole tensors.
  Epilogue at(const Network::Context& context) const {
    Epilogue e = constant;
    e.nan = context.nan;
    if (residual) e.residual = context.at<float>(*residual);
    if (out) e.out = context.at<float>(*out);
    if (bits) e.bits = context.at<uint64_t>(*bits);
    return e;
  }

  // Pointers to row y; clears the zero columns of its bits.
  Epilogue at(const Network::Context& context, int y) const {
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

}  // namespace mmirnet
