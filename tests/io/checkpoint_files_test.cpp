#include "dsv3/io/checkpoint_files.hpp"

#include <doctest/doctest.h>

#include <array>
#include <fstream>

#include "dsv3/io/safetensors_writer.hpp"
#include "hostile.hpp"
#include "temp_folder.hpp"

using namespace dsv3;
using namespace dsv3::io;

namespace {

const std::array<float, 2> values{1, 2};

void write_file(const std::filesystem::path& path, const std::vector<std::string>& names) {
  std::vector<Tensor> tensors;
  for (const auto& name : names) tensors.push_back({name, Dtype::F32, {2}, std::as_bytes(std::span(values)), ""});
  write_safetensors(path, tensors);
}

}  // namespace

TEST_CASE("shards are read as one checkpoint") {
  const TempFolder folder;
  write_file(folder / "one.safetensors", {"b", "d"});
  write_file(folder / "two.safetensors", {"c", "a", "not in the index"});
  std::ofstream(folder / "model.safetensors.index.json")
      << R"({"metadata": {}, "weight_map": {"a": "two.safetensors", "b": "one.safetensors", "c": "two.safetensors", "d": "one.safetensors"}})";

  std::vector<std::shared_ptr<const void>> owners;
  std::span<const std::byte> data;
  {
    const auto files = CheckpointFiles::open(folder.path());
    CHECK(files.tensors().size() == 5);
    CHECK(files.total_bytes() == 5 * 8);
    CHECK(files.owners().size() == 2);
    CHECK(files.find("a")->file == (folder / "two.safetensors").string());
    CHECK(files.find("d")->file == (folder / "one.safetensors").string());
    CHECK(files.find("not in the index") != nullptr);
    CHECK(files.find("e") == nullptr);
    owners = files.owners();
    data = files.find("c")->data;
  }
  CHECK(std::ranges::equal(data, std::as_bytes(std::span(values))));
}

TEST_CASE("a single file is preferred to an index") {
  const TempFolder folder;
  write_file(folder / "model.safetensors", {"a"});
  std::ofstream(folder / "model.safetensors.index.json") << R"({"weight_map": {"a": "missing.safetensors"}})";
  const auto files = CheckpointFiles::open(folder.path());
  CHECK(files.tensors().size() == 1);
  CHECK(files.owners().size() == 1);
}

TEST_CASE("hostile indexes are refused with the reason") {
  const std::map<std::string, std::string> reasons{
      {"not_json", "not valid JSON"},
      {"list", "expected an object, found array"},
      {"deep", "nested deeper than"},
      {"no_weight_map", "field \"weight_map\" is missing"},
      {"weight_map_list", "weight_map: expected an object, found array"},
      {"weight_map_empty", "weight_map is empty"},
      {"shard_number", "\"a\": expected a file name, found number"},
      {"shard_absolute", "\"a\": expected the name of a file in the same folder, found \"/etc/passwd\""},
      {"shard_parent", "found \"../index/good.safetensors\""},
      {"shard_dots", "found \"..\""},
      {"shard_backslash", "expected the name of a file in the same folder"},
      {"shard_empty", "expected the name of a file in the same folder, found \"\""},
      {"shard_zero_byte", "expected the name of a file in the same folder"},
      {"shards_missing", "2 of 3 shards are missing: \"model-00001-of-00003.safetensors\", \"model-00003-of-00003.safetensors\""},
      {"shard_is_folder", "expected a file, found a directory"},
      {"tensor_missing", "1 tensors are not in the shard that the index names: \"b (model-00001-of-00003.safetensors)\""},
      {"tensor_in_other_shard", "not in the shard that the index names: \"b (model-00001-of-00003.safetensors)\""},
      {"tensor_twice", "tensor \"b\" is in both"},
      {"shard_hostile", "longer than the file"},
      {"nothing", "no checkpoint found"}};
  check_hostile("index", reasons, [](const std::filesystem::path& path) { (void)CheckpointFiles::open(path); });
}
