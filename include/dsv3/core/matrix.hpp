// Floor 0. The matrix vocabulary: Eigen's matrices and maps, row-major, and view(), which makes a map of any row-major memory.
//
// There is no matrix class of our own. The two view types add only what Eigen::Map lacks: a default constructor and the conversion
// from a mutable to a read-only view. A view never owns; copying one copies the pointer, assigning to one copies elements (as in Eigen).
#pragma once

#include <Eigen/Core>
#include <cassert>
#include <type_traits>

#include "dsv3/core/config.hpp"

namespace dsv3::inline DSV3_ISA {

static_assert(std::is_same_v<Eigen::Index, Index>,
              "dsv3: Eigen's sizes must be std::ptrdiff_t here: do not define EIGEN_DEFAULT_DENSE_INDEX_TYPE");

// DontAlign: Eigen's aligned allocation depends on the instruction set, but its symbols do not show it: a matrix allocated by code of one
// set and freed by code of another would crash. With DontAlign, matrices come from plain malloc.

/// Owned row-major matrix.
template <class T>
using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor | Eigen::DontAlign>;

/// Owned row vector.
template <class T>
using Vector = Eigen::Matrix<T, 1, Eigen::Dynamic, Eigen::RowMajor | Eigen::DontAlign>;

/// Row-major elements [rows, cols] somewhere in memory; row i starts at data + i * stride.
template <class T>
class MatrixView : public Eigen::Map<Matrix<T>, Eigen::Unaligned, Eigen::OuterStride<>> {
 public:
  using Base = Eigen::Map<Matrix<T>, Eigen::Unaligned, Eigen::OuterStride<>>;
  using Base::operator=;
  MatrixView() : MatrixView(nullptr, 0, 0) {}
  MatrixView(T* data, Index rows, Index cols) : MatrixView(data, rows, cols, cols) {}
  MatrixView(T* data, Index rows, Index cols, Index stride) : Base(data, rows, cols, Eigen::OuterStride<>(stride)) {}
  MatrixView(const MatrixView&) = default;
  MatrixView& operator=(const MatrixView& other) {
    Base::operator=(other);
    return *this;
  }

  // A const MatrixView gives access to mutable elements, as a `T* const` does. Eigen's own members do not, hence these.

  /// Rows [begin, begin + count).
  [[nodiscard]] MatrixView slice(Index begin, Index count) const {
    assert(begin >= 0 && count >= 0 && begin + count <= this->rows());
    return {row_data(begin), count, this->cols(), this->outerStride()};
  }
  /// Columns [begin, begin + count).
  [[nodiscard]] MatrixView columns(Index begin, Index count) const {
    assert(begin >= 0 && count >= 0 && begin + count <= this->cols());
    return {row_data(0) + begin, this->rows(), count, this->outerStride()};
  }
  T* row_data(Index i) const { return const_cast<T*>(this->data()) + i * this->outerStride(); }
};

/// Read-only view of row-major elements [rows, cols].
template <class T>
class ConstMatrixView : public Eigen::Map<const Matrix<T>, Eigen::Unaligned, Eigen::OuterStride<>> {
 public:
  using Base = Eigen::Map<const Matrix<T>, Eigen::Unaligned, Eigen::OuterStride<>>;
  ConstMatrixView() : ConstMatrixView(nullptr, 0, 0) {}
  ConstMatrixView(const T* data, Index rows, Index cols) : ConstMatrixView(data, rows, cols, cols) {}
  ConstMatrixView(const T* data, Index rows, Index cols, Index stride) : Base(data, rows, cols, Eigen::OuterStride<>(stride)) {}
  ConstMatrixView(const MatrixView<T>& m) : ConstMatrixView(m.data(), m.rows(), m.cols(), m.outerStride()) {}

  /// Rows [begin, begin + count).
  [[nodiscard]] ConstMatrixView slice(Index begin, Index count) const {
    assert(begin >= 0 && count >= 0 && begin + count <= this->rows());
    return {this->data() + begin * this->outerStride(), count, this->cols(), this->outerStride()};
  }
  /// Columns [begin, begin + count).
  [[nodiscard]] ConstMatrixView columns(Index begin, Index count) const {
    assert(begin >= 0 && count >= 0 && begin + count <= this->cols());
    return {this->data() + begin, this->rows(), count, this->outerStride()};
  }
  const T* row_data(Index i) const { return this->data() + i * this->outerStride(); }
};

namespace detail {
template <class D>
std::true_type is_dense(const Eigen::DenseBase<D>*);
std::false_type is_dense(const void*);
}  // namespace detail

/// A view of `m`, which may be an Eigen matrix, map, block or row vector with row-major contiguous rows. Read-only when `m` is.
/// Expressions, column-major matrices and temporaries that own their memory do not compile: Eigen::Ref would copy them silently.
template <class M>
auto view(M&& m) {
  using D = std::remove_cvref_t<M>;
  static_assert(decltype(detail::is_dense(static_cast<const D*>(nullptr)))::value, "dsv3::view expects an Eigen matrix, map or block");
  static_assert((D::Flags & Eigen::DirectAccessBit) != 0,
                "dsv3::view needs memory to look at: evaluate the expression into a Matrix first");
  static_assert(D::IsRowMajor, "dsv3::view expects row-major storage: use dsv3::Matrix or Eigen::RowMajor");
  static_assert(D::InnerStrideAtCompileTime == 1, "dsv3::view expects rows without gaps between their elements");
  static_assert(std::is_lvalue_reference_v<M> || !std::is_base_of_v<Eigen::PlainObjectBase<D>, D>,
                "dsv3::view of a temporary matrix would dangle: give the matrix a name");
  using T = std::remove_pointer_t<decltype(m.data())>;
  using View = std::conditional_t<std::is_const_v<T>, ConstMatrixView<std::remove_const_t<T>>, MatrixView<T>>;
  return View(m.data(), m.rows(), m.cols(), m.outerStride());
}

}  // namespace dsv3::inline DSV3_ISA
