// Walks a folder of hostile files, each of which must be refused for a known reason.
#pragma once

#include <doctest/doctest.h>

#include <filesystem>
#include <map>
#include <string>

#include "dsv3/core/error.hpp"

/// Calls `open(path)` for every entry of tests/data/hostile/`kind`; it must throw an Error that names the file and contains the entry's
/// reason. Files without a reason, and reasons without a file, fail the test.
template <class Open>
void check_hostile(const char* kind, std::map<std::string, std::string> reasons, Open open) {
  for (const auto& entry : std::filesystem::directory_iterator(std::string(DSV3_TEST_DATA "/hostile/") + kind)) {
    const auto name = entry.path().filename().string();
    CAPTURE(name);
    REQUIRE(reasons.contains(name));
    std::string message;
    try {
      open(entry.path());
    } catch (const dsv3::Error& error) {
      message = error.what();
    }
    CAPTURE(message);
    CHECK(message.find(name) != message.npos);
    CHECK(message.find(reasons[name]) != message.npos);
    CHECK(message.size() < 600 + entry.path().string().size());
    reasons.erase(name);
  }
  CHECK(reasons.empty());
}
