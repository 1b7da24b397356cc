// Manifold-constrained hyper-connections (arXiv 2512.24880), the residual streams of DeepSeek-V4.
#include "support/random_weights.hpp"
#include "variants/tiny.hpp"

using namespace dsv3;

namespace {

// [hyper_connections]
struct StreamsConfig : Config {
  Index hc_mult = 4, hc_sinkhorn_iters = 5;  // n streams; rounds of normalising columns and rows
  float hc_eps = 1e-6f;
  bool operator==(const StreamsConfig&) const = default;
};

/// n streams side by side, [T, n D]. Every end and connection computes m = scale * fn x / rms(x) + base from the whole stream x.
template <class P>
struct HyperConnections {
  using Arch = typename P::Arch;
  static Index width(const StreamsConfig& c) { return c.hc_mult * c.hidden_size; }
  static float sigmoid(float x) { return 1 / (1 + std::exp(-x)); }

  struct Mixture {
    MatrixView<float> x, m;  // x = sum over j of (sigmoid(m_j) + eps) stream_j: what is read
  };
  struct Mixer {
    Mixer(const StreamsConfig& config, Index outputs, Index scales, std::string prefix)
        : c(config), name(std::move(prefix)), fn{outputs, width(c)}, base{outputs}, scale{scales} {}

    Mixture read(Context& ctx, Workspace::Scope& scope, ConstMatrixView<float> stream) const {
      const Index n = c.hc_mult, d = c.hidden_size;
      const Mixture r{scope.template matrix<float>(stream.rows(), d), scope.template matrix<float>(stream.rows(), fn.rows)};
      kernels::linear<Arch>(ctx, stream, fn.view, r.m);
      for (Index t = 0; t < stream.rows(); ++t) {
        float *m = r.m.row_data(t), *x = r.x.row_data(t);
        const float squares = simd::map_sum<Arch>([](auto v, auto sum) { return sum + v * v; }, stream.cols(), stream.row_data(t));
        const float by = 1 / std::sqrt(squares / static_cast<float>(stream.cols()) + static_cast<float>(c.rms_norm_eps));
        for (Index i = 0; i < fn.rows; ++i) m[i] = m[i] * by * scale.values[std::min(i / n, scale.length - 1)] + base.values[i];
        std::fill_n(x, d, 0.0f);
        for (Index i = 0; i < n * d; ++i) x[i % d] += (sigmoid(m[i / d]) + c.hc_eps) * stream(t, i);
      }
      return r;
    }
    static void for_each_tensor(auto& self, const std::string& prefix, auto&& visit) {
      visit(prefix + self.name + "fn", self.fn), visit(prefix + self.name + "base", self.base),
          visit(prefix + self.name + "scale", self.scale);
    }
    StreamsConfig c;
    std::string name;
    WeightMatrix<typename P::Storage> fn;
    WeightVector base, scale;
  };

  struct Connection : Mixer {
    Connection(const StreamsConfig& config, Index, Sublayer s)
        : Mixer(config, config.hc_mult * (2 + config.hc_mult), 3, s == Sublayer::attention ? "hc_attn_" : "hc_ffn_") {}

    /// Stream k becomes post_k out + sum over j of comb_jk stream_j, where m is [pre, post, comb].
    void write(Context&, const Mixture& r, ConstMatrixView<float> out, MatrixView<float> stream) const {
      const Index n = this->c.hc_mult;
      for (Index t = 0; t < out.rows(); ++t) {
        MatrixView<float> streams(stream.row_data(t), n, out.cols()), comb(r.m.row_data(t) + 2 * n, n, n);
        make_doubly_stochastic(comb);
        streams = comb.transpose().lazyProduct(streams).eval();
        for (Index k = 0; k < n; ++k) streams.row(k) += 2 * sigmoid(r.m(t, n + k)) * out.row(t);
      }
    }
    void make_doubly_stochastic(MatrixView<float> comb) const {  // softmax of rows, then columns, rows, columns ...
      const auto rows = [&](float eps) { comb.array().colwise() /= (comb.rowwise().sum().array() + eps).eval(); };
      comb = (comb.colwise() - comb.rowwise().maxCoeff().eval()).array().exp().matrix().eval();
      rows(0);
      comb.array() += this->c.hc_eps;
      for (Index i = 0; i < this->c.hc_sinkhorn_iters; ++i) {
        if (i > 0) rows(this->c.hc_eps);
        comb.array().rowwise() /= (comb.colwise().sum().array() + this->c.hc_eps).eval();
      }
    }
  };

