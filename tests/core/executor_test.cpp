#include <doctest/doctest.h>

#include <atomic>
#include <stdexcept>
#include <string>
#include <vector>

#include "dsv3/core/context.hpp"
#include "dsv3/core/thread_pool.hpp"
#include "support/oracle.hpp"
#include "support/threads.hpp"

using namespace dsv3;

namespace {

constexpr Index plenty = Index{1} << 40;  // of work: worth waking threads for

static_assert(Executor<Serial> && Executor<ThreadPool> && Executor<test::Threads> && !Executor<int>);

/// Each task runs once, under a worker number that no other task has at the same time.
template <class E>
void check_executor(E& executor) {
  Context ctx(executor);
  CHECK(ctx.workers() == executor.workers());
  for (const Index tasks : {0, 1, 2, 3, 7, 100}) {
    std::vector<std::atomic<int>> runs(static_cast<std::size_t>(tasks)), busy(static_cast<std::size_t>(ctx.workers()));
    std::atomic<int> wrong = 0;
    ctx.parallel_for(tasks, plenty, [&](Index task, int worker) {
      if (worker < 0 || worker >= ctx.workers() || busy[static_cast<std::size_t>(worker)].fetch_add(1) != 0) ++wrong;
      ++runs[static_cast<std::size_t>(task)];
      --busy[static_cast<std::size_t>(worker)];
    });
    CHECK(wrong == 0);
    for (const auto& n : runs) CHECK(n == 1);
  }

  for (const Index tasks : {1, 50}) {
    std::string caught;
    try {
      ctx.parallel_for(tasks, plenty, [&](Index task, int) {
        if (task == tasks / 2) throw std::runtime_error("from a task");
      });
    } catch (const std::runtime_error& error) {
      caught = error.what();
    }
    CHECK(caught == "from a task");
  }
  int after = 0;
  ctx.parallel_for(1, plenty, [&](Index, int) { ++after; });
  CHECK(after == 1);
}

}  // namespace

TEST_CASE("serial execution") {
  Serial serial;
  check_executor(serial);
  Context ctx;
  std::vector<Index> order;
  ctx.parallel_for(4, plenty, [&](Index task, int) { order.push_back(task); });
  CHECK(order == std::vector<Index>{0, 1, 2, 3});
}

TEST_CASE("an executor of one's own") {
  for (const int n : {1, 2, 5}) {
    test::Threads threads{n};
    check_executor(threads);
  }
}

TEST_CASE("a loop inside a task of the same context is an error, whoever runs it") {
  test::Threads threads{3};
  Context alone, many(threads, /*min_parallel_work=*/0);
  for (Context* ctx : {&alone, &many})
    for (const Index inner : {Index{1}, plenty}) {
      int ran = 0;
      const std::string message = test::error_of(
          [&] { ctx->parallel_for(2, plenty, [&](Index, int) { ctx->parallel_for(1, inner, [&](Index, int) { ++ran; }); }); });
      CHECK(message == "Context: a parallel loop was started inside a task of the same context");
      CHECK(ran == 0);
      ctx->parallel_for(1, plenty, [&](Index, int) { ++ran; });  // the context is as good as before
      CHECK(ran == 1);
    }
}

TEST_CASE("an executor without workers is refused") {
  struct Nobody {
    int workers() const { return 0; }
    void run(Index, TaskRef) const {}
  } nobody;
  CHECK(test::error_of([&] { Context ctx(nobody); }) == "Context: expected an executor with at least 1 worker, got 0");
}

TEST_CASE("loops with little work stay on the calling thread") {
  test::Threads threads{3};
  Context ctx(threads);
  const auto caller = std::this_thread::get_id();
  int elsewhere = 0;
  ctx.parallel_for(20, 100, [&](Index, int worker) { elsewhere += worker != 0 || std::this_thread::get_id() != caller; });
  CHECK(elsewhere == 0);
}

TEST_CASE("a thread pool") {
  for (const int n : {1, 2, 3, 7}) {
    ThreadPool pool(n);
    CHECK(pool.workers() == n);
    check_executor(pool);
  }
  CHECK(ThreadPool().workers() >= 1);
  CHECK_THROWS_WITH_AS(ThreadPool(0), "ThreadPool: expected at least 1 thread, got 0", Error);
}

TEST_CASE("a thread pool runs each task of many short loops once, whether its threads are awake or asleep") {
  ThreadPool pool(3);
  Context ctx(pool, /*min_parallel_work=*/0);
  std::atomic<Index> sum = 0;
  Index expected = 0;
  for (Index loop = 0; loop < 20'000; ++loop) {
    const Index tasks = 1 + loop % 5;
    ctx.parallel_for(tasks, plenty, [&](Index task, int) { sum += loop * task; });
    expected += loop * tasks * (tasks - 1) / 2;
    if (loop % 4000 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  CHECK(sum == expected);
}

TEST_CASE("contexts of several threads, and of tasks, may share a thread pool") {
  ThreadPool pool(3);
  std::atomic<int> ran = 0;
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; ++i)
    callers.emplace_back([&] {
      Context ctx(pool, /*min_parallel_work=*/0);
      for (int loop = 0; loop < 50; ++loop)
        ctx.parallel_for(4, plenty, [&](Index, int) {
          Context inner(pool, 0);
          inner.parallel_for(3, plenty, [&](Index, int) { ++ran; });
        });
    });
  for (auto& t : callers) t.join();
  CHECK(ran == 4 * 50 * 4 * 3);
}

#ifdef _OPENMP
TEST_CASE("OpenMP") {
  for (const int n : {1, 2, 3, 7}) {
    OpenMP openmp(n);
    CHECK(openmp.workers() == n);
    check_executor(openmp);
  }
  OpenMP as_many_as_usual;
  CHECK(as_many_as_usual.workers() == omp_get_max_threads());
  CHECK_THROWS_WITH_AS(OpenMP(0), "OpenMP: expected at least 1 thread, got 0", Error);
}
#endif
