// Floor 5. A pass of tokens through a model: what is checked before it, and the rows that it hands to every layer.
#pragma once

#include <span>
#include <string>

#include "dsv3/core/error.hpp"
#include "dsv3/core/workspace.hpp"
#include "dsv3/modules/rows.hpp"

namespace dsv3::inline DSV3_ISA::detail {

/// Throws unless every id is one of `vocab_size`, and h has `width` columns and a row for each id. ids_of(item) -> the tokens that an item
/// of the batch adds.
template <class Batch, class Ids>
void check_ids(const Batch& batch, ConstMatrixView<float> h, Index vocab_size, Index width, Ids&& ids_of) {
  Index tokens = 0;
  for (std::size_t i = 0; i < batch.size(); ++i) {
    for (const int id : ids_of(batch[i]))
      require(id >= 0 && id < vocab_size, "Model: sequence ", i, " has token id ", id, ", expected ids in [0, ", vocab_size, ")");
    tokens += static_cast<Index>(ids_of(batch[i]).size());
  }
  if (h.rows() != tokens || h.cols() != width)
    fail("Model: expected hidden states of shape ", shape_string({tokens, width}), ", got ", shape_string({h.rows(), h.cols()}));
}

/// Throws unless every sequence has a cache of its own that belongs to a model of this configuration and has room for the sequence's ids.
/// held(sequence) -> how many tokens it already has.
template <class Sequence, class Config, class Held>
void check_caches(std::span<const Sequence> batch, const Config& config, Index mtp_modules, Held&& held) {
  for (std::size_t i = 0; i < batch.size(); ++i) {
    const auto& [ids, cache] = batch[i];
    const auto n = static_cast<Index>(ids.size());
    require(cache != nullptr, "Model: sequence ", i, " of the batch has no cache");
    require(cache->config() == config && cache->mtp_modules() == mtp_modules, "Model: the cache of sequence ", i,
            " belongs to another model");
    for (std::size_t j = 0; j < i; ++j)
      require(batch[j].cache != cache, "Model: sequences ", j, " and ", i, " of the batch share one cache");
    require(held(batch[i]) + n <= cache->max_tokens(), "Model: the cache of sequence ", i, " has room for ", cache->max_tokens(),
            " tokens, holds ", held(batch[i]), " and was to take ", n, " more");
  }
}

/// Throws if a state of h, the output of `layer` ("model.layers.3."), is not finite.
inline void check_finite(ConstMatrixView<float> h, const std::string& layer) {
  for (Index t = 0; t < h.rows(); ++t)
    if (!h.row(t).allFinite()) fail("Model: the output of ", layer, " is not finite in row ", t, " of the batch: NaN or infinite weights?");
}

/// The rows of a pass. The segments' cache pointers change from layer to layer.
template <class Layer, class T>
struct PassRows {
  Rows<Layer, T> rows;
  std::span<Segment<Layer>> segments;
};

/// Ids, positions and segments of a batch, allocated in `scope`. ids_of and held as above.
template <class Layer, class T, class Batch, class Ids, class Held>
PassRows<Layer, T> make_pass_rows(Workspace::Scope& scope, const Batch& batch, Index tokens, T& tape, Ids&& ids_of, Held&& held) {
  PassRows<Layer, T> pass;
  const auto ids = scope.template array<int>(tokens);
  const auto positions = scope.template array<Index>(tokens);
  pass.segments = scope.template array<Segment<Layer>>(static_cast<Index>(batch.size()));
  std::size_t t = 0;
  for (std::size_t i = 0; i < batch.size(); ++i) {
    const Index position = held(batch[i]);
    pass.segments[i] = {static_cast<Index>(t), static_cast<Index>(ids_of(batch[i]).size()), position, nullptr};
    for (Index n = 0; const int id : ids_of(batch[i])) {
      ids[t] = id;
      positions[t++] = position + n++;
    }
  }
  pass.rows = {{tokens, 0}, ids, positions, pass.segments, &tape};
  return pass;
}

}  // namespace dsv3::inline DSV3_ISA::detail
