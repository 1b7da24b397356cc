// Floor 6. Safetensors: the tensors of one .safetensors file, as views into its mapping.
//
// The layout is 8 bytes of little-endian header length, a JSON header, then the data. Only the header is read on opening. Writing is
// safetensors_writer.hpp, several files that make one checkpoint are checkpoint_files.hpp.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dsv3/core/config.hpp"
#include "dsv3/core/error.hpp"
#include "dsv3/io/dtype.hpp"
#include "dsv3/io/json.hpp"
#include "dsv3/io/mapped_file.hpp"

namespace dsv3::inline DSV3_ISA::io {

/// A named tensor: row-major elements of `dtype`, as raw bytes that someone else keeps alive.
struct Tensor {
  std::string name;
  Dtype dtype = Dtype::F32;
  std::vector<Index> shape;         ///< empty for a scalar
  std::span<const std::byte> data;  ///< elements() * size(dtype) bytes; see aligned()
  std::string file;                 ///< where it came from, for error messages

  Index elements() const { return static_cast<Index>(data.size() / size(dtype)); }

  /// Whether `data` may be read through a pointer to the element type; the format does not promise it.
  bool aligned() const { return reinterpret_cast<std::uintptr_t>(data.data()) % size(dtype) == 0; }
};

/// Longest header that is accepted, the format's own limit.
inline constexpr std::size_t kMaxSafetensorsHeader = 100'000'000;

namespace detail {

/// The value of a JSON integer in [0, 2^63), or -1.
inline Index natural(const nlohmann::json& value) {
  if (!value.is_number_unsigned()) return -1;
  const auto number = value.get<std::uint64_t>();
  return std::cmp_less_equal(number, std::numeric_limits<Index>::max()) ? static_cast<Index>(number) : -1;
}

/// Reads one header entry; `data` is the part of the file after the header.
inline Tensor parse_tensor(std::string_view file, std::string_view name, const nlohmann::json& entry, std::span<const std::byte> data) {
  // Called only to report: the message costs too much to build 50,000 times.
  const auto wrong = [&](const auto&... parts) { fail(file, ": tensor ", quote(name), ": ", parts...); };
  if (!entry.is_object()) wrong("expected an object, found ", entry.type_name());
  const auto field = [&](const char* key) -> const nlohmann::json& {
    const auto found = entry.find(key);
    if (found == entry.end()) wrong("field \"", key, "\" is missing");
    return *found;
  };
  const nlohmann::json &dtype = field("dtype"), &shape = field("shape"), &offsets = field("data_offsets");
  if (entry.size() != 3) wrong("expected the fields dtype, shape and data_offsets alone, found ", entry.size(), " fields");

  Tensor tensor{.name = std::string(name), .dtype = {}, .shape = {}, .data = {}, .file = std::string(file)};
  if (!dtype.is_string()) wrong("dtype: expected a string, found ", dtype.type_name());
  const auto& dtype_name = dtype.get_ref<const std::string&>();
  const auto known = from_name(dtype_name);
  if (!known) wrong("dtype: expected one of F64 to BOOL, found ", quote(dtype_name));
  tensor.dtype = *known;

  if (!shape.is_array()) wrong("shape: expected a list, found ", shape.type_name());
  tensor.shape.reserve(shape.size());
  Index bytes = static_cast<Index>(size(tensor.dtype));
  for (const auto& dim : shape) {
    const Index d = natural(dim);
    if (d < 0) wrong("shape: expected sizes in [0, 2^63), found ", describe(dim));
    if (d > 0 && bytes > std::numeric_limits<Index>::max() / d) wrong("shape: the number of bytes overflows at size ", d);
    bytes *= d;
    tensor.shape.push_back(d);
  }

  if (!offsets.is_array() || offsets.size() != 2) wrong("data_offsets: expected [begin, end]");
  const Index begin = natural(offsets[0]), end = natural(offsets[1]);
  if (begin < 0 || end < begin) wrong("data_offsets: expected 0 <= begin <= end, found ", offsets.dump());
  if (std::cmp_greater(end, data.size())) wrong("data_offsets: the data ends at byte ", end, " of ", data.size(), " (truncated file?)");
  if (end - begin != bytes) {
    wrong("data_offsets: ", dtype_name, " of shape ", shape_string(tensor.shape), " needs ", bytes, " bytes, found ", end - begin);
  }
  tensor.data = data.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(bytes));
  return tensor;
}

}  // namespace detail

