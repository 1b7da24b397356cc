// Floor 4. The latent cache of multi-head latent attention: one layer of one sequence.
#pragma once

#include "dsv3/core/matrix.hpp"

namespace dsv3::inline DSV3_ISA {

/// One row a token: c_kv after its norm, C floats, then the rotated k_pe, R floats (spec A11). Memory is reserved for max_tokens rows and
/// touched as they are written.
class LatentCache {
 public:
  LatentCache(const Config& c, Index max_tokens) : rank_(c.kv_lora_rank), rows_(max_tokens, c.kv_lora_rank + c.qk_rope_head_dim) {}

  /// Token t's row, to be written.
  float* row(Index t) { return rows_.row(t).data(); }
  /// c_kv of the first n tokens, [n, C].
  ConstMatrixView<float> c_kv(Index n) const { return {rows_.data(), n, rank_, rows_.cols()}; }
  /// k_pe of the first n tokens, [n, R].
  ConstMatrixView<float> k_pe(Index n) const { return {rows_.data() + rank_, n, rows_.cols() - rank_, rows_.cols()}; }
  Index max_tokens() const { return rows_.rows(); }

 private:
  Index rank_;
  Matrix<float> rows_;
};

}  // namespace dsv3::inline DSV3_ISA
