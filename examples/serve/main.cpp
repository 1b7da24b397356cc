// dsv3-serve: an HTTP server with OpenAI's API on a checkpoint.
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "../cli/cli.hpp"
#include "api_server.hpp"
#include "dsv3/io/config_json.hpp"
#include "dsv3/version.hpp"

namespace {

constexpr const char* usage =
    "usage: dsv3-serve DIR [options]\n\n"
    "Serves the checkpoint in DIR (config.json, safetensors, a tokenizer) with OpenAI's API: /v1/models, /v1/completions,\n"
    "/v1/chat/completions; also /tokenize, /detokenize, /health, /metrics (Prometheus) and, at /, a page to chat with. SIGTERM and SIGINT "
    "end it gracefully.\n"
    "  --host ADDRESS            to listen on (default 127.0.0.1)\n"
    "  --port P                  default 8080; 0 takes a free one and prints it\n"
    "  --name NAME               of the model in the API (default: the folder's)\n"
    "  --api-key-file FILE       holds keys, one a line, of which clients must send one; DSV3_API_KEY in the environment is one more\n"
    "  --allowed-origins LIST    origins, separated by commas, whose pages may read answers (CORS); * for any (default: none)\n"
    "  --log-requests            writes a line for each request to standard error\n"
    "  --format F                of chats: v3, r1-first, r1, v3-0324, r1-0528, v31 or plain (lines); default: that of the checkpoint's "
    "chat\n"
    "                            template, else plain\n"
    "  --context N               most tokens of prompt and answer (default: the model's, at most 8192)\n"
    "  --max-new N               most tokens of an answer (default: what the context leaves)\n"
    "  --sequences N             answers computed at once (default 32)\n"
    "  --queue N                 answers that wait besides (default 256); more get status 429\n"
    "  --cache-tokens N          room of all caches together (default: 4 contexts)\n"
    "  --step-tokens N           most tokens of one pass over the weights (default 512)\n"
    "  --drafts N                tokens that the MTP modules propose for each pass (default 0)\n"
    "  --compute C               exact (float32), bf16 (what else is computed may then change an answer), or auto (default:\n"
    "                            bf16 where program and processor have AMX or AVX512-BF16)\n"
    "  --connections N           at once (default 256); more get status 503\n"
    "  --max-body N              bytes of a request (default 4194304); more get status 413\n"
    "  --timeout S               seconds until a request must have ended (default 600)\n"
    "  --grace S                 seconds that running requests have at shutdown (default 30)\n"
    "  --quantize fp8            rounds projections that are not fp8 to fp8, as published checkpoints have them, in memory\n"
    "  --quantize-head fp8       the same of the output head, which they keep in bf16\n"
    "  --threads N               default: all processors\n"
    "  --help                    prints this text\n"
    "Exit status: 0 done, 1 error, 2 wrong arguments.\n";

using dsv3::Index;

dsv3::SchedulerOptions scheduler_options(const cli::Args& args, const dsv3::Config& config) {
  constexpr Index most = Index{1} << 30;
  dsv3::SchedulerOptions o;
  o.max_tokens = args.number<Index>("--context", std::min<Index>(config.max_position_embeddings, 8192), 16, most);
  o.max_sequences = args.number<Index>("--sequences", 32, 1, 4096);
  o.max_queue = args.number<Index>("--queue", 256, 1, 1 << 20);
  o.cache_tokens = args.number<Index>("--cache-tokens", 4 * o.max_tokens, o.max_tokens, most);
  o.depth = args.number<Index>("--drafts", 0, 0, 16);
  o.step_tokens = args.number<Index>("--step-tokens", std::max<Index>(512, 2 * o.max_sequences * (1 + o.depth)), 2, 1 << 20);
  return o;
}

/// What lies between `separator`s, without the white space around it; nothing for empty parts.
std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, separator);) {
    part.erase(part.find_last_not_of(" \t\r\n") + 1);
    part.erase(0, part.find_first_not_of(" \t\r\n"));
    if (!part.empty()) parts.push_back(part);
  }
  return parts;
}

std::vector<std::string> read_api_keys(const cli::Args& args) {
  std::vector<std::string> keys;
  if (const char* variable = std::getenv("DSV3_API_KEY")) {
    keys = split(variable, '\n');
    dsv3::require(!keys.empty(), "DSV3_API_KEY: expected an API key, found nothing; unset it to let anyone ask");
  }
  if (const auto file = args.value("--api-key-file")) {
    const auto more = split(dsv3::io::read_text_file(*file, 1 << 20), '\n');
    dsv3::require(!more.empty(), *file, ": expected an API key, found nothing");
    keys.insert(keys.end(), more.begin(), more.end());
  }
  return keys;
}

/// Megabytes of memory that the process has now; weights that were never read are not among them, as files are mapped.
double resident_megabytes() {
  std::ifstream in("/proc/self/statm");
  double all = 0, resident = 0;
  in >> all >> resident;
  return resident * static_cast<double>(::sysconf(_SC_PAGESIZE)) / 1e6;
}

void say_what_there_is(const serve::Service& service) {
  const auto& o = service.engine->options();
  std::ostringstream line;
  line << "dsv3-serve: context " << o.max_tokens << " tokens, " << o.max_sequences << " answers at once and " << o.max_queue
       << " waiting, caches for " << o.cache_tokens << " tokens; " << std::llround(resident_megabytes()) << " MB of memory in use\n";
  std::cerr << line.str() << std::flush;
}

