// Floor 6. MappedFile: a file's bytes, mapped read-only into memory.
//
// Opening reads nothing: pages come from the disk when they are touched, and processes that map the same file share them. POSIX only.
// A file that another process truncates while it is mapped raises SIGBUS on access; that is not caught here.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <memory>
#include <span>
#include <utility>

#include "dsv3/core/error.hpp"

namespace dsv3::inline DSV3_ISA::io {

/// A whole regular file as read-only memory. The mapping lives as long as the object.
class MappedFile {
 public:
  /// Maps `path`.
  ///
  /// Throws: Error if it cannot be opened, is not a regular file, or is empty.
  [[nodiscard]] static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path) {
    // Without O_NONBLOCK, opening a pipe would wait for its writer.
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    require(file >= 0, path.string(), ": cannot open: ", std::strerror(errno));
    struct Close {
      int file;
      ~Close() { ::close(file); }
    } const close{file};  // a mapping outlives its descriptor

    struct stat status {};
    require(::fstat(file, &status) == 0, path.string(), ": cannot open: ", std::strerror(errno));
    require(!S_ISDIR(status.st_mode), path.string(), ": expected a file, found a directory");
    require(S_ISREG(status.st_mode), path.string(), ": expected a regular file, found a pipe or device");
    require(status.st_size > 0, path.string(), ": the file is empty");
    require(std::cmp_less_equal(status.st_size, PTRDIFF_MAX), path.string(), ": too large to map on this machine");

    const auto size = static_cast<std::size_t>(status.st_size);
    void* const data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file, 0);
    require(data != MAP_FAILED, path.string(), ": cannot map ", size, " bytes: ", std::strerror(errno));
    struct Unmap {
      void* data;
      std::size_t size;
      ~Unmap() {
        if (data != nullptr) ::munmap(data, size);
      }
    } guard{data, size};
    std::shared_ptr<const MappedFile> mapped(new MappedFile(path, {static_cast<const std::byte*>(data), size}));
    guard.data = nullptr;
    return mapped;
  }

  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile() { ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size()); }

  std::span<const std::byte> bytes() const { return bytes_; }
  const std::filesystem::path& path() const { return path_; }

 private:
  MappedFile(std::filesystem::path path, std::span<const std::byte> bytes) : path_(std::move(path)), bytes_(bytes) {}

  std::filesystem::path path_;
  std::span<const std::byte> bytes_;
};

}  // namespace dsv3::inline DSV3_ISA::io
