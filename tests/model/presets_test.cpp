#include <doctest/doctest.h>

#include "dsv3/core/validate.hpp"
#include "dsv3/io/load.hpp"
#include "dsv3/model/count.hpp"
#include "dsv3/model/presets.hpp"

using namespace dsv3;

namespace {

ParameterCounts counts(const Config& c) {
  return io::with_policy(c, [&]<class P>(P) { return count_parameters(Model<P>(c)); });
}

struct Published {
  const char* name;
  Index total;      // 0: only the rounded figure below is published
  double billions;  // as the model's own page gives them: all, and those that act on a token
  double active_billions;
};

}  // namespace

TEST_CASE("presets have the published numbers of parameters") {
  for (const Published& p :
       {Published{"deepseek-v3", 671'026'419'200, 671, 37}, Published{"deepseek-r1", 671'026'419'200, 671, 37},
        Published{"deepseek-v2", 235'741'434'880, 236, 21}, Published{"deepseek-v2-lite", 15'706'484'224, 15.7, 2.4},
        Published{"moonlight-16b-a3b", 0, 16, 3}, Published{"kimi-k2", 0, 1026, 32}, Published{"glm-4.7-flash", 0, 30, 3}}) {
    CAPTURE(p.name);
    const auto config = presets::find(p.name);
    REQUIRE(config.has_value());
    const auto n = counts(*config);
    if (p.total > 0) CHECK(n.total == p.total);
    CHECK(static_cast<double>(n.total) * 1e-9 == doctest::Approx(p.billions).epsilon(0.01));
    // "Active" is published rounded, and counts the embedding or not.
    CHECK(std::abs(static_cast<double>(n.active) * 1e-9 - p.active_billions) < 0.7);
  }
}

TEST_CASE("every preset is valid and found by name") {
  for (const auto& preset : presets::all) {
    CAPTURE(preset.name);
    CHECK_NOTHROW(validate(preset.config(), preset.name));
    CHECK(presets::find(preset.name) == preset.config());
  }
  CHECK(presets::find("v2-lite") == presets::deepseek_v2_lite());
  CHECK_FALSE(presets::find("gpt-2").has_value());
}
