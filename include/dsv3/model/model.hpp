// Floor 5. The whole model.
//
// The path of a token: tokens [T] -> embedding h [T, D] -> per block: norm -> c_q [T, Q], c_kv [T, C] and k_pe [T, R] (cached) -> heads ->
// o [T, D], added -> norm -> scores s [T, E], choice by s + b, gates from s -> tokens sorted into expert segments -> gated FFN -> combined
// with the shared expert, added -> final norm -> logits [T, S]; h and the next token's embedding -> MTP modules.
//
// io/load.hpp loads weights, model/generate.hpp produces text.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "dsv3/model/cache.hpp"
#include "dsv3/model/pass.hpp"
#include "dsv3/model/policy.hpp"

namespace dsv3::inline DSV3_ISA {

/// A DeepSeek-V3 model made of the parts that the policy bundle P names. Weights are views of memory that keep() keeps alive. Computing
/// does not change a model, so several threads may share one, each with its own Context and caches.
template <class P = DeepSeekV3>
class Model {
  static_assert(ModelPolicy<P>);

 public:
  using Policy = P;
  using Config = typename P::Config;
  using Cache = dsv3::Cache<P>;
  using Block = typename P::template Block<P>;
  using Norm = typename P::template Norm<P>;
  using Mtp = typename P::template Mtp<P>;
  using Residual = typename P::template Residual<P>;
  using Layer = typename Block::Cache;

  /// The tokens that a pass adds to one sequence.
  struct Sequence {
    std::span<const int> ids;
    Cache* cache = nullptr;
  };

  /// The structure without weights: every parameter has its shape, none is bound to memory.
  /// Throws: Error if the configuration is invalid, or asks for another router or pairing than P has.
  explicit Model(const Config& config);

  const Config& config() const { return config_; }
  /// Columns W of the states that forward() gives: those of the residual stream.
  Index width() const { return Residual::width(config_); }
  std::vector<Block>& blocks() { return blocks_; }
  const std::vector<Block>& blocks() const { return blocks_; }
  /// f(attention) for the attention of every block and MTP module.
  template <class F>
  void for_each_attention(F&& f) {
    for (Block& block : blocks_) f(block.attention());
    for (Mtp& module : mtp_) f(module.block().attention());
  }
  Index mtp_modules() const { return static_cast<Index>(mtp_.size()); }

  [[nodiscard]] Cache make_cache(CacheOptions options = {}) const { return Cache(config_, mtp_modules(), options); }

  /// Adds each sequence's ids to its cache. h [sum of ids, W] receives the last block's output, before the final norm, rows in the order
  /// of the batch.
  /// Throws: Error if an id is outside the vocabulary, a cache is full or given twice, or a block's output is not finite; then no cache
  /// has changed its size.
  template <Tape T = NoTape>
  void forward(Context& ctx, std::span<const Sequence> batch, MatrixView<float> h, T& tape) const;
  void forward(Context& ctx, std::span<const Sequence> batch, MatrixView<float> h) const {
    NoTape none;
    forward(ctx, batch, h, none);
  }

  /// The same for texts without caches, for training and scoring: each text starts at position 0, and nothing is cached. Texts may be
  /// packed into one sample of training data; none attends to another.
  template <Tape T>
  void forward_texts(Context& ctx, std::span<const std::span<const int>> texts, MatrixView<float> h, T& tape) const;

  /// The input x [T, D] of the output head: the residual stream's end (P::Residual) and the final norm, of h [T, W].
  void finish(Context& ctx, ConstMatrixView<float> h, MatrixView<float> x) const {
    auto scope = ctx.scratch();
    norm_.forward(ctx, ends_.end(ctx, scope, h), x);
  }
  /// logits [T, S] of the next token: final norm and output head of h [T, W], any rows of forward()'s result.
  void logits(Context& ctx, ConstMatrixView<float> h, MatrixView<float> logits) const {
    check_logits(h, logits);
    auto scope = ctx.scratch();
    auto x = scope.template matrix<float>(h.rows(), config_.hidden_size);
    finish(ctx, h, x);
    multiply_head(ctx, x, logits);
  }

