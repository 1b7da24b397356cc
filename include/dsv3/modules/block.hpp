// Floor 4. A transformer block: attention and feed-forward, each with a norm before it and a residual connection around it.
#pragma once

#include <variant>

#include "dsv3/modules/attention_concept.hpp"
#include "dsv3/modules/moe.hpp"
#include "dsv3/modules/norm.hpp"
#include "dsv3/modules/residual.hpp"

namespace dsv3::inline DSV3_ISA {

/// A layer of a model, made from (config, layer). width(config) is the width W of the residual stream that it works on; forward(ctx,
/// stream, rows) changes the stream [T, W] in place. Its Cache is one layer's part of a sequence's cache.
template <class B, class Config = dsv3::Config>
concept BlockModule = std::constructible_from<B, const Config&, Index> && LayerCache<typename B::Cache, Config> && HasTensors<B> &&
    requires(const B& b, Context& ctx, MatrixView<float> stream, const Rows<typename B::Cache>& rows, const Config& c) {
  { B::width(c) } -> std::same_as<Index>;
  b.forward(ctx, stream, rows);
};

/// x += Attn(Norm(x)); x += FFN(Norm(x)) (spec A1), if P::Residual is PlainResidual; another P::Residual replaces the +=. Layers below
/// first_k_dense_replace have one dense network, the others experts.
template <class P>
class Block {
 public:
  using Config = typename P::Config;
  using Attention = typename P::template Attention<P>;
  using Cache = typename Attention::Cache;
  using Residual = typename P::template Residual<P>;
  using Norm = typename P::template Norm<P>;
  using Dense = typename P::template DenseFfn<P>;
  using Sparse = typename P::template FeedForward<P>;

  Block(const Config& c, Index layer)
      : hidden_(c.hidden_size),
        attention_residual_(c, layer, Sublayer::attention),
        ffn_residual_(c, layer, Sublayer::feed_forward),
        input_norm_(c.hidden_size, c.rms_norm_eps),
        attention_(make_part<Attention>(c, layer)),
        post_norm_(c.hidden_size, c.rms_norm_eps),
        ffn_(make_feed_forward(c, layer)) {}

  static Index width(const Config& c) { return Residual::width(c); }

  /// stream [T, W] in place.
  template <Tape T>
  void forward(Context& ctx, MatrixView<float> stream, const Rows<Cache, T>& rows) const {
    auto scope = ctx.scratch();
    auto normed = scope.matrix<float>(stream.rows(), hidden_);
    auto out = scope.matrix<float>(stream.rows(), normed.cols());

    const auto before_attention = attention_residual_.read(ctx, scope, stream);
    input_norm_.forward(ctx, before_attention.x, normed);
    record(rows, point::AttentionInput{}, normed);
    attention_.forward(ctx, normed, rows, out);
    record(rows, point::AttentionOutput{}, out);
    attention_residual_.write(ctx, before_attention, out, stream);
    record(rows, point::Middle{}, stream);

    const auto before_ffn = ffn_residual_.read(ctx, scope, stream);
    post_norm_.forward(ctx, before_ffn.x, normed);
    record(rows, point::FfnInput{}, normed);
    if (const auto* dense = std::get_if<Dense>(&ffn_)) {
      const FfnJob<Dense> job{dense, normed, out};
      Dense::forward_group(ctx, {&job, 1}, rows);
    } else {
      std::get<Sparse>(ffn_).forward(ctx, normed, rows, out);
    }
    record(rows, point::FfnOutput{}, out);
    ffn_residual_.write(ctx, before_ffn, out, stream);
  }

  Attention& attention() { return attention_; }
  const Attention& attention() const { return attention_; }
  const Norm& input_norm() const { return input_norm_; }
  const Norm& post_norm() const { return post_norm_; }
  const std::variant<Dense, Sparse>& feed_forward() const { return ffn_; }

  template <class Self, class Visit>
  static void for_each_tensor(Self& self, const std::string& prefix, Visit&& visit) {
    Residual::Connection::for_each_tensor(self.attention_residual_, prefix, visit);
    Residual::Connection::for_each_tensor(self.ffn_residual_, prefix, visit);
    Norm::for_each_tensor(self.input_norm_, prefix + "input_layernorm.", visit);
    Attention::for_each_tensor(self.attention_, prefix + "self_attn.", visit);
    Norm::for_each_tensor(self.post_norm_, prefix + "post_attention_layernorm.", visit);
    if (auto* dense = std::get_if<Dense>(&self.ffn_))
      Dense::for_each_tensor(*dense, prefix + "mlp.", visit);
    else
      Sparse::for_each_tensor(std::get<Sparse>(self.ffn_), prefix + "mlp.", visit);
  }

 private:
  static std::variant<Dense, Sparse> make_feed_forward(const Config& c, Index layer) {
    if (layer < c.first_k_dense_replace) return make_ffn<Dense>(c, c.hidden_size, c.intermediate_size);
    return make_part<Sparse>(c, layer);
  }

  Index hidden_;
  typename Residual::Connection attention_residual_, ffn_residual_;
  Norm input_norm_;
  Attention attention_;
  Norm post_norm_;
  std::variant<Dense, Sparse> ffn_;
};

}  // namespace dsv3::inline DSV3_ISA
