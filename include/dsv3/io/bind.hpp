// Floor 6. Binding: a checkpoint tensor becomes the view a module computes with, in place where its bytes are usable as they lie.
//
// Which tensors a model needs, and what to do about those that do not fit, is load.hpp.
#pragma once

#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <variant>

#include "dsv3/io/checkpoint_files.hpp"
#include "dsv3/modules/parameters.hpp"
#include "dsv3/quant/any_storage.hpp"

namespace dsv3::inline DSV3_ISA::io {

/// The type a codec's codes have in a file.
template <class C>
inline constexpr std::optional<Dtype> dtype_of = std::nullopt;
template <>
inline constexpr std::optional<Dtype> dtype_of<codec::Float32> = Dtype::F32;
template <>
inline constexpr std::optional<Dtype> dtype_of<codec::BFloat16> = Dtype::BF16;
template <>
inline constexpr std::optional<Dtype> dtype_of<codec::Float16> = Dtype::F16;
template <>
inline constexpr std::optional<Dtype> dtype_of<codec::E4m3> = Dtype::F8_E4M3;
template <>
inline constexpr std::optional<Dtype> dtype_of<codec::E5m2> = Dtype::F8_E5M2;
template <>
inline constexpr std::optional<Dtype> dtype_of<codec::E8m0> = Dtype::F8_E8M0;

namespace detail {

/// A tensor's elements as T: where they lie if aligned (safetensors does not promise it), else a copy that `owners` keeps.
template <class T>
const T* elements_as(const Tensor& tensor, std::vector<std::shared_ptr<const void>>& owners) {
  const std::byte* data = tensor.data.data();
  if (reinterpret_cast<std::uintptr_t>(data) % alignof(T) == 0) return reinterpret_cast<const T*>(data);
  const std::shared_ptr<T[]> copy(new T[tensor.data.size() / sizeof(T)]);
  std::memcpy(copy.get(), data, tensor.data.size());
  owners.push_back(copy);
  return copy.get();
}

inline bool is_float(Dtype d) { return d == Dtype::F32 || d == Dtype::BF16 || d == Dtype::F16 || d == Dtype::F8_E8M0; }

/// The elements of a tensor whose type is_float, as float32.
inline void decode_floats(const Tensor& tensor, float* y) {
  const auto as = [&]<class C>(C) {
    if (tensor.dtype != dtype_of<C>) return;
    for (Index i = 0; i < tensor.elements(); ++i) {
      typename C::Code code;
      std::memcpy(&code, tensor.data.data() + static_cast<std::size_t>(i) * sizeof(code), sizeof(code));
      y[i] = C::decode(code);
    }
  };
  as(codec::Float32{}), as(codec::BFloat16{}), as(codec::Float16{}), as(codec::E8m0{});
}

}  // namespace detail

/// What came of an attempt to bind: nothing wrong, or a sentence.
using Problem = std::optional<std::string>;

/// Checks tensors of a checkpoint against parameters, and gives the parameters views of them; converted or realigned data goes to `owners`.
class Binder {
 public:
  /// With `check_scales`, binding looks at every scale.
  Binder(const CheckpointFiles& files, std::vector<std::shared_ptr<const void>>& owners, bool check_scales = true)
      : files_(files), owners_(owners), check_scales_(check_scales) {}

  /// Whether the headers say that `tensor` fits; no data is read.
  template <Storage S>
  Problem check(const Tensor& tensor, const WeightMatrix<S>& w) const {
    if (auto wrong = check_shape(tensor, {w.rows, w.cols})) return wrong;
    Problem wrong;
    if (!any_view(w.view, [&]<class V>(const V&) {
          if (tensor.dtype != dtype_of<typename V::Storage::Codec>) return false;
          if constexpr (V::Storage::scaled) wrong = check_scales<typename V::Storage>(tensor);
          return true;
        }))
      return tensor.name + ": stored as " + std::string(io::name(tensor.dtype)) + ", which the policy's storage does not hold (" +
             tensor.file + ")";
    return wrong;
  }
  Problem check(const Tensor& tensor, const WeightVector& v) const {
    if (auto wrong = check_shape(tensor, {v.length})) return wrong;
    return check_is_float(tensor);
  }

