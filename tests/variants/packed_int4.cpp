// Weights as signed 4-bit codes in groups of 32 columns with a scale each, as compressed-tensors' "pack-quantized" stores them
// (Kimi-K2-Thinking).
#include "dsv3/io/load.hpp"
#include "dsv3/io/save.hpp"
#include "dsv3/kernels/gated_ffn_bf16.hpp"
#include "io/temp_folder.hpp"
#include "support/threads.hpp"
#include "variants/tiny.hpp"

using namespace dsv3;

namespace {

// [packed_int4]
/// Two codes a byte, the even column in the low half, 8 meaning 0; a bf16 scale for each 32 columns.
struct PackedInt4 {
  static constexpr bool scaled = true;
  static constexpr Index k_block = 32;  // products of 32 columns are summed before they are scaled

  struct Row {
    const std::uint8_t* codes;

    static constexpr Index bits = 4;
    static constexpr bool exact_in_bf16 = true;  // -8 to 7: the row's values are not scaled
    float at(Index k) const { return static_cast<float>((codes[k / 2] >> (k % 2 * 4) & 15) - 8); }
    template <class Arch>
    simd::Floats<Arch> load(Index k) const {
      return simd::to_float<Arch>(simd::widen_halves<Arch>(codes + k / 2) - simd::Ints<Arch>(8));
    }
    void prefetch(Index k, Index ahead) const { simd::prefetch(codes + k / 2, ahead / 2); }
  };

  struct View {
    using Storage = PackedInt4;
    const std::uint8_t* data = nullptr;
    Index rows = 0, cols = 0;
    const codec::BFloat16::Code* scales = nullptr;  // [rows, cols / 32]

    Row row(Index i) const { return {data + i * cols / 2}; }
    float scale(Index i, Index k) const { return codec::BFloat16::decode(scales[(i * cols + k) / k_block]); }
    Index uniform_rows(Index i) const { return i + 1; }
    View slice(Index begin, Index count) const { return {row(begin).codes, count, cols, scales + begin * cols / k_block}; }
  };
};
static_assert(codec::FitsTiles<PackedInt4::View>);  // optional: else products are formed in float32 under every policy
// [/packed_int4]

}  // namespace

// [binding]
/// Three tensors: words of eight codes, scales, and the shape, which the words do not tell.
template <>
struct dsv3::io::Binding<PackedInt4> {
  static std::array<std::string, 3> names(const std::string& name) { return {name + "_packed", name + "_scale", name + "_shape"}; }
  static bool recognises(const Tensor& codes) { return codes.dtype == Dtype::I32; }
  static Problem check(const CheckpointFiles& files, const std::string& name, Index rows, Index cols) {
    const Tensor* scales = files.find(names(name)[1]);
    if (scales == nullptr || cols % PackedInt4::k_block != 0) return names(name)[1] + ": expected a scale for each 32 columns of " + name;
    if (auto wrong = check_shape(*files.find(names(name)[0]), {rows, cols / 8})) return wrong;
    if (scales->dtype != Dtype::BF16) return scales->name + ": expected BF16, found " + std::string(io::name(scales->dtype));
    return check_shape(*scales, {rows, cols / PackedInt4::k_block});
  }
  static Problem bind(const BindContext& context, const std::string& name, Index rows, Index cols, PackedInt4::View& view) {
    view = {elements_as<std::uint8_t>(*context.files.find(names(name)[0]), context.owners), rows, cols,
            elements_as<codec::BFloat16::Code>(*context.files.find(names(name)[1]), context.owners)};
    return std::nullopt;
  }
  static void save(const std::string& name, const PackedInt4::View& w, std::vector<Outgoing>& out) {
    out.push_back(outgoing(names(name)[0], Dtype::I32, reinterpret_cast<const std::int32_t*>(w.data), w.rows, w.cols / 8, w.cols / 8));
    out.push_back(outgoing(names(name)[1], Dtype::BF16, w.scales, w.rows, w.cols / PackedInt4::k_block, w.cols / PackedInt4::k_block));
  }
};

