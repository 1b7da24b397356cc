// Models for tests of generation: the trained one with its MTP module, with more of them, and with modules that guess at random; and the
// plain loop that speculation must equal.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "dsv3/model/generate.hpp"
#include "dsv3/model/init.hpp"
#include "support/checkpoint.hpp"
#include "support/oracle.hpp"

namespace test {

inline const Model<>& shakespeare() {
  static const auto model = io::load<DeepSeekV3>(DSV3_MODELS "/shakespeare");
  return model;
}

/// The trained main model with `modules` MTP modules: copies of its own, or random ones.
inline Model<> with_modules(Index modules, bool random) {
  const Model<>& source = shakespeare();
  Config c = source.config();
  c.num_nextn_predict_layers = modules;
  Model<> model(c);
  if (random) init_normal(model, 5, 0.1);
  std::map<std::string, WeightMatrix<AnyStorage>> matrices;
  std::map<std::string, WeightVector> vectors;
  Model<>::for_each_tensor(source, [&]<class T>(const std::string& name, const T& parameter) {
    if constexpr (requires { parameter.view; })
      matrices[name] = parameter;
    else
      vectors[name] = parameter;
  });
  Model<>::for_each_tensor(model, [&]<class T>(const std::string& name, T& parameter) {
    std::string from = name;
    for (Index k = 0; k < modules; ++k) {
      const std::string prefix = Model<>::layer_prefix(c.num_hidden_layers + k);
      if (!name.starts_with(prefix)) continue;
      if (random) return;
      from = Model<>::layer_prefix(c.num_hidden_layers) + name.substr(prefix.size());
    }
    if constexpr (requires { parameter.view; })
      parameter = matrices.at(from);
    else
      parameter = vectors.at(from);
  });
  return model;
}

/// A passage in the model's vocabulary, of any length.
inline std::vector<int> passage(std::size_t n) {
  const std::vector<int> text = {848, 270, 42,  461, 326, 310, 260, 471, 13, 302, 297, 391, 326, 310, 290, 36,  45,  378, 1017, 270,
                                 42,  461, 326, 310, 260, 784, 86,  311, 69, 200, 406, 582, 269, 271, 397, 264, 389, 306, 269,  275};
  std::vector<int> ids;
  while (ids.size() < n) ids.push_back(text[ids.size() % text.size()]);
  return ids;
}

/// Tokens and the logits each was chosen from.
struct Written {
  std::vector<int> ids;
  Matrix<float> logits;

  void add(int id, std::span<const float> row) {
    ids.push_back(id);
    if (row.empty()) return;  // a prompt's first token
    logits.conservativeResize(logits.rows() + 1, static_cast<Index>(row.size()));
    logits.bottomRows(1) = Eigen::Map<const Vector<float>>(row.data(), 1, static_cast<Index>(row.size()));
  }
  bool operator==(const Written& other) const { return ids == other.ids && same_bits(logits, other.logits); }
};

/// What generate() writes with `sampler`.
template <class P, class S>
Written plain(const Model<P>& model, const std::vector<int>& prompt, Index max_new, S sampler) {
  Context ctx;
  Written out;
  auto cache = model.make_cache({static_cast<Index>(prompt.size()) + max_new});
  std::vector<float> seen;
  const auto remember = [&](std::span<const float> logits) {
    seen.assign(logits.begin(), logits.end());
    return sampler(logits);
  };
  generate(
      ctx, model, cache, prompt, {.max_new_tokens = max_new}, [&](int id) { return out.add(id, seen), true; }, remember);
  return out;
}

}  // namespace test
