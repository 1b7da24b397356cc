#include "dsv3/core/workspace.hpp"

#include <doctest/doctest.h>

#include <cstdint>

using namespace dsv3;

namespace {

bool aligned(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 64 == 0; }

}  // namespace

TEST_CASE("memory is taken and given back in stack order") {
  Workspace w;
  Workspace::Scope outer(w);
  auto kept = outer.matrix<float>(3, 5);
  kept.setConstant(7);
  const float* first = nullptr;
  {
    Workspace::Scope inner(w);
    auto m = inner.matrix<float>(10, 10);
    first = m.data();
    m.setConstant(1);
    CHECK(m.data() >= kept.data() + kept.size());
    auto large = inner.matrix<float>(500, 500);  // more than any chunk so far
    large.setConstant(2);
    CHECK((m.array() == 1).all());
  }
  Workspace::Scope again(w);
  CHECK(again.matrix<float>(10, 10).data() == first);
  CHECK((kept.array() == 7).all());
}

TEST_CASE("memory is aligned; arrays are initialised") {
  struct Pair {
    Index a = 3;
    const void* b = nullptr;
  };
  Workspace w;
  {
    Workspace::Scope dirty(w);
    auto bytes = dirty.matrix<unsigned char>(1, 4096);
    bytes.setConstant(0xff);
  }
  Workspace::Scope scope(w);
  for (Index n = 0; n < 20; ++n) {
    CHECK(aligned(scope.matrix<char>(n, 3).data()));
    const auto ints = scope.array<int>(n);
    CHECK(aligned(ints.data()));
    for (const int i : ints) CHECK(i == 0);
    for (const Pair& p : scope.array<Pair>(n)) CHECK(p.a == 3);
  }
}

TEST_CASE("after the largest step nothing grows and everything lies in one piece") {
  Workspace w;
  const auto step = [&w](Index rows) {
    Workspace::Scope outer(w);
    outer.matrix<float>(rows, 64);
    for (int i = 0; i < 5; ++i) {
      Workspace::Scope inner(w);
      inner.matrix<float>(rows, 1000);
      inner.matrix<float>(rows, 3);
    }
  };
  step(100);
  step(100);
  const auto warm = w.capacity();
  for (Index rows : {1, 100, 50, 99, 100}) {
    step(rows);
    CHECK(w.capacity() == warm);
  }
  step(400);
  CHECK(w.capacity() > warm);
}