namespace {
struct Int4Model : DeepSeekV3 {
  using Storage = OneOf<F32, Bf16, PackedInt4>;
};
// [/binding]

struct Packed {
  Matrix<std::uint8_t> codes;
  Matrix<codec::BFloat16::Code> scales;
  PackedInt4::View view() const { return {codes.data(), codes.rows(), 2 * codes.cols(), scales.data()}; }
};

/// The same weights with the scales in the rows' values. Exact: scales are powers of two, so that every value is a bf16 number.
template <bool Exact>
struct FoldedInt4 {
  static constexpr bool scaled = false;
  static constexpr Index k_block = 128;
  struct Row {
    PackedInt4::Row codes;
    const codec::BFloat16::Code* scales;
    static constexpr Index bits = 4;
    static constexpr bool exact_in_bf16 = Exact;
    float at(Index k) const { return codes.at(k) * codec::BFloat16::decode(scales[k / 32]); }
    template <class Arch>
    simd::Floats<Arch> load(Index k) const {  // a vector lies within a group
      return codes.load<Arch>(k) * simd::Floats<Arch>(codec::BFloat16::decode(scales[k / 32]));
    }
    void prefetch(Index k, Index ahead) const { codes.prefetch(k, ahead); }
  };
  struct View : PackedInt4::View {
    using Storage = FoldedInt4;
    Row row(Index i) const { return {PackedInt4::View::row(i), scales + i * cols / 32}; }
    static constexpr float scale(Index, Index) { return 1; }
    Index uniform_rows(Index) const { return rows; }
    View slice(Index begin, Index count) const { return {PackedInt4::View::slice(begin, count)}; }
  };
};

Packed pack(ConstMatrixView<float> w, bool power_of_two = false) {
  Packed p{Matrix<std::uint8_t>::Zero(w.rows(), w.cols() / 2), Matrix<codec::BFloat16::Code>(w.rows(), w.cols() / 32)};
  for (Index i = 0; i < w.rows(); ++i)
    for (Index k0 = 0; k0 < w.cols(); k0 += 32) {
      const float exact = w.row(i).segment(k0, 32).cwiseAbs().maxCoeff() / 7;
      const auto scale = p.scales(i, k0 / 32) = codec::BFloat16::encode(power_of_two ? std::exp2(std::ceil(std::log2(exact))) : exact);
      for (Index k = k0; k < k0 + 32; ++k) {
        const long code = std::clamp(std::lrint(w(i, k) / codec::BFloat16::decode(scale)), -8L, 7L) + 8;
        p.codes(i, k / 2) = static_cast<std::uint8_t>(p.codes(i, k / 2) | code << (k % 2 * 4));
      }
    }
  return p;
}

Matrix<float> values(const PackedInt4::View& w) {
  Matrix<float> out(w.rows, w.cols);
  for (Index i = 0; i < w.rows; ++i)
    for (Index k = 0; k < w.cols; ++k) out(i, k) = element(w, i, k);
  return out;
}

constexpr std::array<std::pair<Index, Index>, 4> sizes{{{1, 32}, {17, 96}, {64, 320}, {50, 4096}}};

float bf16(float x) { return codec::BFloat16::decode(codec::BFloat16::encode(x)); }

/// x row t times row n of w, in float64.
test::Real dot(ConstMatrixView<float> x, Index t, const PackedInt4::View& w, Index n) {
  return test::sum(w.cols, [&](Index k) {
    return test::Real(static_cast<double>(x(t, k))) * (static_cast<double>(w.row(n).at(k)) * static_cast<double>(w.scale(n, k)));
  });
}

Matrix<float> product(Context& ctx, ConstMatrixView<float> x, const PackedInt4::View& w) {
  Matrix<float> y = Matrix<float>::Constant(x.rows(), w.rows, NAN);
  kernels::linear_bf16(ctx, x, w, view(y));
  return y;
}

/// Codes and scales of random weights.
Packed random_weights(test::Random& random, Index rows, Index cols) {
  const Matrix<float> w = random.matrix(rows, cols, 0.1f);
  return pack(view(w));
}

}  // namespace

TEST_CASE("packed int4 in float32, against the products of its values in float64") {
  Context ctx;
  test::Random random;
  for (const auto& [rows, cols] : sizes) {
    const Packed packed = random_weights(random, rows, cols);
    const auto w = packed.view();
    const Matrix<float> plain = values(w);
    Matrix<float> decoded(1, cols);
    decode_row<simd::DefaultArch>(w, rows - 1, decoded.data());
    CHECK(test::same_bits(decoded, plain.bottomRows(1)));
    const Matrix<float> x = random.matrix(40, cols), xt = random.matrix(40, rows);
    Matrix<float> whole(40, rows), whole_t(40, cols);
    kernels::linear(ctx, view(x), w, view(whole));
    test::check_matrix(whole, [&](Index t, Index n) { return dot(view(x), t, w, n); });
    kernels::linear_transposed(ctx, view(xt), w, view(whole_t));
    test::check_matrix(whole_t, [&](Index t, Index k) {
      return test::sum(w.rows, [&](Index n) { return test::Real(static_cast<double>(xt(t, n))) * static_cast<double>(plain(n, k)); });
    });
    for (const Index t : {1, 2, 3, 5, 16}) {
      Matrix<float> y(t, rows), yt(t, cols);
      kernels::linear(ctx, view(x).slice(0, t), w, view(y));
      CHECK(test::same_bits(y, whole.topRows(t)));
      kernels::linear_transposed(ctx, view(xt).slice(0, t), w, view(yt));
      CHECK(test::same_bits(yt, whole_t.topRows(t)));
    }
  }
}

