// Floor 5. Policy bundles: one struct that names every replaceable part of a model.
//
// A variant overrides what differs:  struct MyModel : dsv3::DeepSeekV3 { using Router = MyRouter; };
// Parts that depend on other parts are templates over the final bundle, so that an override reaches everything. docs/variants.md goes
// through them.
#pragma once

#include "dsv3/core/validate.hpp"
#include "dsv3/kernels/rope.hpp"
#include "dsv3/modules/block.hpp"
#include "dsv3/modules/gated_ffn.hpp"
#include "dsv3/modules/mla.hpp"
#include "dsv3/modules/moe.hpp"
#include "dsv3/modules/mtp.hpp"

namespace dsv3::inline DSV3_ISA {

/// The state from which MTP module 1 starts (spec A17): the main model's output after its final norm, or before it.
enum class MtpInput { after_final_norm, before_final_norm };

/// The state that an MTP module hands to the next depth (spec T6): its block's output before its shared_head.norm, or after it. With one
/// module it matters only for drafts beyond the first.
enum class MtpOutput { before_head_norm, after_head_norm };

/// DeepSeek-V3 and all models made of the same parts (R1, V3.1, Moonlight, Kimi-K2, GLM-4.7-Flash).
struct DeepSeekV3 {
  using Config = dsv3::Config;                ///< sizes and settings; a variant's own derives from dsv3::Config
  using Arch = simd::DefaultArch;             ///< instruction set of every kernel: an xsimd architecture
  using Storage = AnyStorage;                 ///< how weights lie in memory
  using Compute = compute::Exact;             ///< how products are formed
  using CacheFormat = cache_format::Float32;  ///< how latent attention's cache lies in memory
  using RopePairing = rope::Neighbours;
  using RopeScaling = rope::YarnScaling;
  using Router = router::SigmoidTopK;
  using Activation = kernels::SwiGlu;  ///< of gated networks
  static constexpr MtpInput mtp_input = MtpInput::after_final_norm;
  static constexpr MtpOutput mtp_output = MtpOutput::before_head_norm;

