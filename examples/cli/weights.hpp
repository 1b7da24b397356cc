// The options that say how weights are held in memory where that is not as they are stored.
#pragma once

#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "cli.hpp"
#include "dsv3/io/load.hpp"
#include "dsv3/model/quantize.hpp"

namespace cli::inline DSV3_ISA {

struct WeightOptions {
  bool quantize_projections = false;  ///< those that published checkpoints have in fp8
  bool quantize_head = false;         ///< the output head, which they have in bf16
};

/// `others` and the options that read_weight_options() reads.
inline std::set<std::string_view> with_weights(std::set<std::string_view> others) {
  others.insert({"--quantize", "--quantize-head"});
  return others;
}

inline WeightOptions read_weight_options(const Args& args) {
  const auto fp8 = [&](const std::string& option) {
    const auto value = args.value(option);
    if (value && *value != "fp8") throw UsageError(option + ": expected fp8, got '" + *value + "'");
    return value.has_value();
  };
  return {.quantize_projections = fp8("--quantize"), .quantize_head = fp8("--quantize-head")};
}

/// The model in `folder`, with the weights that `weights` picks rounded to fp8 by blocks of 128x128.
/// Throws: as io::load(); UsageError if the head is to be rounded and is the embedding.
template <class P>
dsv3::Model<P> load_model(dsv3::Context& ctx, const std::filesystem::path& folder, const WeightOptions& weights,
                          const dsv3::io::LoadOptions& options = {}) {
  auto model = dsv3::io::load<P>(folder, options);
  if (weights.quantize_head && model.config().tie_word_embeddings)
    throw UsageError("--quantize-head: this checkpoint's head is its embedding, which stays as it is stored");
  if (weights.quantize_projections || weights.quantize_head) {
    const auto format = model.config().fp8_power_of_two_scales ? dsv3::ScaleFormat::power_of_two : dsv3::ScaleFormat::float32;
    dsv3::quantize_fp8(ctx, model, format, [&](const std::string& name) {
      return (weights.quantize_projections && dsv3::is_published_as_fp8(name)) || (weights.quantize_head && name == "lm_head.weight");
    });
  }
  return model;
}

}  // namespace cli::inline DSV3_ISA
