#include "thread_pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <list>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#ifdef _WIN32
#include <process.h>
#else
#include <pthread.h>
#include <unistd.h>
#endif

namespace mmirnet {

int process_id() {
#ifdef _WIN32
  return _getpid();
#else
  return getpid();
#endif
}

void wait_a_little(int rounds) {
  if (rounds > 4000) return std::this_thread::yield();
#if defined(__x86_64__) || defined(_M_X64)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

namespace {

// How long a thread looks for what it waits for before it sleeps: calls often follow
// each other, and being woken takes longer than many of them.
constexpr auto kSpin = std::chrono::microseconds(100);

// Now and then, others that have something to do get the core.
template <class Condition>
void look_for(Condition came) {
  const auto start = std::chrono::steady_clock::now();
  for (int rounds = 1; !came(); ++rounds) {
    wait_a_little(0);
    if (rounds % 16) continue;
    std::this_thread::yield();
    if (std::chrono::steady_clock::now() - start > kSpin) return;
  }
}

}  // namespace

struct ThreadPool::Threads {
  // One call of `run`, for as long as it lasts.
  struct Call {
    Call(const std::function<void(int)>& job, int helpers)
        : job(job), helpers(helpers) {}
    const std::function<void(int)>& job;
    const int helpers;
    int begun = 0;
    std::atomic<int> active{0};  // changes under the lock
    std::exception_ptr error;
    std::condition_variable done;
  };

  ~Threads() {
    {
      std::lock_guard<std::mutex> lock(mutex);
      stop = true;
    }
    wake.notify_all();
    for (std::thread& thread : threads) thread.join();
  }

  void loop() {
    std::unique_lock<std::mutex> lock(mutex);
    for (;;) {
      if (!stop && open.empty()) {
        ++looking;
        lock.unlock();
        look_for([&] { return offers.load(std::memory_order_relaxed) > 0; });
        lock.lock();
        --looking;
      }
      ++asleep;
      wake.wait(lock, [&] { return stop || !open.empty(); });
      --asleep;
      if (stop) return;
      Call& call = *open.front();
      const int index = ++call.begun;
      if (index == call.helpers) open.pop_front();
      ++call.active;
      wake_helpers();
      lock.unlock();
      std::exception_ptr error;
      try {
        call.job(index);
      } catch (...) {
        error = std::current_exception();
      }
      lock.lock();
      if (error) call.error = std::move(error);
      if (--call.active == 0) call.done.notify_one();
    }
  }

  // Threads that look find an open call without. Several calls may count on the same
  // ones: each thread that joins a call sees to it that those still open have enough.
  void wake_helpers() {
    int wanted = -looking;
    for (const Call* call : open) wanted += call->helpers - call->begun;
    offers = static_cast<int>(open.size());
    for (; wanted > 0 && asleep > 0; --wanted) wake.notify_one();
  }

  void run(int helpers, const std::function<void(int)>& job) {
    Call call(job, helpers);
    std::list<Call*> entry{&call};
    {
      std::lock_guard<std::mutex> lock(mutex);
      try {
        while (static_cast<int>(threads.size()) < helpers)
          threads.emplace_back([this] { loop(); });
      } catch (const std::system_error&) {  // the system's limit
      } catch (const std::bad_alloc&) {
      }
      open.splice(open.end(), entry);
      wake_helpers();
    }
    try {
      job(0);
    } catch (...) {
      std::lock_guard<std::mutex> lock(mutex);
      call.error = std::current_exception();
    }
    {
      std::lock_guard<std::mutex> lock(mutex);
      open.remove(&call);
      offers = static_cast<int>(open.size());
    }
    const auto ended = [&] { return call.active == 0; };
    look_for(ended);
    // The last helper has left the call when it gives the lock back.
    std::unique_lock<std::mutex> lock(mutex);
    call.done.wait(lock, ended);
    if (call.error) std::rethrow_exception(std::move(call.error));
  }

  std::mutex mutex;
  std::condition_variable wake;
  std::vector<std::thread> threads;
  std::list<Call*> open;       // calls that more threads may join
  std::atomic<int> offers{0};  // their number, for those that look
  int looking = 0;             // threads that look for an open call
  int asleep = 0;              // threads that wait to be woken, or just have been
  bool stop = false;
};

ThreadPool::ThreadPool() : threads_(std::make_unique<Threads>()) {}
ThreadPool::~ThreadPool() = default;

void ThreadPool::run(int helpers, const std::function<void(int)>& job) {
  if (helpers == 0) return job(0);
  threads_->run(helpers, job);
}

std::shared_ptr<ThreadPool> ThreadPool::shared() {
  static std::mutex mutex;
  static std::weak_ptr<ThreadPool> pool;
  static int process = 0;
#ifndef _WIN32
  // No other thread holds the lock while the process is copied.
  static const int registered = pthread_atfork(
      [] { mutex.lock(); }, [] { mutex.unlock(); }, [] { mutex.unlock(); });
  (void)registered;
#endif
  std::lock_guard<std::mutex> lock(mutex);
  std::shared_ptr<ThreadPool> found = pool.lock();
  if (!found || process != process_id()) {
    found = std::make_shared<ThreadPool>();
    pool = found;
    process = process_id();
  }
  return found;
}

}  // namespace mmirnet
