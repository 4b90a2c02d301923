#include <cstring>

#include "kernels.h"

namespace mmirnet {

#ifdef MMIRNET_X86
extern const Kernels kAvx512, kAvx2;
double avx512_peak_rate();
#endif
#ifdef MMIRNET_NEON
extern const Kernels kNeonDot, kNeon;
#endif
#ifdef __wasm_simd128__  // the only kernels there: a page loads them all
extern const Kernels kWasm;
#else
extern const Kernels kPortable;
#endif

const Kernels* const kAllKernels[] = {
#ifdef MMIRNET_X86
    &kAvx512, &kAvx2,
#endif
#ifdef MMIRNET_NEON
    &kNeonDot, &kNeon,
#endif
#ifdef __wasm_simd128__
    &kWasm,
#else
    &kPortable,
#endif
    nullptr};

double peak_rate() {
#ifdef MMIRNET_X86
  if (kAvx512.supported()) return avx512_peak_rate();
#endif
  return 0;
}

const Kernels* find_kernels(const char* name) {
  for (const Kernels* const* k = kAllKernels; *k; ++k)
    if ((*k)->supported() && (!name || std::strcmp(name, (*k)->name) == 0))
      return *k;
  return nullptr;
}

}  // namespace mmirnet
