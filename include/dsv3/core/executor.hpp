// Floor 0. What runs the tasks of a parallel loop: the Executor concept and the serial executor.
//
// Any type that models the concept can be injected. The library starts no threads but those of a ThreadPool (core/thread_pool.hpp).
#pragma once

#include <concepts>
#include <memory>
#include <type_traits>

#include "dsv3/core/config.hpp"

namespace dsv3::inline DSV3_ISA {

/// A non-owning reference to a callable f(task, worker), valid while the callable lives.
class TaskRef {
 public:
  template <class F>
  requires(!std::same_as<std::remove_cvref_t<F>, TaskRef>) TaskRef(F&& f)
      : object_(const_cast<void*>(static_cast<const void*>(std::addressof(f)))),
        call_([](void* object, Index task, int worker) { (*static_cast<std::remove_reference_t<F>*>(object))(task, worker); }) {}

  /// Runs one task. `worker` is in [0, executor's workers()); tasks that run at the same time have different workers.
  void operator()(Index task, int worker) const { call_(object_, task, worker); }

 private:
  void* object_;
  void (*call_)(void*, Index, int);
};

/// workers() is constant; run(tasks, f) calls f(task, worker) once for each task in [0, tasks), on any thread in any order, returns when
/// all are done, and rethrows an exception that a task threw.
template <class E>
concept Executor = requires(E& e, Index tasks, TaskRef f) {
  { e.workers() } -> std::convertible_to<int>;
  e.run(tasks, f);
};

/// Runs the tasks in order on the calling thread.
struct Serial {
  int workers() const { return 1; }
  void run(Index tasks, TaskRef f) const {
    for (Index task = 0; task < tasks; ++task) f(task, 0);
  }
};

}  // namespace dsv3::inline DSV3_ISA
