#include "thread_pool.h"

#include <algorithm>
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

struct ThreadPool::Threads {
  // One call of `run`, for as long as it lasts.
  struct Call {
    Call(const std::function<void(int)>& job, int helpers)
        : job(job), helpers(helpers) {}
    const std::function<void(int)>& job;
    const int helpers;
    int begun = 0, active = 0;
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
      wake.wait(lock, [&] { return stop || !open.empty(); });
      if (stop) return;
      Call& call = *open.front();
      const int index = ++call.begun;
      if (index == call.helpers) open.pop_front();
      ++call.active;
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
    }
    for (int i = 0; i < helpers; ++i) wake.notify_one();
    try {
      job(0);
    } catch (...) {
      std::lock_guard<std::mutex> lock(mutex);
      call.error = std::current_exception();
    }
    std::unique_lock<std::mutex> lock(mutex);
    open.remove(&call);
    call.done.wait(lock, [&] { return call.active == 0; });
    if (call.error) std::rethrow_exception(std::move(call.error));
  }

  std::mutex mutex;
  std::condition_variable wake;
  std::vector<std::thread> threads;
  std::list<Call*> open;  // calls that more threads may join
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
