// Lines of standard input as they come: from a pipe or a file, or from a terminal that has no line editor.
#pragma once

#include <poll.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <iostream>
#include <string>
#include <utility>

#include "dsv3/core/isa.hpp"

namespace cli::inline DSV3_ISA {

/// What reading a line came to.
struct LineRead {
  enum Kind { text, dropped, end } kind;  ///< dropped: by Ctrl-C
  std::string line;                       ///< without its newline
};

/// Waits up to 50 ms for something to read on the terminal. A signal that comes before a call of read(), or to another thread, does not end
/// that call: so who waits looks now and then at what handlers set.
inline bool input_is_ready() {
  pollfd input{STDIN_FILENO, POLLIN, 0};
  return poll(&input, 1, 50) > 0;
}

class PlainLines {
 public:
  /// `interrupted`: a handler of SIGINT sets it.
  explicit PlainLines(std::atomic<bool>& interrupted) : interrupted_(interrupted) {}

  LineRead next(const std::string& prompt) {
    interrupted_ = false;
    if (terminal_) std::cout << prompt << std::flush;
    while (true) {
      if (const auto newline = held_.find('\n'); newline != held_.npos) {
        std::string line = held_.substr(0, newline);
        held_.erase(0, newline + 1);
        if (terminal_ && line.size() >= most_) {
          std::cerr << "a terminal takes lines of at most " << most_ - 1
                    << " bytes and cut this one; nothing was sent: give it from a file, <FILE\n";
          return {LineRead::dropped, ""};
        }
        if (line.ends_with('\r')) line.pop_back();
        return {LineRead::text, line};
      }
      if (interrupted_.exchange(false)) {
        held_.clear();
        if (terminal_) std::cout << "\n(/exit ends the program)\n";
        return {LineRead::dropped, ""};
      }
      if (terminal_ && !input_is_ready()) continue;
      char bytes[4096];
      const auto count = read(STDIN_FILENO, bytes, sizeof bytes);
      if (count > 0) {
        held_.append(bytes, static_cast<std::size_t>(count));
      } else if (count < 0 && errno == EINTR) {
        continue;
      } else {
        if (terminal_) std::cout << '\n';
        return held_.empty() ? LineRead{LineRead::end, ""} : LineRead{LineRead::text, std::exchange(held_, {})};
      }
    }
  }

 private:
  // Linux keeps 4,095 bytes of a line that is typed, and drops the rest. A line of just so many may be a whole one; that cannot be told.
  static constexpr std::size_t most_ = 4095;

  std::atomic<bool>& interrupted_;
  std::string held_;
  bool terminal_ = isatty(STDIN_FILENO) != 0;
};

}  // namespace cli::inline DSV3_ISA
