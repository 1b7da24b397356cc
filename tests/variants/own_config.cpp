// Fields of a variant's own in config.json.
#include "dsv3/io/config_json.hpp"
#include "dsv3/io/config_writer.hpp"
#include "variants/tiny.hpp"

using namespace dsv3;

namespace {

// [own_config]
struct WindowConfig : Config {
  Index sliding_window = 0;
  void read(const io::Fields& fields) { sliding_window = fields.integer("sliding_window", 0); }
  void write(auto& json) const { json["sliding_window"] = sliding_window; }
  bool operator==(const WindowConfig&) const = default;
};
struct WindowModel : DeepSeekV3 {
  using Config = WindowConfig;
};
// [/own_config]

std::string with(const std::string& fields) { return R"({"model_type": "deepseek_v3", )" + fields + "}"; }

}  // namespace

TEST_CASE("a variant's configuration reads and writes fields of its own") {
  static_assert(ModelPolicy<WindowModel>);
  const auto c = io::parse_config<WindowConfig>(with(R"("sliding_window": 128)"), "c");
  CHECK(c.sliding_window == 128);
  CHECK(c.hidden_size == 7168);
  CHECK(io::parse_config<WindowConfig>(io::config_to_json(c), "c") == c);
  const auto complaint = [&](auto&& f) { return test::error_of(f); };
  CHECK(test::contains(complaint([] { (void)io::parse_config<WindowConfig>(with(R"("sliding_window": 128, "hc_mult": 4)"), "c"); }),
                       "does not know: hc_mult"));
  CHECK(test::contains(complaint([&] { (void)io::parse_config(io::config_to_json(c), "c"); }), "does not know: sliding_window"));
}
