// Running the programs as a user runs them, in a shell.
#pragma once

#include <doctest/doctest.h>
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

namespace test {

struct ProgramResult {
  int code;
  std::string out, err;
};

inline std::string contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// Runs bin/dsv3-`command`; what it writes goes through files in the folder `scratch`, which ends with a slash.
inline ProgramResult run_program(const std::string& scratch, const std::string& command) {
  std::filesystem::create_directories(scratch);
  const std::string out = scratch + "stdout", err = scratch + "stderr";
  const int status = std::system((DSV3_BIN "/dsv3-" + command + " >'" + out + "' 2>'" + err + "'").c_str());
  REQUIRE(WIFEXITED(status));
  return {WEXITSTATUS(status), contents(out), contents(err)};
}

inline bool holds(const std::string& text, const std::string& part) { return text.find(part) != text.npos; }

}  // namespace test
