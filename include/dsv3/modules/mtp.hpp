// Floor 4. Multi-token prediction: one more block that sees the last hidden state and the next token (eq. 21-25).
//
// Embedding and output head are the main model's; a module has only its norms, its projection and its block.
#pragma once

#include "dsv3/modules/block.hpp"

namespace dsv3::inline DSV3_ISA {

/// MTP module k of the report, at checkpoint layer num_hidden_layers + k - 1 (spec A17).
template <class P>
class Mtp {
 public:
  using Block = typename P::template Block<P>;
  using Norm = typename P::template Norm<P>;
  using Cache = typename Block::Cache;

  Mtp(const Config& c, Index layer)
      : enorm_(c.hidden_size, c.rms_norm_eps),
        hnorm_(c.hidden_size, c.rms_norm_eps),
        eh_proj_(c.hidden_size, 2 * c.hidden_size),
        block_(c, layer),
        head_norm_(c.hidden_size, c.rms_norm_eps) {}

  /// h' = Block(eh_proj [enorm(e); hnorm(h)]): e [T, D] the embeddings of the tokens that follow, h [T, D] the previous depth's states,
  /// out [T, D] this depth's states (before head_norm), overwritten; it may be h.
  template <Tape T = NoTape>
  void forward(Context& ctx, ConstMatrixView<float> e, ConstMatrixView<float> h, std::span<const Segment<Cache>> segments,
               MatrixView<float> out, T& tape) const {
    auto scope = ctx.scratch();
    const Index d = h.cols();
    auto both = scope.matrix<float>(h.rows(), 2 * d);  // embedding first, though the report writes the state first
    enorm_.forward(ctx, e, both.columns(0, d));
    hnorm_.forward(ctx, h, both.columns(d, d));
    eh_proj_.forward(ctx, both, out);
    block_.forward(ctx, out, segments, tape);
  }

  /// What the shared output head reads.
  const Norm& head_norm() const { return head_norm_; }
  Block& block() { return block_; }

  template <class Self, class Visit>
  static void for_each_tensor(Self& self, const std::string& prefix, Visit&& visit) {
    Norm::for_each_tensor(self.enorm_, prefix + "enorm.", visit);
    Norm::for_each_tensor(self.hnorm_, prefix + "hnorm.", visit);
    Linear<P>::for_each_tensor(self.eh_proj_, prefix + "eh_proj.", visit);
    Block::for_each_tensor(self.block_, prefix, visit);
    Norm::for_each_tensor(self.head_norm_, prefix + "shared_head.norm.", visit);
  }

 private:
  Norm enorm_, hnorm_;
  Linear<P> eh_proj_;
  Block block_;
  Norm head_norm_;
};

}  // namespace dsv3::inline DSV3_ISA
