// Floor 6. A request in the scheduler: first in the queue, then running.
#pragma once

#include <memory>

#include "dsv3/generate/prefix_store.hpp"
#include "dsv3/generate/step.hpp"

namespace dsv3::inline DSV3_ISA {

/// Called once for each request that was accepted. What it throws is ignored.
using OnFinish = std::function<void(const Finish&)>;

struct WaitingRequest {
  std::uint64_t id;
  Index reserved;  ///< upper bound of the tokens in its cache
  Answer answer;
  OnFinish on_finish;
};

template <LanguageModel M>
struct RunningRequest {
  std::uint64_t id;
  OnFinish on_finish;
  Index reserved;  ///< tokens, as above
  Index shared;    ///< the first `shared` tokens lie in pages of `parent`
  typename PrefixStore<M>::Kept parent;
  std::unique_ptr<typename M::Cache> cache;
  std::unique_ptr<RunningSequence<M>> sequence;
};

}  // namespace dsv3::inline DSV3_ISA
