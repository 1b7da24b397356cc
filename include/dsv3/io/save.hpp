// Floor 6. Saving a model as a checkpoint that load() and Hugging Face read: config.json and safetensors, in shards if it is large.
//
// Every tensor is written in the type it is held in. MTP modules' copies of embedding and head are not written.
#pragma once

#include <cstdio>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "dsv3/io/bind.hpp"
#include "dsv3/io/config_writer.hpp"
#include "dsv3/io/safetensors_writer.hpp"
#include "dsv3/model/model.hpp"

namespace dsv3::inline DSV3_ISA::io {

struct SaveOptions {
  std::size_t max_shard_bytes = std::size_t{5} << 30;
};

namespace detail {

inline void write_shard(const std::filesystem::path& path, std::span<const Outgoing> tensors) {
  std::vector<TensorSpec> specs;
  std::map<std::string, const Outgoing*> by_name;
  for (const Outgoing& t : tensors) {
    specs.push_back(t.spec);
    by_name[t.spec.name] = &t;
  }
  write_safetensors(path, std::move(specs), [&](const TensorSpec& spec, const auto& sink) {
    const Outgoing& t = *by_name.at(spec.name);
    for (std::size_t i = 0; i < t.rows; ++i) sink(std::span(t.data + i * t.stride_bytes, t.row_bytes));
  });
}

inline std::string shard_name(std::size_t i, std::size_t n) {
  char name[64];
  std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", i + 1, n);
  return name;
}

inline void write_text(const std::filesystem::path& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text);
  file.commit();
}

}  // namespace detail

/// Writes `model` into `folder`, which is created if it does not exist. Each file appears whole or not at all, config.json last.
/// Throws: Error naming the file and what failed, or a weight that is not bound to memory.
template <class P>
void save(const Model<P>& model, const std::filesystem::path& folder, const SaveOptions& options = {}) {
  std::vector<Outgoing> tensors;
  bool fp8 = false;
  Model<P>::for_each_tensor(model, [&]<class T>(const std::string& name, const T& parameter) {
    if constexpr (requires { parameter.view; }) {
      visit_weight(parameter.view, [&]<class W>(const W& w) { Binding<typename W::Storage>::save(name, w, tensors); });
      fp8 = fp8 || is_fp8(parameter.view);
    } else {
      require(parameter.values.size() == parameter.length, "save: ", name, " is not bound to any memory");
      auto t = outgoing(name, Dtype::F32, parameter.values.data(), 1, parameter.length, parameter.length);
      t.spec.shape = {parameter.length};
      tensors.push_back(std::move(t));
    }
  });

  std::vector<std::span<const Outgoing>> shards;
  std::size_t total = 0;
  for (std::size_t i = 0; i < tensors.size();) {
    std::size_t end = i, bytes = 0;
    while (end < tensors.size() && (end == i || bytes + tensors[end].bytes() <= options.max_shard_bytes)) bytes += tensors[end++].bytes();
    shards.push_back(std::span<const Outgoing>(tensors).subspan(i, end - i));
    total += bytes;
    i = end;
  }

  std::error_code error;
  std::filesystem::create_directories(folder, error);
  require(!error, folder.string(), ": cannot make the folder: ", error.message());
  typename P::Config config = model.config();
  config.fp8 = fp8;
  const auto single = folder / "model.safetensors", index = folder / "model.safetensors.index.json";
  if (shards.size() == 1) {
    detail::write_shard(single, shards[0]);
  } else {
    nlohmann::json map;
    map["metadata"]["total_size"] = total;
    for (std::size_t i = 0; i < shards.size(); ++i) {
      const std::string name = detail::shard_name(i, shards.size());
      detail::write_shard(folder / name, shards[i]);
      for (const auto& t : shards[i]) map["weight_map"][t.spec.name] = name;
    }
    detail::write_text(index, map.dump(2) + "\n");
    std::filesystem::remove(single, error);  // readers would prefer a stale one to the shards
    require(!error, single.string(), ": cannot remove the file that the shards replace: ", error.message());
  }
  detail::write_text(folder / "config.json", config_to_json(config));
}

}  // namespace dsv3::inline DSV3_ISA::io