  /// The norm between the last block and the output head.
  const Norm& final_norm() const { return norm_; }
  /// The weights [S, D] of the embedding and of the output head: the same if they are tied.
  const typename P::Storage::View& embedding() const { return embed_.bound("Model"); }
  const typename P::Storage::View& head() const { return (config_.tie_word_embeddings ? embed_ : head_).bound("Model"); }
  /// e [T, D], the embeddings of some tokens.
  void embed(std::span<const int> ids, MatrixView<float> e) const;

  /// MTP module k (from 0) on the next positions of its sequences: ids are the tokens k + 1 places after those positions, h [sum of ids, W]
  /// the states of the previous depth (for k = 0 what forward() gave), out [sum of ids, W] this depth's (P::mtp_output); it may be h.
  /// Throws: as forward(), and if there is no such module.
  template <Tape T = NoTape>
  void mtp_forward(Context& ctx, Index k, std::span<const Sequence> batch, ConstMatrixView<float> h, MatrixView<float> out, T& tape) const;
  void mtp_forward(Context& ctx, Index k, std::span<const Sequence> batch, ConstMatrixView<float> h, MatrixView<float> out) const {
    NoTape none;
    mtp_forward(ctx, k, batch, h, out, none);
  }

  /// The same for texts without caches: text i is the tokens k + 1 places after those of the states h. `out` is the block's output,
  /// whatever P::mtp_output says.
  template <Tape T>
  void mtp_forward_texts(Context& ctx, Index k, std::span<const std::span<const int>> texts, ConstMatrixView<float> h,
                         MatrixView<float> out, T& tape) const;

  /// logits [T, S] of the token k + 2 places after each row of h [T, W], rows of mtp_forward(k)'s result.
  void mtp_logits(Context& ctx, Index k, ConstMatrixView<float> h, MatrixView<float> logits) const {
    check_logits(h, logits);
    if (P::mtp_output == MtpOutput::after_head_norm) return multiply_head(ctx, h, logits);
    auto scope = ctx.scratch();
    auto x = scope.template matrix<float>(h.rows(), config_.hidden_size);
    mtp(k).finish(ctx, h, x);
    multiply_head(ctx, x, logits);
  }

  /// Throws: Error if there is no MTP module k.
  const Mtp& mtp(Index k) const {
    check_module(k);
    return mtp_[static_cast<std::size_t>(k)];
  }

  /// visit(name, WeightMatrix or WeightVector) for every parameter under its published name. `self` is a Model, const or not.
  template <class Self, class Visit>
  static void for_each_tensor(Self& self, Visit&& visit) {
    visit(std::string("model.embed_tokens.weight"), self.embed_);
    for (std::size_t i = 0; i < self.blocks_.size(); ++i)
      Block::for_each_tensor(self.blocks_[i], layer_prefix(static_cast<Index>(i)), visit);
    Residual::Ends::for_each_tensor(self.ends_, "model.", visit);
    Norm::for_each_tensor(self.norm_, "model.norm.", visit);
    if (!self.config_.tie_word_embeddings) visit(std::string("lm_head.weight"), self.head_);
    for (std::size_t k = 0; k < self.mtp_.size(); ++k)
      Mtp::for_each_tensor(self.mtp_[k], layer_prefix(self.config_.num_hidden_layers + static_cast<Index>(k)), visit);
  }

  /// "model.layers.I." for block I, or for MTP module I - num_hidden_layers.
  static std::string layer_prefix(Index layer) { return "model.layers." + std::to_string(layer) + "."; }

  /// Keeps `owner` (a mapping, a matrix) alive as long as this model and its copies.
  void keep(std::shared_ptr<const void> owner) { owners_.push_back(std::move(owner)); }
  /// The same, and releases all other owners, because every weight now lies in memory of `owner`.
  void keep_only(std::shared_ptr<const void> owner) { owners_ = {std::move(owner)}; }

