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

/// Any float tensor decoded into y. False if its type is not a float.
inline bool decode_floats(const Tensor& tensor, float* y) {
  const auto as = [&]<class C>(C) {
    if (tensor.dtype != dtype_of<C>) return false;
    for (std::size_t i = 0; i < tensor.data.size() / sizeof(typename C::Code); ++i) {
      typename C::Code code;
      std::memcpy(&code, tensor.data.data() + i * sizeof(code), sizeof(code));
      y[i] = C::decode(code);
    }
    return true;
  };
  return as(codec::Float32{}) || as(codec::BFloat16{}) || as(codec::Float16{}) || as(codec::E8m0{});
}

}  // namespace detail

/// What came of an attempt to bind: nothing wrong, or a sentence.
using Problem = std::optional<std::string>;

/// Gives views of a checkpoint's tensors; converted or realigned data goes to `owners`.
class Binder {
 public:
  Binder(const CheckpointFiles& files, std::vector<std::shared_ptr<const void>>& owners) : files_(files), owners_(owners) {}

  /// The tensor's bytes as a view in storage S, of which one must match its type.
  template <Storage S>
  Problem bind(const std::string& name, const Tensor& tensor, WeightMatrix<S>& w) {
    if (auto wrong = check_shape(tensor, {w.rows, w.cols})) return wrong;
    Problem wrong;
    if (!bind_any(name, tensor, w.view, wrong))
      return name + ": stored as " + std::string(io::name(tensor.dtype)) + ", which the policy's storage does not hold (" + tensor.file +
             ")";
    return wrong;
  }

  /// The tensor's values as floats; they must be finite.
  Problem bind(const std::string& name, const Tensor& tensor, WeightVector& v) {
    if (auto wrong = check_shape(tensor, {v.length})) return wrong;
    v.values.resize(v.length);
    if (!detail::decode_floats(tensor, v.values.data()))
      return name + ": expected a float type, found " + std::string(io::name(tensor.dtype)) + " (" + tensor.file + ")";
    if (!v.values.allFinite()) return name + ": has values that are not finite (" + tensor.file + ")";
    return std::nullopt;
  }

 private:
  static Problem check_shape(const Tensor& tensor, std::vector<Index> expected) {
    if (tensor.shape == expected) return std::nullopt;
    return tensor.name + ": expected shape " + shape_string(expected) + ", got " + shape_string(tensor.shape) + " (" + tensor.file + ")";
  }

  template <class... W>
  bool bind_any(const std::string& name, const Tensor& tensor, std::variant<W...>& view, Problem& wrong) {
    const auto attempt = [&]<class One>(One one) {
      if (!bind_any(name, tensor, one, wrong)) return false;
      view = one;
      return true;
    };
    return (attempt(W{}) || ...);
  }

  template <ElementView W>
  bool bind_any(const std::string& name, const Tensor& tensor, W& view, Problem& wrong) {
    using Codec = typename W::Storage::Codec;
    if (tensor.dtype != dtype_of<Codec>) return false;
    view.data = detail::elements_as<typename Codec::Code>(tensor, owners_);
    view.rows = tensor.shape[0];
    view.cols = view.stride = tensor.shape[1];
    if constexpr (W::Storage::scaled) wrong = bind_scales(name + "_scale_inv", view);
    return true;
  }

  template <ElementView W>
  Problem bind_scales(const std::string& name, W& view) {
    const Tensor* scales = files_.find(name);
    if (scales == nullptr) return name + ": missing, though the weight is stored as fp8";
    const Index rows = (view.rows + W::Storage::block_rows - 1) / W::Storage::block_rows,
                cols = (view.cols + W::Storage::k_block - 1) / W::Storage::k_block;
    if (auto wrong = check_shape(*scales, {rows, cols})) return wrong;
    if (scales->dtype == Dtype::F32) {
      view.scales = detail::elements_as<float>(*scales, owners_);
    } else {
      const std::shared_ptr<float[]> floats(new float[static_cast<std::size_t>(rows * cols)]);
      if (!detail::decode_floats(*scales, floats.get()))
        return name + ": expected F32, BF16, F16 or F8_E8M0, found " + std::string(io::name(scales->dtype)) + " (" + scales->file + ")";
      owners_.push_back(floats);
      view.scales = floats.get();
    }
    view.scale_stride = cols;
    for (Index i = 0; i < rows * cols; ++i)
      if (!std::isfinite(view.scales[i]))
        return name + ": scale " + shape_string({i / cols, i % cols}) + " is not finite (" + scales->file + ")";
    return std::nullopt;
  }

  const CheckpointFiles& files_;
  std::vector<std::shared_ptr<const void>>& owners_;
};

}  // namespace dsv3::inline DSV3_ISA::io
