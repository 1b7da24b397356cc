// dsv3-inspect: what a checkpoint is, how large it is and whether it is complete, from its headers alone.
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli.hpp"
#include "dsv3/io/config_writer.hpp"
#include "dsv3/io/load.hpp"
#include "dsv3/model/count.hpp"
#include "dsv3/model/quantize.hpp"

namespace {

using dsv3::Config;
using dsv3::Index;

constexpr const char* usage =
    "usage: dsv3-inspect DIR [--all] [--json]\n\n"
    "Describes the checkpoint in DIR from config.json and the headers of its safetensors; weights are never read.\n"
    "  --all   lists every tensor, instead of one line for all layers and experts alike\n"
    "  --json  one JSON object instead of text: model_type, config, parameters, memory_bytes, files, tensors (with --all), complete,\n"
    "          problems\n"
    "  --help  prints this text\n"
    "Exit status: 0 the checkpoint is complete, 1 it is not, or an error, 2 wrong arguments.\n";

void describe(const Config& c) {
  const auto row = [](const char* what, const std::string& value) { std::printf("  %-12s %s\n", what, value.c_str()); };
  const auto n = [](auto v) { return std::to_string(v); };
  std::printf("%s\n", c.model_type.c_str());
  row("layers", n(c.num_hidden_layers) + " of width " + n(c.hidden_size) + ", the first " + n(c.first_k_dense_replace) + " dense (" +
                    n(c.intermediate_size) + "), and " + n(c.num_nextn_predict_layers) + " for multi-token prediction");
  row("attention", n(c.num_attention_heads) + " heads of " + n(c.qk_nope_head_dim) + " + " + n(c.qk_rope_head_dim) +
                       " rotary channels, values of " + n(c.v_head_dim) + ", ranks: query " + (c.q_lora_rank ? n(*c.q_lora_rank) : "none") +
                       ", cache " + n(c.kv_lora_rank));
  row("experts", n(c.n_routed_experts) + " of width " + n(c.moe_intermediate_size) + " and " + n(c.n_shared_experts) + " shared, " +
                     n(c.num_experts_per_tok) + " a token by " + (c.scoring_func == dsv3::router::Score::sigmoid ? "sigmoid" : "softmax") +
                     (c.n_group > 1 ? " from " + n(c.topk_group) + " of " + n(c.n_group) + " groups" : ""));
  row("vocabulary", n(c.vocab_size) + (c.tie_word_embeddings ? ", head tied to the embedding" : ""));
  row("context", n(c.max_position_embeddings) + " tokens" +
                     (c.rope_scaling ? ", YaRN from " + n(c.rope_scaling->original_max_position_embeddings) : std::string()));
}

std::string gigabytes(double bytes) {
  char text[32];
  std::snprintf(text, sizeof text, bytes < 1e8 ? "%.3f GB" : "%.1f GB", bytes / 1e9);
  return text;
}

/// Bytes of all weights if the projections are stored with `projection` bytes an element and the other matrices with `rest`.
template <class P>
double weight_bytes(const dsv3::Model<P>& model, double projection, double rest) {
  double bytes = 0;
  dsv3::Model<P>::for_each_tensor(model, [&]<class T>(const std::string& name, const T& parameter) {
    const bool matrix = requires { parameter.view; };
    bytes += static_cast<double>(parameter.size()) * (!matrix ? 4 : dsv3::is_published_as_fp8(name) ? projection : rest);
  });
  return bytes;
}

struct Sizes {
  dsv3::ParameterCounts parameters;
  double f32 = 0, bf16 = 0, fp8 = 0;  // bytes of all weights; fp8: of the projections, the rest bf16
  Index cache = 0;                    // bytes a token, float32
};

template <class P>
Sizes sizes_of(const dsv3::Model<P>& model) {
  const Config& c = model.config();
  constexpr double fp8 = 1 + 4.0 / (128 * 128);
  return {.parameters = count_parameters(model),
          .f32 = weight_bytes(model, 4, 4),
          .bf16 = weight_bytes(model, 2, 2),
          .fp8 = weight_bytes(model, fp8, 2),
          .cache = (c.num_hidden_layers + model.mtp_modules()) * (c.kv_lora_rank + c.qk_rope_head_dim) * 4};
}

void print(const Sizes& s) {
  std::printf("\nparameters\n  %-12s %td\n  %-12s %td a token\n  %-12s %td\n", "total", s.parameters.total, "active", s.parameters.active,
              "mtp", s.parameters.mtp);
  std::printf("\nmemory\n  %-12s %s\n  %-12s %s\n  %-12s %s (projections; bf16 the rest)\n  %-12s %td bytes a token (float32)\n", "f32",
              gigabytes(s.f32).c_str(), "bf16", gigabytes(s.bf16).c_str(), "fp8", gigabytes(s.fp8).c_str(), "cache", s.cache);
}

/// "model.layers.3.mlp" -> "model.layers.*.mlp".
std::string pattern_of(const std::string& name) {
  std::string out;
  for (std::size_t i = 0; i < name.size();) {
    const std::size_t end = std::min(name.find('.', i), name.size());
    const std::string part = name.substr(i, end - i);
    out += part.find_first_not_of("0123456789") == part.npos ? "*" : part;
    if (end < name.size()) out += '.';
    i = end + 1;
  }
  return out;
}

void print_tensors(const dsv3::io::CheckpointFiles& files, bool all) {
  std::map<std::string, int> lines;  // description -> how many tensors it fits
  std::vector<std::string> order;
  for (const auto& t : files.tensors()) {
    std::string line = all ? t.name : pattern_of(t.name);
    line.resize(std::max<std::size_t>(line.size() + 2, 62), ' ');
    line += std::string(dsv3::io::name(t.dtype)) + " " + dsv3::shape_string(t.shape);
    if (lines[line]++ == 0) order.push_back(line);
  }
  std::printf("\ntensors: %zu in %s\n", files.tensors().size(), gigabytes(static_cast<double>(files.total_bytes())).c_str());
  for (const auto& line : order) {
    if (lines[line] > 1)
      std::printf("  %s x %d\n", line.c_str(), lines[line]);
    else
      std::printf("  %s\n", line.c_str());
  }
}

using Json = nlohmann::ordered_json;

Json json_of(const Config& c, const Sizes& s) {
  const auto whole = [](double bytes) { return static_cast<std::int64_t>(bytes); };
  return {{"model_type", c.model_type},
          {"config", Json::parse(dsv3::io::config_to_json(c))},
          {"parameters", {{"total", s.parameters.total}, {"active", s.parameters.active}, {"mtp", s.parameters.mtp}}},
          {"memory_bytes", {{"f32", whole(s.f32)}, {"bf16", whole(s.bf16)}, {"fp8", whole(s.fp8)}, {"cache_per_token", s.cache}}}};
}

Json json_of(const dsv3::io::CheckpointFiles& files) {
  Json list = Json::array();
  for (const auto& t : files.tensors()) list.push_back({{"name", t.name}, {"dtype", dsv3::io::name(t.dtype)}, {"shape", t.shape}});
  return list;
}

template <class P>
bool inspect(const std::string& folder, const Config& declared, bool all, bool as_json) {
  std::optional<dsv3::io::CheckpointFiles> files;
  if (dsv3::io::CheckpointFiles::are_in(folder)) files = dsv3::io::CheckpointFiles::open(folder);
  const dsv3::Model<P> model(files ? dsv3::io::present_config(declared, *files) : declared);
  const Sizes sizes = sizes_of(model);
  const auto mismatch = files ? dsv3::io::compare(model, *files) : dsv3::io::Mismatch{};
  const bool complete = files && mismatch.empty();
  if (as_json) {
    Json json = json_of(model.config(), sizes);
    json["files"] = files ? Json{{"tensors", files->tensors().size()}, {"bytes", files->total_bytes()}} : Json();
    if (files && all) json["tensors"] = json_of(*files);
    json["complete"] = complete;
    json["problems"] = {{"missing", mismatch.missing}, {"misshapen", mismatch.misshapen}, {"unexpected", mismatch.unexpected}};
    std::printf("%s\n", json.dump(2, ' ', false, Json::error_handler_t::replace).c_str());
    return complete;
  }
  describe(model.config());
  print(sizes);
  if (!files) {
    std::printf("\nincomplete: there is a config.json, but no model.safetensors or model.safetensors.index.json\n");
    return false;
  }
  print_tensors(*files, all);
  if (declared.num_nextn_predict_layers != model.mtp_modules())
    std::printf("\nconfig.json declares %td MTP modules, the files hold %td\n", declared.num_nextn_predict_layers, model.mtp_modules());
  std::printf("\n%s%s\n", complete ? "complete: every tensor is there, none is unexpected" : "the tensors do not fit config.json:",
              mismatch.text().c_str());
  return complete;
}

}  // namespace

int main(int argc, char** argv) {
  bool complete = true;
  const int code = cli::run("dsv3-inspect", usage, [&] {
    const cli::Args args(argc, argv, 1, {}, {"--all", "--json"});
    const Config config = dsv3::io::read_config(args[0]);
    dsv3::io::with_policy(config, [&]<class P>(P) { complete = inspect<P>(args[0], config, args.has("--all"), args.has("--json")); });
  });
  return code != 0 ? code : complete ? 0 : 1;
}
