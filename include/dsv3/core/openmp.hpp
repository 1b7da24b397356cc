// Floor 0. The OpenMP executor. Link dsv3::openmp, or compile with the compiler's OpenMP flag.
#pragma once

#ifndef _OPENMP
#error "dsv3/core/openmp.hpp needs OpenMP: link dsv3::openmp or add the compiler's OpenMP flag (-fopenmp)"
#endif

#include <omp.h>

#include <exception>

#include "dsv3/core/executor.hpp"

namespace dsv3::inline DSV3_ISA {

/// Runs tasks on `threads` OpenMP threads (default: as many as OpenMP would use), handing them out one by one.
class OpenMP {
 public:
  OpenMP() : OpenMP(omp_get_max_threads()) {}
  /// Throws: Error if `threads` is below 1.
  explicit OpenMP(int threads) : threads_(threads) { require(threads >= 1, "OpenMP: expected at least 1 thread, got ", threads); }

  int workers() const { return threads_; }

  void run(Index tasks, TaskRef f) const {
    if (tasks == 1 || threads_ == 1) return Serial{}.run(tasks, f);
    std::exception_ptr thrown;  // an exception must not leave an OpenMP region
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads_)
    for (Index task = 0; task < tasks; ++task) {
      try {
        f(task, omp_get_thread_num());
      } catch (...) {
#pragma omp critical(dsv3_openmp_exception)
        thrown = std::current_exception();
      }
    }
    if (thrown) std::rethrow_exception(thrown);
  }

 private:
  int threads_;
};

}  // namespace dsv3::inline DSV3_ISA
