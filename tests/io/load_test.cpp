// Loading whole checkpoints: sound ones in every shape they are published in, and broken ones.
#include "dsv3/io/load.hpp"

#include <fstream>
#include <map>
#include <memory>

#include "dsv3/io/safetensors_writer.hpp"
#include "support/checkpoint.hpp"
#include "support/oracle.hpp"
#include "temp_folder.hpp"

using namespace test;

namespace {

const std::string golden = DSV3_TEST_DATA "/golden/";

struct Stored {
  io::Dtype dtype;
  std::vector<Index> shape;
  std::vector<std::byte> bytes;

  template <class T>
  T* as() {
    return reinterpret_cast<T*>(bytes.data());
  }
};

using Tensors = std::map<std::string, Stored>;

/// A golden checkpoint in memory, to be changed and written into a folder of its own.
class Draft {
 public:
  explicit Draft(const std::string& name) : config_(io::read_text_file(golden + name + "/config.json", 1 << 20)) {
    const auto file = io::Safetensors::open(golden + name + "/model.safetensors");
    for (const auto& t : file.tensors()) tensors[t.name] = {t.dtype, t.shape, {t.data.begin(), t.data.end()}};
  }

  Tensors tensors;

  void replace(const std::string& from, const std::string& to) {
    const auto at = config_.find(from);
    REQUIRE(at != config_.npos);
    config_.replace(at, from.size(), to);
  }

  /// The folder with config.json and weights in one file or in several shards with an index.
  const TempFolder& write(std::size_t shards = 1) {
    write_text("config.json", config_);
    std::vector<std::vector<io::Tensor>> files(shards);
    std::string index;
    std::size_t next = 0;
    for (auto& [name, t] : tensors) {
      files[next % shards].push_back({name, t.dtype, t.shape, t.bytes, {}});
      index += (index.empty() ? "" : ", ") + ('"' + name) + "\": \"" + file_name(next++ % shards, shards) + '"';
    }
    for (std::size_t i = 0; i < shards; ++i) io::write_safetensors(folder_ / file_name(i, shards), files[i]);
    if (shards > 1) write_text("model.safetensors.index.json", "{\"weight_map\": {" + index + "}}");
    return folder_;
  }

  /// The same in one file whose first tensor has one byte, so that all others begin at odd addresses.
  const TempFolder& write_misaligned() {
    write_text("config.json", config_);
    std::vector<io::TensorSpec> specs = {{"model.layers.0.self_attn.rotary_emb.inv_freq", io::Dtype::U8, {1}}};
    std::string data = "x";
    for (const auto& [name, t] : tensors) {
      specs.push_back({name, t.dtype, t.shape});
      data.append(reinterpret_cast<const char*>(t.bytes.data()), t.bytes.size());
    }
    write_text("model.safetensors", io::detail::safetensors_head(specs, {}) + data);
    return folder_;
  }

 private:
  static std::string file_name(std::size_t i, std::size_t shards) {
    return shards == 1 ? "model.safetensors" : "model-" + std::to_string(i) + ".safetensors";
  }
  void write_text(const std::string& name, const std::string& text) { std::ofstream(folder_ / name, std::ios::binary) << text; }

  std::string config_;
  TempFolder folder_;
};

/// What the model in a folder makes of a few tokens.
Matrix<float> run(const TempFolder& folder, const io::LoadOptions& options = {}) {
  Context ctx;
  const auto model = io::load(folder.path(), options);
  Matrix<int> ids(1, 6);
  ids << 3, 1, 4, 1, 5, 9;
  std::vector<Cache<DeepSeekV3>> caches;
  NoTape none;
  return logits(ctx, model, run_batch(ctx, model, ids, caches, none));
}

std::string complaint(const TempFolder& folder, const io::LoadOptions& options = {}) {
  return error_of([&] { (void)io::load(folder.path(), options); });
}

const std::string o_proj = "model.layers.1.self_attn.o_proj.weight", norm = "model.layers.1.input_layernorm.weight",
                  scales = o_proj + "_scale_inv";

/// Every scale replaced by the value that codec C has for it, stored as floats or as codes.
template <class C>
void round_scales(Draft& draft, bool as_codes) {
  for (auto& entry : draft.tensors)
    if (Stored& t = entry.second; entry.first.ends_with("_scale_inv")) {
      Stored codes{*io::dtype_of<C>, t.shape, std::vector<std::byte>(t.bytes.size() / sizeof(float) * sizeof(typename C::Code))};
      for (std::size_t i = 0; i < t.bytes.size() / sizeof(float); ++i) {
        const auto code = C::encode(t.as<float>()[i]);
        codes.as<typename C::Code>()[i] = code;
        t.as<float>()[i] = C::decode(code);
      }
      if (as_codes) t = codes;
    }
}

}  // namespace

