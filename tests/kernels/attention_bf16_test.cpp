#include "dsv3/kernels/attention_bf16.hpp"

#include "support/attention.hpp"

using namespace test;

#ifdef DSV3_HAS_BF16_TILES

namespace {

using Arch = simd::DefaultArch;

using Problem = AttentionProblem;

/// Rows [begin, begin + rows) in tiles of 16; row m sees the first limit + m * step keys. Keys are cut into runs of `run`.
Matrix<float> attend(const Problem& p, Index begin, Index rows, Index limit, Index step, Index run = 1 << 20) {
  std::vector<kernels::QueryTile> tiles;
  for (Index m = 0; m < rows; m += 16) {
    const Index count = std::min(Index{16}, rows - m);
    tiles.push_back({view(p.q).slice(begin + m, count), view(p.q_pe).slice(begin + m, count), limit + m * step, step});
  }
  const Index width = p.v.cols(), end = limit + (rows - 1) * step, runs = (end + run - 1) / run;
  const Index partial = kernels::attention_partial_size(width), stride = partial * static_cast<Index>(tiles.size());
  Context ctx;
  auto scope = ctx.scratch();
  auto partials = scope.matrix<float>(runs, stride);
  auto scratch = scope.matrix<float>(1, kernels::attend_bf16_scratch(p.q.cols(), p.q_pe.cols(), width, static_cast<Index>(tiles.size())));
  std::fill_n(scratch.data(), scratch.size(), NAN);
  const kernels::KeysValues source{view(p.k), view(p.k_pe), view(p.v)};
  for (Index r = 0; r < runs; ++r)
    kernels::attend_bf16<Arch>(std::span<const kernels::QueryTile>(tiles), source, r * run, std::min(end, (r + 1) * run), attention_scale,
                               width, partials.row_data(r), scratch.data());
  Matrix<float> out = Matrix<float>::Constant(rows, width, NAN);
  for (Index m = 0; m < rows; m += 16)
    kernels::combine_attention<Arch>(partials.data() + m / 16 * partial, runs, stride, view(out).slice(m, std::min(Index{16}, rows - m)));
  return out;
}

double bf16(float x) { return static_cast<double>(codec::BFloat16::decode(codec::BFloat16::encode(x))); }

Real dot(const auto& a, const auto& b) {
  return sum(a.size(), [&](Index i) { return Real(bf16(a[i])) * Real(bf16(b[i])); });
}

/// softmax(scale (q k + q_pe k_pe)) v over the first `keys` keys, of operands rounded to bf16; all columns of row m.
std::vector<Real> plain_attention(const Problem& p, Index m, Index keys) {
  const double blocks = 2 * std::ceil(static_cast<double>(keys) / kernels::attention_block);  // one more for each run of keys
  const auto weight = attention_weights(p, m, keys, blocks, [](const auto& x, const auto& y) { return dot(x, y); });
  std::vector<Real> out;
  const auto at = [](const auto& of, Index i) { return of[static_cast<std::size_t>(i)]; };
  const Real total = sum(keys, [&](Index s) { return at(weight, s); });
  for (Index c = 0; c < p.v.cols(); ++c) {
    const auto term = [&](Index s) { return at(weight, s) * Real(bf16(p.v(s, c))); };
    Real weighted = sum(keys, term);
    for (Index s = 0; s < keys; ++s) weighted.error += term(s).magnitude() * 0x1p-8;  // its weight is rounded to bf16's 8 bits
    out.push_back(weighted / total);
  }
  return out;
}

}  // namespace

TEST_CASE("attention by tiles, for every limit, step and cut") {
  Random random;
  for (const auto& [n, r, v] : {std::array<Index, 3>{16, 8, 16}, {13, 0, 7}, {70, 6, 130}})
    for (const Index rows : {1, 3, 16, 17, 40})
      for (const Index limit : {1, 2, 31, 33, 63, 64, 65, 130})
        for (const Index step : {0, 1, 5}) {
          CAPTURE(rows);
          CAPTURE(limit);
          CAPTURE(step);
          Problem p(random, rows, limit + (rows - 1) * step, n, r, v);
          p.v.array() += 2;  // results beside which a rounding of weights is small
          std::vector<std::vector<Real>> expected;
          for (Index m = 0; m < rows; ++m) expected.push_back(plain_attention(p, m, limit + m * step));
          for (const Index run : {64, 128, 1024})
            check_matrix(attend(p, 0, rows, limit, step, run),
                         [&](Index m, Index c) { return expected[static_cast<std::size_t>(m)][static_cast<std::size_t>(c)]; });
        }
}

TEST_CASE("a row has the same bits in any tile and beside any others") {
  Random random;
  for (const Index step : {0, 1, 20}) {
    const Problem p(random, 40, 50 + 39 * step, 24, 8, 33);
    const auto together = attend(p, 0, 40, 50, step);
    for (const Index begin : {0, 1, 7, 16, 30})
      for (const Index rows : {1, 2, 10})
        CHECK(same_bits(attend(p, begin, rows, 50 + begin * step, step), together.middleRows(begin, rows)));
  }
}

TEST_CASE("keys beyond the limit have no effect, even if they are NaN") {
  Random random;
  for (const Index limit : {1, 31, 63, 64, 100})
    for (const Index rows : {4, 20}) {
      Problem p(random, rows, 200, 16, 8, 20);
      const auto expected = attend(p, 0, rows, limit, 2);
      for (Index s = limit + 2 * rows - 2; s < 200; ++s) p.spoil(s);
      CHECK(same_bits(attend(p, 0, rows, limit, 2), expected));
      // The last row's own keys, beyond the limit of the other rows.
      p.k.row(limit + 2 * rows - 3).setConstant(NAN);
      p.v.row(limit + 2 * rows - 3).setConstant(NAN);
      const auto found = attend(p, 0, rows, limit, 2);
      CHECK(same_bits(found.topRows(rows - 1), expected.topRows(rows - 1)));
      CHECK(found.row(rows - 1).array().isNaN().all());
    }
}

TEST_CASE("extreme scores") {
  Random random;
  Problem p(random, 2, 150, 8, 0, 5);
  p.q.setConstant(100);
  p.k.setConstant(-50);  // scores of -1e4
  p.k.row(70).setConstant(50);
  p.v = p.v.unaryExpr([](float x) { return static_cast<float>(bf16(x)); });
  for (const Index run : {64, 1024}) {
    const auto found = attend(p, 0, 2, 150, 0, run);
    for (Index m = 0; m < 2; ++m) CHECK(same_bits(found.row(m), p.v.row(70)));
  }
}

#endif
