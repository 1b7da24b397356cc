// Lines that are typed on a terminal, with libedit: arrows, history, wide characters, pastes of several lines.
//
// libedit, as Debian has it, is small and free for any program; GNU readline is GPL, and linenoise, isocline and replxx are not in
// Debian 12.
#pragma once

#include <histedit.h>
#include <langinfo.h>
#include <termios.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <climits>
#include <clocale>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cwchar>
#include <iostream>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dsv3/io/utf8.hpp"
#include "plain_lines.hpp"

namespace cli::inline DSV3_ISA {

/// The terminal while a line is typed: pastes come between marks, a signal that ends the program gives it back as it was.
class TypingMode {
 public:
  explicit TypingMode(EditLine* el) {
    tcgetattr(STDIN_FILENO, &before_);
    for (const int signal : {SIGTERM, SIGHUP, SIGQUIT}) handle(signal, give_back_and_end);
    for (const int signal : {SIGWINCH, SIGCONT}) handle(signal, [](int) { redraw = 1; });
    el_wset(el, EL_PREP_TERM, 1);  // libedit itself does so only when the prompt can be seen, which is late for a paste
    put(paste_marks_on);
  }
  ~TypingMode() {
    put(paste_marks_off);
    for (const auto& [signal, action] : handled_) sigaction(signal, &action, nullptr);
  }
  TypingMode(const TypingMode&) = delete;
  TypingMode& operator=(const TypingMode&) = delete;

  static void put(std::string_view code) { [[maybe_unused]] const auto written = ::write(STDOUT_FILENO, code.data(), code.size()); }

  static constexpr std::string_view paste_marks_on = "\033[?2004h", paste_marks_off = "\033[?2004l";
  static inline volatile std::sig_atomic_t redraw = 0;  ///< the window's size is another, or the program goes on after a stop

 private:
  void handle(int signal, void (*handler)(int)) {
    struct sigaction now, action{};
    sigaction(signal, nullptr, &now);
    if (now.sa_handler == SIG_IGN) return;  // by nohup, for instance
    action.sa_handler = handler;
    sigaction(signal, &action, nullptr);
    handled_.emplace_back(signal, now);
  }

  static void give_back_and_end(int signal) {
    tcsetattr(STDIN_FILENO, TCSANOW, &before_);
    put(paste_marks_off);
    std::signal(signal, SIG_DFL);
    raise(signal);
  }

  static inline termios before_;
  std::vector<std::pair<int, struct sigaction>> handled_;
};

class EditedLines {
 public:
  /// Whether a person types and sees what is typed, in UTF-8. Sets the locale of characters.
  static bool possible() {
    const char* terminal = std::getenv("TERM");
    if (!terminal || !*terminal || std::string_view(terminal) == "dumb" || !isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO)) return false;
    const auto utf8 = [](const char* locale) {
      return std::setlocale(LC_CTYPE, locale) && std::string_view(nl_langinfo(CODESET)) == "UTF-8";
    };
    return utf8("") || utf8("C.UTF-8");
  }