TEST_CASE("everything that does not fit is told in one message") {
  Draft draft("v3-odd");
  auto& t = draft.tensors;
  t.erase("model.norm.weight");
  t.erase("model.layers.2.mlp.experts.7.up_proj.weight");
  std::swap(t[o_proj].shape[0], t[o_proj].shape[1]);
  t[norm].shape = {2, 36};
  t["model.layers.0.mlp.gate.weight"].dtype = io::Dtype::I32;
  t["model.layers.0.input_layernorm.weight"].dtype = io::Dtype::U32;
  t["model.layers.1.self_attn.q_proj.bias"] = {io::Dtype::F32, {3}, std::vector<std::byte>(12)};
  const std::string message = complaint(draft.write());
  for (const std::string part : {"2 missing:", "\n    model.norm.weight", "\n    model.layers.2.mlp.experts.7.up_proj.weight",
                                 "4 that do not fit:", "model.layers.1.self_attn.o_proj.weight: expected shape [72, 42], got [42, 72] (",
                                 "model.layers.1.input_layernorm.weight: expected shape [72], got [2, 36] (",
                                 "model.layers.0.mlp.gate.weight: stored as I32, which the policy's storage does not hold (",
                                 "model.layers.0.input_layernorm.weight: expected a float type, found U32 (",
                                 "1 unexpected:", "model.layers.1.self_attn.q_proj.bias [3] (", "model.safetensors)"}) {
    CAPTURE(message);
    CAPTURE(part);
    CHECK(contains(message, part));
  }
}

TEST_CASE("a tensor that an MTP module does not have is told, its copies of embedding and head are not") {
  Draft draft("v3-tiny");  // four layers and two modules
  for (const std::string name : {"mlp.gate.bias", "embed_tokens.weight", "shared_head.head.weight"})
    draft.tensors["model.layers.5." + name] = {io::Dtype::F32, {3}, std::vector<std::byte>(12)};
  const std::string message = complaint(draft.write());
  CHECK(contains(message, "1 unexpected:"));
  CHECK(contains(message, "model.layers.5.mlp.gate.bias [3] ("));
}

TEST_CASE("long lists are cut") {
  Draft draft("v3-odd");
  std::erase_if(draft.tensors, [](const auto& t) { return t.first.find(".experts.") != t.first.npos; });
  const std::string message = complaint(draft.write());
  CHECK(contains(message, "90 missing:"));
  CHECK(contains(message, "and 40 more"));
}

TEST_CASE("scales: missing, of the wrong shape or type, not finite") {
  const auto after = [](auto&& change) {
    Draft draft("v3-fp8");
    change(draft.tensors);
    return complaint(draft.write());
  };
  CHECK(contains(after([](Tensors& t) { t.erase(scales); }), scales + ": missing, though the weight is stored as fp8"));
  CHECK(contains(after([](Tensors& t) { t[scales].shape = {4, 1}; }), scales + ": expected shape [2, 2], got [4, 1]"));
  CHECK(contains(after([](Tensors& t) { t[scales].dtype = io::Dtype::I32; }), scales + ": expected a float type, found I32"));
  for (const float bad : {NAN, INFINITY})
    CHECK(contains(after([bad](Tensors& t) { t[scales].as<float>()[2] = bad; }), scales + ": scale [1, 0] is not finite"));
}

TEST_CASE("scales stored as bf16, f16 or e8m0 compute as the floats they stand for") {
  const auto check = []<class C>(C) {
    Draft floats("v3-fp8"), codes("v3-fp8");
    round_scales<C>(floats, false);
    round_scales<C>(codes, true);
    const Matrix<float> expected = run(floats.write());
    CHECK(same_bits(run(codes.write()), expected));
    CHECK(!same_bits(run(Draft("v3-fp8").write()), expected));
  };
  check(codec::BFloat16{});
  check(codec::Float16{});
  check(codec::E8m0{});
}

