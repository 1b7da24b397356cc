// Floor 6. Files of token ids, mapped: bare ids as nanoGPT writes them, llm.c's with a header, and Megatron's pair of .bin and .idx.
#pragma once

#include <cstring>
#include <filesystem>
#include <memory>
#include <vector>

#include "dsv3/core/config.hpp"
#include "dsv3/io/atomic_file.hpp"
#include "dsv3/io/mapped_file.hpp"

namespace dsv3::inline DSV3_ISA::io {

/// A sequence of token ids in a file. Constant once opened.
class [[nodiscard]] TokenFile {
 public:
  /// Opens `path`. A file X.bin with an X.idx beside it is Megatron's. A file that begins with llm.c's magic number has llm.c's header
  /// (uint16 or uint32 ids). Any other file holds bare ids of `bare_bytes` each (2 as nanoGPT writes them, or 4).
  /// Throws: Error if it cannot be opened, or a header and the file's size disagree.
  static TokenFile open(const std::filesystem::path& path, int bare_bytes = 2) {
    TokenFile file;
    file.map_ = MappedFile::open(path);
    file.ids_ = file.map_->bytes();
    file.id_bytes_ = bare_bytes;
    const std::string name = path.string();
    const auto index = std::filesystem::path(path).replace_extension(".idx");
    if (path.extension() == ".bin" && std::filesystem::exists(index)) {
      file.id_bytes_ = megatron_id_bytes(index);
    } else if (file.ids_.size() >= header_bytes && (file.word(0) == magic_16 || file.word(0) == magic_32)) {
      file.id_bytes_ = file.word(0) == magic_16 ? 2 : 4;
      const auto count = static_cast<std::size_t>(file.word(2)), bytes = file.ids_.size() - header_bytes;
      require(count * static_cast<std::size_t>(file.id_bytes_) == bytes, name, ": the header promises ", count, " ids of ", file.id_bytes_,
              " bytes, ", bytes, " bytes follow it");
      file.ids_ = file.ids_.subspan(header_bytes);
    }
    require(file.ids_.size() % static_cast<std::size_t>(file.id_bytes_) == 0, name, ": ", file.ids_.size(),
            " bytes are no whole number of ids of ", file.id_bytes_, " bytes");
    return file;
  }

  /// Ids in the file.
  Index size() const { return std::ssize(ids_) / id_bytes_; }

  /// Copies ids [begin, begin + out.size()). Throws: Error naming the file and the place of an id that is not below `vocab_size`.
  void read(Index begin, std::span<int> out, Index vocab_size) const {
    for (std::size_t i = 0; i < out.size(); ++i) {
      std::uint32_t id = 0;
      std::memcpy(&id, ids_.data() + (static_cast<std::size_t>(begin) + i) * static_cast<std::size_t>(id_bytes_),
                  static_cast<std::size_t>(id_bytes_));
      require(id < static_cast<std::uint64_t>(vocab_size), map_->path().string(), ": id ", id, " at place ", begin + static_cast<Index>(i),
              ": expected ids below the vocabulary's size of ", vocab_size);
      out[i] = static_cast<int>(id);
    }
  }

  /// Writes ids to a file with llm.c's header for uint32 ids. It appears whole or not at all.
  static void write(const std::filesystem::path& path, std::span<const int> ids) {
    require(ids.size() < std::size_t{1} << 31, path.string(), ": ", ids.size(), " ids are more than the header can count");
    std::vector<std::int32_t> header(header_bytes / 4);
    header[0] = static_cast<std::int32_t>(magic_32), header[1] = 7, header[2] = static_cast<std::int32_t>(ids.size());
    AtomicFile file(path);
    file.write(std::as_bytes(std::span(header)));
    file.write(std::as_bytes(ids));
    file.commit();
  }

 private:
  static constexpr std::uint32_t magic_16 = 20240520, magic_32 = 20240801;
  static constexpr std::size_t header_bytes = 1024;

  std::uint32_t word(std::size_t i) const {
    std::uint32_t w;
    std::memcpy(&w, ids_.data() + 4 * i, 4);
    return w;
  }

  // The index names the type of the ids: 1 uint8, 2 int8, 3 int16, 4 int32, 5 int64, 6 float64, 7 float32, 8 uint16.
  static int megatron_id_bytes(const std::filesystem::path& path) {
    const auto map = MappedFile::open(path);
    const auto bytes = map->bytes();
    constexpr std::string_view magic("MMIDIDX\0\0", 9);
    require(bytes.size() >= 18 && std::memcmp(bytes.data(), magic.data(), magic.size()) == 0, path.string(),
            ": expected Megatron's index of a token file, which begins with MMIDIDX");
    const int code = static_cast<int>(bytes[17]);
    require(code == 8 || code == 4, path.string(), ": expected ids of type 8 (uint16) or 4 (int32), got type ", code);
    return code == 8 ? 2 : 4;
  }

  std::shared_ptr<const MappedFile> map_;
  std::span<const std::byte> ids_;
  int id_bytes_ = 2;
};

}  // namespace dsv3::inline DSV3_ISA::io