TEST_CASE("packed int4 in bf16, against the products of its values and rounded activations in float64") {
  Context ctx;
  test::Random random;
  for (const auto& [rows, cols] : sizes) {
    const Packed packed = random_weights(random, rows, cols);
    const auto w = packed.view();
    const Matrix<float> x = random.matrix(300, cols), rounded = x.unaryExpr(&bf16);
    const auto whole = product(ctx, view(x), w);
    test::check_matrix(whole, [&](Index t, Index n) { return dot(view(rounded), t, w, n); });
    for (Index t = 1; t <= 40; ++t) CHECK(test::same_bits(product(ctx, view(x).slice(0, t), w), whole.topRows(t)));
    for (const Index t : {17, 100}) CHECK(test::same_bits(product(ctx, view(x).slice(300 - t, t), w), whole.bottomRows(t)));
    test::Parallel three{3};
    Context parallel(three, 0);
    CHECK(test::same_bits(product(parallel, view(x), w), whole));
    const auto some = w.slice(rows / 3, rows - rows / 3);
    CHECK(test::same_bits(product(ctx, view(x), some), whole.rightCols(some.rows)));
  }
}

TEST_CASE("scales in the values: in float32 the bits of the same numbers stored as floats") {
  Context ctx;
  test::Random random;
  for (const auto& [rows, cols] : sizes) {
    const Packed packed = random_weights(random, rows, cols);
    const FoldedInt4<false>::View w{packed.view()};
    const Matrix<float> plain = values(packed.view());
    const F32::View same{plain.data(), rows, cols, cols};
    for (const Index t : {1, 2, 3, 5, 40}) {
      const Matrix<float> x = random.matrix(t, cols), xt = random.matrix(t, rows);
      Matrix<float> found(t, rows), expected(t, rows), found_t(t, cols), expected_t(t, cols);
      kernels::linear(ctx, view(x), w, view(found));
      kernels::linear(ctx, view(x), same, view(expected));
      CHECK(test::same_bits(found, expected));
      kernels::linear_transposed(ctx, view(xt), w, view(found_t));
      kernels::linear_transposed(ctx, view(xt), same, view(expected_t));
      CHECK(test::same_bits(found_t, expected_t));
      kernels::linear_bf16(ctx, view(x), w, view(found));
      kernels::linear_bf16(ctx, view(x), same, view(expected));
      CHECK(test::same_bits(found, expected));  // neither is exact in bf16
    }
  }
}

TEST_CASE("powers of two in the values: the bits of the same numbers stored in bf16, by tiles where there are some") {
  Context ctx;
  test::Random random;
  for (const auto& [rows, cols] : {std::pair<Index, Index>{1, 32}, {17, 96}, {64, 320}, {50, 1056}}) {
    const Matrix<float> drawn = random.matrix(rows, cols);
    const Packed packed = pack(view(drawn), true);
    const FoldedInt4<true>::View w{packed.view()};
    const Matrix<codec::BFloat16::Code> codes = values(w).unaryExpr([](float v) { return codec::BFloat16::encode(v); });
    const Bf16::View same{codes.data(), rows, cols, cols};
    for (Index i = 0; i < rows; ++i)
      for (Index k = 0; k < cols; ++k) REQUIRE(element(w, i, k) == element(same, i, k));
    for (const Index t : {1, 17, 40, 300}) {
      const Matrix<float> x = random.matrix(t, cols);
      Matrix<float> found(t, rows), expected(t, rows);
      kernels::linear_bf16(ctx, view(x), w, view(found));
      kernels::linear_bf16(ctx, view(x), same, view(expected));
      CHECK(test::same_bits(found, expected));
    }
  }
}

TEST_CASE("one x times weights of several storages in a group: the bits of each product alone") {
  Context ctx;
  test::Random random;
  using View = Int4Model::Storage::View;
  const Packed first = random_weights(random, 40, 160), second = random_weights(random, 23, 160);
  const Matrix<codec::BFloat16::Code> codes = random.matrix(33, 160).unaryExpr([](float v) { return codec::BFloat16::encode(v); });
  const std::array<View, 4> weights{first.view(), Bf16::View{codes.data(), 33, 160, 160}, second.view(), first.view()};
  for (const Index t : {1, 20, 300}) {
    const Matrix<float> x = random.matrix(t, 160);
    std::vector<Matrix<float>> y;
    std::vector<kernels::Product<View>> group;
    for (const View& w : weights) y.emplace_back(t, weight_rows(w));
    for (std::size_t i = 0; i < y.size(); ++i) group.push_back({view(x), weights[i], view(y[i])});
    kernels::grouped_linear_bf16<simd::DefaultArch, View>(ctx, group);
    for (std::size_t i = 0; i < y.size(); ++i) {
      Matrix<float> alone(t, y[i].cols());
      kernels::linear_bf16(ctx, view(x), weights[i], view(alone));
      CHECK(test::same_bits(y[i], alone));
    }
  }
}

