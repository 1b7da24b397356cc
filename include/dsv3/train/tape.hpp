// Floor 6. What a forward pass keeps for its backward pass.
//
// The forward pass fills one record per layer. Backward recomputes, from the rest of the record, what the tape was told not to keep.
#pragma once

#include <deque>

#include "dsv3/modules/rows.hpp"
#include "dsv3/train/packed_rows.hpp"

namespace dsv3::inline DSV3_ISA::train {

/// Values of one layer, named as the points of core/tape.hpp; empty if they were not kept.
struct LayerRecord {
  Matrix<float> hidden, middle, attention_input, ffn_input;
  Matrix<float> query_latent, latent, query, cached, log_sum_exp, heads;
  Matrix<float> keys, values;  ///< of grouped-query attention
  Matrix<float> router_logits, gates;
  Matrix<int> experts;
  Matrix<float> gate, up;                ///< of the dense or the shared network
  Matrix<float> expert_gate, expert_up;  ///< of all routed experts, rows sorted by expert
  Matrix<float> mtp_input;

  Index floats() const {
    Index n = 0;
    for (const auto* m : {&hidden, &middle, &attention_input, &ffn_input, &query_latent, &latent, &query, &cached, &log_sum_exp, &heads,
                          &keys, &values, &router_logits, &gates, &gate, &up, &expert_gate, &expert_up, &mtp_input})
      n += m->size();
    return n + experts.size();
  }
};

/// What a tape keeps besides the residual stream before each block.
struct Keep {
  bool blocks = true;   ///< intermediate results of blocks; without them blocks run again
  bool norms = true;    ///< of these, outputs of norms
  bool queries = true;  ///< of these, queries, the outputs of an up-projection
  bool fp8 = false;     ///< keeps inputs of SwiGLU as e4m3, attention's output as E5M6 (section 3.3.3): not the bits of forward

  bool operator==(const Keep&) const = default;
};
namespace keep {
/// Everything that backward would have to recompute by a norm or a product.
inline constexpr Keep everything{};
/// The report's choice (section 3.2.3): RMSNorm, the up-projections of MLA and SwiGLU are recomputed.
inline constexpr Keep report{true, false, false};
/// The same, with SwiGLU's inputs in 8 bits and attention's output in 12 bits, as in the report.
inline constexpr Keep report_fp8{true, false, false, true};
/// Only the residual stream before each block; blocks run again.
inline constexpr Keep blocks{false, false, false};
}  // namespace keep

/// The values of a layer that are kept in 8 or 12 bits.
struct PackedRecord {
  PackedRows<quant::Tiles<codec::E5m6, quant::Shape::along, ScaleFormat::power_of_two>> heads;
  PackedRows<quant::Tiles<codec::E4m3, quant::Shape::along>> gate, up, expert_gate, expert_up;

  Index bytes() const { return heads.bytes() + gate.bytes() + up.bytes() + expert_gate.bytes() + expert_up.bytes(); }
};

/// Keeps what Keep says, in one record per layer. Records reuse their memory from pass to pass.
class Tape {
 public:
  /// With `one_layer`, all layers share one record, which holds the last layer that ran.
  explicit Tape(const Keep& keep = {}, bool one_layer = false) : keep_(keep), one_layer_(one_layer) {}

  const Keep& kept() const { return keep_; }
  LayerRecord& layer(Index i) { return at(i).record; }

  /// The record of a layer, with packed values decoded to floats. Valid until another layer is opened.
  LayerRecord& open(Index i) {
    Layer& layer = at(i);
    if (packs() && opened_ != &layer) {
      close();
      lend(layer.record);
      opened_ = &layer;
      layer.packed.heads.load(layer.record.heads);
      layer.packed.gate.load(layer.record.gate), layer.packed.up.load(layer.record.up);
      layer.packed.expert_gate.load(layer.record.expert_gate), layer.packed.expert_up.load(layer.record.expert_up);
    }
    return layer.record;
  }

  Index bytes() const {
    Index n = 0;
    for (const Layer& layer : layers_) n += 4 * layer.record.floats() + layer.packed.bytes();
    return n;
  }

