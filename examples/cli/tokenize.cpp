// dsv3-tokenize: text to token ids and back, from standard input to standard output.
#include <algorithm>
#include <charconv>
#include <cstddef>
#include <exception>
#include <iostream>
#include <iterator>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "dsv3/io/tokenizer.hpp"

namespace {

constexpr const char* kUsage =
    "usage: dsv3-tokenize TOKENIZER.json [--decode]\n\n"
    "Reads text from standard input and writes its token ids on one line. Special tokens in the text are recognised, none is added.\n"
    "  --decode  reads ids, separated by white space or commas, and writes exactly the bytes they stand for\n"
    "  --help    prints this text\n"
    "Exit status: 0 done, 1 error, 2 wrong arguments.\n";

std::vector<int> parse_ids(std::string text) {
  std::ranges::replace(text, ',', ' ');
  std::istringstream words(text);
  std::vector<int> ids;
  for (std::string word; words >> word;) {
    int id = 0;
    const char* const word_end = word.data() + word.size();
    const auto [end, error] = std::from_chars(word.data(), word_end, id);
    if (error != std::errc() || end != word_end) dsv3::fail("standard input: expected token ids, found ", dsv3::io::quote(word));
    ids.push_back(id);
  }
  return ids;
}

void run(const std::string& path, bool decode) {
  const auto tokenizer = dsv3::io::Tokenizer::open(path);
  const std::string input{std::istreambuf_iterator<char>(std::cin), {}};
  if (decode) {
    std::cout << tokenizer.decode(parse_ids(input));
  } else {
    const char* separator = "";
    for (const int id : tokenizer.encode(input)) std::cout << std::exchange(separator, " ") << id;
    std::cout << '\n';
  }
  dsv3::require(!!std::cout.flush(), "standard output: cannot write");
}

}  // namespace

int main(int argc, char** argv) {
  std::string path;
  bool decode = false, wrong = false;
  for (const std::string_view argument : std::span(argv, static_cast<std::size_t>(argc)).subspan(1)) {
    if (argument == "--help") return std::cout << kUsage, 0;
    if (argument == "--decode") {
      decode = true;
    } else {
      wrong = wrong || argument.starts_with("-") || !path.empty();
      path = argument;
    }
  }
  if (wrong || path.empty()) {
    std::cerr << "dsv3-tokenize: expected one tokenizer.json, found " << (wrong ? dsv3::io::quote(path) : "none") << "\n\n" << kUsage;
    return 2;
  }
  try {
    run(path, decode);
  } catch (const std::exception& error) {
    std::cerr << "dsv3-tokenize: " << error.what() << '\n';
    return 1;
  }
}
