// The threads of this process that help whoever asks.
#pragma once

#include <functional>
#include <memory>

namespace mmirnet {

class ThreadPool {
 public:
  // The one of this process, which lives as long as somebody holds it. A forked
  // child starts its own: it has none of its parent's threads.
  static std::shared_ptr<ThreadPool> shared();

  ThreadPool();
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;

  // Calls job(0) here and job(1) ... job(helpers) on threads that are idle, and
  // waits for those that have begun. So fewer may run: others use the threads,
  // or the system gives no more of them. What a job throws comes out here.
  void run(int helpers, const std::function<void(int)>& job);

 private:
  struct Threads;
  const std::unique_ptr<Threads> threads_;
};

// A number that a forked child does not share with its parent.
int process_id();

// Tells the CPU that this thread waits in a loop; after many rounds, the system.
void wait_a_little(int rounds);

}  // namespace mmirnet
