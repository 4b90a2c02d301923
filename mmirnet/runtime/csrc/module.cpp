// The Python face of Network: arrays in, arrays out, no logic.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <chrono>
#include <optional>
#include <thread>

#ifndef _WIN32
#include <pthread.h>
#endif

#include "operators.h"

namespace nb = nanobind;
using namespace nb::literals;
using mmirnet::EpilogueSpec;
using mmirnet::Network;
using mmirnet::Span;
using mmirnet::Tensor;
using mmirnet::Window;

namespace {

template <class T>
using Array = nb::ndarray<const T, nb::c_contig, nb::device::cpu>;

using Logits = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

template <class T>
Span<T> span(const Array<T>& array) {
  return {array.data(), array.size()};
}

using Floats = std::optional<Array<float>>;

Span<float> span(const Floats& array) {
  return array ? span(*array) : Span<float>{};
}

// A thread that waits for the interpreter while it ends is thrown off the stack,
// which C++ cannot survive. So the end waits until nobody predicts.
std::atomic<bool> ending{false};
std::atomic<int> predicting{0};

void end() {
  ending = true;
  const nb::gil_scoped_release release;
  while (predicting) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

// While it lives, others may use the interpreter; not any more at its end.
class Unlocked {
 public:
  Unlocked() {
    ++predicting;
    if (!ending) release_.emplace();
  }

  ~Unlocked() {
    release_.reset();
    --predicting;
  }

  // Whether to give up: for what Python has to say, or for its end.
  bool interrupted() {
    if (!release_) return PyErr_CheckSignals() != 0;
    if (ending) return true;
    const nb::gil_scoped_acquire acquire;
    return PyErr_CheckSignals() != 0;
  }

  // Only daemon threads are left when Python ends: they stop here for ever, as
  // those in Python code do.
  void stop_at_the_end() {
    if (!release_ || !ending) return;
    --predicting;
    for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
  }

 private:
  std::optional<nb::gil_scoped_release> release_;
};

// Whether all logits are finite.
template <class T>
bool predict(Network& network, const Array<T>& images, Logits logits) {
  const Tensor& in = network.input();
  const size_t pixels = size_t{1} * in.height * in.width * in.channels;
  if (images.ndim() < 1 || images.size() != images.shape(0) * pixels ||
      images.shape(0) > (size_t{1} << 30))
    throw std::invalid_argument("images of the wrong shape");
  const size_t count = images.shape(0);
  if (logits.shape(0) != count ||
      logits.shape(1) != static_cast<size_t>(network.output().channels))
    throw std::invalid_argument("logits of the wrong shape");
  bool interrupted = false;
  {
    Unlocked unlocked;
    try {
      network.run(images.data(), static_cast<int>(count), logits.data(),
                  [&] { return unlocked.interrupted(); });
    } catch (const mmirnet::Interrupted&) {
      unlocked.stop_at_the_end();
      interrupted = true;
    }
  }
  if (interrupted) throw nb::python_error();
  return network.kernels()->finite(logits.data(), logits.size());
}

}  // namespace

NB_MODULE(_native, m) {
  nb::set_leak_warnings(false);  // of what daemon threads hold at the end
  m.def("end", end);
  nb::module_::import_("atexit").attr("register")(m.attr("end"));
#ifndef _WIN32
  pthread_atfork(nullptr, nullptr, [] { predicting = 0; });
#endif

  nb::enum_<Tensor::Kind>(m, "Kind")
      .value("IMAGE", Tensor::kImage)
      .value("FLOATS", Tensor::kFloats)
      .value("BITS", Tensor::kBits)
      .value("BYTES", Tensor::kBytes);

  nb::class_<EpilogueSpec>(m, "EpilogueSpec")
      .def(
          "__init__",
          [](EpilogueSpec* self, const Array<float>& alpha, const Array<float>& beta,
             float low, float high, int residual, int out, int bits,
             const Floats& scale, const Floats& activation,
             const Floats& threshold) {
            new (self) EpilogueSpec{
                span(alpha), span(beta), low,         high,
                residual,    out,        bits,        span(scale),
                span(activation), span(threshold)};
          },
          "alpha"_a, "beta"_a, "low"_a, "high"_a, "residual"_a, "out"_a,
          "bits"_a, "scale"_a = nb::none(), "activation"_a = nb::none(),
          "threshold"_a = nb::none(), nb::keep_alive<1, 2>(),
          nb::keep_alive<1, 3>(), nb::keep_alive<1, 9>(),
          nb::keep_alive<1, 10>(), nb::keep_alive<1, 11>());

  nb::class_<Window>(m, "Window")
      .def(
          "__init__",
          [](Window* self, std::array<int, 2> kernel, std::array<int, 2> stride,
             std::array<int, 4> padding, std::array<int, 2> dilation) {
            new (self) Window{kernel[0],  kernel[1],  stride[0],  stride[1],
                              padding[0], padding[1], padding[2], padding[3],
                              dilation[0], dilation[1]};
          },
          "kernel"_a, "stride"_a, "padding"_a, "dilation"_a);

  nb::class_<Network>(m, "Network")
      .def(nb::init<const std::string&, const std::string&, int, size_t>(),
           "isa"_a, "library"_a, "threads"_a, "arena_bytes"_a)
      .def("add_tensor", &Network::add_tensor, "kind"_a, "height"_a, "width"_a,
           "channels"_a, "pad"_a, "offset"_a)
      .def("add_rows", &Network::add_rows, "height"_a, "width"_a, "channels"_a)
      .def("set_input",
           [](Network& n, int floats, int bytes, const Array<float>& mean,
              const Array<float>& std) {
             n.set_input(floats, bytes, span(mean), span(std));
           })
      .def("set_output", &Network::set_output)
      .def("add_binary_conv",
           [](Network& n, int in, const Window& window,
              const Array<uint64_t>& signs, const EpilogueSpec& epilogue,
              const Floats& offset, const Floats& affine_input) {
             add_binary_conv(n, in, window, span(signs), epilogue, span(offset),
                             span(affine_input));
           },
           "in"_a, "window"_a, "signs"_a, "epilogue"_a, "offset"_a = nb::none(),
           "affine_input"_a = nb::none())
      .def("add_conv",
           [](Network& n, int in, const Window& window, int groups,
              const Array<float>& weight, const EpilogueSpec& epilogue) {
             add_conv(n, in, window, groups, span(weight), epilogue);
           })
      .def("add_byte_conv",
           [](Network& n, int in, const Window& window, float scale, int zero,
              const Array<int8_t>& values, const Array<float>& factor,
              const Array<float>& rest, const Array<int32_t>& row_class,
              const Array<int32_t>& column_class, const EpilogueSpec& epilogue) {
             add_byte_conv(n, in, window, scale, zero,
                           {span(values), span(factor), span(rest),
                            span(row_class), span(column_class)},
                           epilogue);
           })
      .def("add_max_pool", &mmirnet::add_max_pool)
      .def("add_map", &mmirnet::add_map)
      .def("add_average_pool", &mmirnet::add_average_pool)
      .def("add_sign",
           [](Network& n, int in, const Floats& threshold, int out) {
             add_sign(n, in, out, span(threshold));
           },
           "in"_a, "threshold"_a.none(), "out"_a)
      .def("add_vector", &mmirnet::add_vector)
      .def("add_shortcut", &mmirnet::add_shortcut)
      .def_static("share_from", &Network::share_from, "seconds"_a)
      .def("predict", predict<uint8_t>, "images"_a, "logits"_a)
      .def("predict", predict<float>, "images"_a, "logits"_a)
      .def("time_operations", &Network::time_operations, "repeats"_a)
      .def_prop_ro("isa", &Network::isa)
      .def_prop_ro("classes", [](const Network& n) { return n.output().channels; })
      .def_prop_ro("library_layers", &Network::library_layers)
      .def_prop_ro("threads", &Network::threads);

  nb::dict limits;  // under the names that Python gives them
  limits["MAX_SIDE"] = mmirnet::kMaxSide;
  limits["MAX_STRIDE"] = mmirnet::kMaxStride;
  limits["MAX_BINARY_KERNEL"] = mmirnet::kMaxBinaryKernel;
  limits["MAX_BINARY_WINDOW"] = mmirnet::kMaxBinaryWindow;
  limits["MAX_BYTE_WINDOW"] = mmirnet::kMaxByteWindow;
  limits["ALIGNMENT"] = mmirnet::kAlignment;
  limits["GAP"] = mmirnet::kGap;
  limits["FLOAT_LANES"] = mmirnet::kFloatLanes;
  limits["WORD"] = mmirnet::kWord;
  limits["MAX_THREADS"] = mmirnet::kMaxThreads;
  m.attr("LIMITS") = limits;

  m.def("float_library_problem", &mmirnet::float_library_problem);
  m.def("peak_rate", &mmirnet::peak_rate);
  m.def("instruction_sets", [] {
    std::vector<std::string> names;
    for (const mmirnet::Kernels* const* k = mmirnet::kAllKernels; *k; ++k)
      if ((*k)->supported()) names.emplace_back((*k)->name);
    return names;
  });
}
