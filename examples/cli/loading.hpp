// Says on a terminal that a checkpoint is being loaded.
#pragma once

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <filesystem>

#include "dsv3/io/load_options.hpp"

namespace cli::inline DSV3_ISA {

/// Writes to standard error, if that is a terminal: what is loaded, how many tensors so far, and in the end how long it took.
class Loading {
 public:
  explicit Loading(const std::filesystem::path& folder) {
    if (terminal_) std::fprintf(stderr, "loading %s ...\n", folder.c_str());
  }

  dsv3::io::LoadOptions options() {
    return {.progress = [this](dsv3::Index bound, dsv3::Index total) {
      if (!terminal_) return;
      const auto now = Clock::now();
      if (bound == total)
        std::fprintf(stderr, "\r%td tensors in %.1f s     \n", total, std::chrono::duration<double>(now - start_).count());
      else if (now - shown_ > std::chrono::milliseconds(100))
        std::fprintf(stderr, "\r%td of %td tensors", bound, total), shown_ = now;
    }};
  }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now(), shown_ = start_;
  bool terminal_ = isatty(STDERR_FILENO) != 0;
};

}  // namespace cli::inline DSV3_ISA
