// Floor 4. What modules hold: weight matrices and vectors under checkpoint names, and the visitors that enumerate them.
//
// Each module's for_each_tensor(self, prefix, visit) calls visit(name, parameter) for every WeightMatrix and WeightVector it has, once,
// under the published name. Loading, saving, counting and checking are such visits.
#pragma once

#include <concepts>
#include <string>

#include "dsv3/core/error.hpp"
#include "dsv3/core/matrix.hpp"
#include "dsv3/quant/any_storage.hpp"

namespace dsv3::inline DSV3_ISA {

/// A weight [rows, cols] in storage S: its expected shape, and a view of where it lies (empty until bound).
template <Storage S>
struct WeightMatrix {
  Index rows = 0, cols = 0;
  typename S::View view{};

  Index size() const { return rows * cols; }
  /// The view. Throws: Error if it is still empty; `owner` says whose weights these are.
  const typename S::View& bound(const char* owner) const {
    require(weight_rows(view) == rows, owner, ": weights [", rows, ", ", cols,
            "] are not bound to memory: load a checkpoint, or give the model fresh weights");
    return view;
  }
};

/// A small vector that is used as float32 whatever its stored type: a norm's weight, the router's bias. Owned.
struct WeightVector {
  Index length = 0;
  Vector<float> values{};
  bool learned = true;  ///< by gradients; false for the router's bias

  Index size() const { return length; }
  /// The values. Throws: Error if there are none yet; `owner` says whose weights these are.
  const Vector<float>& bound(const char* owner) const {
    require(values.size() == length, owner, ": weights [", length,
            "] are not bound to memory: load a checkpoint, or give the model fresh weights");
    return values;
  }
};

/// Accepts every parameter and does nothing: for the concept HasTensors.
struct AnyVisitor {
  template <class T>
  void operator()(const std::string&, T&) const {}
};

template <class M>
concept HasTensors = requires(M& m, const M& c, const std::string& prefix) {
  M::for_each_tensor(m, prefix, AnyVisitor{});
  M::for_each_tensor(c, prefix, AnyVisitor{});
};

}  // namespace dsv3::inline DSV3_ISA
