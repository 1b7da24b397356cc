// Floor 6. Writing a safetensors file, streamed: names and shapes first, then one tensor after the other.
//
// Tensors are sorted by element size, the largest first, then by name, so that each starts at a multiple of its element size (the format
// allows no padding between them). Splitting into shards is left to the caller.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <locale>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dsv3/core/config.hpp"
#include "dsv3/core/error.hpp"
#include "dsv3/io/atomic_file.hpp"
#include "dsv3/io/json.hpp"
#include "dsv3/io/safetensors.hpp"

namespace dsv3::inline DSV3_ISA::io {

/// The header entry of a tensor to be written.
struct TensorSpec {
  std::string name;
  Dtype dtype = Dtype::F32;
  std::vector<Index> shape;
};

/// The "__metadata__" that Hugging Face's loaders ask for.
inline const std::map<std::string, std::string>& pytorch_metadata() {
  static const std::map<std::string, std::string> metadata{{"format", "pt"}};
  return metadata;
}

namespace detail {

/// Bytes of a tensor's data.
inline Index data_bytes(const TensorSpec& spec) {
  Index bytes = static_cast<Index>(size(spec.dtype));
  for (const Index d : spec.shape) {
    const bool fits = d >= 0 && (d == 0 || bytes <= std::numeric_limits<Index>::max() / d);
    if (!fits) fail("tensor ", quote(spec.name), ": cannot write shape ", shape_string(spec.shape));
    bytes *= d;
  }
  return bytes;
}

/// `value` as JSON text.
template <class T>
std::string json_text(const T& value) {
  try {
    return nlohmann::json(value).dump();
  } catch (const nlohmann::json::exception& error) {
    fail("cannot write as JSON: ", error.what());  // not UTF-8
  }
}

/// The first bytes of the file up to the data: length and JSON, padded to a multiple of 8.
inline std::string safetensors_head(const std::vector<TensorSpec>& specs, const std::map<std::string, std::string>& metadata) {
  std::ostringstream json;
  json.imbue(std::locale::classic());  // the program's locale may group digits
  json << '{';
  const char* comma = "";
  if (!metadata.empty()) {
    json << "\"__metadata__\":" << json_text(metadata);
    comma = ",";
  }
  std::set<std::string_view> seen{"__metadata__"};
  Index begin = 0;
  for (const TensorSpec& spec : specs) {
    if (!seen.insert(spec.name).second) fail("tensor ", quote(spec.name), ": the name is taken");
    const Index bytes = data_bytes(spec);
    if (bytes > std::numeric_limits<Index>::max() - begin) fail("tensor ", quote(spec.name), ": the file would be too long");
    const Index end = begin + bytes;
    json << comma << json_text(spec.name) << ":{\"dtype\":\"" << name(spec.dtype) << "\",\"shape\":" << json_text(spec.shape)
         << ",\"data_offsets\":[" << begin << ',' << end << "]}";
    comma = ",";
    begin = end;
  }
  json << '}';
  std::string text = std::string(8, ' ') + json.str();  // the length goes first
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const std::uint64_t length = text.size() - 8;
  require(length <= max_safetensors_header, "a header of ", length, " bytes is longer than the format allows");
  for (std::size_t i = 0; i < 8; ++i) text[i] = static_cast<char>(length >> (8 * i) & 0xff);
  return text;
}

}  // namespace detail

/// Writes `target` from tensors whose data is produced during writing.
///
/// `source(spec, sink)` is called once for each tensor, in the order of the file, and hands its bytes, little-endian and row-major, to
/// `sink(std::span<const std::byte>)` in as many pieces as it likes. The file appears under its name when all is written (AtomicFile).
///
/// Throws: Error if a name comes twice, a shape has no size, or a tensor gets too few or too many bytes; and what `source` throws.
template <class Source>
void write_safetensors(const std::filesystem::path& target, std::vector<TensorSpec> specs, Source&& source,
                       const std::map<std::string, std::string>& metadata = pytorch_metadata()) {
  std::ranges::sort(specs, [](const TensorSpec& a, const TensorSpec& b) {
    return size(a.dtype) != size(b.dtype) ? size(a.dtype) > size(b.dtype) : a.name < b.name;
  });
  AtomicFile file(target);
  file.write(detail::safetensors_head(specs, metadata));
  for (const TensorSpec& spec : specs) {
    const auto expected = static_cast<std::size_t>(detail::data_bytes(spec));
    std::size_t written = 0;
    source(spec, [&](std::span<const std::byte> bytes) {
      written += bytes.size();
      require(written <= expected, target.string(), ": tensor ", quote(spec.name), ": expected ", expected, " bytes, found more");
      file.write(bytes);
    });
    require(written == expected, target.string(), ": tensor ", quote(spec.name), ": expected ", expected, " bytes, found ", written);
  }
  file.commit();
}

/// Writes `target` from tensors in memory.
inline void write_safetensors(const std::filesystem::path& target, const std::vector<Tensor>& tensors,
                              const std::map<std::string, std::string>& metadata = pytorch_metadata()) {
  std::vector<TensorSpec> specs;
  std::map<std::string_view, std::span<const std::byte>> data;
  for (const Tensor& tensor : tensors) {
    specs.push_back({tensor.name, tensor.dtype, tensor.shape});
    data.emplace(tensor.name, tensor.data);
  }
  write_safetensors(
      target, std::move(specs), [&](const TensorSpec& spec, const auto& sink) { sink(data.at(spec.name)); }, metadata);
}

}  // namespace dsv3::inline DSV3_ISA::io
