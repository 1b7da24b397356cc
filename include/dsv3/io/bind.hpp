// Floor 6. Binding a model's parameters: each becomes a view of a checkpoint's tensors, without a copy if their bytes are usable in place.
//
// binding.hpp says which tensors a storage has.
#pragma once

#include <string>
#include <variant>

#include "dsv3/io/binding.hpp"
#include "dsv3/modules/parameters.hpp"
#include "dsv3/quant/any_storage.hpp"

namespace dsv3::inline DSV3_ISA::io {

/// Checks tensors of a checkpoint against parameters, and gives the parameters views of them.
class Binder {
 public:
  explicit Binder(const BindContext& context) : context_(context) {}

  /// The first tensor of the parameter called `name`, or null if there is none. Calls used(name) for each of the parameter's tensors.
  template <Storage S, class Used>
  const Tensor* find(const std::string& name, const WeightMatrix<S>&, Used&& used) const {
    const Tensor* first = nullptr;
    with_binding<S>(name, [&]<class B>(B, const Tensor& codes) {
      first = &codes;
      for (const auto& each : B::names(name))
        if (context_.files.find(each) != nullptr) used(each);
    });
    if (first == nullptr && (first = context_.files.find(name)) != nullptr) used(name);
    return first;
  }
  template <class Used>
  const Tensor* find(const std::string& name, const WeightVector&, Used&& used) const {
    const Tensor* tensor = context_.files.find(name);
    if (tensor != nullptr) used(name);
    return tensor;
  }

  /// Checks by their headers whether the tensors called `name` fit the parameter; no data is read.
  template <Storage S>
  Problem check(const std::string& name, const WeightMatrix<S>& w) const {
    Problem wrong;
    if (with_binding<S>(name, [&]<class B>(B, const Tensor&) { wrong = B::check(context_.files, name, w.rows, w.cols); })) return wrong;
    const Tensor& tensor = *context_.files.find(name);
    if (auto shape = check_shape(tensor, {w.rows, w.cols})) return shape;
    return tensor.name + ": stored as " + std::string(io::name(tensor.dtype)) + ", which the policy's storage does not hold (" +
           tensor.file + ")";
  }
  Problem check(const std::string& name, const WeightVector& v) const {
    const Tensor& tensor = *context_.files.find(name);
    if (auto wrong = check_shape(tensor, {v.length})) return wrong;
    return check_is_float(tensor);
  }

  /// Gives the parameter a view of the tensors' bytes, in the storage that recognises them. Scales must be finite, if they are checked.
  template <Storage S>
  Problem bind(const std::string& name, WeightMatrix<S>& w) const {
    if (auto wrong = check(name, w)) return wrong;
    Problem wrong;
    with_binding<S>(name, [&]<class B>(B, const Tensor&) {
      typename B::View view{};
      wrong = B::bind(context_, name, w.rows, w.cols, view);
      w.view = view;
    });
    return wrong;
  }
  /// Gives the parameter the tensor's values as floats; they must be finite.
  Problem bind(const std::string& name, WeightVector& v) const {
    if (auto wrong = check(name, v)) return wrong;
    const Tensor& tensor = *context_.files.find(name);
    v.values.resize(v.length);
    decode_floats(tensor, v.values.data());
    if (!v.values.allFinite()) return tensor.name + ": has values that are not finite (" + tensor.file + ")";
    return std::nullopt;
  }

 private:
  template <class V>
  struct BindingOf : Binding<typename V::Storage> {
    using View = V;
  };

  // f(binding, tensor of codes) for the first storage of S that recognises what is stored under `name`. Returns whether one does.
  template <Storage S, class F>
  bool with_binding(const std::string& name, F&& f) const {
    const auto attempt = [&]<class V>(const V*) {
      using B = BindingOf<V>;
      const Tensor* codes = context_.files.find(B::names(name)[0]);
      if (codes == nullptr || !B::recognises(*codes)) return false;
      f(B{}, *codes);
      return true;
    };
    const auto any = [&]<class... W>(const std::variant<W...>*) { return (attempt(static_cast<const W*>(nullptr)) || ...); };
    using View = typename S::View;
    if constexpr (ElementView<View>)
      return attempt(static_cast<const View*>(nullptr));
    else
      return any(static_cast<const View*>(nullptr));
  }

  BindContext context_;
};

}  // namespace dsv3::inline DSV3_ISA::io