  using Values = ConstMatrixView<float>;
  using Ids = ConstMatrixView<int>;
  void record(point::Hidden, Index i, Values v) { layer(i).hidden = v; }
  void record(point::MtpProjectionInput, Index i, Values v) { layer(i).mtp_input = v; }
  void record(point::Experts, Index i, Ids v) {
    layer(i).experts = v;
    rows_ = 0;
  }
  void record(point::Middle, Index i, Values v) { set(keep_.blocks, layer(i).middle, v); }
  void record(point::AttentionInput, Index i, Values v) { set(keep_.blocks && keep_.norms, layer(i).attention_input, v); }
  void record(point::FfnInput, Index i, Values v) { set(keep_.blocks && keep_.norms, layer(i).ffn_input, v); }
  void record(point::QueryLatent, Index i, Values v) { set(keep_.blocks, layer(i).query_latent, v); }
  void record(point::Latent, Index i, Values v) { set(keep_.blocks, layer(i).latent, v); }
  void record(point::Query, Index i, Values v) { set(keep_.blocks && keep_.queries, layer(i).query, v); }
  void record(point::CachedLatent, Index i, Values v) { set(keep_.blocks && keep_.norms, layer(i).cached, v); }
  void record(point::LogSumExp, Index i, Values v) { set(keep_.blocks, layer(i).log_sum_exp, v); }
  void record(point::HeadsOutput, Index i, Values v) {
    if (!packs()) return set(keep_.blocks, layer(i).heads, v);
    close();
    at(i).packed.heads.resize(v.rows(), v.cols());
    at(i).packed.heads.store(0, v);
  }
  void record(point::Keys, Index i, Values v) { set(keep_.blocks, layer(i).keys, v); }
  void record(point::Values, Index i, Values v) { set(keep_.blocks, layer(i).values, v); }
  void record(point::RouterLogits, Index i, Values v) { set(keep_.blocks, layer(i).router_logits, v); }
  void record(point::Gates, Index i, Values v) { set(keep_.blocks, layer(i).gates, v); }
  void record(const point::FfnGate& p, Index i, Values v) {
    store(p.expert, &LayerRecord::gate, &LayerRecord::expert_gate, &PackedRecord::gate, &PackedRecord::expert_gate, at(i), v, false);
  }
  void record(const point::FfnUp& p, Index i, Values v) {
    store(p.expert, &LayerRecord::up, &LayerRecord::expert_up, &PackedRecord::up, &PackedRecord::expert_up, at(i), v, true);
  }

 private:
  struct Layer {
    LayerRecord record;
    PackedRecord packed;
  };

  Layer& at(Index i) {
    if (one_layer_) i = 0;
    while (std::ssize(layers_) <= i) layers_.emplace_back();
    return layers_[static_cast<std::size_t>(i)];
  }
  bool packs() const { return keep_.fp8 && keep_.blocks; }
  static void set(bool wanted, Matrix<float>& to, Values v) {
    if (wanted) to = v;
  }
  // Experts are recorded in the order of their rows.
  template <class Packed>
  void store(Index expert, Matrix<float> LayerRecord::*alone, Matrix<float> LayerRecord::*sorted, Packed packed_alone, Packed packed_sorted,
             Layer& layer, Values v, bool last) {
    if (!keep_.blocks) return;
    const Index all = expert < 0 ? v.rows() : layer.record.experts.size(), begin = expert < 0 ? 0 : rows_;
    if (packs()) {
      auto& to = layer.packed.*(expert < 0 ? packed_alone : packed_sorted);
      if (begin == 0) to.resize(all, v.cols());
      to.store(begin, v);
    } else {
      Matrix<float>& to = layer.record.*(expert < 0 ? alone : sorted);
      to.resize(all, v.cols());
      to.middleRows(begin, v.rows()) = v;
    }
    if (last && expert >= 0) rows_ += v.rows();
  }
  // All layers share the memory for decoded floats: the open layer has it.
  void lend(LayerRecord& record) {
    for (auto m : {&LayerRecord::heads, &LayerRecord::gate, &LayerRecord::up, &LayerRecord::expert_gate, &LayerRecord::expert_up})
      (record.*m).swap(spare_.*m);
  }
  void close() {
    if (opened_ != nullptr) lend(opened_->record);
    opened_ = nullptr;
  }

  std::deque<Layer> layers_;
  LayerRecord spare_;
  Layer* opened_ = nullptr;
  Index rows_ = 0;
  Keep keep_;
  bool one_layer_;
};

}  // namespace dsv3::inline DSV3_ISA::train
