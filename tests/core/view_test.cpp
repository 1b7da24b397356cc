#include "dsv3/core/matrix.hpp"

#include <doctest/doctest.h>

#include <type_traits>
#include <vector>

using namespace dsv3;

namespace {

/// 0, 1, 2, ... row after row.
Matrix<float> counting(Index rows, Index cols) {
  return Matrix<float>::NullaryExpr(rows, cols, [cols](Index i, Index j) { return static_cast<float>(i * cols + j); });
}

}  // namespace

TEST_CASE("view of owned matrices") {
  Matrix<float> m(3, 4);
  m << 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11;
  const auto& constant = m;
  static_assert(std::is_same_v<decltype(view(m)), MatrixView<float>>);
  static_assert(std::is_same_v<decltype(view(constant)), ConstMatrixView<float>>);
  CHECK(view(m).data() == m.data());
  CHECK(view(m).outerStride() == 4);
  CHECK(view(constant) == m);

  Vector<int> row(5);
  static_assert(std::is_same_v<decltype(view(row)), MatrixView<int>>);
  CHECK(view(row).rows() == 1);
  CHECK(view(row).cols() == 5);

  Eigen::Matrix<double, 2, 3, Eigen::RowMajor> fixed;
  CHECK(view(fixed).cols() == 3);
}

TEST_CASE("view of parts and of foreign memory keeps the stride") {
  Matrix<float> m = counting(6, 8);
  auto block = m.block(1, 2, 3, 4);
  CHECK(view(block).data() == &m(1, 2));
  CHECK(view(block).outerStride() == 8);
  CHECK(view(block) == m.block(1, 2, 3, 4));
  CHECK(view(m.middleRows(2, 2)).row(1) == m.row(3));

  std::vector<float> memory(30, 1);
  const Eigen::Map<const Matrix<float>, Eigen::Unaligned, Eigen::OuterStride<>> map(memory.data(), 5, 4, Eigen::OuterStride<>(6));
  static_assert(std::is_same_v<decltype(view(map)), ConstMatrixView<float>>);
  CHECK(view(map).outerStride() == 6);
  CHECK(view(MatrixView<float>(memory.data(), 5, 6)).data() == memory.data());
}

TEST_CASE("slices and columns of a view") {
  Matrix<float> m = counting(5, 7);
  auto v = view(m);
  CHECK(v.slice(1, 3) == m.middleRows(1, 3));
  CHECK(v.columns(2, 4) == m.middleCols(2, 4));
  CHECK(v.columns(2, 4).slice(3, 2) == m.block(3, 2, 2, 4));
  CHECK(v.row_data(4) == &m(4, 0));
  const ConstMatrixView<float> c = v;
  CHECK(c.slice(1, 3).columns(1, 2) == m.block(1, 1, 3, 2));
  CHECK(c.row_data(2) == &m(2, 0));
}

TEST_CASE("copying a view copies the pointer, assigning to one the elements") {
  Matrix<float> a = Matrix<float>::Constant(2, 2, 1), b = Matrix<float>::Constant(2, 2, 2);
  auto va = view(a), alias = va;
  const auto vb = view(b);
  va = vb;
  CHECK(a == b);
  CHECK(alias.data() == a.data());
  CHECK(MatrixView<float>().size() == 0);
}
