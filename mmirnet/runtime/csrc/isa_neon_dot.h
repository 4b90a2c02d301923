// The dot products of isa_neon.cpp on CPUs that have instructions for them.
#pragma once

#include "kernels_impl.h"

namespace mmirnet {

constexpr int kNeonDotPixels = 4;  // of a block, at most
void neon_dot(const DotTask&);

}  // namespace mmirnet
