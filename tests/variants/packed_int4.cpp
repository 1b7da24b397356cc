// Weights as signed 4-bit codes in groups of 32 columns with a scale each, as compressed-tensors' "pack-quantized" stores them
// (Kimi-K2-Thinking).
#include "dsv3/io/load.hpp"
#include "dsv3/io/save.hpp"
#include "dsv3/kernels/linear_bf16.hpp"
#include "io/temp_folder.hpp"
#include "variants/tiny.hpp"

using namespace dsv3;

namespace {

// [packed_int4]
/// Two codes a byte, the even column in the low half, 8 meaning 0; a bf16 scale for each 32 columns.
struct PackedInt4 {
  static constexpr bool scaled = false;  // scales of groups belong to the values, not to a block that is summed first
  static constexpr Index k_block = 128, group = 32;

  struct Row {
    const std::uint8_t* codes;
    const codec::BFloat16::Code* scales;

    static constexpr Index bits = 4;
    float at(Index k) const {
      return static_cast<float>((codes[k / 2] >> (k % 2 * 4) & 15) - 8) * codec::BFloat16::decode(scales[k / group]);
    }
    template <class Arch>
    simd::Floats<Arch> load(Index k) const {  // a vector lies within a group
      alignas(64) std::array<float, static_cast<std::size_t>(simd::width<Arch>)> values;
      for (std::size_t i = 0; i < values.size(); i += 2) {
        const std::uint8_t two = codes[static_cast<std::size_t>(k) / 2 + i / 2];
        values[i] = static_cast<float>((two & 15) - 8);
        values[i + 1] = static_cast<float>((two >> 4) - 8);
      }
      return simd::Floats<Arch>::load_aligned(values.data()) * simd::Floats<Arch>(codec::BFloat16::decode(scales[k / group]));
    }
    void prefetch(Index k, Index ahead) const { simd::prefetch(codes + k / 2, ahead / 2); }
  };

  struct View {
    using Storage = PackedInt4;
    const std::uint8_t* data = nullptr;
    Index rows = 0, cols = 0;
    const codec::BFloat16::Code* scales = nullptr;  // [rows, cols / 32]

    Row row(Index i) const { return {data + i * cols / 2, scales + i * cols / group}; }
    static constexpr float scale(Index, Index) { return 1; }
    Index uniform_rows(Index) const { return rows; }
    View slice(Index begin, Index count) const { return {row(begin).codes, count, cols, row(begin).scales}; }
  };
};
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
    if (scales == nullptr || cols % PackedInt4::group != 0) return names(name)[1] + ": expected a scale for each 32 columns of " + name;
    if (auto wrong = check_shape(*files.find(names(name)[0]), {rows, cols / 8})) return wrong;
    if (scales->dtype != Dtype::BF16) return scales->name + ": expected BF16, found " + std::string(io::name(scales->dtype));
    return check_shape(*scales, {rows, cols / PackedInt4::group});
  }
  static Problem bind(const BindContext& context, const std::string& name, Index rows, Index cols, PackedInt4::View& view) {
    view = {elements_as<std::uint8_t>(*context.files.find(names(name)[0]), context.owners), rows, cols,
            elements_as<codec::BFloat16::Code>(*context.files.find(names(name)[1]), context.owners)};
    return std::nullopt;
  }
  static void save(const std::string& name, const PackedInt4::View& w, std::vector<Outgoing>& out) {
    out.push_back(outgoing(names(name)[0], Dtype::I32, reinterpret_cast<const std::int32_t*>(w.data), w.rows, w.cols / 8, w.cols / 8));
    out.push_back(outgoing(names(name)[1], Dtype::BF16, w.scales, w.rows, w.cols / PackedInt4::group, w.cols / PackedInt4::group));
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

/// The same codes with scales that are powers of two: then every value is a bf16 number, and rows say so.
struct ExactInt4 {
  static constexpr bool scaled = false;
  static constexpr Index k_block = 128;
  struct Row : PackedInt4::Row {
    static constexpr bool exact_in_bf16 = true;
  };
  struct View : PackedInt4::View {
    using Storage = ExactInt4;
    Row row(Index i) const { return {PackedInt4::View::row(i)}; }
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

}  // namespace

TEST_CASE("packed int4 in every product, against the products of its values") {
  Context ctx;
  test::Random random;
  for (const auto& [rows, cols] : {std::pair<Index, Index>{1, 32}, {17, 96}, {64, 320}, {50, 4096}}) {
    const Matrix<float> drawn = random.matrix(rows, cols);
    const Packed packed = pack(view(drawn));
    const auto w = packed.view();
    const Matrix<float> plain = values(w);
    const F32::View same{plain.data(), rows, cols, cols};
    Matrix<float> decoded(1, cols);
    decode_row<simd::DefaultArch>(w, rows - 1, decoded.data());
    CHECK(test::same_bits(decoded, plain.bottomRows(1)));
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

TEST_CASE("rows that are exact in bf16 are multiplied as the same numbers stored in bf16, by tiles where there are some") {
  Context ctx;
  test::Random random;
  for (const auto& [rows, cols] : {std::pair<Index, Index>{1, 32}, {17, 96}, {64, 320}, {50, 1056}}) {
    const Matrix<float> drawn = random.matrix(rows, cols);
    const Packed packed = pack(view(drawn), true);
    const ExactInt4::View w{packed.view()};
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
  const std::string message = test::error_of([&] { io::load<DeepSeekV3>(original.path()); });
  CHECK(test::contains(message, "missing"));
  CHECK(test::contains(message, "model.layers.1.mlp.experts.0.gate_proj.weight_packed [32, 8]"));
}
