#include "float_conv.h"

#include <algorithm>
#include <cstring>
#include <initializer_list>
#include <mutex>
#include <stdexcept>

#ifdef MMIRNET_ONEDNN

#include <dlfcn.h>
#include <oneapi/dnnl/dnnl.h>

namespace mmirnet {
namespace {

#define MMIRNET_DNNL(apply)                              \
  apply(dnnl_version) apply(dnnl_engine_create) apply(dnnl_stream_create)    \
  apply(dnnl_stream_wait)                                \
  apply(dnnl_memory_desc_create_with_tag)                \
  apply(dnnl_memory_desc_destroy)                        \
  apply(dnnl_memory_desc_equal)                          \
  apply(dnnl_memory_desc_get_size)                       \
  apply(dnnl_memory_create) apply(dnnl_memory_destroy)   \
  apply(dnnl_primitive_attr_create)                      \
  apply(dnnl_primitive_attr_destroy)                     \
  apply(dnnl_primitive_attr_set_scratchpad_mode)         \
  apply(dnnl_convolution_forward_primitive_desc_create)  \
  apply(dnnl_reorder_primitive_desc_create)              \
  apply(dnnl_primitive_desc_query)                       \
  apply(dnnl_primitive_desc_query_md)                    \
  apply(dnnl_primitive_desc_destroy)                     \
  apply(dnnl_primitive_create) apply(dnnl_primitive_destroy) \
  apply(dnnl_primitive_execute)

struct Library {
#define MMIRNET_MEMBER(name) decltype(&::name) name = nullptr;
  MMIRNET_DNNL(MMIRNET_MEMBER)
#undef MMIRNET_MEMBER
  int (*omp_get_max_threads)() = nullptr;
  void (*omp_set_num_threads)(int) = nullptr;
  dnnl_engine_t engine = nullptr;
  dnnl_stream_t stream = nullptr;
  bool ready = false;
  std::string problem;

  void open(const char* path) {
    ready = false;
    problem.clear();
    void* handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!handle) {
      problem = dlerror();
      return;
    }
    const auto look_up = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::decay_t<decltype(function)>>(
          dlsym(handle, name));
      if (!function && problem.empty())
        problem = std::string(path) + " has no " + name;
    };
#define MMIRNET_LOOK_UP(name) look_up(name, #name);
    MMIRNET_DNNL(MMIRNET_LOOK_UP)
#undef MMIRNET_LOOK_UP
    look_up(omp_get_max_threads, "omp_get_max_threads");
    look_up(omp_set_num_threads, "omp_set_num_threads");
    if (dnnl_version && dnnl_version()->major != DNNL_VERSION_MAJOR)
      problem = std::string(path) + " is version " +
                std::to_string(dnnl_version()->major) + "." +
                std::to_string(dnnl_version()->minor) + ", not " +
                std::to_string(DNNL_VERSION_MAJOR);
    if (!problem.empty()) return;
    ready = dnnl_engine_create(&engine, dnnl_cpu, 0) == dnnl_success &&
            dnnl_stream_create(&stream, engine, dnnl_stream_default_flags) ==
                dnnl_success;
    if (!ready) problem = std::string(path) + " does not start";
  }
};

Library library;

// A handle of the library that is destroyed with its owner.
template <class T>
class Owned {
 public:
  explicit Owned(dnnl_status_t (*destroy)(T)) : destroy_(destroy) {}
  Owned(const Owned&) = delete;
  ~Owned() {
    if (handle) destroy_(handle);
  }
  T handle = nullptr;

 private:
  dnnl_status_t (*destroy_)(T);
};

void check(dnnl_status_t status) {
  if (status != dnnl_success)
    throw std::runtime_error("oneDNN: error " + std::to_string(status));
}

struct Memory : Owned<dnnl_memory_t> {
  Memory(const_dnnl_memory_desc_t desc, void* data)
      : Owned(library.dnnl_memory_destroy) {
    check(library.dnnl_memory_create(&handle, desc, library.engine, data));
  }
};

struct Desc : Owned<dnnl_memory_desc_t> {
  Desc(std::initializer_list<dnnl_dim_t> sides, dnnl_format_tag_t tag)
      : Owned(library.dnnl_memory_desc_destroy) {
    dnnl_dims_t dims = {};
    std::copy(sides.begin(), sides.end(), dims);
    check(library.dnnl_memory_desc_create_with_tag(
        &handle, static_cast<int>(sides.size()), dims, dnnl_f32, tag));
  }
  // Of weights, in any layout or that of FloatConv::make.
  static Desc weights(const FloatConvShape& s, bool any) {
    const Window& w = s.window;
    if (s.groups == 1)
      return Desc({s.out_group, s.in_group, w.kernel_height, w.kernel_width},
                  any ? dnnl_format_tag_any : dnnl_ohwi);
    return Desc({s.groups, s.out_group, s.in_group, w.kernel_height,
                 w.kernel_width},
                any ? dnnl_format_tag_any : dnnl_gohwi);
  }
};

class OneDnnConv : public FloatConv {
 public:
  // Null, not an error, where the library has nothing fast for this shape.
  static std::shared_ptr<OneDnnConv> make(const FloatConvShape& s,
                                          const float* weights,
                                          const FloatConv* like) {
    auto conv = std::shared_ptr<OneDnnConv>(new OneDnnConv(s));
    if (!conv->describe(s)) return nullptr;
    conv->set_weights(s, weights, static_cast<const OneDnnConv*>(like));
    return conv;
  }

  size_t scratch_floats() const override {
    return library.dnnl_memory_desc_get_size(scratch_desc_) / sizeof(float) + 16;
  }

