// A few threads that run one function together.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace mmirnet {

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

// Tells the CPU that this thread waits in a loop; after many rounds, the system.
void wait_a_little(int rounds);

}  // namespace mmirnet
