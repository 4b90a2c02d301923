// The thread pool alone: what its jobs throw comes out, and it goes on afterwards.
#include "thread_pool.h"

#include <atomic>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

using mmirnet::ThreadPool;

namespace {

int failures = 0;

void expect(bool condition, const char* what) {
  if (condition) return;
  ++failures;
  std::printf("not so: %s\n", what);
}

// What `run` throws when the jobs of these threads throw; empty if nothing.
// Each job waits until all have begun, so that every thread takes part.
std::string thrown(ThreadPool& pool, int helpers, bool here, bool there) {
  std::atomic<int> begun{0};
  try {
    pool.run(helpers, [&](int thread) {
      ++begun;
      for (int i = 0; begun <= helpers; ++i) mmirnet::wait_a_little(i);
      if (thread == 0 ? here : there) throw std::runtime_error("a job's error");
    });
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "";
}

}  // namespace

int main() {
  const std::shared_ptr<ThreadPool> pool = ThreadPool::shared();
  for (int helpers = 1; helpers <= 3; ++helpers)
    for (int round = 0; round < 50; ++round) {
      const bool here = round & 1, there = round & 2;
      const bool threw = thrown(*pool, helpers, here, there) == "a job's error";
      expect(threw == (here || there), "run throws what its jobs throw");
    }

  // Callers on several threads, whose jobs call again, and some of them throw.
  std::atomic<int> done{0}, caught{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller)
    callers.emplace_back([&, caller] {
      for (int round = 0; round < 200; ++round) try {
          pool->run(2, [&](int thread) {
            if (thread != 0) return;
            pool->run(1, [&](int inner) { done += inner == 0; });
            if (caller == 0) throw std::runtime_error("a job's error");
          });
        } catch (const std::runtime_error&) {
          ++caught;
        }
    });
  for (std::thread& caller : callers) caller.join();
  expect(done == 800, "every call runs its job");
  expect(caught == 200, "every caller gets its own errors");

  std::printf("%d failures\n", failures);
  return failures != 0;
}
