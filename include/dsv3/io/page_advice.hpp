// Floor 6. Hints to the system about how mapped memory will be read. They change how fast and how many pages are read, never their
// contents. A system ignores hints that it does not know.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "dsv3/core/isa.hpp"

namespace dsv3::inline DSV3_ISA::io {

namespace detail {

/// The whole pages that hold `bytes`.
inline std::span<std::byte> pages_of(std::span<const std::byte> bytes) {
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const std::size_t before = reinterpret_cast<std::uintptr_t>(bytes.data()) % page;
  const std::size_t size = (before + bytes.size() + page - 1) / page * page;
  return {const_cast<std::byte*>(bytes.data()) - before, bytes.empty() ? 0 : size};
}

inline void advise(std::span<const std::byte> bytes, int advice) {
  const auto pages = pages_of(bytes);
  if (!pages.empty()) ::madvise(pages.data(), pages.size(), advice);
}

}  // namespace detail

/// While it lives, touching a page of `files` reads only that page. Otherwise the system reads the pages around it too, on some machines
/// megabytes. `files` are whole mappings, which must outlive it.
class [[nodiscard]] NoReadahead {
 public:
  explicit NoReadahead(std::span<const std::span<const std::byte>> files) : files_(files) {
    for (const auto file : files_) detail::advise(file, MADV_RANDOM);
  }
  NoReadahead(const NoReadahead&) = delete;
  NoReadahead& operator=(const NoReadahead&) = delete;
  ~NoReadahead() {
    for (const auto file : files_) detail::advise(file, MADV_NORMAL);
  }

 private:
  std::span<const std::span<const std::byte>> files_;
};

/// Starts to read `bytes`, which will be needed soon, in the background.
inline void will_read(std::span<const std::byte> bytes) { detail::advise(bytes, MADV_WILLNEED); }

/// Asks for huge pages for `file`, a whole mapping, if the file system has them: fewer address translations for weights that are streamed.
inline void prefer_huge_pages([[maybe_unused]] std::span<const std::byte> file) {
#ifdef MADV_HUGEPAGE
  detail::advise(file, MADV_HUGEPAGE);
#endif
}

}  // namespace dsv3::inline DSV3_ISA::io
