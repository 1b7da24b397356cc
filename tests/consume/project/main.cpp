// A stranger's program: a kernel on its own memory, then the embedded model's configuration.   usage: main DIR
#include <cstdio>

#include "dsv3/io/config_json.hpp"
#include "dsv3/kernels/linear.hpp"

int main(int, char** argv) {
  const float w[] = {1, 2, 3, 4, 5, 6}, x[] = {1, 1, 1};
  float y[2];
  dsv3::Context ctx;
  dsv3::kernels::linear(ctx, dsv3::ConstMatrixView<float>(x, 1, 3), dsv3::F32::View{w, 2, 3, 3}, dsv3::MatrixView<float>(y, 1, 2));
  const auto config = dsv3::io::read_config(argv[1]);
  std::printf("%g %g layers %d\n", y[0], y[1], static_cast<int>(config.num_hidden_layers));
}
