// Floor 5. The cache of one sequence: every layer's attention cache, and how many tokens they hold.
#pragma once

#include <algorithm>
#include <vector>

#include "dsv3/core/error.hpp"
#include "dsv3/modules/attention_concept.hpp"

namespace dsv3::inline DSV3_ISA {

struct CacheOptions {
  Index max_tokens = 4096;
};

/// Made by Model::make_cache. Forward passes append to it; truncate() takes tokens back.
template <class P>
class Cache {
 public:
  using Config = typename P::Config;
  using Layer = typename P::template Block<P>::Cache;

  Cache(const Config& c, Index mtp_modules, CacheOptions options);

  /// A cache that holds the first `tokens` of this one and shares their memory until one of the two writes to it. `known` >= tokens is the
  /// number of leading tokens that both texts have in common: MTP modules, which look ahead, keep positions that have seen only common
  /// tokens.
  [[nodiscard]] Cache fork(Index tokens, Index known, CacheOptions options) const requires requires(const Layer& l) {
    l.fork(tokens, tokens);
  }
  {
    require(tokens >= 0 && tokens <= tokens_ && tokens <= options.max_tokens && known >= tokens, "cache: cannot share ", tokens, " of ",
            known, " tokens, it holds ", tokens_, ", the other has room for ", options.max_tokens);
    Cache other(*this);
    other.max_tokens_ = options.max_tokens;
    other.truncate(tokens, known);
    for (Index& n : other.mtp_tokens_) n = std::min(n, tokens);
    for (Layer& layer : other.layers_) layer = layer.fork(tokens, options.max_tokens);
    for (Layer& layer : other.mtp_) layer = layer.fork(tokens, options.max_tokens);
    return other;
  }

  /// The configuration of the model that it was made for.
  const Config& config() const { return config_; }
  Index mtp_modules() const { return static_cast<Index>(mtp_.size()); }
  /// Tokens held, and how many can be.
  Index size() const { return tokens_; }
  Index max_tokens() const { return max_tokens_; }
  /// Tokens that MTP module k (from 0) has seen.
  Index mtp_size(Index k) const { return mtp_tokens_.at(static_cast<std::size_t>(k)); }

  /// Forgets all tokens from position n on. MTP module k keeps the positions whose k + 1 following tokens are kept.
  void truncate(Index n) { truncate(n, n); }
  /// The same when the first `known` >= n tokens of the text will not change: MTP modules keep the positions that have seen only those
  /// tokens.
  void truncate(Index n, Index known) {
    require(n >= 0 && n <= tokens_ && known >= n, "cache: cannot truncate to ", n, " of ", known, " tokens, it holds ", tokens_);
    tokens_ = n;
    for (std::size_t k = 0; k < mtp_tokens_.size(); ++k)
      mtp_tokens_[k] = std::clamp(known - static_cast<Index>(k) - 1, Index{0}, mtp_tokens_[k]);
  }
  /// Forgets what MTP module k has seen from position n on.
  void truncate_mtp(Index k, Index n) {
    require(n >= 0 && n <= mtp_size(k), "cache: cannot truncate MTP module ", k, " to ", n, " positions, it holds ", mtp_size(k));
    mtp_tokens_[static_cast<std::size_t>(k)] = n;
  }
  void clear() { truncate(0); }

  Layer& layer(Index i) { return layers_[static_cast<std::size_t>(i)]; }
  Layer& mtp_layer(Index k) { return mtp_[static_cast<std::size_t>(k)]; }
  /// Called by the model when `n` tokens have been written to every layer, or to MTP module k.
  void advance(Index n) { tokens_ += n; }
  void advance_mtp(Index k, Index n) { mtp_tokens_[static_cast<std::size_t>(k)] += n; }

 private:
  Config config_;
  Index max_tokens_, tokens_ = 0;
  std::vector<Layer> layers_, mtp_;
  std::vector<Index> mtp_tokens_;
};

template <class P>
Cache<P>::Cache(const Config& c, Index mtp_modules, CacheOptions options)
    : config_(c), max_tokens_(options.max_tokens), mtp_tokens_(static_cast<std::size_t>(mtp_modules)) {
  require(options.max_tokens >= 1, "cache: expected room for at least 1 token, got ", options.max_tokens);
  layers_.reserve(static_cast<std::size_t>(c.num_hidden_layers));
  for (Index i = 0; i < c.num_hidden_layers; ++i) layers_.push_back(make_layer_cache<Layer>(c, i, options.max_tokens));
  for (Index i = 0; i < mtp_modules; ++i) mtp_.push_back(make_layer_cache<Layer>(c, c.num_hidden_layers + i, options.max_tokens));
}

}  // namespace dsv3::inline DSV3_ISA
