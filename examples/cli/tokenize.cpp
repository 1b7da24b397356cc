// dsv3-tokenize: text to token ids and back, from standard input to standard output.
#include <iterator>
#include <utility>

#include "cli.hpp"
#include "dsv3/io/tokenizer.hpp"

namespace {

constexpr const char* usage =
    "usage: dsv3-tokenize (DIR | tokenizer.json | tiktoken.model) [--decode | --pieces]\n\n"
    "Reads text from standard input and writes its token ids on one line. Special tokens in the text are recognised, none is added.\n"
    "  --decode  reads ids, separated by white space or commas, and writes exactly the bytes they stand for\n"
    "  --pieces  writes each token on a line: its id, and its text as a string of JSON (bytes that are no UTF-8 as U+FFFD)\n"
    "  --help    prints this text\n"
    "Exit status: 0 done, 1 error, 2 wrong arguments.\n";

void run(const cli::Args& args) {
  const auto tokenizer = dsv3::io::Tokenizer::open(args[0]);
  if (args.has("--decode") && args.has("--pieces")) throw cli::UsageError("expected one of --decode and --pieces");
  const std::string input{std::istreambuf_iterator<char>(std::cin), {}};
  if (args.has("--decode")) {
    std::cout << tokenizer.decode(cli::parse_ids(input, "standard input"));
  } else if (args.has("--pieces")) {
    for (const int id : tokenizer.encode(input))
      std::cout << id << ' ' << nlohmann::json(tokenizer.token_bytes(id)).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)
                << '\n';
  } else {
    const char* separator = "";
    for (const int id : tokenizer.encode(input)) std::cout << std::exchange(separator, " ") << id;
    std::cout << '\n';
  }
}

}  // namespace

int main(int argc, char** argv) {
  return cli::run("dsv3-tokenize", usage, [&] { run({argc, argv, 1, {}, {"--decode", "--pieces"}}); });
}
