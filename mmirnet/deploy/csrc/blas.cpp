#include "blas.h"

#include <cstdint>
#include <cstdlib>

#ifndef _WIN32
#include <dlfcn.h>
#endif

namespace mmirnet {
namespace {

using Cblas = void (*)(int order, int trans_a, int trans_b, int64_t m,
                       int64_t n, int64_t k, float alpha, const float* a,
                       int64_t lda, const float* b, int64_t ldb, float beta,
                       float* c, int64_t ldc);
Cblas cblas = nullptr;

void sgemm(int m, int n, int k, const float* a, int lda, const float* b,
           int ldb, float* c, int ldc) {
  constexpr int kRowMajor = 101, kNoTrans = 111;
  cblas(kRowMajor, kNoTrans, kNoTrans, m, n, k, 1.0f, a, lda, b, ldb, 0.0f, c,
        ldc);
}

#ifndef _WIN32
// Sets a variable for the time of loading a library, if nobody else set it.
class Environment {
 public:
  Environment(const char* name, const char* value)
      : name_(std::getenv(name) ? nullptr : name) {
    if (name_) setenv(name_, value, 0);
  }
  ~Environment() {
    if (name_) unsetenv(name_);
  }

 private:
  const char* const name_;
};

void* open_library(const char* path) {
  // The engine brings its own threads.
  Environment threads("OPENBLAS_NUM_THREADS", "1");
#if defined(__x86_64__)
  // OpenBLAS falls back to its AVX2 kernels on a CPU newer than itself.
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    Environment core("OPENBLAS_CORETYPE", "SkylakeX");
    return dlopen(path, RTLD_NOW | RTLD_LOCAL);
  }
#endif
  return dlopen(path, RTLD_NOW | RTLD_LOCAL);
}
#endif

}  // namespace

Sgemm load_sgemm(const std::string& path) {
#ifndef _WIN32
  if (!cblas && !path.empty())
    if (void* library = open_library(path.c_str()))
      cblas = reinterpret_cast<Cblas>(
          dlsym(library, "scipy_cblas_sgemm64_"));
#endif
  return cblas ? sgemm : nullptr;
}

}  // namespace mmirnet
