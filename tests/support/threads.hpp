// Executors for tests: OpenMP where it is there, and one as a user may write it, with threads started for each loop.
#pragma once

#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "dsv3/core/executor.hpp"
#ifdef _OPENMP
#include "dsv3/core/openmp.hpp"
#endif

namespace test {

struct Threads {
  int threads = 2;

  int workers() const { return threads; }

  void run(dsv3::Index tasks, dsv3::TaskRef f) const {
    std::atomic<dsv3::Index> next = 0;
    std::mutex mutex;
    std::exception_ptr thrown;
    std::vector<std::thread> pool;
    for (int worker = 0; worker < threads; ++worker)
      pool.emplace_back([&, worker] {
        for (dsv3::Index task; (task = next++) < tasks;) try {
            f(task, worker);
          } catch (...) {
            const std::lock_guard lock(mutex);
            thrown = std::current_exception();
          }
      });
    for (auto& thread : pool) thread.join();
    if (thrown) std::rethrow_exception(thrown);
  }
};

#ifdef _OPENMP
using Parallel = dsv3::OpenMP;
#else
using Parallel = Threads;
#endif

}  // namespace test
