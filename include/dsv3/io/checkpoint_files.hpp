// Floor 6. CheckpointFiles: all tensors of a Hugging Face checkpoint folder by name, whether in one file or in shards.
//
// The loader checks which tensors a model needs, and their shapes. Pickled weights (.bin) are never read.
#pragma once

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <iterator>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "dsv3/core/error.hpp"
#include "dsv3/io/json.hpp"
#include "dsv3/io/packed_experts.hpp"
#include "dsv3/io/safetensors.hpp"

namespace dsv3::inline DSV3_ISA::io {

/// The tensors of a checkpoint and what keeps their bytes alive. Copies share the mappings.
class [[nodiscard]] CheckpointFiles {
 public:
  /// Opens `folder`/model.safetensors or, without it, the shards that model.safetensors.index.json lists (spec B1).
  ///
  /// Throws: Error naming the file and tensor. All missing shards, and all tensors the shards lack, come in one message.
  static CheckpointFiles open(const std::filesystem::path& folder) {
    const auto single = folder / "model.safetensors", index = folder / "model.safetensors.index.json";
    std::error_code ignored;
    CheckpointFiles files;
    if (std::filesystem::exists(single, ignored)) {  // Hugging Face prefers it over an index, too
      files.add(Safetensors::open(single));
    } else {
      require(std::filesystem::exists(index, ignored), folder.string(),
              ": no checkpoint found, expected model.safetensors or model.safetensors.index.json", other_format(folder));
      files.add_shards(folder, index.string(), read_weight_map(index));
    }
    split_packed_experts(files.tensors_);
    const auto twice = std::ranges::adjacent_find(files.tensors_, {}, &Tensor::name);
    if (twice != files.tensors_.end())
      fail("tensor ", quote(twice->name), " is there both alone and among packed experts (", twice->file, ")");
    return files;
  }

  /// Whether `folder` holds files that open() would open.
  static bool are_in(const std::filesystem::path& folder) {
    std::error_code ignored;
    return std::filesystem::exists(folder / "model.safetensors", ignored) ||
           std::filesystem::exists(folder / "model.safetensors.index.json", ignored);
  }

  /// All tensors in ascending order of name.
  const std::vector<Tensor>& tensors() const { return tensors_; }

  /// The tensor of that name, or null.
  const Tensor* find(std::string_view name) const {
    const auto at = std::ranges::lower_bound(tensors_, name, {}, &Tensor::name);
    return at != tensors_.end() && at->name == name ? &*at : nullptr;
  }

  /// The mappings of the whole files.
  const std::vector<std::span<const std::byte>>& mappings() const { return mappings_; }

  /// Keep the tensors' bytes alive after this object is gone.
  const std::vector<std::shared_ptr<const void>>& owners() const { return owners_; }

  /// Bytes of all tensors together.
  std::size_t total_bytes() const {
    std::size_t bytes = 0;
    for (const Tensor& tensor : tensors_) bytes += tensor.data.size();
    return bytes;
  }

 private:
  /// A hint if the folder holds weights in a format that is not read.
  static std::string other_format(const std::filesystem::path& folder) {
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
      const std::string name = entry.path().filename().string(), ending = entry.path().extension().string();
      const auto found = [&](const char* what) { return "; " + quote(name) + " is " + what; };
      if (ending == ".gguf") return found("a GGUF file, which llama.cpp reads: use the safetensors release of the model");
      if (ending == ".bin" || ending == ".pt" || ending == ".pth")
        return found("a pickled PyTorch file, which is never read: save the model with safe_serialization=True");
      if (ending == ".npz") return found("an MLX file: use the safetensors release of the model");
    }
    return {};
  }

  using WeightMap = std::map<std::string, std::string>;  // tensor -> shard

  static WeightMap read_weight_map(const std::filesystem::path& index) {
    constexpr std::size_t max_index = 256'000'000;  // DeepSeek-V3's has 9 MB
    const std::string where = index.string();
    const auto root = parse_json(read_text_file(index, max_index), where);
    require(root.is_object(), where, ": expected an object, found ", root.type_name());
    const auto found = root.find("weight_map");
    require(found != root.end(), where, ": field \"weight_map\" is missing");
    require(found->is_object(), where, ": weight_map: expected an object, found ", found->type_name());
    WeightMap shards;
    for (const auto& [tensor, shard] : found->items()) {
      if (!shard.is_string()) fail(where, ": weight_map: ", quote(tensor), ": expected a file name, found ", shard.type_name());
      const auto& file = shard.get_ref<const std::string&>();
      const bool plain = !file.empty() && file != "." && file != ".." && file.find_first_of(std::string_view("/\\\0", 3)) == file.npos;
      if (!plain) fail(where, ": weight_map: ", quote(tensor), ": expected the name of a file in the same folder, found ", quote(file));
      shards.emplace(tensor, file);
    }
    require(!shards.empty(), where, ": weight_map is empty");
    return shards;
  }

  void add_shards(const std::filesystem::path& folder, const std::string& index, const WeightMap& shards) {
    std::set<std::string> names;
    for (const auto& [tensor, shard] : shards) names.insert(shard);
    std::vector<std::string> missing;
    std::error_code ignored;
    std::ranges::copy_if(names, std::back_inserter(missing), [&](const auto& n) { return !std::filesystem::exists(folder / n, ignored); });
    require(missing.empty(), index, ": ", missing.size(), " of ", names.size(), " shards are missing: ", listed(missing, missing.size()));
    for (const auto& name : names) add(Safetensors::open(folder / name));
    std::ranges::sort(tensors_, {}, &Tensor::name);

    const auto twice = std::ranges::adjacent_find(tensors_, {}, &Tensor::name);
    if (twice != tensors_.end()) fail("tensor ", quote(twice->name), " is in both ", twice->file, " and ", (twice + 1)->file);
    for (const auto& [name, shard] : shards) {
      const Tensor* tensor = find(name);
      if (tensor == nullptr || tensor->file != (folder / shard).string()) missing.push_back(name + " (" + shard + ')');
    }
    require(missing.empty(), index, ": ", missing.size(), " tensors are not in the shard that the index names: ", listed(missing, 20));
  }

  void add(const Safetensors& file) {
    tensors_.insert(tensors_.end(), file.tensors().begin(), file.tensors().end());
    mappings_.push_back(file.bytes());
    owners_.push_back(file.owner());
  }

  static std::string listed(const std::vector<std::string>& names, std::size_t most) {
    std::ostringstream out;
    for (std::size_t i = 0; i < std::min(names.size(), most); ++i) out << (i == 0 ? "" : ", ") << quote(names[i]);
    if (names.size() > most) out << " and " << names.size() - most << " more";
    return out.str();
  }

  std::vector<Tensor> tensors_;
  std::vector<std::span<const std::byte>> mappings_;
  std::vector<std::shared_ptr<const void>> owners_;
};

}  // namespace dsv3::inline DSV3_ISA::io
