// What golden tests share: reference tensors as Eigen matrices, errors relative to them, and a tape that keeps everything.
#pragma once

#include <doctest/doctest.h>

#include <cstring>
#include <map>
#include <string>
#include <utility>

#include "dsv3/io/load.hpp"

namespace test {

using namespace dsv3;

/// The largest difference relative to the largest reference value.
inline double relative_error(const Matrix<float>& found, const Matrix<float>& expected) {
  REQUIRE(found.rows() == expected.rows());
  REQUIRE(found.cols() == expected.cols());
  if (!found.allFinite()) return INFINITY;
  return static_cast<double>((found - expected).cwiseAbs().maxCoeff()) / static_cast<double>(expected.cwiseAbs().maxCoeff());
}

/// Tensors of a file; [A, B, C] is read as the matrix [A * B, C].
class Reference {
 public:
  explicit Reference(const std::string& path) : file_(io::Safetensors::open(path)) {}

  bool has(const std::string& name) const { return file_.find(name) != nullptr; }

  template <class T>
  Matrix<T> matrix(const std::string& name) const {
    const io::Tensor* t = file_.find(name);
    REQUIRE_MESSAGE(t != nullptr, name);
    REQUIRE(sizeof(T) == io::size(t->dtype));
    const Index cols = t->shape.back();
    Matrix<T> m(t->elements() / cols, cols);
    std::memcpy(m.data(), t->data.data(), t->data.size());
    return m;
  }
  Matrix<float> floats(const std::string& name) const { return matrix<float>(name); }
  Matrix<int> ints(const std::string& name) const { return matrix<int>(name); }

 private:
  io::Safetensors file_;
};

/// Keeps every recorded result.
struct KeepAll {
  std::map<std::pair<Index, std::string>, Matrix<float>> floats;
  std::map<std::pair<Index, std::string>, Matrix<int>> ints;

  template <class Point>
  void record(Point, Index layer, ConstMatrixView<float> x) requires(!requires(Point p) { p.expert; }) {
    floats[{layer, std::string(Point::name)}] = x;
  }
  template <class Point>
  void record(Point, Index layer, ConstMatrixView<int> x) {
    ints[{layer, std::string(Point::name)}] = x;
  }
  const Matrix<float>& at(Index layer, const std::string& point) const { return floats.at({layer, point}); }
};

/// Every sequence of `ids` [B, T] as one batch through fresh caches: the last block's output [B * T, D].
template <class P, Tape T>
Matrix<float> run_batch(Context& ctx, const Model<P>& model, const Matrix<int>& ids, std::vector<Cache<P>>& caches, T& tape) {
  std::vector<typename Model<P>::Sequence> batch;
  caches.clear();
  for (Index b = 0; b < ids.rows(); ++b) caches.push_back(model.make_cache({ids.cols()}));
  for (Index b = 0; b < ids.rows(); ++b)
    batch.push_back({{ids.row(b).data(), static_cast<std::size_t>(ids.cols())}, &caches[static_cast<std::size_t>(b)]});
  Matrix<float> h(ids.size(), model.width());
  model.forward(ctx, batch, view(h), tape);
  return h;
}

template <class P>
Matrix<float> logits(Context& ctx, const Model<P>& model, const Matrix<float>& h) {
  Matrix<float> out(h.rows(), model.config().vocab_size);
  model.logits(ctx, view(h), view(out));
  return out;
}

template <class P>
void set_form(Model<P>& model, mla::Form form) {
  model.for_each_attention([form](auto& attention) { attention.form = form; });
}

}  // namespace test
