// Floor 0. An executor with threads of its own, for many short loops and for processors that other programs use as well.
//
// The calling thread takes tasks too, and waits only for tasks that a thread has begun. So a loop is done even if the system gives no
// processor to the other threads in time; OpenMP's loops wait for every thread. Idle threads look for the next loop for a while, then
// sleep.
#pragma once

#ifdef __linux__
#include <sched.h>
#endif

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <stop_token>
#include <thread>
#include <utility>
#include <vector>

#include "dsv3/core/error.hpp"
#include "dsv3/core/executor.hpp"

namespace dsv3::inline DSV3_ISA {

/// Runs tasks on the calling thread and `threads - 1` others, which it starts and, when destroyed, ends. If two threads call run() at once,
/// or a task calls it, the second loop runs on its calling thread alone.
class ThreadPool {
 public:
  /// A thread for each processor that the process may use.
  ThreadPool() : ThreadPool(processors()) {}
  /// Throws: Error if `threads` is below 1; std::system_error if a thread cannot be started.
  explicit ThreadPool(int threads) : workers_(threads) {
    require(threads >= 1, "ThreadPool: expected at least 1 thread, got ", threads);
    for (int worker = 1; worker < threads; ++worker) threads_.emplace_back([this, worker](std::stop_token stop) { work(worker, stop); });
  }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int workers() const { return workers_; }

  void run(Index tasks, TaskRef f) const {
    if (tasks == 1 || workers_ == 1 || tasks > max_tasks || busy_.exchange(true, std::memory_order_acquire)) return Serial{}.run(tasks, f);
    task_ = &f;
    tasks_ = tasks;
    done_.store(0, std::memory_order_relaxed);
    // The loop's number and the tasks that are left are one word, so that a thread cannot take a task of another loop than it has seen.
    const std::uint64_t number = loop_.load(std::memory_order_relaxed) / one_loop + 1;
    loop_.store(number * one_loop + static_cast<std::uint64_t>(tasks), std::memory_order_seq_cst);
    if (sleeping_.load(std::memory_order_seq_cst) > 0) loop_.notify_all();
    while (take_task(0)) {
    }
    for (int i = 0; done_.load(std::memory_order_acquire) != tasks; ++i) pause(i);
    const std::exception_ptr thrown = std::exchange(thrown_, nullptr);
    busy_.store(false, std::memory_order_release);
    if (thrown) std::rethrow_exception(thrown);
  }

 private:
  static constexpr std::uint64_t one_loop = std::uint64_t{1} << 32;
  static constexpr Index max_tasks = (Index{1} << 31) - 1;
  static constexpr int spins = 2000;  // before a thread sleeps or yields; a pause takes 40 to 140 cycles

  static int processors() {
#ifdef __linux__
    cpu_set_t allowed;
    if (::sched_getaffinity(0, sizeof allowed, &allowed) == 0) return CPU_COUNT(&allowed);
#endif
    return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  }

  static void pause(int i) {
    if (i >= spins) return std::this_thread::yield();
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  /// Runs the next task of the current loop, if one is left.
  bool take_task(int worker) const {
    std::uint64_t loop = loop_.load(std::memory_order_acquire);
    do {
      if (loop % one_loop == 0) return false;
    } while (!loop_.compare_exchange_weak(loop, loop - 1, std::memory_order_acq_rel, std::memory_order_acquire));
    // The loop cannot end before this task is done, so task_ and tasks_ are its own.
    try {
      (*task_)(tasks_ - static_cast<Index>(loop % one_loop), worker);
    } catch (...) {
      const std::lock_guard lock(mutex_);
      thrown_ = std::current_exception();
    }
    done_.fetch_add(1, std::memory_order_release);
    return true;
  }

  void work(int worker, const std::stop_token& stop) {
    // Also if the constructor throws: a jthread that ends must find its thread awake.
    const std::stop_callback wake(stop, [this] {
      loop_.fetch_add(one_loop);  // no tasks, but a change, which wakes sleepers
      loop_.notify_all();
    });
    for (int idle = 0; !stop.stop_requested();) {
      if (take_task(worker)) {
        idle = 0;
      } else if (++idle < spins) {
        pause(idle);
      } else {
        const std::uint64_t seen = loop_.load(std::memory_order_acquire);
        sleeping_.fetch_add(1, std::memory_order_seq_cst);
        if (seen % one_loop == 0 && !stop.stop_requested()) loop_.wait(seen, std::memory_order_seq_cst);
        sleeping_.fetch_sub(1, std::memory_order_relaxed);
        idle = 0;
      }
    }
  }

  int workers_;
  // run() is const, as it is for other executors: threads may share a pool.
  mutable const TaskRef* task_ = nullptr;
  mutable Index tasks_ = 0;
  mutable std::exception_ptr thrown_;
  mutable std::mutex mutex_;  // of thrown_
  mutable std::atomic<bool> busy_ = false;
  mutable std::atomic<int> sleeping_ = 0;
  alignas(64) mutable std::atomic<std::uint64_t> loop_ = 0;  // number of the loop * 2^32 + tasks that are left
  alignas(64) mutable std::atomic<Index> done_ = 0;
  std::vector<std::jthread> threads_;  // last: they use the others
};

}  // namespace dsv3::inline DSV3_ISA
