// libFuzzer target: any bytes as a tokenizer.json. Whatever is accepted must encode and decode without loss or give up with an Error.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "dsv3/io/tokenizer.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace std::string_view_literals;
  try {
    const auto tokenizer = dsv3::io::Tokenizer::parse({reinterpret_cast<const char*>(data), size}, "fuzz.json");
    for (const auto text : {""sv, "a"sv, "abc ab  a\r\n\t1234"sv, "<x>a<x><y>"sv, "\0\x7F\u00e9\u0085\u180e\u6771\u4eac\U0001F469\u200d"sv,
                            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!"sv}) {
      if (tokenizer.decode(tokenizer.encode(text)) != text) std::abort();
    }
  } catch (const dsv3::Error&) {
  }
  return 0;
}
