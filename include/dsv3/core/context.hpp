// Floor 0. Context: what a computation runs on, passed by reference through every call.
#pragma once

#include <algorithm>
#include <utility>

#include "dsv3/core/error.hpp"
#include "dsv3/core/executor.hpp"
#include "dsv3/core/workspace.hpp"

namespace dsv3::inline DSV3_ISA {

/// An executor (a reference, not owned) and scratch memory (owned). Not thread-safe: one thread at a time uses a context. Results do not
/// depend on which context is used.
class Context {
 public:
  /// Serial execution.
  Context() = default;

  /// Runs parallel loops on `executor`, which must outlive the context. Loops of fewer than `min_parallel_work` simple operations stay on
  /// the calling thread. Throws: Error if the executor has no workers.
  template <Executor E>
  explicit Context(E& executor, Index min_parallel_work = default_min_parallel_work)
      : executor_(const_cast<void*>(static_cast<const void*>(&executor))),
        workers_(executor.workers()),
        min_parallel_work_(min_parallel_work),
        run_([](void* e, Index tasks, TaskRef f) { static_cast<E*>(e)->run(tasks, f); }) {
    require(workers_ >= 1, "Context: expected an executor with at least 1 worker, got ", workers_);
  }

  static constexpr Index default_min_parallel_work = Index{1} << 14;  ///< simple operations, some microseconds
  static constexpr Index min_batch_work = Index{1} << 14;             ///< simple operations of one batch of tasks, a few microseconds

  int workers() const { return workers_; }

  /// Calls f(task, worker) for every task in [0, tasks), in any order. A task must not take scratch memory from this context.
  /// Throws: what a task throws; Error if called inside a task of the same context, because two loops would share workers and scratch.
  template <class F>
  void parallel_for(Index tasks, F&& f) {
    if (tasks > 0) run(run_, tasks, TaskRef(f));
  }

  /// The same for tasks that take about `work` simple operations in total: a loop too short to be worth waking threads runs on the calling
  /// thread, and small tasks are handed out in batches.
  template <class F>
  void parallel_for(Index tasks, Index work, F&& f) {
    if (tasks <= 0) return;
    if (work < min_parallel_work_) return run(run_serially, tasks, TaskRef(f));
    const Index batch = std::clamp(tasks * min_batch_work / std::max(work, Index{1}), Index{1}, tasks / (4 * workers_) + 1);
    parallel_for((tasks + batch - 1) / batch, [&](Index i, int worker) {
      for (Index task = i * batch; task < std::min((i + 1) * batch, tasks); ++task) f(task, worker);
    });
  }

  /// A scope to take scratch memory from.
  Workspace::Scope scratch() { return Workspace::Scope(workspace_); }
  const Workspace& workspace() const { return workspace_; }

 private:
  using Run = void (*)(void*, Index, TaskRef);
  static void run_serially(void*, Index tasks, TaskRef f) { Serial{}.run(tasks, f); }

  void run(Run how, Index tasks, TaskRef f) {
    require(!in_loop_, "Context: a parallel loop was started inside a task of the same context");
    struct Flag {
      explicit Flag(bool& flag) : value(flag) { value = true; }
      ~Flag() { value = false; }
      bool& value;
    } const flag(in_loop_);
    how(executor_, tasks, f);
  }

  void* executor_ = nullptr;
  int workers_ = 1;
  Index min_parallel_work_ = default_min_parallel_work;
  Run run_ = run_serially;
  bool in_loop_ = false;
  Workspace workspace_;
};

}  // namespace dsv3::inline DSV3_ISA
