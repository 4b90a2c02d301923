// A network as a list of operations over tensors in one arena.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "float_conv.h"
#include "kernels.h"
#include "thread_pool.h"

namespace mmirnet {

template <class T>
struct Span {
  const T* data = nullptr;
  size_t size = 0;
};

struct Tensor {
  enum Kind { kImage, kFloats, kBits };
  Kind kind;
  int height, width, channels;
  int pad;        // zero columns on both sides of a row of bits
  size_t offset;  // in the arena

  int lanes() const {  // floats from pixel to pixel
    return kind == kImage ? channels : round_up(channels, kFloatLanes);
  }
  BitShape bit_shape() const { return {height, width, channels, pad}; }
  size_t bytes() const;
};

// What follows the sum of products; -1 and empty spans leave a part out.
struct EpilogueSpec {
  Span<float> alpha, beta;
  float low, high;
  int residual = -1, out = -1, bits = -1;
};

// Thrown by `run` when it was told to stop.
struct Interrupted {};

class Network {
 public:
  // Throws std::invalid_argument, as every method here, for what does not fit.
  Network(const std::string& isa, const std::string& library, int threads,
          size_t arena_bytes);
  ~Network();

  int add_tensor(Tensor::Kind kind, int height, int width, int channels,
                 int pad, size_t offset);
  void set_input(int tensor, Span<float> mean, Span<float> std);
  void set_output(int tensor);
  void add_binary_conv(int in, Window window, Span<uint64_t> signs,
                       const EpilogueSpec& epilogue);
  // `weight` is [out][row][column][in / groups].
  void add_conv(int in, Window window, int groups, Span<float> weight,
                const EpilogueSpec& epilogue);
  void add_max_pool(int in, Window window, const EpilogueSpec& epilogue);
  void add_map(int in, const EpilogueSpec& epilogue);  // of an image too
  void add_average_pool(int in, Window window, bool include_pad, int out);
  void add_sign(int in, int out);    // -1 and +1 in floats
  void add_vector(int in, int out);  // (C, H, W) as channels
  void add_shortcut(int in, int stride, int before, int out);

  // Whether to stop; asked now and then by the thread that called `run`.
  using Interrupt = std::function<bool()>;
  // `images` is uint8 NHWC, or float NCHW already normalised. The logits of an
  // image that holds NaN or infinity, or where one of its values becomes NaN on
  // the way, are all NaN: as bits it would be lost.
  void run(const uint8_t* images, int count, float* logits,
           const Interrupt& interrupt = {});
  void run(const float* images, int count, float* logits,
           const Interrupt& interrupt = {});

  // Seconds of each operation, `repeats` times, on one thread, on whatever the
  // tensors hold.
  std::vector<std::vector<double>> time_operations(int repeats);

  const char* isa() const { return kernels_->name; }
  int threads() const { return threads_; }
  // How many of the float layers the library computes.
  int library_layers() const { return library_layers_; }
  const Tensor& input() const { return tensor(input_); }
  const Tensor& output() const { return tensor(output_); }

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
  // Work in `items` that may run in any order on any thread.
  struct Operation {
    int items;
    std::function<void(const Context&, int begin, int end)> run;
  };

 private:
  struct EpiloguePlan;
  struct State;
  struct Turn;
  State& state();
  const Tensor& tensor(int id) const;
  const Tensor& tensor(int id, Tensor::Kind kind) const;
  EpiloguePlan plan(const EpilogueSpec& epilogue, int height, int width, int channels,
                  int sum_of);
  template <class T>
  const T* keep(size_t count, const T* values, size_t padded);
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
  std::vector<Tensor> tensors_;
  std::vector<Operation> operations_;
  std::vector<std::unique_ptr<uint8_t[], void (*)(void*)>> constants_;
  int input_ = -1, output_ = -1, library_layers_ = 0;
  std::vector<float> mean_, std_;
};

}  // namespace mmirnet
