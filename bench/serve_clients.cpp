// dsv3-bench-serve: tokens per second that dsv3-serve gives to some clients together. One thread is all clients, since it shares the
// processors with the server; it reads streams without parsing them.
#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "../examples/cli/cli.hpp"
#include "ceilings.hpp"

namespace {

constexpr const char* usage =
    "usage: dsv3-bench-serve --port P [options]\n\n"
    "Asks dsv3-serve, on port P with the embedded model.\n"
    "  --clients LIST   clients at once (default 1,8,32); each asks for one streamed answer after another\n"
    "  --answers N      of each client (default 4)\n"
    "  --tokens N       of an answer (default 200)\n"
    "  --json FILE      figures for bench/report.py\n";

/// A client: a connection on which it asks, reads the answer to its end, and asks again.
class Client {
 public:
  Client(int port, int seed, int answers, int tokens) : socket_(::socket(AF_INET, SOCK_STREAM, 0)), answers_(answers), tokens_(tokens) {
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<std::uint16_t>(port));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    dsv3::require(socket_ >= 0 && ::connect(socket_, reinterpret_cast<sockaddr*>(&to), sizeof to) == 0, "cannot connect to 127.0.0.1 port ",
                  port, ": ", std::strerror(errno));
    const std::string body =
        R"({"model": "shakespeare", "prompt": "ROMEO:\n", "stream": true, "stream_options": {"include_usage": true}, "ignore_eos": true, "max_tokens": )" +
        std::to_string(tokens) + R"(, "temperature": 0.8, "seed": )" + std::to_string(seed) + "}";
    request_ = "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: " +
               std::to_string(body.size()) + "\r\n\r\n" + body;
    ask();
  }
  ~Client() { ::close(socket_); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  pollfd wants() const { return {socket_, POLLIN, 0}; }
  bool done() const { return answers_ == 0; }

  /// Reads what has come.
  /// Throws: dsv3::Error if an answer has not as many tokens as were asked for.
  void read() {
    std::array<char, 1 << 16> bytes;
    const ssize_t n = ::recv(socket_, bytes.data(), bytes.size(), 0);
    dsv3::require(n > 0, "the server closed the connection after: ", answer_.substr(0, 500));
    answer_.append(bytes.data(), static_cast<std::size_t>(n));
    if (!answer_.ends_with("\r\n0\r\n\r\n")) return;  // the last chunk
    const std::string count = "\"completion_tokens\":" + std::to_string(tokens_);
    dsv3::require(
        answer_.starts_with("HTTP/1.1 200") && answer_.find("data: [DONE]") != answer_.npos && answer_.find(count) != answer_.npos,
        "expected a stream with ", tokens_, " tokens, got: ", answer_.substr(0, 300), " ... ",
        answer_.substr(std::max<std::size_t>(answer_.size(), 500) - 500));
    if (--answers_ > 0) ask();
  }

 private:
  void ask() {
    answer_.clear();
    dsv3::require(::send(socket_, request_.data(), request_.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(request_.size()),
                  "cannot send a request: ", std::strerror(errno));
  }

  int socket_, answers_, tokens_;
  std::string request_, answer_;
};

/// Tokens per second of `count` clients together.
double rate(int port, int count, int answers, int tokens) {
  std::vector<std::unique_ptr<Client>> clients;
  const double time = bench::seconds([&] {
    for (int i = 0; i < count; ++i) clients.push_back(std::make_unique<Client>(port, i, answers, tokens));
    while (!clients.empty()) {
      std::vector<pollfd> wanted;
      for (const auto& c : clients) wanted.push_back(c->wants());
      dsv3::require(::poll(wanted.data(), wanted.size(), 60'000) > 0, "the server has not sent anything for a minute");
      for (std::size_t i = 0; i < wanted.size(); ++i)
        if (wanted[i].revents != 0) clients[i]->read();
      std::erase_if(clients, [](const auto& c) { return c->done(); });
    }
  });
  return static_cast<double>(count) * answers * tokens / time;
}

}  // namespace

int main(int argc, char** argv) {
  return cli::run("dsv3-bench-serve", usage, [&] {
    const cli::Args args(argc, argv, 0, {"--port", "--clients", "--answers", "--tokens", "--json"}, {});
    const int port = args.number("--port", 0, 1, 65535), answers = args.number("--answers", 4, 1, 1000),
              tokens = args.number("--tokens", 200, 1, 1'000'000);
    if (port == 0) throw cli::UsageError("--port is needed");
    rate(port, 1, 1, tokens);  // warms up
    nlohmann::json figures = nlohmann::json::array();
    for (const int clients : cli::parse_ids(args.value("--clients").value_or("1,8,32"), "--clients")) {
      dsv3::require(clients > 0, "--clients: expected at least one");
      const double tokens_per_second = rate(port, clients, answers, tokens);
      figures.push_back({{"clients", clients}, {"tokens_per_second", tokens_per_second}});
      std::printf("%d clients: %.0f tokens/s, %.2f times the first\n", clients, tokens_per_second,
                  tokens_per_second / figures[0]["tokens_per_second"].get<double>());
    }
    if (const auto file = args.value("--json")) std::ofstream(*file) << figures.dump();
  });
}
