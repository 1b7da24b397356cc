// Floor 6. Dtype: the element types a safetensors file names, and their sizes.
//
// quant/ has the codecs that turn codes into numbers. The format's sub-byte and complex types are left out: no checkpoint of the family has
// them.
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <string_view>

#include "dsv3/core/isa.hpp"

namespace dsv3::inline DSV3_ISA::io {

enum class Dtype { F64, F32, F16, BF16, F8_E4M3, F8_E5M2, F8_E8M0, I64, I32, I16, I8, U64, U32, U16, U8, BOOL };

namespace detail {

struct DtypeEntry {
  std::string_view name;
  std::size_t size;
};

/// In the order of the enumerators.
inline constexpr std::array<DtypeEntry, 16> dtypes{{{"F64", 8},
                                                    {"F32", 4},
                                                    {"F16", 2},
                                                    {"BF16", 2},
                                                    {"F8_E4M3", 1},
                                                    {"F8_E5M2", 1},
                                                    {"F8_E8M0", 1},
                                                    {"I64", 8},
                                                    {"I32", 4},
                                                    {"I16", 2},
                                                    {"I8", 1},
                                                    {"U64", 8},
                                                    {"U32", 4},
                                                    {"U16", 2},
                                                    {"U8", 1},
                                                    {"BOOL", 1}}};

}  // namespace detail

/// The name a safetensors header uses.
constexpr std::string_view name(Dtype dtype) { return detail::dtypes[static_cast<std::size_t>(dtype)].name; }

/// Bytes of one element.
constexpr std::size_t size(Dtype dtype) { return detail::dtypes[static_cast<std::size_t>(dtype)].size; }

/// The type a safetensors header calls `text`, if there is one.
[[nodiscard]] constexpr std::optional<Dtype> from_name(std::string_view text) {
  for (std::size_t i = 0; i < detail::dtypes.size(); ++i) {
    if (detail::dtypes[i].name == text) return static_cast<Dtype>(i);
  }
  return std::nullopt;
}

static_assert(name(Dtype::BOOL) == "BOOL" && from_name("F8_E4M3") == Dtype::F8_E4M3);

}  // namespace dsv3::inline DSV3_ISA::io
