// Single-threaded sgemm from the OpenBLAS that is installed with the package.
#pragma once

#include <string>

namespace mmirnet {

// C[m, n] = A[m, k] B[k, n], row-major, leading dimensions as given.
using Sgemm = void (*)(int m, int n, int k, const float* a, int lda,
                       const float* b, int ldb, float* c, int ldc);

// Loads the library at `path` once; null where it is missing or unusable.
Sgemm load_sgemm(const std::string& path);

}  // namespace mmirnet