  void run(const float* in, float* out, float* scratch) const override {
    const Memory source(in_.handle, const_cast<float*>(in));
    const Memory destination(out_.handle, out);
    const Memory pad(scratch_desc_, scratch);
    const dnnl_exec_arg_t arguments[] = {
        {DNNL_ARG_SRC, source.handle},
        {DNNL_ARG_WEIGHTS, weights_->handle},
        {DNNL_ARG_DST, destination.handle},
        {DNNL_ARG_SCRATCHPAD, pad.handle}};
    check(library.dnnl_primitive_execute(primitive_.handle, library.stream, 4,
                                         arguments));
  }

 private:
  explicit OneDnnConv(const FloatConvShape& s)
      : in_({1, s.in_channels, s.in_height, s.in_width}, dnnl_nhwc),
        out_({1, s.out_channels, s.out_height, s.out_width}, dnnl_nhwc) {}

  bool describe(const FloatConvShape& s) {
    const Desc any = Desc::weights(s, true);
    const Window& w = s.window;
    const dnnl_dims_t strides = {w.stride_y, w.stride_x};
    const dnnl_dims_t dilates = {w.dilation_y - 1, w.dilation_x - 1};
    const dnnl_dims_t before = {w.top, w.left}, after = {w.bottom, w.right};
    Owned<dnnl_primitive_attr_t> attributes(library.dnnl_primitive_attr_destroy);
    check(library.dnnl_primitive_attr_create(&attributes.handle));
    check(library.dnnl_primitive_attr_set_scratchpad_mode(
        attributes.handle, dnnl_scratchpad_mode_user));
    if (library.dnnl_convolution_forward_primitive_desc_create(
            &desc_.handle, library.engine, dnnl_forward_inference,
            dnnl_convolution_direct, in_.handle, any.handle, nullptr,
            out_.handle, strides, dilates, before, after,
            attributes.handle) != dnnl_success)
      return false;
    const char* name = nullptr;
    check(library.dnnl_primitive_desc_query(
        desc_.handle, dnnl_query_impl_info_str, 0, &name));
    if (std::strncmp(name, "ref", 3) == 0) return false;
    weights_desc_ = library.dnnl_primitive_desc_query_md(
        desc_.handle, dnnl_query_weights_md, 0);
    scratch_desc_ = library.dnnl_primitive_desc_query_md(
        desc_.handle, dnnl_query_scratchpad_md, 0);
    check(library.dnnl_primitive_create(&primitive_.handle, desc_.handle));
    return true;
  }

  void set_weights(const FloatConvShape& s, const float* weights,
                   const OneDnnConv* like) {
    if (like && library.dnnl_memory_desc_equal(weights_desc_,
                                               like->weights_desc_)) {
      weights_ = like->weights_;
      return;
    }
    weights_ = std::make_shared<Memory>(weights_desc_, DNNL_MEMORY_ALLOCATE);
    const Desc plain = Desc::weights(s, false);
    const Memory source(plain.handle, const_cast<float*>(weights));
    Owned<dnnl_primitive_desc_t> desc(library.dnnl_primitive_desc_destroy);
    Owned<dnnl_primitive_t> reorder(library.dnnl_primitive_destroy);
    check(library.dnnl_reorder_primitive_desc_create(
        &desc.handle, plain.handle, library.engine, weights_desc_,
        library.engine, nullptr));
    check(library.dnnl_primitive_create(&reorder.handle, desc.handle));
    const dnnl_exec_arg_t arguments[] = {{DNNL_ARG_FROM, source.handle},
                                         {DNNL_ARG_TO, weights_->handle}};
    check(library.dnnl_primitive_execute(reorder.handle, library.stream, 2,
                                         arguments));
    check(library.dnnl_stream_wait(library.stream));
  }

  Desc in_, out_;
  Owned<dnnl_primitive_desc_t> desc_{library.dnnl_primitive_desc_destroy};
  Owned<dnnl_primitive_t> primitive_{library.dnnl_primitive_destroy};
  const_dnnl_memory_desc_t weights_desc_ = nullptr, scratch_desc_ = nullptr;
  std::shared_ptr<Memory> weights_;
};

}  // namespace

void load_float_library(const std::string& path) {
  static std::mutex mutex;
  std::lock_guard<std::mutex> lock(mutex);
  if (library.ready) return;
  if (path.empty())
    library.problem = "there is no libdnnl beside the runtime";
  else
    library.open(path.c_str());
}

std::string float_library_problem() {
  return library.ready ? "" : library.problem;
}

std::shared_ptr<FloatConv> FloatConv::make(const FloatConvShape& shape,
                                           const float* weights,
                                           const FloatConv* like) {
  if (!library.ready || !shape.whole()) return nullptr;
  const SingleThreaded alone;
  return OneDnnConv::make(shape, weights, like);
}

SingleThreaded::SingleThreaded() {
  if (!library.ready) return;
  before_ = library.omp_get_max_threads();
  library.omp_set_num_threads(1);
}

SingleThreaded::~SingleThreaded() {
  if (before_) library.omp_set_num_threads(before_);
}

}  // namespace mmirnet

#else

namespace mmirnet {

void load_float_library(const std::string&) {}
std::string float_library_problem() { return ""; }

std::shared_ptr<FloatConv> FloatConv::make(const FloatConvShape&, const float*,
                                           const FloatConv*) {
  return nullptr;
}

SingleThreaded::SingleThreaded() { (void)before_; }
SingleThreaded::~SingleThreaded() = default;

}  // namespace mmirnet

#endif
