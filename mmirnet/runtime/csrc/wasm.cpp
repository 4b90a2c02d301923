// The face of one Network in WebAssembly: memory in, memory out, no logic. Who
// wants another network instantiates the module once more.
#include <emscripten/emscripten.h>

#include <cstdlib>
#include <exception>
#include <memory>
#include <typeinfo>

#include "operators.h"

using namespace mmirnet;

#define MMIRNET_EXPORT extern "C" EMSCRIPTEN_KEEPALIVE

namespace {

std::unique_ptr<Network> network;
EpilogueSpec epilogue;
uint8_t* arena;  // of the last image
const char* problem;

}  // namespace

// Nothing is caught in WebAssembly: what is thrown ends the call, and the page asks
// why. The library's own functions would say nothing. All exceptions are std's.
extern "C" void* __cxa_allocate_exception(size_t size) noexcept {
  return std::malloc(size);
}

extern "C" [[noreturn]] void __cxa_throw(void* thrown, std::type_info*,
                                         void (*)(void*)) {
  problem = static_cast<std::exception*>(thrown)->what();
  __builtin_trap();
}

MMIRNET_EXPORT const char* failure() { return problem; }

MMIRNET_EXPORT void create(size_t arena_bytes) {
  network = std::make_unique<Network>("", "", 1, arena_bytes);
  // The tensors of this arena stay after a call, for the page to draw them.
  network->add({1, [](const Network::Context& context, int, int) {
                  arena = context.arena;
                }});
}

MMIRNET_EXPORT int add_tensor(int kind, int height, int width, int channels,
                              int pad, size_t offset) {
  return network->add_tensor(static_cast<Tensor::Kind>(kind), height, width,
                             channels, pad, offset);
}

MMIRNET_EXPORT void set_input(int floats, int bytes, const float* mean,
                              size_t means, const float* std, size_t stds) {
  network->set_input(floats, bytes, {mean, means}, {std, stds});
}

MMIRNET_EXPORT void set_output(int tensor) { network->set_output(tensor); }

// For the operation that is added next.
MMIRNET_EXPORT void set_epilogue(const float* alpha, size_t alphas,
                                 const float* beta, size_t betas, float low,
                                 float high, int residual, int out, int bits,
                                 const float* scale, size_t scales,
                                 const float* activation, size_t activations,
                                 const float* threshold, size_t thresholds) {
  epilogue = {{alpha, alphas}, {beta, betas}, low,
              high,            residual,      out,
              bits,            {scale, scales}, {activation, activations},
              {threshold, thresholds}};
}

MMIRNET_EXPORT void add_binary_conv(int in, const Window* window,
                                    const uint64_t* signs, size_t words,
                                    const float* offset, size_t offsets,
                                    const float* affine_input, size_t numbers) {
  add_binary_conv(*network, in, *window, {signs, words}, epilogue,
                  {offset, offsets}, {affine_input, numbers});
}

MMIRNET_EXPORT void add_conv(int in, const Window* window, int groups,
                             const float* weight, size_t weights) {
  add_conv(*network, in, *window, groups, {weight, weights}, epilogue);
}

MMIRNET_EXPORT void add_byte_conv(int in, const Window* window, float scale,
                                  int zero, const int8_t* values, size_t bytes,
                                  const float* factor, size_t factors,
                                  const float* rest, size_t rests,
                                  const int32_t* row_class, size_t rows,
                                  const int32_t* column_class, size_t columns) {
  const ByteWeights weights{{values, bytes},
                            {factor, factors},
                            {rest, rests},
                            {row_class, rows},
                            {column_class, columns}};
  add_byte_conv(*network, in, *window, scale, zero, weights, epilogue);
}

MMIRNET_EXPORT void add_max_pool(int in, const Window* window) {
  add_max_pool(*network, in, *window, epilogue);
}

MMIRNET_EXPORT void add_map(int in) { add_map(*network, in, epilogue); }

MMIRNET_EXPORT void add_average_pool(int in, const Window* window,
                                     bool include_pad, int out) {
  add_average_pool(*network, in, *window, include_pad, out);
}

MMIRNET_EXPORT void add_sign(int in, const float* threshold, size_t thresholds,
                             int out) {
  add_sign(*network, in, out, {threshold, thresholds});
}

MMIRNET_EXPORT void add_vector(int in, int out) { add_vector(*network, in, out); }

MMIRNET_EXPORT void add_shortcut(int in, int stride, int before, int out) {
  add_shortcut(*network, in, stride, before, out);
}

// One image: uint8 pixels, or floats that are normalised.
MMIRNET_EXPORT const uint8_t* run_pixels(const uint8_t* image, float* logits) {
  network->run(image, 1, logits);
  return arena;
}

MMIRNET_EXPORT const uint8_t* run_floats(const float* image, float* logits) {
  network->run(image, 1, logits);
  return arena;
}