  template <class P>
  using Residual = PlainResidual<P>;
  template <class P>
  using Norm = RmsNorm<P>;
  template <class P>
  using AttentionVariant = attention::Full;
  template <class P>
  using Attention = Mla<P>;
  template <class P>
  using DenseFfn = GatedFfn<P>;
  template <class P>
  using ExpertFfn = GatedFfn<P>;
  template <class P>
  using FeedForward = Moe<P>;
  template <class P>
  using Block = dsv3::Block<P>;
  template <class P>
  using Mtp = dsv3::Mtp<P>;
};

/// DeepSeek-V2, V2.5 and V2-Lite.
struct DeepSeekV2 : DeepSeekV3 {
  using Router = router::SoftmaxTopK;
};

/// DeepSeek-V3 for checkpoints that pair halves of the rotary channels (rope_interleave false).
struct DeepSeekV3Halves : DeepSeekV3 {
  using RopePairing = rope::Halves;
};

/// The bundle P with prompts and attention in bf16 (compute::Bf16Activations), for processors that have bf16 products. The cache is bf16
/// too, unless P sets a format other than float32: attention rounds what it reads to bf16 anyway.
template <class P>
struct Fast : P {
  using Compute = compute::Bf16Activations;
  using CacheFormat =
      std::conditional_t<std::is_same_v<typename P::CacheFormat, cache_format::Float32>, cache_format::Bf16, typename P::CacheFormat>;
};

namespace detail {
template <class P>
struct PolicyCheck {
  static_assert(std::derived_from<typename P::Config, dsv3::Config>, "dsv3: P::Config must be dsv3::Config or derive from it");
  using Config = typename P::Config;
  static_assert(
      requires { requires simd::is_arch<typename P::Arch>; },
      "dsv3: a policy bundle needs an Arch: an xsimd architecture (inherit from dsv3::DeepSeekV3)");
  static_assert(Storage<typename P::Storage>,
                "dsv3: P::Storage must have a View that is an ElementView, or be OneOf several (quant/storage.hpp)");
  static_assert(Compute<typename P::Compute>,
                "dsv3: P::Compute must have prepare(Context&, Workspace::Scope&, x, weight) that returns activations (quant/compute.hpp)");
  static_assert(CacheFormat<typename P::CacheFormat>,
                "dsv3: P::CacheFormat must have in_place, row_bytes(rank, rope), write(c_kv, rank, k_pe, rope, row) and "
                "read<Arch>(row, rank, rope, out) (modules/cache_format.hpp)");
  static_assert(rope::Pairing<typename P::RopePairing>,
                "dsv3: P::RopePairing must have first(j, dim) and second(j, dim) (kernels/rope.hpp)");
  static_assert(rope::Scaling<typename P::RopeScaling>,
                "dsv3: P::RopeScaling must have frequency(config, j), magnitude(config) and softmax_factor(config) (kernels/rope.hpp)");
  static_assert(router::Router<typename P::Router>,
                "dsv3: P::Router must have Choice route(const router::Config&, [const router::TokenInfo&,] std::span<const float> logits, "
                "std::span<const float> bias) const (modules/router.hpp)");
  static_assert(Residual<typename P::template Residual<P>, Config>,
                "dsv3: P::Residual<P> must have width(const Config&), a Connection with read(ctx, scope, stream) and write(ctx, read, out, "
                "stream), and Ends with begin(ctx, stream) and end(ctx, scope, stream) (modules/residual.hpp)");
  static_assert(Norm<typename P::template Norm<P>>,
                "dsv3: P::Norm<P> must be constructible from (channels, eps) and have forward(ctx, x, y) const and for_each_tensor "
                "(modules/norm.hpp)");
  static_assert(
      attention::Variant<typename P::template AttentionVariant<P>>,
      "dsv3: P::AttentionVariant<P> may have Index first_key(Index limit) const, transform(score) const and float sink(Index head) "
      "const, with just these types (kernels/attention_variant.hpp)");
  static_assert(Attention<typename P::template Attention<P>, Config>,
                "dsv3: P::Attention<P> must have a Cache, a constructor from (const Config&[, layer]), forward(ctx, x, rows, y) const and "
                "for_each_tensor (modules/attention_concept.hpp)");
  static_assert(kernels::GatedActivation<typename P::Activation>,
                "dsv3: P::Activation must have a template operator()(gate, up) const on vectors of floats (kernels/swiglu.hpp)");
  static_assert(
      ExpertFfn<typename P::template DenseFfn<P>, Config>,
      "dsv3: P::DenseFfn<P> must be constructible from ([const Config&,] hidden, inner) and have forward_group(ctx, jobs, rows) and "
      "for_each_tensor (modules/gated_ffn.hpp)");
  static_assert(
      ExpertFfn<typename P::template ExpertFfn<P>, Config>,
      "dsv3: P::ExpertFfn<P> must be constructible from ([const Config&,] hidden, inner) and have forward_group(ctx, jobs, rows) and "
      "for_each_tensor (modules/gated_ffn.hpp)");
  static_assert(FeedForward<typename P::template FeedForward<P>, Config>,
                "dsv3: P::FeedForward<P> must have a constructor from (const Config&[, layer]), forward(ctx, x, rows, y) const and "
                "for_each_tensor (modules/moe.hpp)");
  static_assert(BlockModule<typename P::template Block<P>, Config>,
                "dsv3: P::Block<P> must have a Cache, a constructor from (const Config&, layer), static width(const Config&) -> Index, "
                "forward(ctx, stream, rows) const and for_each_tensor (modules/block.hpp)");
  static_assert(MtpModule<typename P::template Mtp<P>, Config>,
                "dsv3: P::Mtp<P> must have a Block, a constructor from (const Config&, layer), forward(ctx, e, h, rows, out) const, "
                "finish(ctx, h, x) const and for_each_tensor (modules/mtp.hpp)");
  static constexpr bool value = true;
};
}  // namespace detail

/// A complete policy bundle. If a part does not fit, compilation stops with a message that names the part and what it must have.
template <class P>
concept ModelPolicy = detail::PolicyCheck<P>::value;

namespace detail {

inline const char* score_name(router::Score s) { return s == router::Score::sigmoid ? "sigmoid" : "softmax"; }

/// The configuration, if it is valid and asks for nothing that P does not have. Throws: Error naming the field.
template <class P, class Config>
const Config& checked_config(const Config& c) {
  validate(c, "Model");
  if constexpr (requires { P::Router::kind; })
    require(P::Router::kind == c.scoring_func, "Model: scoring_func: this policy's router computes ", score_name(P::Router::kind),
            " scores, the configuration (", c.model_type, ") asks for ", score_name(c.scoring_func),
            "; DeepSeek-V2 models are Model<DeepSeekV2>, later ones Model<DeepSeekV3>");
  constexpr bool neighbours = std::is_same_v<typename P::RopePairing, rope::Neighbours>,
                 halves = std::is_same_v<typename P::RopePairing, rope::Halves>;
  require(c.rope_interleave ? !halves : !neighbours, "Model: rope_interleave: the configuration pairs ",
          c.rope_interleave ? "neighbouring channels" : "halves of the channels", ", this policy does not");
  if constexpr (P::mtp_output == MtpOutput::after_head_norm)
    require(P::template Residual<P>::width(c) == c.hidden_size, "Model: P::mtp_output is after_head_norm, whose output has ", c.hidden_size,
            " columns, but P::Residual has a stream of ", P::template Residual<P>::width(c));
  return c;
}

}  // namespace detail

}  // namespace dsv3::inline DSV3_ISA
