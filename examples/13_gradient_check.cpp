// Writing a module that trains: a norm of one's own with its backward, checked against finite differences.
#include <cstdio>
#include <random>

#include "dsv3/dsv3.hpp"
#include "dsv3/train/grad_check.hpp"
#include "dsv3/train/trainer.hpp"

namespace mine {

/// y = w x / mean(|x|): a norm without squares.
template <class P>
class MeanNorm {
 public:
  MeanNorm(dsv3::Index channels, double eps) : weight_{channels}, eps_(static_cast<float>(eps)) {}

  void forward(dsv3::Context&, dsv3::ConstMatrixView<float> x, dsv3::MatrixView<float> y) const {
    for (dsv3::Index t = 0; t < x.rows(); ++t) {
      const float r = 1 / (x.row(t).cwiseAbs().mean() + eps_);
      y.row(t) = x.row(t).cwiseProduct(weight()) * r;
    }
  }
  const dsv3::Vector<float>& weight() const { return weight_.bound("MeanNorm"); }
  float eps() const { return eps_; }

  template <class Self, class Visit>
  static void for_each_tensor(Self& self, const std::string& prefix, Visit&& visit) {
    visit(prefix + "weight", self.weight_);
  }

 private:
  dsv3::WeightVector weight_;
  float eps_;
};

/// With r = 1 / (mean |x| + eps): dx = r w dy - sign(x) r^2 / n sum(w dy x), overwritten; dw += r x dy.
void mean_norm_backward(dsv3::ConstMatrixView<float> x, const dsv3::Vector<float>& w, float eps, dsv3::ConstMatrixView<float> dy,
                        dsv3::MatrixView<float> dx, float* dw) {
  Eigen::Map<Eigen::RowVectorXf> sum(dw, w.size());
  for (dsv3::Index t = 0; t < x.rows(); ++t) {
    const Eigen::RowVectorXf xt = x.row(t), g = dy.row(t).cwiseProduct(w);  // dx may take the place of dy
    const float r = 1 / (xt.cwiseAbs().mean() + eps);
    sum += r * xt.cwiseProduct(dy.row(t));
    dx.row(t) = r * g - xt.cwiseSign() * (r * r * g.dot(xt) / static_cast<float>(xt.size()));
  }
}

/// What a Trainer looks for.
template <class P, class B>
void backward(const B& b, const MeanNorm<P>& norm, dsv3::ConstMatrixView<float> x, dsv3::ConstMatrixView<float> dy,
              dsv3::MatrixView<float> dx) {
  mean_norm_backward(x, norm.weight(), norm.eps(), dy, dx, b.gradients.of(norm.weight()));
}

struct Bundle : dsv3::DeepSeekV3 {
  template <class P>
  using Norm = MeanNorm<P>;
};
static_assert(dsv3::ModelPolicy<Bundle>);

}  // namespace mine
template class dsv3::train::Trainer<mine::Bundle>;  // it trains

int main() {
  constexpr dsv3::Index rows = 4, channels = 24;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  dsv3::Matrix<float> x(rows, channels), dy(rows, channels), y(rows, channels), dx(rows, channels);
  for (auto* m : {&x, &dy})
    for (dsv3::Index i = 0; i < m->size(); ++i) m->data()[i] = normal(random);
  mine::MeanNorm<dsv3::DeepSeekV3> norm(channels, 1e-6);
  dsv3::Vector<float>* w = nullptr;
  mine::MeanNorm<dsv3::DeepSeekV3>::for_each_tensor(norm, "", [&](const std::string&, auto& parameter) {
    parameter.values = dsv3::Vector<float>::Ones(channels);
    w = &parameter.values;
  });
  dsv3::Vector<float> dw = dsv3::Vector<float>::Zero(channels);
  mine::mean_norm_backward(dsv3::view(x), *w, norm.eps(), dsv3::view(dy), dsv3::view(dx), dw.data());

  // Any loss will do whose gradient for y is dy: their product.
  const auto loss = [&] {
    dsv3::Context ctx;
    norm.forward(ctx, dsv3::view(x), dsv3::view(y));
    return static_cast<double>(y.cwiseProduct(dy).sum());
  };
  const auto show = [](const char* name, const dsv3::train::GradCheck& check) {
    std::printf("%s: %.5f by backward, %.5f +- %.5f by differences: %s\n", name, check.analytic, check.numeric, check.uncertainty,
                check.agrees() ? "agrees" : "WRONG");
  };
  show("dx", dsv3::train::check_gradient({x.data(), rows * channels}, {dx.data(), rows * channels}, loss, 1, 1e-3));
  show("dw", dsv3::train::check_gradient({w->data(), channels}, {dw.data(), channels}, loss, 1, 1e-2));
}
