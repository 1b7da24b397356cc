// Floor 0. Tapes: observers of a forward pass. The default observes nothing and costs nothing.
//
// A tape is an object with a function record(point, layer, value) for each point that it wants. A module passes a value only if the tape
// has a function for that point. Tests compare values, tools write them out, training keeps what its backward pass needs.
#pragma once

#include <concepts>
#include <string_view>

#include "dsv3/core/matrix.hpp"

namespace dsv3::inline DSV3_ISA {

/// The points of a forward pass that can be recorded, one type each. T counts rows; other letters are those of docs/notation.md. Values are
/// floats, or integers if the comment says "ids".
namespace point {

// The block.
struct Hidden {  ///< the residual stream [T, W] that enters a layer; for layer = num_hidden_layers the last block's output
  static constexpr std::string_view name = "hidden";
};
struct Middle {  ///< the residual stream [T, W] between attention and feed-forward
  static constexpr std::string_view name = "middle";
};
struct AttentionInput {  ///< what attention reads [T, D], normalised
  static constexpr std::string_view name = "attn_input";
};
struct AttentionOutput {  ///< what attention adds to the stream [T, D]
  static constexpr std::string_view name = "attn";
};
struct FfnInput {  ///< what the feed-forward part reads [T, D], normalised
  static constexpr std::string_view name = "mlp_input";
};
struct FfnOutput {  ///< what the feed-forward part adds to the stream [T, D]
  static constexpr std::string_view name = "mlp";
};

// Latent attention.
struct QueryLatent {  ///< c_q before its norm [T, Q]; only if q_lora_rank is set
  static constexpr std::string_view name = "c_q";
};
struct Latent {  ///< c_kv before its norm, then k_pe before its rotation [T, C + R]
  static constexpr std::string_view name = "c_kv";
};
struct Query {  ///< queries of all heads after rotation [T, H (N + R)]
  static constexpr std::string_view name = "q";
};
struct CachedLatent {  ///< c_kv after its norm, then k_pe after its rotation [T, C + R]
  static constexpr std::string_view name = "cached";
};
struct LogSumExp {  ///< log-sum-exp of the scores of each row and head [T, H]; recording it makes attention take its expanded form
  static constexpr std::string_view name = "lse";
};
struct HeadsOutput {  ///< what o_proj reads [T, H V]
  static constexpr std::string_view name = "heads";
};

// Grouped-query attention with G key-value heads; it also records Query, LogSumExp and HeadsOutput.
struct Keys {  ///< keys of all heads after rotation [T, G (N + R)]
  static constexpr std::string_view name = "k";
};
struct Values {  ///< [T, G V]
  static constexpr std::string_view name = "v";
};

// The mixture of experts.
struct RouterLogits {  ///< x W_gate^T [T, E]
  static constexpr std::string_view name = "router_logits";
};
struct Experts {  ///< chosen experts in the order of choice, ids [T, K]
  static constexpr std::string_view name = "experts";
};
struct Gates {  ///< weights of the chosen experts [T, K]
  static constexpr std::string_view name = "weights";
};
struct ExpertPlaces {  ///< row of each choice in ExpertInputs and ExpertOutputs, ids [T, K]
  static constexpr std::string_view name = "places";
};
struct ExpertInputs {  ///< rows sorted by expert [T K, D]
  static constexpr std::string_view name = "expert_inputs";
};
struct ExpertOutputs {  ///< the experts' results, before multiplication by gates [T K, D]
  static constexpr std::string_view name = "expert_outputs";
};

// A gated network. `expert` is the number of a routed expert, -1 for dense and shared networks.
struct FfnGate {  ///< x W_gate^T [rows of this network, inner width]
  Index expert;
  static constexpr std::string_view name = "gate";
};
struct FfnUp {  ///< x W_up^T, same shape; recorded right after FfnGate, on which tapes may rely
  Index expert;
  static constexpr std::string_view name = "up";
};

// Multi-token prediction.
struct MtpProjectionInput {  ///< [enorm(e); hnorm(h)], what eh_proj reads [T, 2 D]
  static constexpr std::string_view name = "mtp_input";
};

}  // namespace point

/// Whether a tape of type T wants values of type V at this point.
template <class T, class Point, class V = ConstMatrixView<float>>
inline constexpr bool records = requires(T& tape, Point p, Index layer, const V& value) {
  tape.record(p, layer, value);
};

/// Records nothing.
struct NoTape {};

namespace detail {
template <class T, class... Points>
inline constexpr bool records_any = ((records<T, Points> || records<T, Points, ConstMatrixView<int>>) || ...);
}

/// NoTape, or a type with record(point, layer, ConstMatrixView<float> or ConstMatrixView<int>) for at least one point. A value is valid
/// during the call only.
template <class T>
concept Tape = std::same_as<T, NoTape> ||
    detail::records_any<T, point::Hidden, point::Middle, point::AttentionInput, point::AttentionOutput, point::FfnInput, point::FfnOutput,
                        point::QueryLatent, point::Latent, point::Query, point::CachedLatent, point::LogSumExp, point::HeadsOutput,
                        point::Keys, point::Values, point::RouterLogits, point::Experts, point::Gates, point::ExpertPlaces,
                        point::ExpertInputs, point::ExpertOutputs, point::FfnGate, point::FfnUp, point::MtpProjectionInput>;

}  // namespace dsv3::inline DSV3_ISA
