// Floor 6. Safetensors: the tensors of one .safetensors file, as views into its mapping.
//
// The layout is 8 bytes of little-endian header length, a JSON header, then the data. Only the header is read on opening.
// safetensors_writer.hpp writes files; checkpoint_files.hpp opens the several files of a checkpoint.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dsv3/core/error.hpp"
#include "dsv3/io/json.hpp"
#include "dsv3/io/mapped_file.hpp"
#include "dsv3/io/page_advice.hpp"
#include "dsv3/io/safetensors_header.hpp"

namespace dsv3::inline DSV3_ISA::io {

/// Longest header that is accepted, the format's own limit.
inline constexpr std::size_t max_safetensors_header = 100'000'000;

/// The tensors of one file and what keeps their bytes alive. Copies share the mapping.
class [[nodiscard]] Safetensors {
 public:
  /// Maps a file and checks its header as the format's specification demands; the data is not read.
  ///
  /// Throws: Error that names the file, and the tensor if one is at fault.
  static Safetensors open(const std::filesystem::path& path) {
    auto mapped = MappedFile::open(path);
    const auto bytes = mapped->bytes();
    const NoReadahead no_data({&bytes, 1});
    Safetensors file = parse(bytes, path.string());
    file.owner_ = std::move(mapped);
    return file;
  }

  /// The same for bytes in memory, which the caller keeps alive; `name` stands for the file in messages.
  static Safetensors parse(std::span<const std::byte> bytes, std::string_view name) {
    require(bytes.size() >= 8, name, ": expected at least 8 bytes, found ", bytes.size());
    check_is_fetched({reinterpret_cast<const char*>(bytes.data()), std::min(bytes.size(), std::size_t{64})}, name);
    std::uint64_t length = 0;
    for (std::size_t i = 0; i < 8; ++i) length |= std::to_integer<std::uint64_t>(bytes[i]) << (8 * i);
    require(length <= max_safetensors_header, name, ": header of ", length, " bytes is longer than the format allows (not safetensors?)");
    require(length <= bytes.size() - 8, name, ": header of ", length, " bytes is longer than the file (truncated?)");
    will_read(bytes.first(8 + static_cast<std::size_t>(length)));
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + 8, static_cast<std::size_t>(length));
    require(text.starts_with('{'), name, ": the header must begin with '{'");
    require(text.find('\0') == text.npos, name, ": the header contains a zero byte");
    const auto data = bytes.subspan(8 + text.size());
    detail::SafetensorsHeader header(name, data);
    parse_json_events<nlohmann::json>(text, header);
    Safetensors file(std::move(header), data, name);
    file.bytes_ = bytes;
    return file;
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

  /// The whole file.
  std::span<const std::byte> bytes() const { return bytes_; }

  /// Keeps the tensors' bytes alive after this object is gone; null after parse().
  const std::shared_ptr<const void>& owner() const { return owner_; }

 private:
  Safetensors(detail::SafetensorsHeader&& header, std::span<const std::byte> data, std::string_view name)
      : tensors_(std::move(header.tensors)), metadata_(std::move(header.metadata)) {
    std::ranges::sort(tensors_, {}, &Tensor::name);
    const auto twice = std::ranges::adjacent_find(tensors_, {}, &Tensor::name);
    if (twice != tensors_.end()) fail(name, ": tensor ", quote(twice->name), " appears twice");
    check_layout(data, name);
  }

  /// The tensors must tile the data: overlaps and gaps could hide other content.
  void check_layout(std::span<const std::byte> data, std::string_view name) const {
    std::vector<const Tensor*> order(tensors_.size());
    std::ranges::transform(tensors_, order.begin(), [](const Tensor& t) { return &t; });
    const auto range = [](const Tensor* t) { return std::pair(t->data.data(), t->data.size()); };
    std::ranges::sort(order, {}, range);
    const std::byte* next = data.data();
    for (const Tensor* tensor : order) {
      const auto gap = tensor->data.data() - next;
      if (gap < 0) fail(name, ": tensor ", quote(tensor->name), ": data_offsets overlap the tensor before by ", -gap, " bytes");
      if (gap > 0) fail(name, ": tensor ", quote(tensor->name), ": data_offsets leave a hole of ", gap, " bytes before it");
      next += tensor->data.size();
    }
    const auto rest = data.data() + data.size() - next;
    require(rest == 0, name, ": ", rest, " bytes after the last tensor belong to none");
  }

  std::vector<Tensor> tensors_;
  std::map<std::string, std::string> metadata_;
  std::span<const std::byte> bytes_;
  std::shared_ptr<const void> owner_;
};

}  // namespace dsv3::inline DSV3_ISA::io
