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

// How a window moves over an image.
struct Window {
  int kernel_height, kernel_width;
  int stride_y, stride_x;
  int top, left, bottom, right;  // padding
  int dilation_y, dilation_x;

  static Window square(int kernel, int stride, int pad) {
    return {kernel, kernel, stride, stride, pad, pad, pad, pad, 1, 1};
  }
  int extent_y() const { return dilation_y * (kernel_height - 1) + 1; }
  int extent_x() const { return dilation_x * (kernel_width - 1) + 1; }
};

// Channels count the lanes of a pixel. Group g reads in_group channels from
// g * in_group on, and makes out_group.
struct FloatConvShape {
  int in_height, in_width, in_channels;
  int out_height, out_width, out_channels;
  int groups, in_group, out_group;
  Window window;

  // Whether the groups are all of the lanes: no library skips the others.
  bool whole() const {
    return groups * in_group == in_channels && groups * out_group == out_channels;
  }
};

class FloatConv {
 public:
  // One convolution of an NHWC image; null where the library is missing or has
  // no fast implementation. `weights` are [out][row][column][in_group]. With
  // `like` of the same channels and window, its weights are shared.
  static std::shared_ptr<FloatConv> make(const FloatConvShape& shape,
                                         const float* weights,
                                         const FloatConv* like);
  virtual ~FloatConv() = default;
  virtual size_t scratch_floats() const = 0;
  virtual void run(const float* in, float* out, float* scratch) const = 0;
};

// Loads the library at `path`, once for the process.
void load_float_library(const std::string& path);
// Why it is not there though this was built for it; empty if it is.
std::string float_library_problem();

// While it lives, the library uses the calling thread alone: the runtime brings
// its own threads.
class SingleThreaded {
 public:
  SingleThreaded();
  ~SingleThreaded();

 private:
  int before_ = 0;
};

}  // namespace mmirnet