  EditedLines(std::atomic<bool>& interrupted, std::vector<std::string> words) : interrupted_(interrupted), words_(std::move(words)) {
    HistEventW event;
    history_w(history_.get(), &event, H_SETSIZE, 1000);
    EditLine* el = el_.get();
    el_wset(el, EL_CLIENTDATA, this);
    el_wset(el, EL_HIST, history_w, history_.get());
    el_wset(
        el, EL_PROMPT, +[](EditLine* e) { return self(e).prompt_.data(); });
    el_wset(el, EL_GETCFN, read_key);
    el_wset(el, EL_EDITOR, L"emacs");
    el_source(el, nullptr);  // the user's ~/.editrc
    // libedit inserts and deletes by column, which breaks wide characters in two: without these it writes the rest of a row again.
    for (const wchar_t* capability : {L"ic", L"IC", L"im", L"ei", L"ip", L"dc", L"DC"}) el_wset(el, EL_SETTC, capability, L"", nullptr);
    // Ctrl-C and Ctrl-Z come as keys: a signal that arrives before reading begins would be noticed one key later.
    el_wset(el, EL_SETTY, L"-d", L"-isig", nullptr);
    el_wset(el, EL_ADDFN, L"paste", L"Inserts what the terminal marks as pasted", insert_paste);
    el_wset(
        el, EL_ADDFN, L"newline", L"Inserts a newline", +[](EditLine* e, int) { return insert(e, L"\n"); });
    el_wset(el, EL_ADDFN, L"complete", L"Completes a command", complete);
    const std::pair<const wchar_t*, const wchar_t*> keys[] = {
        {L"\\e[200~", L"paste"},
        {L"\\e\\r", L"newline"},
        {L"\\e\\n", L"newline"},
        {L"\\t", L"complete"},
        {L"\\e[3~", L"ed-delete-next-char"},
        {L"\\e[1~", L"ed-move-to-beg"},
        {L"\\e[H", L"ed-move-to-beg"},
        {L"\\eOH", L"ed-move-to-beg"},
        {L"\\e[4~", L"ed-move-to-end"},
        {L"\\e[F", L"ed-move-to-end"},
        {L"\\eOF", L"ed-move-to-end"},
        {L"\\e[1;5D", L"ed-prev-word"},
        {L"\\e[1;5C", L"em-next-word"},
        {L"^R", L"em-inc-search-prev"},
        {L"^W", L"ed-delete-prev-word"},
    };
    for (const auto& [key, function] : keys) el_wset(el, EL_BIND, key, function, nullptr);
  }

  /// Makes `entry` the newest of the history.
  void remember(const std::string& entry) {
    HistEventW event;
    history_w(history_.get(), &event, H_ENTER, wide(entry).c_str());
  }

  LineRead next(const std::string& prompt) {
    prompt_ = wide(prompt);
    dropped_ = interrupted_ = false;
    std::cout << std::flush;
    int count = 0;
    const wchar_t* line;
    {
      const TypingMode mode(el_.get());
      line = el_wgets(el_.get(), &count);
    }
    if (!line || count <= 0) {
      std::cout << '\n';
      return {LineRead::end, ""};
    }
    if (dropped_) {
      std::cout << "(/exit ends the program)\n";
      return {LineRead::dropped, ""};
    }
    return {LineRead::text, utf8({line, static_cast<std::size_t>(count - 1)})};  // without the newline of Enter
  }

 private:
  static constexpr wchar_t replacement = L'\uFFFD';

  static EditedLines& self(EditLine* el) {
    void* data = nullptr;
    el_wget(el, EL_CLIENTDATA, &data);
    return *static_cast<EditedLines*>(data);
  }

  /// libedit's source of keys.
  static int read_key(EditLine* el, wchar_t* key) {
    EditedLines& lines = self(el);
    while (true) {
      if (!lines.read_character(*key)) return 0;
      if (*key == L'\003') {
        lines.dropped_ = true;
        *key = L'\n';  // ends the line where the screen is free
      }
      if (*key != L'\032') return 1;
      lines.suspend();
    }
  }

  /// As Ctrl-Z does where it is no key: stops the programs in the foreground.
  void suspend() {
    TypingMode::put(TypingMode::paste_marks_off);
    el_wset(el_.get(), EL_PREP_TERM, 0);
    kill(0, SIGTSTP);
    TypingMode::redraw = 1;
  }

  /// Draws the line again from the row on in which the cursor stands. Where the line has wrapped, old rows stay above: only the terminal
  /// knows how it wraps them anew.
  void redraw() {
    el_wset(el_.get(), EL_PREP_TERM, 1);
    TypingMode::put(TypingMode::paste_marks_on);
    TypingMode::put("\r\033[J");
    el_resize(el_.get());
    el_wset(el_.get(), EL_REFRESH);
  }

