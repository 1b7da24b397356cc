// dsv3-bench-onednn: products of many rows with FP8 weights (kernels/linear_bf16.hpp) in alternation with oneDNN's bf16 matmul of the same
// shape on as many OpenMP threads.
//
// oneDNN is not handicapped: its weights are bf16 and packed beforehand in the layout it prefers, its activations are bf16 beforehand, the
// weights of both stay in cache. dsv3 decodes the codes, applies the scales and rounds and packs the activations within its time.
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <oneapi/dnnl/dnnl.hpp>
#include <random>

#include "../examples/cli/cli.hpp"
#include "ceilings.hpp"
#include "dsv3/dsv3.hpp"

namespace {

using namespace dsv3;
using bench::median;

constexpr const char* usage =
    "usage: dsv3-bench-onednn [--json FILE]\n\n"
    "Times bf16 products with FP8 weights beside oneDNN's bf16 matmul. OMP_NUM_THREADS sets the threads of both.\n"
    "Exit status: 0 done, 1 error or a wrong result, 2 wrong arguments.\n";

constexpr int runs = 61;

// Operands of both lie in a workspace, like a model's: in huge pages, aligned to cache lines.
std::uint16_t* to_bf16(Workspace::Scope& scope, ConstMatrixView<float> m) {
  auto codes = scope.matrix<std::uint16_t>(m.rows(), m.cols());
  for (Index i = 0; i < m.rows(); ++i)
    for (Index k = 0; k < m.cols(); ++k) codes(i, k) = codec::BFloat16::encode(m(i, k));
  return codes.data();
}

/// y [T, N] = x [T, K] W^T by oneDNN.
class OneDnn {
 public:
  OneDnn(Workspace::Scope& scope, ConstMatrixView<float> x, ConstMatrixView<float> w, MatrixView<float> y) {
    using namespace dnnl;
    using Tag = memory::format_tag;
    const auto bf16 = memory::data_type::bf16;
    const memory::desc source({x.rows(), x.cols()}, bf16, Tag::ab), any({w.cols(), w.rows()}, bf16, Tag::any),
        rows_of_w({w.cols(), w.rows()}, bf16, Tag::ba), result({y.rows(), y.cols()}, memory::data_type::f32, Tag::ab);
    const matmul::primitive_desc product(matmul::desc(source, any, result), engine_);
    memory plain(rows_of_w, engine_, to_bf16(scope, w)), packed(product.weights_desc(), engine_);
    reorder(plain, packed).execute(stream_, plain, packed);
    stream_.wait();
    product_ = matmul(product);
    arguments_ = {{DNNL_ARG_SRC, memory(source, engine_, to_bf16(scope, x))},
                  {DNNL_ARG_WEIGHTS, packed},
                  {DNNL_ARG_DST, memory(result, engine_, y.data())}};
  }

  void run() {
    product_.execute(stream_, arguments_);
    stream_.wait();
  }

 private:
  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream_{engine_};
  dnnl::matmul product_;
  std::unordered_map<int, dnnl::memory> arguments_;
};

nlohmann::json compare(Context& ctx, Index rows, Index n, Index k) {
  std::srand(1);
  Workspace memory;
  Workspace::Scope scope(memory);
  auto x = scope.matrix<float>(rows, k), y = scope.matrix<float>(rows, n), other = scope.matrix<float>(rows, n);
  x.setRandom();
  const Matrix<float> random = Matrix<float>::Random(n, k) * 0.02f;
  const Fp8Matrix fp8 = quantize_fp8(view(random));
  const auto w = fp8.view();
  Matrix<float> values(n, k);
  for (Index i = 0; i < n; ++i) decode_row<simd::DefaultArch>(w, i, values.row(i).data());
  OneDnn onednn(scope, x, view(values), other);

  kernels::linear_bf16(ctx, x, w, y);
  onednn.run();
  for (Index t = 0; t < rows; t += rows / 4)
    for (Index i = 0; i < n; i += 97) {
      const Eigen::ArrayXd terms = x.row(t).cast<double>().array() * values.row(i).cast<double>().array();
      // Error bounds: both round x to bf16, oneDNN also the weights, each by 2^-9 of a term; both sum K terms in float32.
      const double size = terms.abs().sum(), sums = static_cast<double>(k) * 0x1p-24;
      require(std::abs(y(t, i) - terms.sum()) <= size * (0x1p-9 + sums), "dsv3: wrong result in row ", t, ", column ", i);
      require(std::abs(other(t, i) - terms.sum()) <= size * (0x1p-8 + 0x1p-18 + sums), "oneDNN: wrong result in row ", t, ", column ", i);
    }

  std::vector<double> ours, theirs, ratios, peaks;
  const char* arithmetic = "";
  for (int run = -3; run < runs; ++run) {
    const double a = bench::seconds([&] { kernels::linear_bf16(ctx, x, w, y); });
    const double b = bench::seconds([&] { onednn.run(); });
    const bench::Peak peak = bench::bf16_peak(ctx);
    arithmetic = peak.name;
    if (run < 0) continue;
    ours.push_back(a);
    theirs.push_back(b);
    ratios.push_back(b / a);
    peaks.push_back(peak.rate);
  }
  const double gflop = 2e-9 * static_cast<double>(rows * n * k);
  std::printf("%4td x %td x %td: dsv3, FP8 weights %7.1f GFLOP/s; oneDNN, bf16 weights %7.1f GFLOP/s; %.2f times as fast; %s peak %.0f\n",
              rows, n, k, gflop / median(ours), gflop / median(theirs), median(ratios), arithmetic, median(peaks) * 1e-9);
  return {{"rows", rows},
          {"n", n},
          {"k", k},
          {"dsv3_gflop_s", gflop / median(ours)},
          {"onednn_gflop_s", gflop / median(theirs)},
          {"ratio", median(ratios)},
          {"peak", arithmetic},
          {"peak_gflop_s", median(peaks) * 1e-9}};
}

}  // namespace

int main(int argc, char** argv) {
  return cli::run("dsv3-bench-onednn", usage, [&] {
    const cli::Args args(argc, argv, 0, {"--json"}, {});
    OpenMP executor;
    Context ctx(executor);
    const auto* version = dnnl_version();
    std::printf("oneDNN %d.%d.%d, %d threads\n", version->major, version->minor, version->patch, ctx.workers());
    nlohmann::json result;
    result["onednn"] = std::to_string(version->major) + "." + std::to_string(version->minor) + "." + std::to_string(version->patch);
    for (const auto& [rows, n, k] : {std::array<Index, 3>{512, 2048, 2048}, {512, 1408, 2048}, {64, 1408, 2048}})
      result["products"].push_back(compare(ctx, rows, n, k));
    if (const auto file = args.value("--json")) {
      std::ofstream out(*file);
      require(!!(out << result.dump(2) << "\n").flush(), *file, ": cannot write");
    }
  });
}
