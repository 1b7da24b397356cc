// What was typed in former runs, in a file that several programs may share.
#pragma once

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dsv3/core/error.hpp"
#include "dsv3/io/atomic_file.hpp"

namespace cli::inline DSV3_ISA {

/// An entry a line; in it \n stands for a newline and \\ for a backslash. Others cannot read it.
class HistoryFile {
 public:
  static constexpr std::size_t max_entries = 1000, max_bytes = 1 << 16;

  /// $DSV3_HISTORY; where that is not set, dsv3/NAME in the folder that XDG gives to states. Empty: no history is kept.
  static std::filesystem::path standard(const std::string& name) {
    if (const char* chosen = std::getenv("DSV3_HISTORY")) return chosen;
    const auto folder = [](const char* variable) {
      const char* value = std::getenv(variable);
      return std::filesystem::path(value && *value == '/' ? value : "");  // a relative one is not valid, says XDG
    };
    if (const auto states = folder("XDG_STATE_HOME"); !states.empty()) return states / "dsv3" / name;
    if (const auto home = folder("HOME"); !home.empty()) return home / ".local/state/dsv3" / name;
    return {};
  }

  explicit HistoryFile(std::filesystem::path path) : path_(std::move(path)) {}

  /// The newest entries, the oldest of them first. The file is cut to these.
  std::vector<std::string> read() const {
    std::error_code none;
    if (path_.empty() || !std::filesystem::is_regular_file(path_, none)) return {};
    const Lock lock(path_);
    std::vector<std::string> lines;
    {
      std::ifstream file(path_, std::ios::binary);
      dsv3::require(file.is_open(), path_.string(), ": cannot read: ", std::strerror(errno));
      for (std::string line; std::getline(file, line);) lines.push_back(line);
    }
    if (lines.size() > max_entries) {
      lines.erase(lines.begin(), lines.end() - max_entries);
      dsv3::io::AtomicFile file(path_, private_mode);
      for (const auto& line : lines) file.write(line + '\n');
      file.commit();
    }
    for (auto& line : lines) line = unescaped(line);
    return lines;
  }

  /// Appends at once, so that programs that run side by side lose nothing. A very long entry is left out: it would be read at each start.
  void add(const std::string& entry) const {
    if (path_.empty() || entry.size() > max_bytes) return;
    std::error_code none;  // writing tells what is wrong
    std::filesystem::create_directories(path_.parent_path(), none);
    const Lock lock(path_);
    append(escaped(entry) + '\n');
  }

 private:
  /// Held while the file is appended to or replaced. It is a lock of the folder, as the file may become another one. Where a file system
  /// has no such locks it does nothing.
  class Lock {
   public:
    explicit Lock(const std::filesystem::path& path)
        : folder_(open(path.has_parent_path() ? path.parent_path().c_str() : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
      if (folder_ >= 0) flock(folder_, LOCK_EX);
    }
    ~Lock() {
      if (folder_ >= 0) close(folder_);
    }
    Lock(const Lock&) = delete;
    Lock& operator=(const Lock&) = delete;

   private:
    int folder_;
  };

  void append(const std::string& text) const {
    const int file = open(path_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_APPEND, private_mode);
    const bool written = file >= 0 && ::write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size());
    const int error = errno;
    if (file >= 0) close(file);
    dsv3::require(written, path_.string(), ": cannot write: ", std::strerror(error));
  }

  static std::string escaped(std::string_view text) {
    std::string line;
    for (const char c : text) line += c == '\n' ? "\\n" : c == '\\' ? "\\\\" : std::string(1, c);
    return line;
  }

  static std::string unescaped(std::string_view line) {
    std::string text;
    for (std::size_t i = 0; i < line.size(); ++i) {
      const bool escape = line[i] == '\\' && i + 1 < line.size();
      if (escape) ++i;
      text += escape && line[i] == 'n' ? '\n' : line[i];
    }
    return text;
  }

  static constexpr mode_t private_mode = 0600;

  std::filesystem::path path_;
};

}  // namespace cli::inline DSV3_ISA