  /// One character of valid UTF-8, U+FFFD for what is none. False at the end of the input.
  bool read_character(wchar_t& character) {
    while (true) {
      const std::string_view rest = std::string_view(held_).substr(at_);
      const auto sequence = rest.empty() ? dsv3::io::Utf8Sequence{dsv3::io::Utf8Sequence::cut, 0} : dsv3::io::utf8_sequence(rest);
      if (sequence.kind != dsv3::io::Utf8Sequence::cut) {
        std::mbstate_t state{};
        if (sequence.kind == dsv3::io::Utf8Sequence::invalid ||
            std::mbrtowc(&character, rest.data(), sequence.length, &state) > sequence.length)
          character = replacement;
        at_ += sequence.length;
        return true;
      }
      held_.erase(0, std::exchange(at_, 0));
      if (interrupted_.exchange(false)) {
        held_ += '\003';
        continue;
      }
      if (std::exchange(TypingMode::redraw, 0)) redraw();
      if (!input_is_ready()) continue;
      char bytes[65536];
      const auto count = read(STDIN_FILENO, bytes, sizeof bytes);
      if (count > 0)
        held_.append(bytes, static_cast<std::size_t>(count));
      else if (count == 0 || errno != EINTR)
        return false;
    }
  }

  static unsigned char insert(EditLine* el, const wchar_t* text) { return el_winsertstr(el, text) == 0 ? CC_REFRESH : CC_ERROR; }

  /// All that comes before the end mark, in one piece: a screen drawn again for each character would take minutes.
  static unsigned char insert_paste(EditLine* el, int) {
    constexpr std::wstring_view end = L"\033[201~";
    std::wstring text;
    wchar_t c;
    while (!text.ends_with(end) && self(el).read_character(c))
      if (c != L'\0') text += c;
    if (text.ends_with(end)) text.resize(text.size() - end.size());
    std::wstring lines;  // terminals send the newlines of a paste as Enter
    for (std::size_t i = 0; i < text.size(); ++i)
      if (text[i] != L'\r')
        lines += text[i];
      else if (i + 1 == text.size() || text[i + 1] != L'\n')
        lines += L'\n';
    return lines.empty() ? CC_REFRESH : insert(el, lines.c_str());
  }

  /// Tab: the rest of the only command that begins as the line does.
  static unsigned char complete(EditLine* el, int) {
    const LineInfoW& line = *el_wline(el);
    const std::string typed = utf8({line.buffer, line.cursor});
    const std::string* only = nullptr;
    for (const auto& word : self(el).words_)
      if (!typed.empty() && word.starts_with(typed)) {
        if (only) return CC_ERROR;
        only = &word;
      }
    return only && only->size() > typed.size() ? insert(el, wide(only->substr(typed.size())).c_str()) : CC_ERROR;
  }

  static std::wstring wide(std::string_view text) {
    std::wstring out;
    while (!text.empty()) {
      const auto sequence = dsv3::io::utf8_sequence(text);
      wchar_t c = replacement;
      std::mbstate_t state{};
      if (sequence.kind == dsv3::io::Utf8Sequence::complete) std::mbrtowc(&c, text.data(), sequence.length, &state);
      out += c;
      text.remove_prefix(sequence.length);
    }
    return out;
  }

  static std::string utf8(std::wstring_view text) {
    std::string out;
    for (const wchar_t c : text) {
      char bytes[MB_LEN_MAX];
      std::mbstate_t state{};
      if (const auto count = std::wcrtomb(bytes, c, &state); count <= sizeof bytes) out.append(bytes, count);
    }
    return out;
  }

  std::atomic<bool>& interrupted_;
  std::vector<std::string> words_;
  std::wstring prompt_;
  std::string held_;  // read, and from at_ on not yet given to libedit
  std::size_t at_ = 0;
  bool dropped_ = false;
  std::unique_ptr<HistoryW, decltype(&history_wend)> history_{history_winit(), history_wend};
  std::unique_ptr<EditLine, decltype(&el_end)> el_{el_init("dsv3-chat", stdin, stdout, stderr), el_end};
};

}  // namespace cli::inline DSV3_ISA
