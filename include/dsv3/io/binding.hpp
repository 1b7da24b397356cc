// Floor 6. Binding<S>: how a checkpoint stores a weight matrix in storage S. Specialise it to load and save a storage of your own.
//
// load.hpp decides which tensors a model needs and reports those that do not fit.
#pragma once

#include <array>
#include <cmath>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "dsv3/io/checkpoint_files.hpp"
#include "dsv3/io/outgoing.hpp"
#include "dsv3/quant/storage.hpp"

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

/// The result of checking or binding: empty if nothing is wrong, else a message that names tensor and file.
struct [[nodiscard]] Problem : std::optional<std::string> {
  using std::optional<std::string>::optional;
};

/// The files that a binding reads from, and the owners of what it had to convert.
struct BindContext {
  const CheckpointFiles& files;
  std::vector<std::shared_ptr<const void>>& owners;
  bool check_scales = true;  ///< check every scale: it must be finite
};

/// A specialisation has, for the matrix whose parameter is called `name` ("model.layers.3.mlp.up_proj.weight"):
///   names(name)                        the tensors that it is stored as, the one with the codes first
///   recognises(tensor)                 whether that first tensor is of this storage, by its type
///   check(files, name, rows, cols)     Problem: whether all tensors are there and fit, by their headers; no data is read
///   bind(context, name, rows, cols, view)  Problem: sets the view, after check(); without a copy if possible
///   save(name, view, out)              appends an Outgoing for each tensor; the view's memory must stay valid until they are written
template <class S>
struct Binding {
  static_assert(sizeof(S) == 0, "dsv3: this storage cannot be loaded or saved: specialise dsv3::io::Binding for it (io/binding.hpp)");
};

inline Problem check_shape(const Tensor& tensor, const std::vector<Index>& expected) {
  if (tensor.shape == expected) return std::nullopt;
  return tensor.name + ": expected shape " + shape_string(expected) + ", got " + shape_string(tensor.shape) + " (" + tensor.file + ")";
}

/// Whether floats_of() reads the tensor's type.
inline Problem check_is_float(const Tensor& tensor) {
  for (const Dtype d : {Dtype::F32, Dtype::BF16, Dtype::F16, Dtype::F8_E8M0})
    if (tensor.dtype == d) return std::nullopt;
  return tensor.name + ": expected a float type, found " + std::string(io::name(tensor.dtype)) + " (" + tensor.file + ")";
}

/// A tensor's elements as T: in place if aligned (safetensors does not promise it), else a copy that `owners` keeps.
template <class T>
[[nodiscard]] const T* elements_as(const Tensor& tensor, std::vector<std::shared_ptr<const void>>& owners) {
  const std::byte* data = tensor.data.data();
  if (reinterpret_cast<std::uintptr_t>(data) % alignof(T) == 0) return reinterpret_cast<const T*>(data);
  const std::shared_ptr<T[]> copy(new T[tensor.data.size() / sizeof(T)]);
  std::memcpy(copy.get(), data, tensor.data.size());
  owners.push_back(copy);
  return copy.get();
}

/// The elements of a tensor that check_is_float() has passed, as float32.
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

/// The same as a pointer: in place if they are float32 and aligned, else a converted copy that `owners` keeps.
[[nodiscard]] inline const float* floats_of(const Tensor& tensor, std::vector<std::shared_ptr<const void>>& owners) {
  if (tensor.dtype == Dtype::F32) return elements_as<float>(tensor, owners);
  const std::shared_ptr<float[]> floats(new float[static_cast<std::size_t>(tensor.elements())]);
  decode_floats(tensor, floats.get());
  owners.push_back(floats);
  return floats.get();
}

/// Sets `scales` [rows, cols] of a matrix, after checking that they are finite if the context asks for it.
inline Problem bind_scales(const BindContext& context, const Tensor& tensor, const float*& scales) {
  scales = floats_of(tensor, context.owners);
  for (Index i = 0; context.check_scales && i < tensor.elements(); ++i)
    if (!std::isfinite(scales[i]))
      return tensor.name + ": scale " + shape_string({i / tensor.shape[1], i % tensor.shape[1]}) + " is not finite (" + tensor.file + ")";
  return std::nullopt;
}

/// One tensor of codes.
template <class C>
struct Binding<Dense<C>> {
  static_assert(dtype_of<C>.has_value(), "dsv3: this codec has no type in the safetensors format: give dsv3::io::dtype_of a value for it");

  static std::array<std::string, 1> names(const std::string& name) { return {name}; }
  static bool recognises(const Tensor& codes) { return codes.dtype == dtype_of<C>; }
  static Problem check(const CheckpointFiles& files, const std::string& name, Index rows, Index cols) {
    return check_shape(*files.find(name), {rows, cols});
  }
  static Problem bind(const BindContext& context, const std::string& name, Index rows, Index cols, typename Dense<C>::View& view) {
    view = {elements_as<typename C::Code>(*context.files.find(name), context.owners), rows, cols, cols};
    return std::nullopt;
  }
  static void save(const std::string& name, const typename Dense<C>::View& w, std::vector<Outgoing>& out) {
    require(w.data != nullptr, "save: ", name, " is not bound to any memory");
    out.push_back(outgoing(name, *dtype_of<C>, w.data, w.rows, w.cols, w.stride));
  }
};

/// e4m3 codes and "_scale_inv", one scale a block (spec B3).
template <Index Rows, Index Cols>
struct Binding<Fp8Block<Rows, Cols>> {
  using View = typename Fp8Block<Rows, Cols>::View;

  static std::array<std::string, 2> names(const std::string& name) { return {name, name + "_scale_inv"}; }
  static bool recognises(const Tensor& codes) { return codes.dtype == Dtype::F8_E4M3; }
  static Problem check(const CheckpointFiles& files, const std::string& name, Index rows, Index cols) {
    const Tensor& codes = *files.find(name);
    if (auto wrong = check_shape(codes, {rows, cols})) return wrong;
    const Tensor* scales = files.find(names(name)[1]);
    if (scales == nullptr) return names(name)[1] + ": missing, though the weight is stored as fp8 (" + codes.file + ")";
    if (auto wrong = check_shape(*scales, {blocks(rows, Rows), blocks(cols, Cols)})) return wrong;
    return check_is_float(*scales);
  }
  static Problem bind(const BindContext& context, const std::string& name, Index rows, Index cols, View& view) {
    view.data = elements_as<codec::E4m3::Code>(*context.files.find(name), context.owners);
    view.rows = rows;
    view.cols = view.stride = cols;
    view.scale_stride = blocks(cols, Cols);
    return bind_scales(context, *context.files.find(names(name)[1]), view.scales);
  }
  static void save(const std::string& name, const View& w, std::vector<Outgoing>& out) {
    require(w.data != nullptr, "save: ", name, " is not bound to any memory");
    out.push_back(outgoing(name, Dtype::F8_E4M3, w.data, w.rows, w.cols, w.stride));
    out.push_back(outgoing(names(name)[1], Dtype::F32, w.scales, blocks(w.rows, Rows), blocks(w.cols, Cols), w.scale_stride));
  }

 private:
  static Index blocks(Index n, Index block) { return (n + block - 1) / block; }
};

}  // namespace dsv3::inline DSV3_ISA::io
