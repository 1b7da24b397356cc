// dsv3-tokenize: text to token ids and back, from standard input to standard output.
#include <algorithm>
#include <charconv>
#include <exception>
#include <iostream>
#include <iterator>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "dsv3/io/tokenizer.hpp"

namespace {

constexpr const char* kUsage =
    "usage: dsv3-tokenize TOKENIZER.json [--decode]\n"
    "\n"
    "Reads text from standard input and writes its token ids on one line. Special tokens in the text are recognised, none is added.\n"
    "  --decode  reads ids, separated by white space or commas, and writes exactly the bytes they stand for\n"
    "  --help    prints this text\n"
    "Exit status: 0 done, 1 error, 2 wrong arguments.\n";

std::vector<int> parse_ids(std::string_view text) {
  static constexpr std::string_view kSeparators = ", \t\r\n\v\f";
  std::vector<int> ids;
  for (;;) {
    text.remove_prefix(std::min(text.find_first_not_of(kSeparators), text.size()));
    if (text.empty()) return ids;
    const std::string_view word = text.substr(0, text.find_first_of(kSeparators));
    int id = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), id);
    dsv3::require(error == std::errc() && end == word.data() + word.size(), "standard input: expected token ids, found ",
                  dsv3::io::quote(word));
    ids.push_back(id);
    text.remove_prefix(word.size());
  }
}

void run(const std::string& path, bool decode) {
  const auto tokenizer = dsv3::io::Tokenizer::open(path);
  const std::string input{std::istreambuf_iterator<char>(std::cin), {}};
  if (decode) {
    const std::string text = tokenizer.decode(parse_ids(input));
    std::cout.write(text.data(), static_cast<std::streamsize>(text.size()));
  } else {
    const char* separator = "";
    for (const int id : tokenizer.encode(input)) {
      std::cout << separator << id;
      separator = " ";
    }
    std::cout << '\n';
  }
  dsv3::require(!!std::cout.flush(), "standard output: cannot write");
}

}  // namespace

int main(int argc, char** argv) {
  std::ios::sync_with_stdio(false);
  std::string path;
  bool decode = false;
  for (const std::string_view argument : std::vector<std::string_view>(argv + 1, argv + argc)) {
    if (argument == "--help" || argument == "-h") {
      std::cout << kUsage;
      return 0;
    }
    if (argument == "--decode") {
      decode = true;
    } else if (argument.starts_with("-") || !path.empty()) {
      std::cerr << "dsv3-tokenize: unexpected argument " << dsv3::io::quote(argument) << "\n\n" << kUsage;
      return 2;
    } else {
      path = argument;
    }
  }
  if (path.empty()) {
    std::cerr << "dsv3-tokenize: no tokenizer given\n\n" << kUsage;
    return 2;
  }
  try {
    run(path, decode);
  } catch (const std::exception& error) {
    std::cerr << "dsv3-tokenize: " << error.what() << '\n';
    return 1;
  }
}
