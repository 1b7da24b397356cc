// Floor 5. Counting parameters from a model's structure; no weights are needed.
#pragma once

#include "dsv3/model/model.hpp"

namespace dsv3::inline DSV3_ISA {

struct [[nodiscard]] ParameterCounts {
  Index total = 0;   ///< all of the main model, biases of routers included
  Index active = 0;  ///< of these, used for one token: not the experts that it is not routed to, nor the embedding's other rows
  Index mtp = 0;     ///< of the MTP modules, without the embedding and head they share
};

/// Counts the parameters of `model` under their published names.
template <class P>
ParameterCounts count_parameters(const Model<P>& model) {
  const Config& c = model.config();
  const auto is_mtp = [&](const std::string& name) {
    for (Index k = 0; k < model.mtp_modules(); ++k)
      if (name.starts_with(Model<P>::layer_prefix(c.num_hidden_layers + k))) return true;
    return false;
  };
  ParameterCounts n;
  Index routed = 0, embedding = 0;
  Model<P>::for_each_tensor(model, [&](const std::string& name, const auto& parameter) {
    if (is_mtp(name)) {
      n.mtp += parameter.size();
      return;
    }
    n.total += parameter.size();
    if (name.find(".mlp.experts.") != name.npos) routed += parameter.size();
    if (name == "model.embed_tokens.weight" && !c.tie_word_embeddings) embedding = parameter.size();
  });
  n.active = n.total - routed / c.n_routed_experts * (c.n_routed_experts - c.num_experts_per_tok) - embedding +
             (embedding > 0 ? c.hidden_size : 0);
  return n;
}

}  // namespace dsv3::inline DSV3_ISA
