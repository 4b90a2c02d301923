// oneDNN as a broken machine has it, for test_float_library.py: it fails where
// the environment says so, or has another version.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

typedef int (*Execute)(const void*, void*, int, const void*);

int dnnl_primitive_execute(const void* primitive, void* stream, int count,
                           const void* arguments) {
  const char* where = getenv("FAIL_IN");
  const int worker = syscall(SYS_gettid) != getpid();
  if (where && strcmp(where, worker ? "worker" : "caller") == 0) return 1;
  const Execute real = (Execute)dlsym(RTLD_NEXT, "dnnl_primitive_execute");
  return real(primitive, stream, count, arguments);
}

#ifdef OLD
const int* dnnl_version(void) {
  static const int version[16] = {2, 7};
  return version;
}
#endif
