// Runs images through a network on the threads of the process.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <limits>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "network.h"

namespace mmirnet {

// What one call computes in: an arena a thread.
using Arenas = std::vector<Bytes>;

// What calls of `run` share, on any number of threads.
struct Network::State {
  const int process = process_id();
  const std::shared_ptr<ThreadPool> pool = ThreadPool::shared();
  std::mutex mutex;
  std::vector<Arenas> idle;
  // What one thread takes for an image: the least of the first two or three.
  std::atomic<float> seconds{std::numeric_limits<float>::infinity()};
  std::atomic<int> timed{0};

  void add_time(std::chrono::duration<float> time) {
    const float found = time.count();
    float least = seconds;
    while (found < least && !seconds.compare_exchange_weak(least, found)) {
    }
    // One long time may be the machine's; two are the network's.
    timed += found < kLong ? 1 : 2;
  }
  bool knows_time() const { return worth == 0 || timed >= kTimed; }
  bool takes_long() const { return seconds >= kLong; }
  // How many threads get something out of one image.
  int useful_threads() const {
    return static_cast<int>(std::min(seconds / worth, float{kMaxThreads}));
  }

  // What a thread must save to be worth telling it, and waiting for it.
  static std::atomic<float> worth;

 private:
  static constexpr int kTimed = 3;
  static constexpr float kLong = 1e-3f;
};

std::atomic<float> Network::State::worth{1e-4f};

void Network::share_from(float seconds) { State::worth = seconds; }

Network::State* Network::new_state() { return new State; }

// A child that was forked leaves its parent's state alone, for ever: a lock may
// be held that nobody there will open.
Network::State& Network::state() {
  State* found = state_.load();
  if (found->process == process_id()) return *found;
  auto fresh = std::make_unique<State>();
  if (state_.compare_exchange_strong(found, fresh.get()))
    return *fresh.release();
  return *found;
}

Network::~Network() {
  if (state_.load()->process == process_id()) delete state_.load();
}

template <>
void Network::load_rows(const Context& context, const uint8_t* image, int begin,
                        int end) const {
  const size_t row = size_t{1} * input().width * input().channels;
  const uint8_t* const from = image + begin * row;
  const size_t count = (end - begin) * row;
  if (input_ >= 0) {
    float* const to = context.at<float>(tensor(input_)) + begin * row;
    const float* const levels = levels_.data();
    const size_t channels = input().channels;
    for (size_t i = 0; i < count; i += channels)
      for (size_t c = 0; c < channels; ++c)
        to[i + c] = levels[256 * c + from[i + c]];
  }
  if (pixels_ >= 0)
    std::copy_n(from, count, context.at<uint8_t>(tensor(pixels_)) + begin * row);
}

namespace {

// The pixel that was normalised; 0 for NaN, of which the caller knows.
uint8_t pixel(float value, float mean, float std) {
  const float scaled = value * std;
  const float found = std::nearbyint(scaled + mean);
  return static_cast<uint8_t>(found > 0 ? std::min(found, 255.0f) : 0.0f);
}

}  // namespace

template <>
void Network::load_rows(const Context& context, const float* image, int begin,
                        int end) const {
  const Tensor& in = input();
  const size_t plane = size_t{1} * in.height * in.width, width = in.width;
  for (int y = begin; y < end; ++y) {
    const size_t at = y * width * in.channels;
    for (int c = 0; c < in.channels; ++c) {
      const float* row = image + c * plane + y * width;
      if (!kernels_->finite(row, width)) *context.nan = true;
      if (input_ >= 0) {
        float* to = context.at<float>(tensor(input_)) + at;
        for (size_t x = 0; x < width; ++x) to[x * in.channels + c] = row[x];
      }
      if (pixels_ >= 0) {
        uint8_t* to = context.at<uint8_t>(tensor(pixels_)) + at;
        for (size_t x = 0; x < width; ++x)
          to[x * in.channels + c] = pixel(row[x], mean_[c], std_[c]);
      }
    }
  }
}

namespace {

// How far the threads that share an image have come with one operation. Each has
// a share of the items, the same part of the image in every operation, so that
// its caches hold what it reads. Then it takes what others have left, so that
// none waits for one that has lost its core, unless that one holds a part.
class Progress {
 public:
  // How many items of a share are taken; in a cache line of its own.
  struct alignas(64) Taken : std::atomic<int> {};
  // Many threads have a share together: counters for each would take more room
  // than the images.
  static int shares(int threads) { return std::min(threads, 8); }

  template <class Run>
  void work(int items, int together, Taken* taken, int thread, int threads,
            const std::atomic<bool>& stop, Run run) {
    const int shares = this->shares(threads), own = thread * shares / threads;
    const int piece = std::max(together, items / (4 * threads));
    int mine = 0;
    for (int i = 0; i < shares; ++i) {
      const int share = (own + i) % shares;
      const int first = first_of(share, items, shares);
      const int last = first_of(share + 1, items, shares);
      for (int begin;
           !stop && (begin = first + taken[share].fetch_add(piece)) < last;) {
        const int end = std::min(last, begin + piece);
        run(begin, end);
        mine += end - begin;
      }
    }
    done_.fetch_add(mine, std::memory_order_acq_rel);
    for (int rounds = 0;
         !stop && done_.load(std::memory_order_acquire) < items; ++rounds)
      wait_a_little(rounds);
  }

