// expect: dsv3: tiles of Shape::across give each term of a sum a scale of its own
#include "dsv3/quant/tiles.hpp"

using namespace dsv3;

#ifdef FAIL
constexpr auto shape = quant::Shape::across;
#else
constexpr auto shape = quant::Shape::along;
#endif

void round(Context& ctx, ConstMatrixView<float> x, MatrixView<float> y) {
  const quant::RoundJob job{x, y, {}};
  quant::round_to_tiles<quant::Tiles<codec::E4m3, shape>, simd::DefaultArch>(ctx, {&job, 1});
}
