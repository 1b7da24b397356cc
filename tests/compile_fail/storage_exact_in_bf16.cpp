// expect: dsv3: rows that are exact_in_bf16 need a k_block of 32, 64 or a multiple of 128
#include "dsv3/kernels/linear_bf16.hpp"

using namespace dsv3;

#ifdef FAIL
constexpr Index columns = 16;
#else
constexpr Index columns = 32;
#endif

/// Bytes with a scale for each group of columns.
struct Bytes {
  static constexpr bool scaled = true;
  static constexpr Index k_block = columns;
  struct Row {
    const std::uint8_t* codes;
    static constexpr Index bits = 8;
    static constexpr bool exact_in_bf16 = true;
    float at(Index k) const { return codes[k]; }
    template <class Arch>
    simd::Floats<Arch> load(Index k) const {
      return simd::to_float<Arch>(simd::widen<Arch>(codes + k));
    }
    void prefetch(Index k, Index ahead) const { simd::prefetch(codes + k, ahead); }
  };
  struct View {
    using Storage = Bytes;
    const std::uint8_t* data = nullptr;
    Index rows = 0, cols = 0;
    const float* scales = nullptr;
    Row row(Index i) const { return {data + i * cols}; }
    float scale(Index i, Index k) const { return scales[(i * cols + k) / k_block]; }
    Index uniform_rows(Index i) const { return i + 1; }
    View slice(Index begin, Index count) const { return {row(begin).codes, count, cols, scales + begin * cols / k_block}; }
  };
};

void multiply(Context& ctx, ConstMatrixView<float> x, const Bytes::View& w, MatrixView<float> y) { kernels::linear_bf16(ctx, x, w, y); }