 private:
  std::atomic<int> done_{0};
};

// How long a call may stay deaf to Ctrl-C.
constexpr auto kPatience = std::chrono::milliseconds(50);

}  // namespace

// A call's arenas: those of an earlier call if any are idle. A burst of callers
// leaves no more behind than there are cores.
struct Network::Workspace {
  explicit Workspace(State& state) : state(state) {
    const std::lock_guard<std::mutex> lock(state.mutex);
    if (state.idle.empty()) return;
    arenas = std::move(state.idle.back());
    state.idle.pop_back();
  }
  ~Workspace() {
    // Linux reads a file for it.
    static const unsigned cores = std::max(1u, std::thread::hardware_concurrency());
    const std::lock_guard<std::mutex> lock(state.mutex);
    if (state.idle.size() < cores) state.idle.push_back(std::move(arenas));
  }
  Workspace(const Workspace&) = delete;

  State& state;
  Arenas arenas;
};

template <class Pixel>
void Network::run_images(const Pixel* images, int count, float* logits,
                         const Interrupt& interrupt) {
  require((input_ >= 0 || pixels_ >= 0) && output_ >= 0, "the network has no input or output");
  if (count == 0) return;
  State& state = this->state();
  Workspace workspace(state);
  const int classes = output().channels;
  const size_t pixels =
      size_t{1} * input().height * input().width * input().channels;
  // With an image for every thread, or little to do, threads share none.
  const bool takes_time = !state.knows_time();
  const int sharing = takes_time ? 1 : std::min(threads_, state.useful_threads());
  const bool alone = count >= threads_ || sharing < 2;
  const bool takes_long = state.takes_long();  // or may do so
  const int threads = alone ? std::min(threads_, count) : sharing;
  const size_t scratch = round_up(scratch_floats_ + kGap, kFloatLanes);
  const size_t scratch_at = aligned(arena_bytes_ + kGap);
  Arenas& arenas = workspace.arenas;
  while (arenas.size() < static_cast<size_t>(alone ? threads : 1))
    arenas.push_back(
        allocate(scratch_at + 4 * scratch * (arenas.empty() ? threads_ : 1)));

  // Around the operations: the image comes in, its logits go out.
  const int steps = static_cast<int>(operations_.size()) + 2;
  std::vector<Progress> progress(alone ? 0 : count * steps);
  const int shares = Progress::shares(threads);
  std::vector<Progress::Taken> taken(progress.size() * shares);
  std::vector<std::atomic<bool>> nan(count);
  std::atomic<int> next{0};
  std::atomic<bool> stop{false};

  const auto step = [&](const Context& context, int i, int s, int begin,
                        int end) {
    float* out = logits + ptrdiff_t{i} * classes;
    if (s == 0)
      load_rows(context, images + i * pixels, begin, end);
    else if (s < steps - 1)
      operations_[s - 1].run(context, begin, end);
    else if (*context.nan)
      std::fill_n(out, classes, std::numeric_limits<float>::quiet_NaN());
    else
      std::copy_n(context.at<float>(output()), classes, out);
  };
  const auto work = [&](int thread) {
    const SingleThreaded library;
    Context context;
    context.arena = arenas[alone ? thread : 0].get();
    context.scratch = reinterpret_cast<float*>(context.arena + scratch_at) +
                      (alone ? 0 : thread * scratch);
    auto asked = std::chrono::steady_clock::now();
    for (int i = alone ? next++ : 0; i < count; i = alone ? next++ : i + 1) {
      std::chrono::steady_clock::time_point start;
      if (takes_time) start = std::chrono::steady_clock::now();
      context.nan = &nan[i];
      for (int s = 0; s < steps; ++s) {
        if (stop) return;
        if (thread == 0 && interrupt && (s == 0 || takes_long)) {
          const auto now = std::chrono::steady_clock::now();
          if (now - asked > kPatience && interrupt()) throw Interrupted();
          if (now - asked > kPatience) asked = now;
        }
        const bool inside = s > 0 && s < steps - 1;
        const int items = inside   ? operations_[s - 1].items
                          : s == 0 ? input().height
                                   : 1;
        if (alone)
          step(context, i, s, 0, items);
        else
          progress[i * steps + s].work(
              items, inside ? operations_[s - 1].together : 1,
              &taken[(i * steps + s) * shares], thread, threads, stop,
              [&](int begin, int end) { step(context, i, s, begin, end); });
      }
      if (takes_time) state.add_time(std::chrono::steady_clock::now() - start);
    }
  };
  state.pool->run(threads - 1, [&](int thread) {
    try {
      work(thread);
    } catch (...) {
      stop = true;  // nobody waits for this one's part
      throw;
    }
  });
}

std::vector<std::vector<double>> Network::time_operations(int repeats) {
  const SingleThreaded library;
  const auto memory = allocate(arena_bytes_ + kGap + kAlignment);
  const auto scratch = allocate(4 * (scratch_floats_ + kGap));
  std::atomic<bool> nan{false};
  const Context context{memory.get(), reinterpret_cast<float*>(scratch.get()),
                        &nan};
  std::vector<std::vector<double>> seconds(repeats);
  for (std::vector<double>& times : seconds)
    for (const Operation& operation : operations_) {
      const auto start = std::chrono::steady_clock::now();
      operation.run(context, 0, operation.items);
      const auto end = std::chrono::steady_clock::now();
      times.push_back(std::chrono::duration<double>(end - start).count());
    }
  return seconds;
}

void Network::run(const uint8_t* images, int count, float* logits,
                  const Interrupt& interrupt) {
  run_images(images, count, logits, interrupt);
}

void Network::run(const float* images, int count, float* logits,
                  const Interrupt& interrupt) {
  run_images(images, count, logits, interrupt);
}

}  // namespace mmirnet
