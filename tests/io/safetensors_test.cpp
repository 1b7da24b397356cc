#include "dsv3/io/safetensors.hpp"

#include <doctest/doctest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <csignal>
#include <cstdint>
#include <fstream>

#include "dsv3/io/safetensors_writer.hpp"
#include "hostile.hpp"
#include "temp_folder.hpp"

using namespace dsv3;
using namespace dsv3::io;

namespace {

std::string message_of(const auto& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

bool contains(const std::string& text, std::string_view part) { return text.find(part) != text.npos; }

template <class T>
std::span<const std::byte> bytes(const T& values) {
  return std::as_bytes(std::span(values));
}

std::string file_text(const std::filesystem::path& path) { return read_text_file(path, 1 << 20); }

}  // namespace

TEST_CASE("every published dtype has a name and a size") {
  CHECK(name(Dtype::BF16) == "BF16");
  CHECK(size(Dtype::F8_E4M3) == 1);
  CHECK(size(Dtype::F64) == 8);
  CHECK(from_name("F8_E8M0") == Dtype::F8_E8M0);
  CHECK_FALSE(from_name("f32"));
  CHECK_FALSE(from_name(""));
}

TEST_CASE("what is written is read back") {
  const TempFolder folder;
  const std::array<float, 6> f32{1, 2, 3, 4, 5, 6};
  const std::array<std::uint16_t, 3> bf16{0x3f80, 0x4000, 0xbf80};
  const std::array<std::uint8_t, 4> fp8{0x38, 0x40, 0x7e, 0xb8};
  const std::array<double, 1> f64{0.5};
  const std::vector<Tensor> tensors{
      {"model.fp8", Dtype::F8_E4M3, {2, 2}, bytes(fp8), ""},         {"model.bf16", Dtype::BF16, {3}, bytes(bf16), ""},
      {"quote \" and \xc3\xa9", Dtype::F32, {2, 3}, bytes(f32), ""}, {"empty", Dtype::F32, {0, 7}, {}, ""},
      {"scalar", Dtype::F32, {}, bytes(f32).first(4), ""},           {"wide", Dtype::F64, {1}, bytes(f64), ""}};
  write_safetensors(folder / "a.safetensors", tensors);
  CHECK(folder.files() == 1);

  const auto file = Safetensors::open(folder / "a.safetensors");
  CHECK(file.metadata() == std::map<std::string, std::string>{{"format", "pt"}});
  REQUIRE(file.tensors().size() == tensors.size());
  for (const Tensor& tensor : tensors) {
    CAPTURE(tensor.name);
    const Tensor* read = file.find(tensor.name);
    REQUIRE(read != nullptr);
    CHECK(read->dtype == tensor.dtype);
    CHECK(read->shape == tensor.shape);
    CHECK(std::ranges::equal(read->data, tensor.data));
    CHECK(read->aligned());
    CHECK(read->file == (folder / "a.safetensors").string());
  }
  CHECK(file.find("model.fp8")->elements() == 4);
  CHECK(file.find("scalar")->elements() == 1);
  CHECK(file.find("") == nullptr);
  CHECK(file.find("zzz") == nullptr);

  const auto owner = file.owner();
  const auto copy = file.find("model.bf16")->data;
  { const auto gone = file; }
  CHECK(std::ranges::equal(copy, bytes(bf16)));
}

TEST_CASE("data may come in pieces, and must come in full") {
  const TempFolder folder;
  const auto target = folder / "b.safetensors";
  const std::array<std::byte, 4> piece{};
  const auto write = [&](int pieces) {
    write_safetensors(target, {{"x", Dtype::U8, {12}}}, [&](const TensorSpec&, const auto& sink) {
      for (int i = 0; i < pieces; ++i) sink(piece);
    });
  };
  write(3);
  CHECK(Safetensors::open(target).find("x")->data.size() == 12);
  const auto before = file_text(target);
  CHECK(contains(message_of([&] { write(2); }), "b.safetensors: tensor \"x\": expected 12 bytes, found 8"));
  CHECK(contains(message_of([&] { write(4); }), "expected 12 bytes, found more"));
  CHECK(folder.files() == 1);
  CHECK(file_text(target) == before);
}

TEST_CASE("a source that throws leaves the old file and nothing else") {
  const TempFolder folder;
  const auto target = folder / "c.safetensors";
  std::ofstream(target) << "old";
  CHECK_THROWS_AS(write_safetensors(target, {{"x", Dtype::U8, {1}}}, [](const auto&, const auto&) { throw 1; }), int);
  CHECK(folder.files() == 1);
  CHECK(file_text(target) == "old");
}

TEST_CASE("tensors that cannot be written are named") {
  const TempFolder folder;
  const auto write = [&](std::vector<TensorSpec> specs) {
    return message_of([&] { write_safetensors(folder / "d", std::move(specs), [](const auto&, const auto&) {}); });
  };
  CHECK(contains(write({{"x", Dtype::U8, {0}}, {"x", Dtype::U8, {0}}}), "tensor \"x\": the name is taken"));
  CHECK(contains(write({{"__metadata__", Dtype::U8, {0}}}), "the name is taken"));
  CHECK(contains(write({{"x", Dtype::U8, {-1}}}), "tensor \"x\": cannot write shape [-1]"));
  CHECK(contains(write({{"x", Dtype::F32, {Index{1} << 31, Index{1} << 31}}}), "cannot write shape"));
  CHECK(contains(write({{"\xff", Dtype::F32, {0}}}), "UTF-8"));
  CHECK(folder.files() == 0);
}

TEST_CASE("a file that cannot be created is named with the reason") {
  const TempFolder folder;
  const auto write = [](const std::filesystem::path& target) {
    return message_of([&] { write_safetensors(target, std::vector<Tensor>{}); });
  };
  CHECK(contains(write(folder / "no/such/folder.safetensors"), "folder.safetensors: cannot create a file in its folder: No such file"));
  CHECK(contains(write(folder.path() / ""), "expected the name of a file"));
  std::filesystem::create_directory(folder / "taken");
  CHECK(contains(write(folder / "taken"), "cannot rename the finished file to this name: Is a directory"));
  CHECK(folder.files() == 1);
  if (::geteuid() != 0) {  // root may write anywhere
    std::filesystem::create_directory(folder / "locked");
    std::filesystem::permissions(folder / "locked", std::filesystem::perms::owner_read | std::filesystem::perms::owner_exec);
    CHECK(contains(write(folder / "locked/e"), "Permission denied"));
  }
}

TEST_CASE("a disk that fills up while writing is reported and cleaned up") {
  const TempFolder folder;
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit old_limit{};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &old_limit) == 0);
  const rlimit small{4096, old_limit.rlim_max};
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &small) == 0);
  const std::vector<std::byte> data(100'000);
  const auto message = message_of([&] { write_safetensors(folder / "f", {{"x", Dtype::U8, {100'000}, data, ""}}); });
  ::setrlimit(RLIMIT_FSIZE, &old_limit);
  std::signal(SIGXFSZ, old_handler);
  CHECK(contains(message, "cannot write: File too large"));
  CHECK(folder.files() == 0);
}

TEST_CASE("opening reads the header only") {
  const TempFolder folder;
  const auto path = folder / "sparse.safetensors";
  constexpr std::uint64_t huge = std::uint64_t{1} << 36;
  std::string header = R"({"x":{"dtype":"U8","shape":[)" + std::to_string(huge) + R"(],"data_offsets":[0,)" + std::to_string(huge) + "]}}";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  {
    std::ofstream out(path, std::ios::binary);
    for (int i = 0; i < 8; ++i) out.put(static_cast<char>(header.size() >> (8 * i)));
    out << header;
  }
  if (::truncate(path.c_str(), static_cast<off_t>(8 + header.size() + huge)) != 0) return;  // not on every file system
  const auto file = Safetensors::open(path);
  CHECK(file.tensors().front().data.size() == huge);
  CHECK(file.tensors().front().data.back() == std::byte{0});
}

TEST_CASE("a header of many tensors in no order") {
  const TempFolder folder;
  std::vector<TensorSpec> specs;
  for (int i = 0; i < 20'000; ++i)
    specs.push_back({"tensor." + std::to_string(i * 7919 % 20'000), i % 3 == 0 ? Dtype::F32 : Dtype::U8, {1}});
  write_safetensors(folder / "many", specs, [](const TensorSpec& spec, const auto& sink) {
    const std::array<std::byte, 4> zero{};
    sink(std::span(zero).first(size(spec.dtype)));
  });
  const auto file = Safetensors::open(folder / "many");
  CHECK(file.tensors().size() == 20'000);
  for (const TensorSpec& spec : specs) REQUIRE(file.find(spec.name) != nullptr);
}

TEST_CASE("files that are no files") {
  const TempFolder folder;
  CHECK(contains(message_of([&] { (void)Safetensors::open(folder / "none"); }), "none: cannot open: No such file"));
  CHECK(contains(message_of([&] { (void)Safetensors::open(folder.path()); }), "expected a file, found a directory"));
  CHECK(contains(message_of([&] { (void)Safetensors::open("/dev/null"); }), "expected a regular file"));
}

TEST_CASE("hostile files are refused with the reason") {
  const std::map<std::string, std::string> reasons{
      {"empty.safetensors", "the file is empty"},
      {"seven_bytes.safetensors", "expected at least 8 bytes, found 7"},
      {"header_longer_than_file.safetensors", "header of 4096 bytes is longer than the file"},
      {"header_length_huge.safetensors", "longer than the format allows"},
      {"header_over_limit.safetensors", "longer than the format allows"},
      {"header_empty.safetensors", "must begin with"},
      {"header_not_object.safetensors", "must begin with"},
      {"header_leading_space.safetensors", "must begin with"},
      {"header_number.safetensors", "must begin with"},
      {"header_cut.safetensors", "not valid JSON"},
      {"header_trailing.safetensors", "not valid JSON"},
      {"header_zero_byte.safetensors", "zero byte"},
      {"header_bad_utf8.safetensors", "not valid JSON"},
      {"header_deep.safetensors", "unknown field \"a\""},
      {"header_deep_list.safetensors", "shape: expected a list of sizes"},
      {"tensor_not_object.safetensors", "\"a\": expected an object, found a list"},
      {"tensor_null.safetensors", "\"a\": expected an object, found null"},
      {"missing_dtype.safetensors", "expected the fields dtype, shape and data_offsets"},
      {"missing_shape.safetensors", "expected the fields dtype, shape and data_offsets"},
      {"missing_offsets.safetensors", "expected the fields dtype, shape and data_offsets"},
      {"empty_entry.safetensors", "expected the fields dtype, shape and data_offsets"},
      {"unknown_field.safetensors", "unknown field \"extra\""},
      {"unknown_dtype.safetensors", "dtype: expected one of F64 to BOOL, found \"F33\""},
      {"dtype_number.safetensors", "dtype: expected one of F64 to BOOL, found 5"},
      {"shape_negative.safetensors", "shape: expected a list of sizes in [0, 2^63), found -2"},
      {"shape_fraction.safetensors", "shape: expected a list of sizes in [0, 2^63), found \"2.5\""},
      {"shape_beyond_64_bits.safetensors", "shape: expected a list of sizes"},
      {"shape_2_to_63.safetensors", "shape: expected a list of sizes"},
      {"shape_product_overflow.safetensors", "shape: the number of bytes overflows"},
      {"shape_product_wraps_to_fit.safetensors", "shape: the number of bytes overflows"},
      {"shape_text.safetensors", "shape: expected a list of sizes"},
      {"shape_nested.safetensors", "shape: expected a list of sizes"},
      {"offsets_negative.safetensors", "data_offsets: expected [begin, end] in [0, 2^63), found -8"},
      {"offsets_reversed.safetensors", "data_offsets: expected begin <= end"},
      {"offsets_one.safetensors", "data_offsets: expected [begin, end], found 1 numbers"},
      {"offsets_three.safetensors", "data_offsets: expected [begin, end], found 3 numbers"},
      {"offsets_past_end.safetensors", "data_offsets: end at byte 16 of 8"},
      {"offsets_wrong_size.safetensors", "F32 of shape [1] needs 4 bytes, found 8"},
      {"offsets_wrong_size_fp8.safetensors", "F8_E4M3 of shape [3, 3] needs 9 bytes, found 8"},
      {"truncated_data.safetensors", "data_offsets: end at byte 4096 of 100 (truncated file?)"},
      {"overlap.safetensors", "tensor \"b\": data_offsets overlap the tensor before by 4 bytes"},
      {"same_data_twice.safetensors", "overlap the tensor before by 8 bytes"},
      {"empty_inside_another.safetensors", "data_offsets overlap the tensor before by 4 bytes"},
      {"hole.safetensors", "tensor \"b\": data_offsets leave a hole of 4 bytes before it"},
      {"hole_at_start.safetensors", "leave a hole of 8 bytes"},
      {"rest_unowned.safetensors", "16 bytes after the last tensor belong to none"},
      {"no_tensors_but_data.safetensors", "8 bytes after the last tensor belong to none"},
      {"duplicate_name.safetensors", "tensor \"a\" appears twice"},
      {"duplicate_name_escaped.safetensors", "tensor \"a\" appears twice"},
      {"duplicate_field.safetensors", "field \"shape\" appears twice"},
      {"metadata_not_object.safetensors", "\"__metadata__\": expected an object"},
      {"metadata_number.safetensors", "__metadata__: \"format\": expected a string, found 1"},
      {"metadata_nested.safetensors", "__metadata__: \"format\": expected a string, found an object"},
      {"metadata_duplicate.safetensors", "__metadata__: key \"a\" appears twice"},
      {"metadata_twice.safetensors", "__metadata__ appears twice"},
      {"name_with_control_characters.safetensors", "\"a\\n\\u001b[31mb\""},
      {"gguf.safetensors", "not safetensors?"},
      {"zip.safetensors", "the file"}};
  check_hostile("safetensors", reasons, [](const std::filesystem::path& path) { (void)Safetensors::open(path); });
}
