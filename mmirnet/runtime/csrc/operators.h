// The operators: each adds work to a network, over tensors that it has. Each
// has a file in ops/. They throw std::invalid_argument for what does not fit.
#pragma once

#include "network.h"

namespace mmirnet {

// With an `offset` of each filter, its weights are scale * sign + offset, with
// the epilogue's scale, and the input alpha * (sign + beta): `affine_input` is
// (alpha, beta). See mmirnet/packed/ops/binary.py for how that is rounded.
void add_binary_conv(Network&, int in, Window window, Span<uint64_t> signs,
                     const EpilogueSpec& epilogue, Span<float> offset = {},
                     Span<float> affine_input = {});
// `weight` is [out][row][column][in / groups].
void add_conv(Network&, int in, Window window, int groups, Span<float> weight,
              const EpilogueSpec& epilogue);
// Weights of 8 bits: `values` are [out][row][column][in], `factor` is for each
// output channel, `rest` [row class][column class][out], with a class for each
// output row and column. See ByteConv.
struct ByteWeights {
  Span<int8_t> values;
  Span<float> factor, rest;
  Span<int32_t> row_class, column_class;
};
// Of bytes; of floats, too, which become rint(x * scale) + zero first. The
// padding is `zero`.
void add_byte_conv(Network&, int in, Window window, float scale, int zero,
                   const ByteWeights& weights, const EpilogueSpec& epilogue);
void add_max_pool(Network&, int in, Window window,
                  const EpilogueSpec& epilogue);
void add_map(Network&, int in, const EpilogueSpec& epilogue);  // of an image too
void add_average_pool(Network&, int in, Window window, bool include_pad,
                      int out);
// -1 and +1 in floats: +1 from a channel's threshold on, or from 0 on.
void add_sign(Network&, int in, int out, Span<float> threshold = {});
void add_vector(Network&, int in, int out);  // (C, H, W) as channels
void add_shortcut(Network&, int in, int stride, int before, int out);

}  // namespace mmirnet
