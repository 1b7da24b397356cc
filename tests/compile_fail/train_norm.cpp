// expect: dsv3: P::Norm<P> does not train: it needs backward(b, norm, x, dy, dx) beside it
#include "dsv3/train/trainer.hpp"

template <class P>
struct Wrapped {
  Wrapped(dsv3::Index channels, double eps) : norm(channels, eps) {}
  void forward(dsv3::Context& ctx, dsv3::ConstMatrixView<float> x, dsv3::MatrixView<float> y) const { norm.forward(ctx, x, y); }
  template <class Self, class Visit>
  static void for_each_tensor(Self& self, const std::string& prefix, Visit&& visit) {
    dsv3::RmsNorm<P>::for_each_tensor(self.norm, prefix, visit);
  }
  dsv3::RmsNorm<P> norm;
};
#ifndef FAIL
template <class P, class B>
void backward(const B& b, const Wrapped<P>& wrapped, dsv3::ConstMatrixView<float> x, dsv3::ConstMatrixView<float> dy,
              dsv3::MatrixView<float> dx) {
  dsv3::train::backward(b, wrapped.norm, x, dy, dx);
}
#endif

struct Mine : dsv3::DeepSeekV3 {
  template <class P>
  using Norm = Wrapped<P>;
};
template class dsv3::train::Trainer<Mine>;

int main() {}
