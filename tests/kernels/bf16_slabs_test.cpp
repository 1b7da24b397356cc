#include "dsv3/kernels/bf16_slabs.hpp"

#include "support/oracle.hpp"
#include "support/threads.hpp"

using namespace test;

#ifdef DSV3_HAS_BF16_TILES

namespace {

struct Job {
  Index tiles, work;
};

std::vector<kernels::detail::Slab> cut(int workers, const std::vector<Job>& jobs) {
  Threads threads{workers};
  Context ctx(threads);
  Workspace memory;
  Workspace::Scope scope(memory);
  const auto slabs = kernels::detail::cut_slabs(
      ctx, scope, std::span<const Job>(jobs), [](const Job& j) { return j.tiles; }, [](const Job& j) { return j.work; });
  return {slabs.begin(), slabs.end()};
}

}  // namespace

TEST_CASE("slabs cover every row tile once and no worker has more than half as much again as its share") {
  Random random;
  int with = 0, without = 0;
  for (int round = 0; round < 400; ++round) {
    const int workers = 1 + round % 5;
    std::vector<Job> jobs(static_cast<std::size_t>(round % 3 == 0 ? 1 : random.between(1, 60)));
    for (auto& j : jobs) j = {random.between(0, round % 2 == 0 ? 4 : 100), random.between(1, 3)};
    const auto slabs = cut(workers, jobs);
    (slabs.empty() ? without : with)++;
    if (slabs.empty()) {
      CHECK((workers > 1 || std::all_of(jobs.begin(), jobs.end(), [](const Job& j) { return j.tiles == 0; })));
      continue;
    }
    std::vector<std::vector<int>> seen(jobs.size());
    for (std::size_t i = 0; i < jobs.size(); ++i) seen[i].assign(static_cast<std::size_t>(jobs[i].tiles), 0);
    std::vector<Index> loads(static_cast<std::size_t>(workers));
    Index total = 0;
    for (const auto& s : slabs) {
      const auto& job = jobs[static_cast<std::size_t>(s.job)];
      for (Index t = s.begin; t < s.begin + s.count; ++t) ++seen[static_cast<std::size_t>(s.job)].at(static_cast<std::size_t>(t));
      CHECK((s.count <= kernels::detail::max_slab_tiles));
      *std::min_element(loads.begin(), loads.end()) += s.count * job.work;  // who is free takes the next
      total += s.count * job.work;
    }
    for (const auto& tiles : seen) CHECK(std::all_of(tiles.begin(), tiles.end(), [](int times) { return times == 1; }));
    CHECK((2 * workers * *std::max_element(loads.begin(), loads.end()) <= 3 * total));
  }
  CHECK(with > 50);
  CHECK(without > 50);
}

TEST_CASE("a long prompt goes to the workers in equal slabs, a short one does not, experts go whole") {
  CHECK(cut(2, {{32, 1}}).size() == 2);
  CHECK(cut(2, {{100, 1}}).size() == 8);
  CHECK(cut(2, {{4, 1}}).empty());
  CHECK(cut(2, {{1, 1}}).empty());
  CHECK(cut(8, {{32, 1}}).empty());
  CHECK(cut(2, std::vector<Job>(64, {3, 1})).size() == 64);
}

#endif
