// Floor 4. Multi-token prediction: one more block that sees the last hidden state and the next token (eq. 21-25).
//
// Embedding and output head are the main model's; a module has only its norms, its projection and its block.
#pragma once

#include "dsv3/modules/block.hpp"

namespace dsv3::inline DSV3_ISA {

/// Made from (config, layer). forward(ctx, e, h, rows, out) computes this depth's states out [T, W], overwritten; out may be h. e [T, D]
/// holds the embeddings of the tokens that follow, h the previous depth's states: for depth 1 [T, D] after the model's final norm, or [T,
/// W] before it, as P::mtp_input says. finish(ctx, h, x) turns states [T, W] into the input x [T, D] of the shared output head.
template <class M, class Config = dsv3::Config>
concept MtpModule = std::constructible_from<M, const Config&, Index> && HasTensors<M> &&
    requires(const M& m, Context& ctx, ConstMatrixView<float> x, const Rows<typename M::Block::Cache>& rows, MatrixView<float> y) {
  m.forward(ctx, x, x, rows, y);
  m.finish(ctx, x, y);
};

/// MTP module k of the report, at checkpoint layer num_hidden_layers + k - 1 (spec A17): h' = Block(eh_proj [enorm(e); hnorm(h)]).
template <class P>
class Mtp {
 public:
  using Config = typename P::Config;
  using Block = typename P::template Block<P>;
  using Norm = typename P::template Norm<P>;
  using Ends = typename P::template Residual<P>::Ends;
  using Cache = typename Block::Cache;

  Mtp(const Config& c, Index layer)
      : enorm_(c.hidden_size, c.rms_norm_eps),
        hnorm_(c.hidden_size, c.rms_norm_eps),
        eh_proj_(c.hidden_size, 2 * c.hidden_size),
        block_(c, layer),
        ends_(c),
        head_norm_(c.hidden_size, c.rms_norm_eps) {}

  template <Tape T>
  void forward(Context& ctx, ConstMatrixView<float> e, ConstMatrixView<float> h, const Rows<Cache, T>& rows, MatrixView<float> out) const {
    auto scope = ctx.scratch();
    const Index d = e.cols();
    require(h.cols() == d, "Mtp: expected states of ", d, " columns, got ", h.cols(), ": P::Mtp must be one that reads the whole stream");
    auto both = scope.matrix<float>(h.rows(), 2 * d);  // embedding first, though the report writes the state first
    enorm_.forward(ctx, e, both.columns(0, d));
    hnorm_.forward(ctx, h, both.columns(d, d));
    record(rows, point::MtpProjectionInput{}, both);
    eh_proj_.forward(ctx, both, rows, out.columns(0, d));
    ends_.begin(ctx, out);
    block_.forward(ctx, out, rows);
  }

  void finish(Context& ctx, ConstMatrixView<float> h, MatrixView<float> x) const {
    auto scope = ctx.scratch();
    head_norm_.forward(ctx, ends_.end(ctx, scope, h), x);
  }

  Block& block() { return block_; }
  const Block& block() const { return block_; }
  const Norm& enorm() const { return enorm_; }
  const Norm& hnorm() const { return hnorm_; }
  const Linear<Precise<P>>& eh_proj() const { return eh_proj_; }
  const Norm& head_norm() const { return head_norm_; }

  template <class Self, class Visit>
  static void for_each_tensor(Self& self, const std::string& prefix, Visit&& visit) {
    Norm::for_each_tensor(self.enorm_, prefix + "enorm.", visit);
    Norm::for_each_tensor(self.hnorm_, prefix + "hnorm.", visit);
    Linear<Precise<P>>::for_each_tensor(self.eh_proj_, prefix + "eh_proj.", visit);
    Block::for_each_tensor(self.block_, prefix, visit);
    Ends::for_each_tensor(self.ends_, prefix, visit);
    Norm::for_each_tensor(self.head_norm_, prefix + "shared_head.norm.", visit);
  }

 private:
  Norm enorm_, hnorm_;
  Linear<Precise<P>> eh_proj_;
  Block block_;
  Ends ends_;
  Norm head_norm_;
};

}  // namespace dsv3::inline DSV3_ISA