  /// The tensor's bytes as a view, in the storage that matches its type. Scales that are looked at must be finite.
  template <Storage S>
  Problem bind(const Tensor& tensor, WeightMatrix<S>& w) {
    if (auto wrong = check(tensor, w)) return wrong;
    Problem wrong;
    any_view(w.view, [&]<class V>(const V&) {
      using Codec = typename V::Storage::Codec;
      if (tensor.dtype != dtype_of<Codec>) return false;
      V v;
      v.data = detail::elements_as<typename Codec::Code>(tensor, owners_);
      v.rows = w.rows;
      v.cols = v.stride = w.cols;
      if constexpr (V::Storage::scaled) wrong = bind_scales(*files_.find(scales_of(tensor)), v);
      w.view = v;
      return true;
    });
    return wrong;
  }

  /// The tensor's values as floats; they must be finite.
  Problem bind(const Tensor& tensor, WeightVector& v) {
    if (auto wrong = check(tensor, v)) return wrong;
    v.values.resize(v.length);
    detail::decode_floats(tensor, v.values.data());
    if (!v.values.allFinite()) return tensor.name + ": has values that are not finite (" + tensor.file + ")";
    return std::nullopt;
  }

 private:
  static std::string scales_of(const Tensor& weight) { return weight.name + "_scale_inv"; }

  // True if f(view) is true for one of the views that `w` can be.
  template <class... W, class F>
  static bool any_view(const std::variant<W...>&, F&& f) {
    return (f(W{}) || ...);
  }
  template <ElementView W, class F>
  static bool any_view(const W& w, F&& f) {
    return f(w);
  }

  static Problem check_shape(const Tensor& tensor, const std::vector<Index>& expected) {
    if (tensor.shape == expected) return std::nullopt;
    return tensor.name + ": expected shape " + shape_string(expected) + ", got " + shape_string(tensor.shape) + " (" + tensor.file + ")";
  }

  static Problem check_is_float(const Tensor& tensor) {
    if (detail::is_float(tensor.dtype)) return std::nullopt;
    return tensor.name + ": expected a float type, found " + std::string(io::name(tensor.dtype)) + " (" + tensor.file + ")";
  }

  template <class S>
  Problem check_scales(const Tensor& weight) const {
    const Tensor* scales = files_.find(scales_of(weight));
    if (scales == nullptr) return scales_of(weight) + ": missing, though the weight is stored as fp8 (" + weight.file + ")";
    const auto blocks = [](Index n, Index block) { return (n + block - 1) / block; };
    if (auto wrong = check_shape(*scales, {blocks(weight.shape[0], S::block_rows), blocks(weight.shape[1], S::k_block)})) return wrong;
    return check_is_float(*scales);
  }

  template <ElementView W>
  Problem bind_scales(const Tensor& scales, W& view) {
    const Index count = scales.shape[0] * scales.shape[1];
    if (scales.dtype == Dtype::F32) {
      view.scales = detail::elements_as<float>(scales, owners_);
    } else {
      const std::shared_ptr<float[]> floats(new float[static_cast<std::size_t>(count)]);
      detail::decode_floats(scales, floats.get());
      owners_.push_back(floats);
      view.scales = floats.get();
    }
    view.scale_stride = scales.shape[1];
    for (Index i = 0; check_scales_ && i < count; ++i)
      if (!std::isfinite(view.scales[i]))
        return scales.name + ": scale " + shape_string({i / scales.shape[1], i % scales.shape[1]}) + " is not finite (" + scales.file + ")";
    return std::nullopt;
  }

  const CheckpointFiles& files_;
  std::vector<std::shared_ptr<const void>>& owners_;
  bool check_scales_;
};

}  // namespace dsv3::inline DSV3_ISA::io