 private:
  void check_module(Index k) const {
    require(k >= 0 && k < mtp_modules(), "Model: there is no MTP module ", k, ", the model has ", mtp_modules());
  }
  void multiply_head(Context& ctx, ConstMatrixView<float> x, MatrixView<float> logits) const {
    const kernels::Product<typename P::Storage::View> product{x, head(), logits};
    multiply<P>(ctx, regime_of<P>(1, 1), {&product, 1});  // one row's regime, so that bits do not depend on the number of rows
  }
  void check_logits(ConstMatrixView<float> h, ConstMatrixView<float> logits) const {
    require(h.cols() == width(), "Model: expected hidden states of ", width(), " columns, got ", h.cols());
    if (logits.rows() != h.rows() || logits.cols() != config_.vocab_size)
      fail("Model: expected logits of shape ", shape_string({h.rows(), config_.vocab_size}), ", got ",
           shape_string({logits.rows(), logits.cols()}));
  }

  template <class Held>
  void check(std::span<const Sequence> batch, ConstMatrixView<float> h, Held&& held) const {
    detail::check_caches(batch, config_, mtp_modules(), held);
    check_ids(batch, h, [](const Sequence& s) { return s.ids; });
  }
  template <class Batch, class Ids>
  void check_ids(const Batch& batch, ConstMatrixView<float> h, Ids&& ids_of) const {
    detail::check_ids(batch, h, config_.vocab_size, width(), ids_of);
  }

  // Embedding and all blocks; cache_of(i, layer) -> the cache of sequence i.
  template <class T, class CacheOf>
  void run(Context& ctx, detail::PassRows<Layer, T>& pass, MatrixView<float> h, CacheOf&& cache_of) const;
  template <class T>
  void run_mtp(Context& ctx, Index k, const Rows<Layer, T>& rows, ConstMatrixView<float> h, MatrixView<float> out) const;

