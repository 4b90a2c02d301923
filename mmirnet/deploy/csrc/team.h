// A few threads that run one function together and meet at barriers.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace mmirnet {

// Threads that share one image wait here between operations. They spin, since
// an operation takes microseconds, and give way when the cores are taken.
class Barrier {
 public:
  explicit Barrier(int size) : size_(size) {}
  void wait();

 private:
  const int size_;
  std::atomic<int> arrived_{0};
  std::atomic<unsigned> round_{0};
};

class Team {
 public:
  explicit Team(int size);
  ~Team();
  int size() const { return size_; }
  // Calls job(0) ... job(size - 1), each on its own thread, and waits. The
  // threads start with the first call, and anew in a forked process.
  void run(const std::function<void(int)>& job);

 private:
  struct Workers;
  const int size_;
  std::unique_ptr<Workers> workers_;
};

}  // namespace mmirnet
