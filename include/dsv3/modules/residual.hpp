// Floor 4. The residual stream: what parts read from it, and how their outputs enter it.
//
// A stream has W columns: D where outputs are simply added, n D where n streams run side by side (hyper-connections). Code outside of the
// policy knows only width(config).
#pragma once

#include "dsv3/kernels/add.hpp"
#include "dsv3/modules/parameters.hpp"
#include "dsv3/modules/rows.hpp"

namespace dsv3::inline DSV3_ISA {

/// The part of a layer that a residual connection goes around.
enum class Sublayer { attention, feed_forward };

/// One connection of a layer, made from (config, layer, sublayer). read(ctx, scope, stream) gives an object whose `x` [T, D] the part's
/// norm reads; it may hold more, in `scope`, for write(ctx, read, out, stream), which puts the part's output [T, D] into the stream [T, W].
template <class R, class Config = dsv3::Config>
concept ResidualConnection = std::constructible_from<R, const Config&, Index, Sublayer> && HasTensors<R> &&
    requires(const R& r, Context& ctx, Workspace::Scope& scope, ConstMatrixView<float> x, MatrixView<float> stream) {
  { r.read(ctx, scope, x).x } -> std::convertible_to<ConstMatrixView<float>>;
  r.write(ctx, r.read(ctx, scope, x), x, stream);
};

/// Both ends of the stream, made from (config): begin(ctx, stream) makes a stream [T, W] whose rows hold their token's embedding in the
/// first D columns; end(ctx, scope, stream) gives the state [T, D] that the final norm reads. The model has one such object, and every MTP
/// module its own.
template <class R, class Config = dsv3::Config>
concept ResidualEnds = std::constructible_from<R, const Config&> && HasTensors<R> &&
    requires(const R& r, Context& ctx, Workspace::Scope& scope, ConstMatrixView<float> x, MatrixView<float> stream) {
  r.begin(ctx, stream);
  { r.end(ctx, scope, x) } -> std::convertible_to<ConstMatrixView<float>>;
};

/// width(config), and the types Connection and Ends.
template <class R, class Config = dsv3::Config>
concept Residual = ResidualConnection<typename R::Connection, Config> && ResidualEnds<typename R::Ends, Config> &&
    requires(const Config& c) {
  { R::width(c) } -> std::same_as<Index>;
};

/// The stream is the state itself: parts read it, and their outputs are added (spec A1).
template <class P>
struct PlainResidual {
  using Config = typename P::Config;

  static Index width(const Config& c) { return c.hidden_size; }

  struct Connection {
    Connection(const Config&, Index /*layer*/, Sublayer) {}

    struct Read {
      ConstMatrixView<float> x;
    };
    Read read(Context&, Workspace::Scope&, ConstMatrixView<float> stream) const { return {stream}; }
    void write(Context& ctx, const Read&, ConstMatrixView<float> out, MatrixView<float> stream) const {
      kernels::add<typename P::Arch>(ctx, out, stream);
    }
    template <class Self, class Visit>
    static void for_each_tensor(Self&, const std::string&, Visit&&) {}
  };

  struct Ends {
    explicit Ends(const Config&) {}

    void begin(Context&, MatrixView<float>) const {}
    ConstMatrixView<float> end(Context&, Workspace::Scope&, ConstMatrixView<float> stream) const { return stream; }
    template <class Self, class Visit>
    static void for_each_tensor(Self&, const std::string&, Visit&&) {}
  };
};

}  // namespace dsv3::inline DSV3_ISA
