// Floor 6. AtomicFile: a file that appears whole or not at all.
//
// Bytes go to a temporary file in the same folder; commit() flushes it to the disk and renames it over the target. Whoever reads the target
// meanwhile, even through a mapping, sees the old file. POSIX only.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "dsv3/core/error.hpp"

namespace dsv3::inline DSV3_ISA::io {

/// A file being written. Destroyed before commit(), as by an exception, it leaves nothing behind.
class [[nodiscard]] AtomicFile {
 public:
  /// Creates the temporary file beside `target`; `mode` less the process's umask says who may read it.
  ///
  /// Throws: Error if the folder is missing or may not be written to.
  explicit AtomicFile(std::filesystem::path target, mode_t mode = 0666) : target_(std::move(target)) {
    const auto name = target_.filename().string();
    require(!name.empty() && name != "." && name != "..", target_.string(), ": expected the name of a file to write");
    std::random_device random;
    do {  // not mkstemp, which would let only the owner read the file
      temporary_ = target_.parent_path() / ("." + name + '.' + std::to_string(random()) + ".tmp");
      file_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    } while (file_ < 0 && errno == EEXIST);
    if (file_ < 0) wrong("cannot create a file in its folder");
  }

  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  ~AtomicFile() {
    if (file_ >= 0) ::close(file_);
    if (!temporary_.empty()) ::unlink(temporary_.c_str());
  }

  /// Appends bytes.
  ///
  /// Throws: Error, on a full disk for instance.
  void write(std::span<const std::byte> bytes) {
    require(file_ >= 0, target_.string(), ": write() after commit()");
    while (!bytes.empty()) {
      const auto written = ::write(file_, bytes.data(), bytes.size());
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) wrong("cannot write");
      bytes = bytes.subspan(static_cast<std::size_t>(written));
    }
  }

  /// Appends text.
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }

  /// Renames the file to its target. After a crash the target holds either what it held before or all that was written.
  ///
  /// Throws: Error; unless the very last flush failed, the target is then untouched.
  void commit() {
    require(file_ >= 0, target_.string(), ": commit() was called before");
    if (::fsync(file_) != 0) wrong("cannot flush to the disk");
    if (::close(std::exchange(file_, -1)) != 0) wrong("cannot close");
    if (std::rename(temporary_.c_str(), target_.c_str()) != 0) wrong("cannot rename the finished file to this name");
    temporary_.clear();
    flush_folder();
  }

 private:
  [[noreturn]] void wrong(const char* what) const { fail(target_.string(), ": ", what, ": ", std::strerror(errno)); }

  /// Makes the rename itself durable.
  void flush_folder() const {
    const auto folder = target_.has_parent_path() ? target_.parent_path() : std::filesystem::path(".");
    const int handle = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (handle < 0 && errno == EACCES) return;  // a folder one may write to but not list
    if (handle < 0) wrong("cannot flush its folder");
    const bool flushed = ::fsync(handle) == 0 || errno == EINVAL;  // some file systems cannot, and need not
    const int error = errno;
    ::close(handle);
    errno = error;
    if (!flushed) wrong("cannot flush its folder");
  }

  std::filesystem::path target_, temporary_;
  int file_ = -1;
};

}  // namespace dsv3::inline DSV3_ISA::io
