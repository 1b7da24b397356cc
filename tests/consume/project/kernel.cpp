// A stranger's program that lifts out one kernel and needs headers alone.
#include <cstdio>

#include "dsv3/kernels/linear.hpp"

int main() {
  const float w[] = {1, 2, 3, 4, 5, 6}, x[] = {1, 1, 1};
  float y[2];
  dsv3::Context ctx;
  dsv3::kernels::linear(ctx, dsv3::ConstMatrixView<float>(x, 1, 3), dsv3::F32::View{w, 2, 3, 3}, dsv3::MatrixView<float>(y, 1, 2));
  std::printf("%g %g\n", y[0], y[1]);
}
