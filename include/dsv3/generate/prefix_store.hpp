// Floor 6. Keeps the caches of texts, so that later sequences with the same prefix need not compute it again.
//
// Works in whole pages, the unit in which caches share memory, and counts them: a page belongs to the kept text or sequence that wrote it;
// whoever shares a page keeps its owner alive.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <set>
#include <span>
#include <vector>

#include "dsv3/model/language_model.hpp"

namespace dsv3::inline DSV3_ISA {

/// Whether the caches of M can share pages.
template <LanguageModel M>
inline constexpr bool shares_prefixes = requires(const typename M::Cache& c) {
  c.fork(Index{}, Index{}, CacheOptions{});
};

/// Tokens per page, the unit of memory.
inline constexpr Index cache_page = 64;
inline Index pages_of(Index tokens) { return (tokens + cache_page - 1) / cache_page; }

/// The prefix of a text and its cache. Some of its pages may belong to `parent`.
template <LanguageModel M>
struct KeptPrefix {
  std::vector<int> ids;  // the cache's tokens, and one more per MTP module in use
  typename M::Cache cache;
  Index own_pages = 0;
  std::shared_ptr<KeptPrefix> parent{};
  std::uint64_t used = 0;  // time of the last use, for LRU eviction
};

template <LanguageModel M>
class PrefixStore {
 public:
  using Kept = std::shared_ptr<KeptPrefix<M>>;

  /// `modules` is the number of MTP modules in use.
  explicit PrefixStore(Index modules) : modules_(modules) {}

  Index modules() const { return modules_; }

  /// How many tokens of `prompt`, in whole pages, a sequence can take from a cache that holds (or will hold) `size` tokens of the text
  /// `ids`. At least one prompt token is left to compute. MTP modules must have seen the same tokens, for which the text must agree one
  /// token further per module.
  Index common(std::span<const int> ids, std::span<const int> prompt, Index size) const {
    const Index same = std::mismatch(ids.begin(), ids.end(), prompt.begin(), prompt.end()).first - ids.begin();
    const Index most = std::min({same - modules_, static_cast<Index>(prompt.size()) - 1, size});
    return most > 0 ? most / cache_page * cache_page : 0;
  }
  /// Tokens of a cache that the main model and the MTP modules have seen.
  Index seen(const typename M::Cache& cache) const { return tokens_seen(cache, modules_); }

  /// The kept text that has most in common with `prompt`, at least one page, if there is one.
  Kept find(std::span<const int> prompt) {
    Kept best;
    Index most = 0;
    for (const Kept& k : kept_)
      if (const Index n = common(k->ids, prompt, k->cache.size()); n > most) {
        most = n;
        best = k;
      }
    if (best) best->used = ++clock_;
    return best;
  }

  /// Keeps the first `tokens` (whole pages) of a cache of the text `ids`. The pages of the first `shared` tokens belong to `parent`.
  Kept keep(std::span<const int> ids, const typename M::Cache& cache, Index tokens, Index shared, Kept parent) requires shares_prefixes<M> {
    const auto known = std::min(static_cast<Index>(ids.size()), tokens + modules_);
    const auto text = ids.first(static_cast<std::size_t>(known));
    kept_.push_back(std::make_shared<KeptPrefix<M>>(KeptPrefix<M>{
        {text.begin(), text.end()}, cache.fork(tokens, known, {tokens}), (tokens - shared) / cache_page, std::move(parent), ++clock_}));
    own_pages_ += kept_.back()->own_pages;
    return kept_.back();
  }

  /// Drops kept texts that nobody shares, least recently used first, until `pages` pages are freed or none is left. Returns how many it
  /// freed.
  Index evict(Index pages) {
    Index freed = 0;
    while (freed < pages) {
      auto oldest = kept_.end();
      for (auto k = kept_.begin(); k != kept_.end(); ++k)
        if (k->use_count() == 1 && (oldest == kept_.end() || (*k)->used < (*oldest)->used)) oldest = k;
      if (oldest == kept_.end()) break;
      freed += (*oldest)->own_pages;
      kept_.erase(oldest);
    }
    own_pages_ -= freed;
    return freed;
  }

  /// How many pages evict() can free while sequences share the texts in `holders` (which may be null).
  Index evictable_pages(std::span<const KeptPrefix<M>* const> holders) const {
    std::set<const KeptPrefix<M>*> held;
    Index pages = own_pages_;
    for (const KeptPrefix<M>* k : holders)
      for (; k && held.insert(k).second; k = k->parent.get()) pages -= k->own_pages;
    return pages;
  }

  /// Pages that belong to kept texts.
  Index own_pages() const { return own_pages_; }

 private:
  Index modules_;
  std::vector<Kept> kept_;
  Index own_pages_ = 0;
  std::uint64_t clock_ = 0;
};

}  // namespace dsv3::inline DSV3_ISA
