// Floor 3. Attention over some keys of a source, as sparse attention chooses them for a query.
#pragma once

#include <memory>
#include <span>

#include "dsv3/kernels/attention.hpp"

namespace dsv3::inline DSV3_ISA::kernels {

/// A source whose key i is key indices[i] of `source`, for all rows of the tiles that read it; indices may be in any order. A block gathers
/// keys and values in scratch, one after the other.
template <BlockSource Source>
struct ChosenKeys {
  Source source;
  std::span<const Index> indices;
  Index key_floats;  ///< N + R + V: floats of a key with its value

  KeysValues block(Index first, Index keys, float* scratch) const {
    KeysValues chosen;
    for (Index i = 0; i < keys; ++i) {
      const Index key = indices[static_cast<std::size_t>(first + i)], begin = key / attention_block * attention_block;
      const KeysValues from = source.block(begin, key - begin + 1, scratch + attention_block * key_floats);
      const Index n = from.k.cols(), r = from.k_pe.cols(), v = from.v.cols();
      require(n + r + v == key_floats, "ChosenKeys: expected keys and values of ", key_floats, " floats, got ", n, " + ", r, " + ", v);
      if (i == 0)
        std::construct_at(
            &chosen,
            KeysValues{{scratch, keys, n, key_floats}, {scratch + n, keys, r, key_floats}, {scratch + n + r, keys, v, key_floats}});
      float* to = scratch + i * key_floats;
      to = std::copy_n(from.k.row_data(key - begin), n, to);
      if (r > 0) to = std::copy_n(from.k_pe.row_data(key - begin), r, to);
      std::copy_n(from.v.row_data(key - begin), v, to);
    }
    return chosen;
  }
  Index block_scratch() const { return attention_block * key_floats + source.block_scratch(); }
};

}  // namespace dsv3::inline DSV3_ISA::kernels
