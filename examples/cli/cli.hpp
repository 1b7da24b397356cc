// What the command-line programs share: arguments, exit codes, and the way errors are told.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "dsv3/core/context.hpp"
#include "dsv3/core/thread_pool.hpp"
#include "dsv3/version.hpp"

/// What a program calls its main function: main, or program() of a level if it is compiled for several (dispatched.cpp).
#ifdef DSV3_LEVEL
namespace DSV3_LEVEL {
int program(int argc, char** argv);
}
#define DSV3_MAIN DSV3_LEVEL::program
#else
#define DSV3_MAIN main
#endif

namespace cli::inline DSV3_ISA {

using Executor = dsv3::ThreadPool;
inline Executor make_executor(std::optional<int> threads) { return threads ? Executor(*threads) : Executor(); }

/// The arguments do not make sense; the message says which.
struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// --compute: how products are formed (policy.hpp).
enum class Compute { automatic, exact, bf16 };

/// A number that takes up all of `text` and lies in [low, high].
template <class T>
T parse_number(std::string_view text, std::string_view what, T low, T high) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !(value >= low && value <= high)) {
    std::ostringstream message;
    message << what << ": expected a number from " << low << " to " << high << ", got '" << text << "'";
    throw UsageError(message.str());
  }
  return value;
}

/// "1,2,3" or "1 2 3".
inline std::vector<int> parse_ids(std::string_view text, std::string_view what) {
  std::vector<int> ids;
  for (std::size_t at = 0; at < text.size();) {
    at = text.find_first_not_of(", \t\r\n", at);
    if (at == text.npos) break;
    const std::size_t end = std::min(text.find_first_of(", \t\r\n", at), text.size());
    ids.push_back(parse_number(text.substr(at, end - at), what, 0, std::numeric_limits<int>::max()));
    at = end;
  }
  return ids;
}

/// Thrown by Args for --help and --version.
struct WantsHelp {};
struct WantsVersion {};

/// Positional arguments, options with a value (--name VALUE or --name=VALUE), and flags. "-" is positional, as is all behind "--".
class Args {
 public:
  /// `short_names`: "-p" for "--prompt".
  Args(int argc, char** argv, std::size_t positionals, const std::set<std::string_view>& with_value,
       const std::set<std::string_view>& flags, const std::map<std::string_view, std::string_view>& short_names = {}) {
    bool options_end = false;
    for (int i = 1; i < argc; ++i) {
      std::string_view arg = argv[i];
      if (options_end || !arg.starts_with('-') || arg == "-") {
        positional_.emplace_back(arg);
        continue;
      }
      options_end = arg == "--";
      if (options_end) continue;
      if (arg == "--help" || arg == "-h") throw WantsHelp();
      if (arg == "--version") throw WantsVersion();
      if (const auto known = short_names.find(arg); known != short_names.end()) arg = known->second;
      const auto equals = arg.starts_with("--") ? arg.find('=') : arg.npos;
      const std::string name(arg.substr(0, equals));
      if (flags.contains(name)) {
        if (equals != arg.npos) throw UsageError(name + " takes no value");
        given_[name] = {""};
      } else if (!with_value.contains(name)) {
        throw UsageError("unknown option " + name);
      } else if (equals != arg.npos) {
        given_[name].emplace_back(arg.substr(equals + 1));
      } else if (i + 1 == argc) {
        throw UsageError(name + " needs a value");
      } else {
        given_[name].emplace_back(argv[++i]);
      }
    }
    if (positional_.size() != positionals)
      throw UsageError("expected " + std::to_string(positionals) + " argument" + (positionals == 1 ? "" : "s") + " besides options, got " +
                       std::to_string(positional_.size()));
  }

  const std::string& operator[](std::size_t i) const { return positional_[i]; }
  bool has(const std::string& option) const { return given_.contains(option); }
  std::optional<std::string> value(const std::string& option) const {
    const auto at = given_.find(option);
    return at == given_.end() ? std::nullopt : std::optional(at->second.back());
  }
  /// All values of an option that may be given several times.
  std::vector<std::string> values(const std::string& option) const {
    const auto at = given_.find(option);
    return at == given_.end() ? std::vector<std::string>() : at->second;
  }
  template <class T>
  T number(const std::string& option, T otherwise, T low, T high) const {
    const auto text = value(option);
    return text ? parse_number(*text, option, low, high) : otherwise;
  }
  std::optional<int> threads() const { return has("--threads") ? std::optional(number("--threads", 1, 1, 4096)) : std::nullopt; }
  Compute compute() const {
    const auto name = value("--compute").value_or("auto");
    if (name != "auto" && name != "exact" && name != "bf16")
      throw UsageError("--compute: expected auto, exact or bf16, got '" + name + "'");
    return name == "auto" ? Compute::automatic : name == "exact" ? Compute::exact : Compute::bf16;
  }

 private:
  std::vector<std::string> positional_;
  std::map<std::string, std::vector<std::string>> given_;
};

/// Runs body() and turns what it throws into a message and an exit code: 0 done, 1 error, 2 wrong arguments.
template <class Body>
int run(const char* program, const char* usage, Body&& body) {
  try {
    try {
      body();
    } catch (const WantsHelp&) {
      std::cout << usage;
    } catch (const WantsVersion&) {
      std::cout << program << ' ' << DSV3_VERSION_MAJOR << '.' << DSV3_VERSION_MINOR << '.' << DSV3_VERSION_PATCH << '\n';
    }
    dsv3::require(!!std::cout.flush(), "standard output: cannot write");
    return 0;
  } catch (const UsageError& e) {
    std::cerr << program << ": " << e.what() << "\n\n" << usage;
    return 2;
  } catch (const std::exception& e) {
    std::cerr << program << ": " << e.what() << "\n";
    return 1;
  }
}

}  // namespace cli::inline DSV3_ISA