TEST_CASE("vectors may be bf16; matrices are computed with as they are stored") {
  Draft rounded("v3-odd"), stored("v3-odd");
  for (auto& [name, t] : rounded.tensors) {
    Stored codes{io::Dtype::BF16, t.shape, std::vector<std::byte>(t.bytes.size() / 2)};
    for (std::size_t i = 0; i < t.bytes.size() / 4; ++i) {
      codes.as<std::uint16_t>()[i] = codec::BFloat16::encode(t.as<float>()[i]);
      t.as<float>()[i] = codec::BFloat16::decode(codes.as<std::uint16_t>()[i]);
    }
    stored.tensors[name] = codes;
  }
  CHECK(same_bits(run(stored.write()), run(rounded.write())));
}

TEST_CASE("one file, shards and misaligned tensors are the same model") {
  for (const std::string name : {"v3-odd", "v3-fp8"}) {
    Draft one(name), three(name), misaligned(name);
    const Matrix<float> expected = run(one.write());
    CHECK(same_bits(run(three.write(3)), expected));
    CHECK(same_bits(run(misaligned.write_misaligned()), expected));
  }
}

TEST_CASE("the model keeps its weights when files and folder are gone") {
  Context ctx;
  Matrix<int> ids = Matrix<int>::Constant(1, 4, 7);
  std::vector<Cache<DeepSeekV3>> caches;
  NoTape none;
  const auto copy = [&] {
    Draft draft("v3-odd");
    const auto model = io::load(draft.write().path());
    return Model<>(model);
  }();
  const auto original = io::load(golden + "v3-odd");
  CHECK(same_bits(run_batch(ctx, copy, ids, caches, none), run_batch(ctx, original, ids, caches, none)));
}

TEST_CASE("weights that are not finite are found when asked for, norms always") {
  Draft weights("v3-odd"), norms("v3-odd"), codes("v3-fp8");
  weights.tensors[o_proj].as<float>()[5] = NAN;
  norms.tensors[norm].as<float>()[5] = INFINITY;
  codes.tensors[o_proj].as<unsigned char>()[77] = 0x7f;
  CHECK(complaint(weights.write()).empty());
  CHECK(contains(complaint(weights.write(), {.progress = {}, .check_values = true}), o_proj + ": has values that are not finite ("));
  CHECK(contains(complaint(norms.write()), norm + ": has values that are not finite ("));
  CHECK(contains(complaint(codes.write(), {.progress = {}, .check_values = true}), o_proj + ": has values that are not finite ("));
  CHECK(complaint(Draft("v3-fp8").write(), {.progress = {}, .check_values = true}).empty());
}

TEST_CASE("progress is told after every tensor") {
  Index calls = 0, last = 0, all = 0;
  const auto progress = [&](Index bound, Index total) {
    ++calls;
    CHECK(bound == last + 1);
    last = bound;
    all = total;
  };
  const auto model = io::load(golden + "v3-odd", {.progress = progress});
  Index parameters = 0;
  Model<>::for_each_tensor(model, [&](const std::string&, const auto&) { ++parameters; });
  CHECK(calls == parameters);
  CHECK(all == parameters);
  CHECK(parameters == 134);  // the checkpoint has 135, of which the tied head is not read
}

TEST_CASE("MTP modules that the configuration declares and the checkpoint lacks") {
  const auto without = [](const std::vector<std::string>& layers) {
    auto draft = std::make_unique<Draft>("v3-tiny");
    for (const auto& layer : layers)
      std::erase_if(draft->tensors, [&](const auto& t) { return t.first.starts_with("model.layers." + layer + "."); });
    return draft;
  };
  const auto modules = [](Draft& draft) { return io::load(draft.write().path()).mtp_modules(); };
  CHECK(modules(*without({})) == 2);
  CHECK(modules(*without({"5"})) == 1);
  CHECK(modules(*without({"4", "5"})) == 0);
  CHECK(contains(complaint(without({"4"})->write()), "model.layers.4.enorm.weight"));
  auto fewer = without({});
  fewer->replace("\"num_nextn_predict_layers\": 2", "\"num_nextn_predict_layers\": 1");
  CHECK(modules(*fewer) == 1);  // layers behind the declared ones are not read
}

TEST_CASE("the wrong family is refused") {
  CHECK(contains(error_of([] { (void)io::load<DeepSeekV3>(golden + "v2-lite"); }),
                 "scoring_func: this policy's router computes sigmoid scores"));
  CHECK(contains(error_of([] { (void)io::load<DeepSeekV2>(golden + "v3-tiny"); }), "Model<DeepSeekV3>"));
  CHECK(contains(error_of([] { (void)io::load(golden + "nothing-here"); }), "nothing-here"));
}
