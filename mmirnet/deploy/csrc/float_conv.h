// Float convolutions through oneDNN, found at run time.
//
// The few full-precision layers of a binary network (first convolution, 1x1
// shortcuts, classifier) cost as much as all binary ones together, so they are
// left to a library that reaches the CPU's peak. oneDNN is also what torch
// computes them with: one accumulator for each output, over rows, then
// columns, then channels of the window, so that the same bits come out.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

namespace mmirnet {

struct FloatConvShape {
  int in_height, in_width, in_channels;
  int out_height, out_width, out_channels;
  int kernel_height, kernel_width, stride;
  int top, bottom, side;  // padding
};

class FloatConv {
 public:
  // One convolution of an NHWC image; null where the library is missing or has
  // no fast implementation. `weights` are [out][row][column][in]. With `like`
  // of the same channels and window, its weights are shared.
  static std::shared_ptr<FloatConv> make(const FloatConvShape& shape,
                                         const float* weights,
                                         const FloatConv* like);
  virtual ~FloatConv() = default;
  virtual size_t scratch_floats() const = 0;
  virtual void run(const float* in, float* out, float* scratch) const = 0;
};

// Loads the library at `path`, once for the process; false if that fails.
bool load_float_library(const std::string& path);

// While it lives, the library uses the calling thread alone: the engine brings
// its own threads.
class SingleThreaded {
 public:
  SingleThreaded();
  ~SingleThreaded();

 private:
  int before_ = 0;
};

}  // namespace mmirnet