  Config config_;
  WeightMatrix<typename P::Storage> embed_;
  typename Residual::Ends ends_;
  std::vector<Block> blocks_;
  Norm norm_;
  WeightMatrix<typename P::Storage> head_;
  std::vector<Mtp> mtp_;
  std::vector<std::shared_ptr<const void>> owners_;
};

// Members are defined outside the class because only such definitions can be precompiled (precompiled.hpp).

template <class P>
Model<P>::Model(const Config& config)
    : config_(detail::checked_config<P>(config)),
      embed_{config.vocab_size, config.hidden_size},
      ends_(config),
      norm_(config.hidden_size, config.rms_norm_eps),
      head_{config.tie_word_embeddings ? 0 : config.vocab_size, config.hidden_size} {
  require(width() >= config.hidden_size && Block::width(config) == width(), "Model: P::Residual has a stream of ", width(),
          " columns, P::Block works on ", Block::width(config), ", the hidden size is ", config.hidden_size);
  for (Index i = 0; i < config.num_hidden_layers; ++i) blocks_.emplace_back(config, i);
  for (Index k = 0; k < config.num_nextn_predict_layers; ++k) mtp_.emplace_back(config, config.num_hidden_layers + k);
}

template <class P>
template <class T, class CacheOf>
void Model<P>::run(Context& ctx, detail::PassRows<Layer, T>& pass, MatrixView<float> h, CacheOf&& cache_of) const {
  auto& rows = pass.rows;
  embed(rows.ids, h.columns(0, config_.hidden_size));
  ends_.begin(ctx, h);
  for (rows.layer = 0; rows.layer < config_.num_hidden_layers; ++rows.layer) {
    record(rows, point::Hidden{}, h);
    for (std::size_t i = 0; i < pass.segments.size(); ++i) pass.segments[i].cache = cache_of(i, rows.layer);
    blocks_[static_cast<std::size_t>(rows.layer)].forward(ctx, h, rows);
    detail::check_finite(h, layer_prefix(rows.layer));
  }
  record(rows, point::Hidden{}, h);
}

template <class P>
template <Tape T>
void Model<P>::forward(Context& ctx, std::span<const Sequence> batch, MatrixView<float> h, T& tape) const {
  auto scope = ctx.scratch();
  const auto held = [](const Sequence& s) { return s.cache->size(); };
  check(batch, h, held);
  auto pass = detail::make_pass_rows<Layer>(
      scope, batch, h.rows(), tape, [](const Sequence& s) { return s.ids; }, held);
  run(ctx, pass, h, [&](std::size_t i, Index layer) { return &batch[i].cache->layer(layer); });
  for (const Sequence& s : batch) s.cache->advance(static_cast<Index>(s.ids.size()));
}

template <class P>
template <Tape T>
void Model<P>::forward_texts(Context& ctx, std::span<const std::span<const int>> texts, MatrixView<float> h, T& tape) const {
  auto scope = ctx.scratch();
  const auto ids_of = [](std::span<const int> text) { return text; };
  check_ids(texts, h, ids_of);
  auto pass = detail::make_pass_rows<Layer>(scope, texts, h.rows(), tape, ids_of, [](const auto&) { return Index{0}; });
  run(ctx, pass, h, [](std::size_t, Index) -> Layer* { return nullptr; });
}

template <class P>
template <class T>
void Model<P>::run_mtp(Context& ctx, Index k, const Rows<Layer, T>& rows, ConstMatrixView<float> h, MatrixView<float> out) const {
  auto scope = ctx.scratch();
  auto e = scope.template matrix<float>(h.rows(), config_.hidden_size);
  embed(rows.ids, e);
  if (k == 0 && P::mtp_input == MtpInput::after_final_norm) {
    auto normed = scope.template matrix<float>(h.rows(), config_.hidden_size);
    finish(ctx, h, normed);
    mtp(k).forward(ctx, e, normed, rows, out);
  } else {
    mtp(k).forward(ctx, e, h, rows, out);
  }
  detail::check_finite(out, layer_prefix(config_.num_hidden_layers + k));
}

template <class P>
template <Tape T>
void Model<P>::mtp_forward(Context& ctx, Index k, std::span<const Sequence> batch, ConstMatrixView<float> h, MatrixView<float> out,
                           T& tape) const {
  auto scope = ctx.scratch();
  check_module(k);
  const auto held = [&](const Sequence& s) { return s.cache->mtp_size(k); };
  for (const auto& states : {h, ConstMatrixView<float>(out)}) check(batch, states, held);
  auto pass = detail::make_pass_rows<Layer>(
      scope, batch, h.rows(), tape, [](const Sequence& s) { return s.ids; }, held);
  pass.rows.layer = config_.num_hidden_layers + k;
  for (std::size_t i = 0; i < batch.size(); ++i) pass.segments[i].cache = &batch[i].cache->mtp_layer(k);
  run_mtp(ctx, k, pass.rows, h, out);
  if (P::mtp_output == MtpOutput::after_head_norm) mtp(k).finish(ctx, out, out);
  for (const Sequence& s : batch) s.cache->advance_mtp(k, static_cast<Index>(s.ids.size()));
}

template <class P>
template <Tape T>
void Model<P>::mtp_forward_texts(Context& ctx, Index k, std::span<const std::span<const int>> texts, ConstMatrixView<float> h,
                                 MatrixView<float> out, T& tape) const {
  auto scope = ctx.scratch();
  check_module(k);
  const auto ids_of = [](std::span<const int> text) { return text; };
  for (const auto& states : {h, ConstMatrixView<float>(out)}) check_ids(texts, states, ids_of);
  auto pass = detail::make_pass_rows<Layer>(scope, texts, h.rows(), tape, ids_of, [](const auto&) { return Index{0}; });
  pass.rows.layer = config_.num_hidden_layers + k;
  run_mtp(ctx, k, pass.rows, h, out);
}

template <class P>
void Model<P>::embed(std::span<const int> ids, MatrixView<float> e) const {
  visit_weight(embedding(), [&](const auto& w) {
    for (Index t = 0; const int id : ids) decode_row<typename P::Arch>(w, id, e.row_data(t++));
  });
}

}  // namespace dsv3::inline DSV3_ISA