Index unfinished(const serve::Service& service) {
  const auto s = service.engine->stats();
  return s.running + s.queued;
}

void serve_until_signal(const cli::Args& args, serve::Service& service) {
  serve::ConnectionLimits limits;
  limits.request_bytes = service.limits.body_bytes + (std::size_t{64} << 10);
  serve::Server server(limits, args.number("--connections", 256, 1, 10'000));
  add_routes(server, service);
  const std::string host = args.value("--host").value_or("127.0.0.1");
  const int port = server.bind(host, args.number("--port", 8080, 0, 65535));
  dsv3::require(port != 0, "cannot listen on ", host, " port ", args.value("--port").value_or("8080"),
                ": in use, or no address of this machine?");
  std::jthread listener([&] { server.listen_after_bind(); });
  std::cout << "serving " << service.name << " on http://" << host << ':' << port << std::endl;

  sigset_t ends;
  sigemptyset(&ends);
  sigaddset(&ends, SIGINT);
  sigaddset(&ends, SIGTERM);
  int signal = 0;
  sigwait(&ends, &signal);
  service.draining = true;
  const auto grace = args.number("--grace", 30.0, 0.0, 86400.0);
  std::cerr << "dsv3-serve: shutting down; " << unfinished(service) << " answers have " << grace
            << " s to end (a second signal ends them now)" << std::endl;
  const auto until = std::chrono::steady_clock::now() + std::chrono::duration<double>(grace);
  const timespec moment{0, 50'000'000};
  while (unfinished(service) > 0 && std::chrono::steady_clock::now() < until && sigtimedwait(&ends, nullptr, &moment) < 0) {
  }
  if (const Index left = unfinished(service); left > 0) {
    std::cerr << "dsv3-serve: " << left << " answers are given up" << std::endl;
    service.engine->cancel_all();
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(500));  // for the last words to reach their clients
  server.end();
  listener.join();
  const auto s = service.engine->stats();
  std::cerr << "dsv3-serve: ended; " << s.finished << " answers finished, " << s.cancelled << " given up, " << s.failed << " failed"
            << std::endl;
}

}  // namespace

int DSV3_MAIN(int argc, char** argv) {
  return cli::run("dsv3-serve", usage, [&] {
    const cli::Args args(argc, argv, 1,
                         cli::with_weights({"--host", "--port", "--name", "--api-key-file", "--allowed-origins", "--format", "--context",
                                            "--max-new", "--sequences", "--queue", "--cache-tokens", "--step-tokens", "--drafts",
                                            "--compute", "--connections", "--max-body", "--timeout", "--grace", "--threads"}),
                         {"--log-requests"});
    sigset_t ends;  // blocked in all threads: serve_until_signal() waits for them
    sigemptyset(&ends);
    sigaddset(&ends, SIGINT);
    sigaddset(&ends, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &ends, nullptr);
    std::signal(SIGPIPE, SIG_IGN);

    const std::filesystem::path folder = args[0];
    const dsv3::Config config = dsv3::io::read_config(folder);
    const auto name = folder.filename().empty() ? folder.parent_path().filename() : folder.filename();
    serve::Service service{.name = args.value("--name").value_or(name.string()),
                           .api_keys = read_api_keys(args),
                           .allowed_origins = split(args.value("--allowed-origins").value_or(""), ','),
                           .log_requests = args.has("--log-requests"),
                           .limits = {},
                           .config = config,
                           .defaults = dsv3::io::read_generation_config(folder, config),
                           .text = cli::TextModel(folder, config, args.value("--format")),
                           .engine = {},
                           .token_texts = {},
                           .call_texts = {}};
    service.limits.body_bytes = args.number<std::size_t>("--max-body", service.limits.body_bytes, 1024, std::size_t{1} << 30);
    service.limits.max_new_tokens = args.number<Index>("--max-new", 0, 1, Index{1} << 30);
    service.limits.request_seconds = args.number("--timeout", service.limits.request_seconds, 0.001, 1e6);
    const cli::TextModel& text = service.text;
    const auto texts_with = [&](std::optional<int> mark) {
      return std::make_shared<const dsv3::grammar::TokenTexts>(text.tokenizer.vocab_size(), [&](int id) {
        return text.tokenizer.is_added(id) && id != mark ? std::string_view() : text.text_of(id);
      });
    };
    service.token_texts = service.call_texts = texts_with({});
    if (const auto sep = text.tokenizer.token_id(dsv3::chat::sep); sep && text.format == dsv3::ChatFormat::v31)
      service.call_texts = texts_with(sep);
    service.engine = serve::open_engine(folder, config, args.compute(), cli::read_weight_options(args), scheduler_options(args, config),
                                        args.threads(), [&](int id) { return text.text_of(id); });
    using Template = cli::TextModel::Template;
    if (text.chat_template == Template::none)
      std::cerr << "dsv3-serve: no chat template: chats are plain lines, answers end with an empty one\n";
    if (text.chat_template == Template::unknown)
      std::cerr << "dsv3-serve: chats are refused: " << cli::TextModel::unknown_template_message() << '\n';
    say_what_there_is(service);
    serve_until_signal(args, service);
  });
}
