// Where a window meets an image.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "network.h"

namespace mmirnet {

// Rows and columns of what a window gives; throws for one that does not fit.
inline std::pair<int, int> out_size(const Tensor& in, const Window& w) {
  for (const int side : {w.kernel_height, w.kernel_width, w.stride_y,
                         w.stride_x, w.dilation_y, w.dilation_x})
    require(side > 0 && side <= kMaxSide, "window out of range");
  for (const int pad : {w.top, w.bottom})
    require(pad >= 0 && pad < w.extent_y(), "padding out of range");
  for (const int pad : {w.left, w.right})
    require(pad >= 0 && pad < w.extent_x(), "padding out of range");
  const int rows = in.height + w.top + w.bottom - w.extent_y();
  const int columns = in.width + w.left + w.right - w.extent_x();
  require(rows >= 0 && columns >= 0, "window larger than the image");
  return {rows / w.stride_y + 1, columns / w.stride_x + 1};
}

// Where a table begins for each row or column of outputs, `size` values a class.
template <class Classes>
const ptrdiff_t* entries(Network& network, const Classes& classes, size_t size) {
  std::vector<ptrdiff_t> entries;
  for (const int32_t c : classes)
    entries.push_back(c * static_cast<ptrdiff_t>(size));
  return network.keep(entries);
}

// Whether every window of a pooling holds a pixel.
inline bool holds_pixels(const Tensor& in, const Window& w, std::pair<int, int> out) {
  return w.dilation_y == 1 && w.dilation_x == 1 &&
         (out.first - 1) * w.stride_y - w.top < in.height &&
         (out.second - 1) * w.stride_x - w.left < in.width;
}

// The part of a window of `kernel` that starts at `start` and lies in [0, size).
inline std::pair<int, int> inside(int start, int kernel, int size) {
  return {std::max(0, -start), std::min(kernel, size - start)};
}

}  // namespace mmirnet