/// The tensors of one file and what keeps their bytes alive. Copies share the mapping.
class Safetensors {
 public:
  /// Maps a file and checks its header as the format's specification demands; the data is not touched.
  ///
  /// Throws: Error that names the file, and the tensor if one is at fault.
  static Safetensors open(const std::filesystem::path& path) {
    auto mapped = MappedFile::open(path);
    Safetensors file = parse(mapped->bytes(), path.string());
    file.owner_ = std::move(mapped);
    return file;
  }

  /// The same for bytes in memory, which the caller keeps alive; `name` stands for the file in messages.
  static Safetensors parse(std::span<const std::byte> bytes, std::string_view name) {
    require(bytes.size() >= 8, name, ": expected at least 8 bytes, found ", bytes.size());
    std::uint64_t length = 0;
    for (std::size_t i = 0; i < 8; ++i) length |= std::to_integer<std::uint64_t>(bytes[i]) << (8 * i);
    require(length <= kMaxSafetensorsHeader, name, ": header of ", length, " bytes is longer than the format allows (not safetensors?)");
    require(length <= bytes.size() - 8, name, ": header of ", length, " bytes is longer than the file (truncated?)");
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + 8, static_cast<std::size_t>(length));
    require(text.starts_with('{'), name, ": the header must begin with '{'");
    require(text.find('\0') == text.npos, name, ": the header contains a zero byte");
    const nlohmann::json header = parse_json(text, name);
    return Safetensors(header, bytes.subspan(8 + text.size()), name);
  }

  /// All tensors in ascending order of name.
  const std::vector<Tensor>& tensors() const { return tensors_; }

  /// The tensor of that name, or null.
  const Tensor* find(std::string_view name) const {
    const auto at = std::ranges::lower_bound(tensors_, name, {}, &Tensor::name);
    return at != tensors_.end() && at->name == name ? &*at : nullptr;
  }

  /// The header's "__metadata__".
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  /// Keeps the tensors' bytes alive after this object is gone; null after parse().
  const std::shared_ptr<const void>& owner() const { return owner_; }

 private:
  Safetensors(const nlohmann::json& header, std::span<const std::byte> data, std::string_view name) {
    tensors_.reserve(header.size());
    for (const auto& [key, entry] : header.items()) {  // ascending keys, which find() relies on
      if (key == "__metadata__") {
        require(entry.is_object(), name, ": __metadata__: expected an object, found ", entry.type_name());
        for (const auto& [word, text] : entry.items()) {
          require(text.is_string(), name, ": __metadata__: expected strings, found ", text.type_name());
          metadata_.emplace(word, text.get_ref<const std::string&>());
        }
      } else {
        tensors_.push_back(detail::parse_tensor(name, key, entry, data));
      }
    }
    check_layout(data, name);
  }

  /// The tensors must tile the data: what two tensors share, or none owns, could carry anything.
  void check_layout(std::span<const std::byte> data, std::string_view name) const {
    std::vector<const Tensor*> order(tensors_.size());
    std::ranges::transform(tensors_, order.begin(), [](const Tensor& t) { return &t; });
    const auto range = [](const Tensor* t) { return std::pair(t->data.data(), t->data.size()); };
    std::ranges::sort(order, {}, range);
    const std::byte* next = data.data();
    for (const Tensor* tensor : order) {
      const auto gap = tensor->data.data() - next;
      require(gap >= 0, name, ": tensor ", quote(tensor->name), ": data_offsets overlap the tensor before by ", -gap, " bytes");
      require(gap == 0, name, ": tensor ", quote(tensor->name), ": data_offsets leave a hole of ", gap, " bytes before it");
      next += tensor->data.size();
    }
    const auto rest = data.data() + data.size() - next;
    require(rest == 0, name, ": ", rest, " bytes after the last tensor belong to none");
  }

  std::vector<Tensor> tensors_;
  std::map<std::string, std::string> metadata_;
  std::shared_ptr<const void> owner_;
};

}  // namespace dsv3::inline DSV3_ISA::io
