// Floor 6. A tensor to be written to a file: its description, and where its rows lie in memory.
#pragma once

#include <string>
#include <utility>

#include "dsv3/io/safetensors_writer.hpp"

namespace dsv3::inline DSV3_ISA::io {

struct [[nodiscard]] Outgoing {
  TensorSpec spec;
  const std::byte* data;
  std::size_t rows, row_bytes, stride_bytes;

  std::size_t bytes() const { return rows * row_bytes; }
};

/// Elements [rows, cols] of type T, rows `stride` elements apart, to be stored as `dtype` with that shape.
template <class T>
Outgoing outgoing(std::string name, Dtype dtype, const T* data, Index rows, Index cols, Index stride) {
  const auto bytes = [](Index n) { return static_cast<std::size_t>(n) * sizeof(T); };
  return {{std::move(name), dtype, {rows, cols}},
          reinterpret_cast<const std::byte*>(data),
          static_cast<std::size_t>(rows),
          bytes(cols),
          bytes(stride)};
}

}  // namespace dsv3::inline DSV3_ISA::io
