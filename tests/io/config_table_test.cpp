// Every field of config.json written in other ways, against what transformers computes from the same files (tests/data/config).
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include "dsv3/io/load.hpp"
#include "io/temp_folder.hpp"
#include "support/checkpoint.hpp"
#include "support/oracle.hpp"

using namespace test;

namespace {

using Json = nlohmann::json;

constexpr double tolerance = 2e-5;  // of a whole model in float32, docs/numerics.md

/// The last row of the logits that the checkpoint in `folder` gives for `ids`. Throws: Error if it is refused.
Matrix<float> last_logits(const std::filesystem::path& folder, std::vector<int> ids) {
  Matrix<float> found;
  io::with_policy(io::read_config(folder), [&]<class P>(P) {
    const auto model = io::load<P>(folder);
    Context ctx;
    auto cache = model.make_cache({std::ssize(ids)});
    Matrix<float> h(std::ssize(ids), model.width());
    const typename Model<P>::Sequence sequence{ids, &cache};
    model.forward(ctx, {&sequence, 1}, view(h));
    found.resize(1, model.config().vocab_size);
    model.logits(ctx, view(std::as_const(h)).slice(h.rows() - 1, 1), view(found));
  });
  return found;
}

/// Changes that are plain enough to be read although transformers 5 gives up: sizes written as floats and whole numbers as integers (older
/// versions wrote and read both), and a null or absent field in the place of the default.
bool is_plain(const std::string& field, const Json& value) {
  if (value.is_null() || value.is_number_float()) return true;
  if (field == "num_key_value_heads" && value == "absent") return true;  // as many as there are heads
  if (field == "q_lora_rank" || field == "routed_scaling_factor" || field == "rms_norm_eps") return value.is_number();
  if (!value.is_object()) return false;
  const bool has_null = std::ranges::any_of(value, [](const Json& v) { return v.is_null(); });
  return has_null || (value.value("type", "") == "yarn" && !value.contains("factor"));  // the factor follows from the contexts
}

/// A size with its own value, written as a float. (rms_norm_eps and the like have other values in the table.)
bool is_same_size(const std::string& field, const Json& value) {
  return value.is_number_float() && field != "rms_norm_eps" && field != "rope_theta" && field != "routed_scaling_factor";
}

/// Fields that transformers ignores in these models, or that this library has no code for: a file that sets them is refused.
const std::set<std::string> refused_fields{"scoring_func",    "topk_method",     "hidden_act", "mlp_bias",
                                           "moe_layer_freq",  "rope_interleave", "head_dim",   "partial_rotary_factor",
                                           "rope_parameters", "rope_scaling"};

}  // namespace

TEST_CASE("config.json means what transformers takes it for, or is refused") {
  const std::string path = DSV3_TEST_DATA "/config/table.json";
  const Json table = io::parse_json(io::read_text_file(path, std::size_t{1} << 24), path);
  const auto ids = table["ids"].get<std::vector<int>>();
  std::map<std::string, int> outcomes;
  for (const Json& row : table["rows"]) {
    const std::string name = row["case"], golden = DSV3_TEST_DATA "/golden/" + name;
    CAPTURE(name);
    CAPTURE(row["change"].dump());
    Json config = io::parse_json(io::read_text_file(golden + "/config.json", 1 << 20), "config.json");
    for (const auto& [field, value] : row["change"].items())
      if (value == "absent")
        config.erase(field);
      else
        config[field] = value;
    const TempFolder folder;
    std::ofstream(folder / "config.json") << config.dump();
    std::filesystem::create_symlink(std::filesystem::absolute(golden + "/model.safetensors"), folder / "model.safetensors");
    Matrix<float> found;
    std::string error;
    try {
      found = last_logits(folder.path(), ids);
    } catch (const Error& e) {
      error = e.what();
    }
    const Json& change = row["change"];
    const auto any_of = [&](auto&& holds) {
      for (const auto& [field, value] : change.items())
        if (holds(field, value)) return true;
      return false;
    };
    if (row.contains("error")) {
      CHECK((!error.empty() || any_of(is_plain)));
      if (error.empty() && any_of(is_same_size)) CHECK(same_bits(found, last_logits(golden, ids)));
      ++outcomes[error.empty() ? "only read here" : "refused by both"];
    } else if (!error.empty()) {
      CHECK(
          any_of([&](const std::string& field, const Json&) { return refused_fields.contains(field) && error.find(field) != error.npos; }));
      ++outcomes["only refused here"];
    } else {
      const double largest = row["largest"];
      for (std::size_t i = 0; i < row["logits"].size(); ++i)
        CHECK(std::abs(found(0, static_cast<Index>(i)) - row["logits"][i].get<double>()) <= tolerance * largest);
      ++outcomes["equal"];
    }
  }
  CHECK(outcomes["equal"] == 584);
  CHECK(outcomes["refused by both"] == 208);
  CHECK(outcomes["only read here"] == 164);
  CHECK(outcomes["only refused here"] == 97);
}
