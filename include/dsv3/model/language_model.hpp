// Floor 5. What generation needs of a model. A model that offers it can be generated from, scheduled and served without being a Model<P>.
#pragma once

#include "dsv3/core/config.hpp"
#include "dsv3/core/context.hpp"
#include "dsv3/model/cache.hpp"

namespace dsv3::inline DSV3_ISA {

/// A cache of one sequence: how many tokens it holds and can hold, and taking tokens back (model/cache.hpp says what `known` means).
template <class C>
concept SequenceCache = requires(C& c, const C& held, Index n) {
  { held.size() } -> std::same_as<Index>;
  { held.max_tokens() } -> std::same_as<Index>;
  c.truncate(n);
  c.truncate(n, n);
  c.clear();
};

/// A model that continues token sequences. forward(ctx, batch, h) adds each Sequence{ids, cache}'s ids to its cache and gives their states
/// h [sum of ids, width()]; logits(ctx, h, logits) turns any of these rows into logits [rows, vocab_size]. Of config() only vocab_size and
/// eos_token_id are read.
template <class M>
concept LanguageModel = SequenceCache<typename M::Cache> &&
    requires(const M& m, Context& ctx, std::span<const typename M::Sequence> batch, ConstMatrixView<float> x, MatrixView<float> y,
             CacheOptions options, std::span<const int> ids, typename M::Cache* cache) {
  {typename M::Sequence{ids, cache}};
  { m.config() } -> std::convertible_to<const Config&>;
  { m.width() } -> std::same_as<Index>;
  { m.make_cache(options) } -> std::same_as<typename M::Cache>;
  m.forward(ctx, batch, y);
  m.logits(ctx, x, y);
};

/// A language model with modules that predict tokens further ahead (mtp_forward and mtp_logits of model/model.hpp).
template <class M>
concept Speculative = LanguageModel<M> && requires(const M& m, Context& ctx, std::span<const typename M::Sequence> batch,
                                                   ConstMatrixView<float> x, MatrixView<float> y, typename M::Cache& cache, Index k) {
  { m.mtp_modules() } -> std::same_as<Index>;
  m.mtp_forward(ctx, k, batch, x, y);
  m.mtp_logits(ctx, k, x, y);
  { cache.mtp_modules() } -> std::same_as<Index>;
  { cache.mtp_size(k) } -> std::same_as<Index>;
  cache.truncate_mtp(k, k);
};

/// The number of a model's MTP modules; 0 if it is not Speculative.
template <LanguageModel M>
Index mtp_modules([[maybe_unused]] const M& model) {
  if constexpr (Speculative<M>)
    return model.mtp_modules();
  else
    return 0;
}

/// Tokens of a cache that the model and the first `modules` of its MTP modules have all seen.
template <SequenceCache C>
Index tokens_seen(const C& cache, [[maybe_unused]] Index modules) {
  Index n = cache.size();
  if constexpr (requires { cache.mtp_size(modules); })
    for (Index k = 0; k < modules; ++k) n = std::min(n, cache.mtp_size(k));
  return n;
}

}  // namespace dsv3::inline DSV3_ISA
