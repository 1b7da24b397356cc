// libFuzzer target: any bytes as a tokenizer.json. Whatever is accepted must encode and decode without loss, unless the file asks for a
// loss, or give up with an Error.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "dsv3/io/tokenizer.hpp"

namespace {

bool may_change_text(const nlohmann::json& file) {
  const nlohmann::json flat = file.flatten();
  for (const auto& [place, value] : flat.items()) {
    for (const char* step : {"NFC", "NFD", "Prepend", "Replace", "Strip", "Removed"})
      if (value == step) return true;
    for (const char* flag : {"/add_prefix_space", "/lstrip", "/rstrip"})
      if (value == true && place.ends_with(flag)) return true;
  }
  return false;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace std::string_view_literals;
  try {
    const std::string_view file(reinterpret_cast<const char*>(data), size);
    const auto tokenizer = dsv3::io::Tokenizer::parse(file, "fuzz.json");
    const bool may_change = may_change_text(dsv3::io::parse_json(file, "fuzz.json"));
    for (const auto text : {""sv, "a"sv, "abc ab  a\r\n\t1234"sv, "<x>a<x><y>"sv, "\0\x7F\u00e9\u0085\u180e\u6771\u4eac\U0001F469\u200d"sv,
                            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!"sv}) {
      const std::string back = tokenizer.decode(tokenizer.encode(text));
      if (back != text && !may_change) std::abort();
    }
  } catch (const dsv3::Error&) {
  }
  return 0;
}