  struct Ends : Mixer {
    explicit Ends(const StreamsConfig& config) : Mixer(config, config.hc_mult, 1, "hc_head_") {}
    void begin(Context&, MatrixView<float> stream) const {  // every stream is the embedding
      for (Index k = 1; k < this->c.hc_mult; ++k)
        stream.columns(k * this->c.hidden_size, this->c.hidden_size) = stream.leftCols(this->c.hidden_size);
    }
    ConstMatrixView<float> end(Context& ctx, Workspace::Scope& scope, ConstMatrixView<float> stream) const {
      return this->read(ctx, scope, stream).x;
    }
  };
};

struct StreamsModel : DeepSeekV3 {
  using Config = StreamsConfig;
  template <class P>
  using Residual = HyperConnections<P>;
};
// [/hyper_connections]

using P = test::InFloat32<StreamsModel>;
using Streams = P::Residual<P>;
using test::Real;

template <class Q>
struct NarrowBlock : dsv3::Block<Q> {
  using dsv3::Block<Q>::Block;
  static Index width(const StreamsConfig& c) { return c.hidden_size; }
};
struct Narrow : test::InFloat32<StreamsModel> {
  template <class Q>
  using Block = NarrowBlock<Q>;
};

/// m of one row, as Mixer has it.
std::vector<Real> mixed(const StreamsConfig& c, const test::RandomWeights& w, const std::string& prefix, const std::vector<Real>& x) {
  const auto logits = test::product({x}, w[prefix + "fn"])[0];
  const Real squares =
      test::sum(static_cast<Index>(x.size()), [&](Index i) { return x[static_cast<std::size_t>(i)] * x[static_cast<std::size_t>(i)]; });
  const Real by = Real(1) / test::sqrt(squares / Real(static_cast<double>(x.size())) + Real(c.rms_norm_eps, c.rms_norm_eps * test::unit));
  const auto &base = w[prefix + "base"], &scale = w[prefix + "scale"];
  std::vector<Real> m;
  for (Index i = 0; i < base.size(); ++i)
    m.push_back(logits[static_cast<std::size_t>(i)] * by * Real(static_cast<double>(scale(0, std::min(i / c.hc_mult, scale.cols() - 1)))) +
                Real(static_cast<double>(base(0, i))));
  return m;
}

Real sigmoid(Real x) { return Real(1) / (Real(1) + test::exp(Real(-x.value, x.error))); }

}  // namespace

TEST_CASE("hyper-connections against plain loops") {
  test::Random random;
  const StreamsConfig c = test::tiny_config<StreamsConfig>();
  Streams::Connection connection(c, 1, Sublayer::attention);
  const test::RandomWeights w(connection, random);
  const Index n = c.hc_mult, d = c.hidden_size, rows = 3;
  Matrix<float> stream = random.matrix(rows, n * d);
  const auto x = test::reals(stream);
  const Matrix<float> out = random.matrix(rows, d);
  Context ctx;
  auto scope = ctx.scratch();
  const auto read = connection.read(ctx, scope, view(stream));
  const Matrix<float> input = read.x;
  connection.write(ctx, read, view(out), view(stream));

  test::Reals expected_input, expected_stream;
  for (std::size_t t = 0; t < static_cast<std::size_t>(rows); ++t) {
    const auto m = mixed(c, w, "hc_attn_", x[t]);
    const Real eps = static_cast<double>(c.hc_eps);
    const auto at = [&](Index j, Index i) { return x[t][static_cast<std::size_t>(j * d + i)]; };
    auto& in = expected_input.emplace_back();
    for (Index i = 0; i < d; ++i)
      in.push_back(test::sum(n, [&](Index j) { return (sigmoid(m[static_cast<std::size_t>(j)]) + eps) * at(j, i); }));

    std::vector<std::vector<Real>> comb;  // rows of a softmax, then rows and columns in turn
    for (Index j = 0; j < n; ++j) {
      auto& row = comb.emplace_back();
      for (Index k = 0; k < n; ++k) row.push_back(test::exp(m[static_cast<std::size_t>(2 * n + j * n + k)]));
    }
    const auto by_rows = [&](Real more, Real after) {
      for (auto& row : comb) {
        const Real total = test::sum(n, [&](Index k) { return row[static_cast<std::size_t>(k)]; }) + more;
        for (Real& v : row) v = v / total + after;
      }
    };
    by_rows(Real(), eps);
    for (Index i = 0; i < c.hc_sinkhorn_iters; ++i) {
      if (i > 0) by_rows(eps, Real());
      for (std::size_t k = 0; k < static_cast<std::size_t>(n); ++k) {
        const Real total = test::sum(n, [&](Index j) { return comb[static_cast<std::size_t>(j)][k]; }) + eps;
        for (auto& row : comb) row[k] = row[k] / total;
      }
    }
    auto& after = expected_stream.emplace_back();
    for (std::size_t k = 0; k < static_cast<std::size_t>(n); ++k)
      for (Index i = 0; i < d; ++i)
        after.push_back(Real(2) * sigmoid(m[static_cast<std::size_t>(n) + k]) * Real(static_cast<double>(out(static_cast<Index>(t), i))) +
                        test::sum(n, [&](Index j) { return comb[static_cast<std::size_t>(j)][k] * at(j, i); }));
  }
  test::check_reals(input, expected_input);
  test::check_reals(stream, expected_stream);
}

TEST_CASE("a model with four streams works wherever a model does") {
  const auto model = test::tiny_model<P>();
  CHECK(model.width() == 128);
  const std::vector<int> ids = {5, 9, 5, 33, 60, 1, 2, 3, 4};
  const Matrix<float> whole = test::states(model, ids);
  CHECK(whole.allFinite());
  CHECK(!whole.leftCols(32).isApprox(whole.middleCols(32, 32)));  // streams differ
  for (const Index chunk : {1, 4}) CHECK(test::same_bits(test::states(model, ids, chunk), whole));
  test::check_generation(model, ids);
  Index streams = 0;
  Model<P>::for_each_tensor(model, [&](const std::string& name, const auto&) { streams += name.find("hc_") != name.npos; });
  CHECK(streams == 3 * (2 * 3 + 1));
  Context ctx;
  Matrix<float> narrow(9, 32);
  auto cache = model.make_cache({.max_tokens = 16});
  const Model<P>::Sequence s{ids, &cache};
  CHECK(test::error_of([&] {
          model.forward(ctx, {&s, 1}, view(narrow));
        }) == "Model: expected hidden states of shape [9, 128], got [9, 32]");
}

TEST_CASE("a block and a residual of different widths are refused") {
  CHECK(test::contains(test::error_of([] { Model<Narrow> model(test::tiny_config<StreamsConfig>()); }),
                       "P::Residual has a stream of 128 columns, P::Block works on 32"));
}
