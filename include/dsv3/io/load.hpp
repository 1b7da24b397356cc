// Floor 6. Loading a checkpoint: binds every tensor of the model to the mapped files, and reports everything that does not fit in one
// error.
//
// load_options.hpp declares load() itself. There is no conversion step. Weights stay in the files' pages, which the system reads when they
// are first used.
#pragma once

#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "dsv3/io/bind.hpp"
#include "dsv3/io/config_json.hpp"
#include "dsv3/io/load_options.hpp"
#include "dsv3/io/page_advice.hpp"
#include "dsv3/model/model.hpp"

namespace dsv3::inline DSV3_ISA::io {

/// How a checkpoint's tensors differ from a model's: messages that name tensor and file.
struct [[nodiscard]] Mismatch {
  std::vector<std::string> missing, misshapen, unexpected;

  bool empty() const { return missing.empty() && misshapen.empty() && unexpected.empty(); }

  /// All of it, at most `most` lines of each kind.
  std::string text(std::size_t most = 50) const {
    std::string out;
    const auto list = [&](const char* title, const std::vector<std::string>& lines) {
      if (lines.empty()) return;
      out += "\n  " + std::to_string(lines.size()) + " " + title + ":";
      for (std::size_t i = 0; i < std::min(most, lines.size()); ++i) out += "\n    " + lines[i];
      if (lines.size() > most) out += "\n    and " + std::to_string(lines.size() - most) + " more";
    };
    list("missing", missing);
    list("that do not fit", misshapen);
    list("unexpected", unexpected);
    return out;
  }
};

namespace detail {

/// Tensors that checkpoints carry and a model does not read: MTP modules' copies of embedding and head, tied heads, rotary frequencies,
/// other engines' scales of caches and inputs, and layers after the last one that the configuration declares.
inline bool is_redundant(const std::string& name, const Config& c) {
  for (const char* ending : {".rotary_emb.inv_freq", ".k_scale", ".v_scale", ".input_scale"})
    if (name.ends_with(ending)) return true;
  if (name == "lm_head.weight") return c.tie_word_embeddings;
  constexpr std::string_view layers = "model.layers.";
  if (!name.starts_with(layers)) return false;
  const auto dot = name.find('.', layers.size());
  const std::string number = name.substr(layers.size(), dot - layers.size());
  if (dot == name.npos || number.empty() || number.size() > 6 || number.find_first_not_of("0123456789") != number.npos) return false;
  const Index layer = std::stol(number);
  if (layer < c.num_hidden_layers) return false;
  const std::string rest = name.substr(dot + 1);
  return layer >= c.num_hidden_layers + c.num_nextn_predict_layers || rest == "embed_tokens.weight" || rest == "shared_head.head.weight";
}

template <ElementView W>
bool all_finite(const W& w) {
  for (Index i = 0; i < w.rows; ++i)
    for (Index k = 0; k < w.cols; ++k)
      if (!std::isfinite(row_of(w, i).at(k))) return false;
  return true;
}

}  // namespace detail

/// The configuration as the files bear it out. MTP modules: tools that copy checkpoints often drop them, but keep their number in
/// config.json. Tied embeddings: only if there is one matrix, or two equal ones.
template <std::derived_from<Config> C>
[[nodiscard]] C present_config(const C& declared, const CheckpointFiles& files) {
  C c = declared;
  // A module is recognised by a tensor that main layers lack: if config.json declares fewer layers than there are, the number may be a main
  // layer's.
  const auto is_module = [&](Index layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    return files.find(prefix + "enorm.weight") != nullptr || files.find(prefix + "eh_proj.weight") != nullptr;
  };
  // As in transformers, a head that is stored and differs from the embedding is a head of its own, whatever the file says.
  const Tensor *head = files.find("lm_head.weight"), *embedding = files.find("model.embed_tokens.weight");
  if (c.tie_word_embeddings && head != nullptr && embedding != nullptr && !std::ranges::equal(head->data, embedding->data))
    c.tie_word_embeddings = false;
  while (c.num_nextn_predict_layers > 0 && !is_module(c.num_hidden_layers + c.num_nextn_predict_layers - 1)) --c.num_nextn_predict_layers;
  return c;
}

namespace detail {

/// Calls fit(name, parameter) -> Problem for every parameter of `model` that has a tensor, and collects all problems.
template <class ModelOrConst, class Fit>
Mismatch match(ModelOrConst& model, const CheckpointFiles& files, const Binder& binder, Fit&& fit) {
  Mismatch mismatch;
  std::set<std::string> used;
  std::remove_const_t<ModelOrConst>::for_each_tensor(model, [&](const std::string& parameter_name, auto& parameter) {
    std::string name = parameter_name;
    const auto use = [&](const std::string& tensor) { used.insert(tensor); };
    const Tensor* tensor = binder.find(name, parameter, use);
    if (tensor == nullptr && model.config().tie_word_embeddings && name == "model.embed_tokens.weight") {
      name = "lm_head.weight";  // some programs save tied weights under this name
      tensor = binder.find(name, parameter, use);
    }
    if (tensor == nullptr) {
      mismatch.missing.push_back(parameter_name);
      return;
    }
    if (auto problem = fit(name, parameter)) mismatch.misshapen.push_back(std::move(*problem));
  });
  for (const Tensor& tensor : files.tensors())
    if (!used.contains(tensor.name) && !is_redundant(tensor.name, model.config()))
      mismatch.unexpected.push_back(tensor.name + " " + shape_string(tensor.shape) + " (" + tensor.file + ")");
  return mismatch;
}

}  // namespace detail

/// How `files` differ from what `model` needs, going by their headers: no weight is read.
template <class P>
Mismatch compare(const Model<P>& model, const CheckpointFiles& files) {
  std::vector<std::shared_ptr<const void>> none;
  const Binder binder({files, none});
  return detail::match(model, files, binder, [&](const std::string& name, const auto& parameter) { return binder.check(name, parameter); });
}

namespace detail {

/// Starts to read what binding needs: vectors, and scales that are checked or converted.
inline void read_ahead(const CheckpointFiles& files, const LoadOptions& options) {
  for (const Tensor& tensor : files.tensors()) {
    const bool scales = tensor.name.ends_with("_scale_inv") && (options.check_scales || tensor.dtype != Dtype::F32);
    if (scales || tensor.shape.size() == 1) will_read(tensor.data);
  }
}

}  // namespace detail

/// Binds every parameter of `model` to its tensor in `files` if that fits, and returns what does not. The model keeps the files mapped.
/// Without check_values, only the pages that hold scales and vectors are read.
template <class P>
Mismatch bind(Model<P>& model, const CheckpointFiles& files, const LoadOptions& options = {}) {
  std::vector<std::shared_ptr<const void>> owners = files.owners();
  const Binder binder({files, owners, options.check_scales});
  Index total = 0, bound = 0;
  Model<P>::for_each_tensor(model, [&](const std::string&, auto&) { ++total; });
  std::optional<NoReadahead> single_pages;
  if (!options.check_values) single_pages.emplace(files.mappings());
  detail::read_ahead(files, options);
  const Mismatch mismatch = detail::match(model, files, binder, [&](const std::string& name, auto& parameter) {
    auto problem = binder.bind(name, parameter);
    if constexpr (requires { parameter.view; })
      if (!problem && options.check_values && !visit_weight(parameter.view, [](const auto& w) { return detail::all_finite(w); }))
        problem = name + ": has values that are not finite (" + files.find(name)->file + ")";
    if (options.progress) options.progress(++bound, total);
    return problem;
  });
  for (const auto file : files.mappings()) prefer_huge_pages(file);
  for (auto& owner : owners) model.keep(std::move(owner));
  return mismatch;
}

template <class P>
Model<P> load(const std::filesystem::path& folder, const LoadOptions& options) {
  const auto declared = read_config<typename P::Config>(folder);
  const auto files = CheckpointFiles::open(folder);
  const auto config = present_config(declared, files);
  // Refuse a configuration that cannot belong to these files before anything is built for it.
  const Index experts = (config.num_hidden_layers - config.first_k_dense_replace) * config.n_routed_experts * 3;
  require(experts <= 10000 + 4 * static_cast<Index>(files.tensors().size()), folder.string(), ": config.json describes ", experts,
          " expert tensors, the files hold ", files.tensors().size(), " tensors in all");
  Model<P> model(config);
  const Mismatch mismatch = bind(model, files, options);
  require(mismatch.empty(), folder.string(), ": the checkpoint does not fit the model that its config.json describes:", mismatch.text());
  return model;
}

/// f(policy) with the bundle of the published family that `config` belongs to: DeepSeekV2, DeepSeekV3 or DeepSeekV3Halves.
template <class F>
decltype(auto) with_policy(const Config& config, F&& f) {
  if (config.scoring_func == router::Score::softmax) return f(DeepSeekV2{});
  if (!config.rope_interleave) return f(DeepSeekV3Halves{});
  return f(DeepSeekV3{});
}

}  // namespace dsv3::inline DSV3_ISA::io
