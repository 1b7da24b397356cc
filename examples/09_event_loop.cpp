// The scheduler in an event loop of one's own: no thread is started, and tokens are computed while nothing else happens.
// Reads prompts from standard input, one a line, and shows the answers as they grow.   usage: 09_event_loop DIR
#include <poll.h>
#include <unistd.h>

#include <cstdio>
#include <map>

#include "dsv3/generate/scheduler.hpp"
#include "dsv3/io/load.hpp"
#include "dsv3/io/tokenizer.hpp"

int main(int argc, char** argv) {
  if (argc != 2) return std::fprintf(stderr, "usage: %s DIR\n", argv[0]), 2;
  const std::string folder = argv[1];
  const auto tokenizer = dsv3::io::Tokenizer::open(folder);
  const auto model = dsv3::io::load<dsv3::DeepSeekV3>(folder);
  dsv3::Scheduler scheduler(model, {.max_sequences = 4, .max_queue = 8, .max_tokens = 256},
                            [&](int id) { return tokenizer.token_bytes(id); });
  dsv3::Context ctx;

  int lines = 0;
  const auto handle = [&](const std::string& line) {
    const int number = ++lines;
    const auto answer = std::make_shared<std::string>(line);
    const dsv3::Request request{.prompt = tokenizer.encode(line), .max_new_tokens = 16, .stop_strings = {"\n\n"}};
    const auto grow = [answer](const dsv3::Token& token) {
      *answer += token.text;  // a program with a screen would show it now
      return true;
    };
    const auto done = [answer, number](const dsv3::Finish& finish) {
      *answer += finish.text;
      std::printf("%d: %s\n", number, finish.error.empty() ? answer->c_str() : finish.error.c_str());
    };
    try {
      if (!scheduler.submit(request, grow, done)) std::printf("%d: too much to do, ask again later\n", number);
    } catch (const dsv3::Error& e) {  // an empty line, or one that is too long
      std::printf("%d: %s\n", number, e.what());
    }
  };

  std::string input;
  bool open = true, busy = false;
  while (open || busy) {
    pollfd events{STDIN_FILENO, POLLIN, 0};
    if (open && poll(&events, 1, busy ? 0 : -1) > 0) {  // with nothing to compute, sleep until something happens
      char bytes[4096];
      const auto n = read(STDIN_FILENO, bytes, sizeof(bytes));
      open = n > 0;
      if (open) input.append(bytes, static_cast<std::size_t>(n));
      for (std::size_t end; (end = input.find('\n')) != input.npos; input.erase(0, end + 1)) handle(input.substr(0, end));
    }
    busy = scheduler.step(ctx);  // one pass over the weights, then back to the events
  }
}
