// Floor 3. Rows of x in the order in which the kernels of float32 products read them.
#pragma once

#include "dsv3/core/context.hpp"
#include "dsv3/kernels/linear_lanes.hpp"
#include "dsv3/quant/any_storage.hpp"

namespace dsv3::inline DSV3_ISA::kernels::detail {

inline constexpr Index min_lanes_rows = 48;  // from so many rows on linear_lanes() is faster than tiles

/// Rows of x in the order that the kernels want for their w: many of them packed by pack_x_lanes(), fewer as they are or as arrange_row()
/// arranges them.
struct Input {
  ConstMatrixView<float> x;
  const float* packed = nullptr;
};

/// Gives the Input of each product: x itself, or copies in `scope`. Consecutive products with the same x share the copy.
template <class Arch>
class Arrange {
 public:
  Arrange(Context& ctx, Workspace::Scope& scope) : ctx_(ctx), scope_(scope) {}

  template <WeightView W>
  Input operator()(ConstMatrixView<float> x, const W& w) {
    return visit_weight(w, [&]<class V>(const V&) {
      constexpr bool reorders = codec::reorders<group_of<V, Arch>>;
      if (!reorders && x.rows() < min_lanes_rows) return Input{x};
      const Source source{x.data(), x.rows(), x.cols(), x.outerStride(), reorders ? V::Storage::k_block : 0};
      if (source != last_) {
        last_ = source, arranged_ = x.data(), stride_ = x.outerStride(), packed_ = nullptr;
        if constexpr (reorders) {
          auto y = scope_.matrix<float>(x.rows(), x.cols());
          ctx_.parallel_for(x.rows(), x.size(), [&](Index t, int) { arrange_row<Arch, V>(x.row_data(t), x.cols(), y.row_data(t)); });
          arranged_ = y.data(), stride_ = y.outerStride();
        }
        if (x.rows() >= min_lanes_rows) packed_ = pack({arranged_, x.rows(), x.cols(), stride_});
      }
      return Input{{arranged_, x.rows(), x.cols(), stride_}, packed_};
    });
  }

 private:
  struct Source {
    const float* x = nullptr;
    Index rows = 0, cols = 0, stride = 0, block = 0;
    bool operator==(const Source&) const = default;
  };

  const float* pack(ConstMatrixView<float> x) {
    constexpr Index tile = Lanes<Arch>::tile_rows;
    auto to = scope_.matrix<float>((x.rows() + tile - 1) / tile, Lanes<Arch>{x.cols()}.packed_x(tile));
    ctx_.parallel_for(to.rows(), x.size(), [&](Index i, int) { pack_x_lanes<Arch>(x, i * tile, to.row_data(i)); });
    return to.data();
  }

  Context& ctx_;
  Workspace::Scope& scope_;
  Source last_;
  const float *arranged_ = nullptr, *packed_ = nullptr;
  Index stride_ = 0;
};

}  // namespace dsv3::inline DSV3_ISA::kernels::detail
