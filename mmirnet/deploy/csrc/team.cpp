#include "team.h"

#include <exception>

#ifdef _WIN32
#include <process.h>
#define getpid _getpid
#else
#include <unistd.h>
#endif

namespace mmirnet {

void wait_a_little(int rounds) {
  if (rounds > 4000) return std::this_thread::yield();
#if defined(__x86_64__) || defined(_M_X64)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

struct Team::Workers {
  explicit Workers(int count) : process(getpid()) {
    for (int i = 1; i <= count; ++i)
      threads.emplace_back([this, i] { loop(i); });
  }

  ~Workers() {
    {
      std::lock_guard<std::mutex> lock(mutex);
      stop = true;
    }
    wake.notify_all();
    for (std::thread& thread : threads) thread.join();
  }

  void loop(int index) {
    unsigned seen = 0;
    for (;;) {
      std::unique_lock<std::mutex> lock(mutex);
      wake.wait(lock, [&] { return stop || round != seen; });
      if (stop) return;
      seen = round;
      lock.unlock();
      (*job)(index);
      lock.lock();
      if (--running == 0) done.notify_one();
    }
  }

  void run(const std::function<void(int)>& work) {
    {
      std::lock_guard<std::mutex> lock(mutex);
      job = &work;
      running = static_cast<int>(threads.size());
      ++round;
    }
    wake.notify_all();
    work(0);
    std::unique_lock<std::mutex> lock(mutex);
    done.wait(lock, [&] { return running == 0; });
  }

  const int process;
  std::vector<std::thread> threads;
  std::mutex mutex;
  std::condition_variable wake, done;
  const std::function<void(int)>* job = nullptr;
  unsigned round = 0;
  int running = 0;
  bool stop = false;
};

Team::Team(int size) : size_(size) {}

Team::~Team() {
  // A forked child owns no threads: there is nothing to join, only to forget.
  if (workers_ && workers_->process != getpid()) workers_.release();
}

void Team::run(const std::function<void(int)>& job) {
  if (size_ == 1) return job(0);
  if (workers_ && workers_->process != getpid()) workers_.release();
  if (!workers_) workers_ = std::make_unique<Workers>(size_ - 1);
  workers_->run(job);
}

}  // namespace mmirnet
