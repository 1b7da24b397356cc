// Random float weights for a module's parameters, known by name to oracles.
#pragma once

#include <map>
#include <string>

#include "dsv3/modules/parameters.hpp"
#include "support/oracle.hpp"

namespace test {

class RandomWeights {
 public:
  /// Gives every parameter of `module` a random value of variance 1 / columns; this object must outlive the module's use.
  template <class M>
  RandomWeights(M& module, Random& random) {
    M::for_each_tensor(module, "", [&]<class T>(const std::string& name, T& parameter) {
      if constexpr (requires { parameter.view; }) {
        const auto& w = matrices_[name] = random.matrix(parameter.rows, parameter.cols, 1 / std::sqrt(static_cast<float>(parameter.cols)));
        parameter.view = F32::View{w.data(), w.rows(), w.cols(), w.cols()};
      } else {
        parameter.values = random.vector(parameter.length, 0.3f).array() + 1.0f;
        matrices_[name] = parameter.values;
      }
    });
  }

  const Matrix<float>& operator[](const std::string& name) const { return matrices_.at(name); }

 private:
  std::map<std::string, Matrix<float>> matrices_;
};

/// Rows of numbers that carry their error.
using Reals = std::vector<std::vector<Real>>;

inline Reals reals(const Matrix<float>& m) {
  Reals out(static_cast<std::size_t>(m.rows()));
  for (Index i = 0; i < m.rows(); ++i)
    for (Index j = 0; j < m.cols(); ++j) out[static_cast<std::size_t>(i)].push_back(static_cast<double>(m(i, j)));
  return out;
}

/// x W^T.
inline Reals product(const Reals& x, const Matrix<float>& w) {
  Reals out;
  for (const auto& row : x) {
    auto& y = out.emplace_back();
    for (Index n = 0; n < w.rows(); ++n)
      y.push_back(sum(w.cols(), [&](Index k) { return row[static_cast<std::size_t>(k)] * Real(static_cast<double>(w(n, k))); }));
  }
  return out;
}

/// x / sqrt(mean(x^2) + eps) * w.
inline Reals rms_norm(Reals x, const Matrix<float>& w, double eps) {
  for (auto& row : x) {
    const auto n = static_cast<Index>(row.size());
    const Real squares = sum(n, [&](Index i) { return row[static_cast<std::size_t>(i)] * row[static_cast<std::size_t>(i)]; });
    const Real inverse = Real(1) / sqrt(squares / Real(static_cast<double>(n)) + Real(eps, eps * unit));
    for (Index i = 0; i < n; ++i) {
      Real& v = row[static_cast<std::size_t>(i)];
      v = v * inverse * Real(static_cast<double>(w(0, i)));
    }
  }
  return x;
}

/// W_down (silu(W_gate x) * W_up x), of the parameters under `prefix`.
inline Reals gated_ffn(const Reals& x, const RandomWeights& w, const std::string& prefix) {
  Reals gate = product(x, w[prefix + "gate_proj.weight"]);
  const Reals up = product(x, w[prefix + "up_proj.weight"]);
  for (std::size_t t = 0; t < gate.size(); ++t)
    for (std::size_t i = 0; i < gate[t].size(); ++i) {
      Real& g = gate[t][i];
      g = g / (Real(1) + exp(Real(-g.value, g.error))) * up[t][i];
    }
  return product(gate, w[prefix + "down_proj.weight"]);
}

/// Checks a matrix against rows of reals.
inline void check_reals(const Matrix<float>& found, const Reals& expected) {
  REQUIRE(found.rows() == static_cast<Index>(expected.size()));
  check_matrix(found, [&](Index i, Index j) { return expected[static_cast<std::size_t>(i)][static_cast<std::size_t>(j)]; });
}

}  // namespace test