TEST_CASE("experts of packed int4 and of other storages: the bits of the two products of each alone") {
  test::Random random;
  using View = Int4Model::Storage::View;
  const Index D = 96, I = 160;
  struct Expert {
    Packed gate, up, down;
    Matrix<codec::BFloat16::Code> gate_codes, down_codes;
    Matrix<float> x, y;
  };
  std::vector<Expert> experts;
  for (const Index t : {40, 1, 0, 17, 5, 130}) {
    const auto codes = [&](Index rows, Index cols) -> Matrix<codec::BFloat16::Code> {
      return random.matrix(rows, cols, 0.1f).unaryExpr([](float v) { return codec::BFloat16::encode(v); });
    };
    experts.push_back({random_weights(random, I, D), random_weights(random, I, D), random_weights(random, D, I), codes(I, D), codes(D, I),
                       random.matrix(t, D), Matrix<float>(t, D)});
  }
  for (const bool int4_first : {true, false})
    for (const bool int4_last : {true, false}) {
      std::vector<kernels::GatedNetwork<View>> group;
      for (Expert& e : experts) {
        const Bf16::View gate{e.gate_codes.data(), I, D, D}, down{e.down_codes.data(), D, I, I};
        group.push_back({view(std::as_const(e.x)), int4_first ? View(e.gate.view()) : View(gate),
                         int4_first ? View(e.up.view()) : View(gate), int4_last ? View(e.down.view()) : View(down), view(e.y)});
      }
      for (const int threads : {1, 3}) {
        test::Parallel workers{threads};
        Context ctx(workers, 0);
        kernels::grouped_gated_ffn_bf16<simd::DefaultArch, View>(ctx, group);
        for (const auto& p : group) {
          Matrix<float> h(p.x.rows(), I), expected(p.x.rows(), D);
          const kernels::GatedProduct<View> inner{p.x, p.x, p.gate, p.up, view(h)};
          kernels::grouped_gated_linear_bf16<simd::DefaultArch, View>(ctx, {&inner, 1});
          kernels::linear_bf16(ctx, view(std::as_const(h)), p.down, view(expected));
          CHECK(test::same_bits(Matrix<float>(p.y), expected));
          if (!int4_first || h.rows() == 0) continue;
          const Matrix<float> rounded = Matrix<float>(p.x).unaryExpr(&bf16);
          test::check_matrix(h, [&](Index t, Index n) {
            const auto gate = dot(view(rounded), t, std::get<PackedInt4::View>(p.gate), n);
            return gate / (test::Real(1) + test::exp({-gate.value, gate.error})) *
                   dot(view(rounded), t, std::get<PackedInt4::View>(p.up), n);
          });
        }
      }
    }
}

TEST_CASE("a model with packed experts is loaded, saved and generated from") {
  const TempFolder original, again;
  Config c = test::tiny_config();
  c.hidden_size = 64;
  c.moe_intermediate_size = 32;
  auto model = test::tiny_model<Int4Model>(c);
  Model<Int4Model>::for_each_tensor(model, [&]<class T>(const std::string& name, T& parameter) {
    if constexpr (requires { parameter.view; })
      if (test::contains(name, ".mlp.experts.")) {
        const auto& w = std::get<F32::View>(parameter.view);
        const auto packed = std::make_shared<const Packed>(pack({w.data, w.rows, w.cols}));
        parameter.view = packed->view();
        model.keep(packed);
      }
  });
  const std::vector<int> ids = {5, 9, 5, 33, 60, 1, 2, 3, 4};
  const Matrix<float> expected = test::states(model, ids);
  io::save(model, original.path());
  const auto loaded = io::load<Int4Model>(original.path());
  CHECK(test::same_bits(test::states(loaded, ids), expected));
  for (const Index chunk : {1, 4}) CHECK(test::same_bits(test::states(loaded, ids, chunk), expected));
  test::check_generation(loaded, ids);
  const auto fast = io::load<Fast<Int4Model>>(original.path());
  const std::vector<int> prompt = test::Random().ids(60, 64);
  const Matrix<float> in_bf16 = test::states(fast, prompt);
  CHECK(!test::same_bits(in_bf16, test::states(loaded, prompt)));
  for (const Index chunk : {20, 30}) CHECK(test::same_bits(test::states(fast, prompt, chunk), in_bf16));
  const std::string message = test::error_of([&] { (void)io::load<DeepSeekV3>(original.path()); });
  CHECK(test::contains(message, "missing"));
  CHECK(test::contains(message, "model.layers.1.mlp.experts.0.gate_proj.weight_packed [32, 8]"));
}
