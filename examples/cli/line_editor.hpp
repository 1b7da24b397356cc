// Messages that a user types: by an editor with history on a terminal, as plain lines from anything else.
#pragma once

#include <atomic>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "dsv3/core/error.hpp"
#include "history_file.hpp"
#include "plain_lines.hpp"
#ifdef DSV3_LIBEDIT
#include "edited_lines.hpp"
#endif

namespace cli::inline DSV3_ISA {

class LineEditor {
 public:
  /// `interrupted`: a handler of SIGINT sets it. `words`: what Tab completes.
  LineEditor(std::atomic<bool>& interrupted, [[maybe_unused]] std::vector<std::string> words, [[maybe_unused]] HistoryFile history)
      : plain_(interrupted) {
#ifdef DSV3_LIBEDIT
    if (EditedLines::possible()) {
      history_ = std::move(history);
      edited_ = std::make_unique<EditedLines>(interrupted, std::move(words));
      with_history([&] {
        for (const auto& entry : history_.read()) edited_->remember(newest_ = entry);
      });
    }
#endif
  }

  /// A message: one line, or several where a line ends with \ or was pasted so. Nothing at the end of the input.
  std::optional<std::string> next(const std::string& prompt) {
    std::string message;
    bool begun = false;
    while (true) {
      const LineRead read = read_line(begun ? "... " : prompt);
      if (read.kind == LineRead::end) return begun ? std::optional(message) : std::nullopt;
      if (read.kind == LineRead::dropped) {
        message.clear();
        begun = false;
        continue;
      }
      message += read.line;
      begun = message.ends_with('\\');
      if (!begun) break;
      message.back() = '\n';
    }
    remember(message);
    return message;
  }

 private:
#ifdef DSV3_LIBEDIT
  LineRead read_line(const std::string& prompt) { return edited_ ? edited_->next(prompt) : plain_.next(prompt); }

  void remember(const std::string& message) {
    if (!edited_ || message.find_first_not_of(" \t\n") == message.npos || message == newest_) return;
    newest_ = message;
    edited_->remember(message);
    with_history([&] { history_.add(message); });
  }

  /// A history that cannot be kept is told once, and is no reason to end.
  template <class F>
  void with_history(F&& f) try {
    f();
  } catch (const dsv3::Error& e) {
    std::cerr << "history: " << e.what() << '\n';
    history_ = HistoryFile({});
  }

  std::unique_ptr<EditedLines> edited_;
  HistoryFile history_{{}};
  std::string newest_;
#else
  LineRead read_line(const std::string& prompt) { return plain_.next(prompt); }
  void remember(const std::string&) {}
#endif
  PlainLines plain_;
};

}  // namespace cli::inline DSV3_ISA
