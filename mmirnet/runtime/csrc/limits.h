// Numbers that this code and mmirnet's Python state both: `_native.LIMITS` has
// them for the test that compares the two.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mmirnet {

// Of a packed file, see mmirnet/packed/limits.py.
constexpr int kMaxSide = 4096;  // of an image and of a window
constexpr int kMaxStride = 64;
constexpr int kMaxBinaryKernel = 31;
constexpr int64_t kMaxBinaryWindow = 65535;  // 16-bit partial sums
constexpr size_t kMaxByteWindow = 65535;     // sums of bytes in 32 bits

// Of tensors in memory, see mmirnet/runtime/plan.py.
constexpr size_t kAlignment = 64;  // bytes
// The vector copies read and write up to a register past the end.
constexpr size_t kGap = 256;
constexpr int kFloatLanes = 16;  // float pixels are padded to this many lanes
constexpr int kWord = 64;        // channels in a word of bits

// Of a call, see mmirnet/runtime/session.py.
constexpr int kMaxThreads = 1024;

}  // namespace mmirnet
