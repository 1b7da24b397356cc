#include "dsv3/core/error.hpp"

#include <doctest/doctest.h>

#include <vector>

using namespace dsv3;

namespace {

/// A part of a message that must not be formatted unless the message is needed.
struct Unprintable {
  friend std::ostream& operator<<(std::ostream&, const Unprintable&) { throw std::logic_error("formatted"); }
};

}  // namespace

TEST_CASE("messages are joined from parts") {
  CHECK_THROWS_WITH_AS(fail("expected ", 3, ", got ", 2.5), "expected 3, got 2.5", Error);
  CHECK_THROWS_WITH_AS(require(false, "a ", 'b'), "a b", Error);
  CHECK_NOTHROW(require(true, Unprintable{}));
  CHECK_THROWS_AS(require(false, "a"), std::runtime_error);
}

TEST_CASE("shapes") {
  CHECK(shape_string({1536, 7168}) == "[1536, 7168]");
  CHECK(shape_string({7}) == "[7]");
  CHECK(shape_string(std::vector<long>{}) == "[]");
}
