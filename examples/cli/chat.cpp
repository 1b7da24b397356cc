// dsv3-chat: a conversation with a checkpoint in a terminal.
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>

#include "cli.hpp"
#include "dsv3/dsv3.hpp"
#include "dsv3/generate/chat_parser.hpp"
#include "dsv3/generate/complete.hpp"
#include "dsv3/io/utf8_stream.hpp"
#include "line_editor.hpp"
#include "loading.hpp"
#include "policy.hpp"
#include "sampling.hpp"
#include "text_model.hpp"
#include "weights.hpp"

namespace {

constexpr const char* usage =
    "usage: dsv3-chat DIR [options]\n\n"
    "A conversation with the checkpoint in DIR (config.json, safetensors, a tokenizer). Answers are written as they come, figures "
    "follow\n"
    "on standard error. Ctrl-C stops an answer, /exit or the end of the input the program; /help lists the commands.\n"
    "  --system TEXT             instructions that stand before the conversation\n"
    "  --format F                of the conversation: v3, r1-first, r1, v3-0324, r1-0528, v31 or plain (lines); default: that of the\n"
    "                            checkpoint's chat template, else plain\n"
    "  --thinking                V3.1: answers begin with their reasoning\n"
    "  --max-new N               most tokens of an answer (default 2048)\n"
    "  --context N               most tokens of the conversation (default: the model's, at most 16384)\n"
    "  --temperature T           0 takes the likeliest token (default: that of generation_config.json, else 0.6)\n"
    "  --top-p P, --top-k K, --min-p P, --repetition-penalty R, --presence-penalty X, --frequency-penalty X\n"
    "                            other limits on the choice (default: generation_config.json, else top-p 0.95)\n"
    "  --seed S                  of the random choice (default 0); each answer has the next one\n"
    "  --drafts N                tokens that the MTP modules propose for each pass (default 0)\n"
    "  --compute C               exact (float32), bf16, or auto (default: bf16 where program and processor have AMX or\n"
    "                            AVX512-BF16)\n"
    "  --quantize fp8            rounds projections that are not fp8 to fp8, as published checkpoints have them, in memory\n"
    "  --quantize-head fp8       the same of the output head, which they keep in bf16\n"
    "  --threads N               default: all processors\n"
    "  --help                    prints this text\n"
    "With libedit, lines are edited: arrows, Ctrl-R searches the history, Tab completes a command, Alt-Enter begins another line.\n"
    "What is typed is kept in ~/.local/state/dsv3/chat_history, or in the file that DSV3_HISTORY names; DSV3_HISTORY= keeps none.\n"
    "Exit status: 0 done, 1 error, 2 wrong arguments.\n";

constexpr const char* commands =
    "/clear          forget the conversation\n"
    "/history        show it\n"
    "/system TEXT    other instructions, or none, for a new conversation\n"
    "/help           show this list\n"
    "/exit           end the program (Ctrl-D as well)\n"
    "A line that ends with \\ goes on in the next one. A message that begins with a slash is written with two.\n";

std::atomic<bool> interrupted = false;

/// From here on Ctrl-C stops an answer or drops a line. Before, while the model loads, it ends the program.
void handle_interrupts() {
  struct sigaction action {};
  action.sa_handler = [](int) { interrupted = true; };
  sigaction(SIGINT, &action, nullptr);
}

/// Writes an answer as it comes: reasoning dimmed, calls of tools in brackets.
class Display {
 public:
  void show(const dsv3::ChatDelta& delta) {
    if (!delta.reasoning.empty()) put(delta.reasoning, true);
    if (!delta.content.empty()) put(delta.content, false);
    for (const auto& call : delta.tool_calls) put("[" + call.name + "(" + call.arguments + ")]", false);
    std::cout << std::flush;
  }
  void end() { put("\n", false); }

 private:
  void put(const std::string& text, bool dim) {
    if (dim != dim_) std::cout << (terminal_ ? (dim ? "\033[2m" : "\033[0m\n\n") : (dim ? "(reasoning) " : "\n\n"));
    dim_ = dim;
    std::cout << text;
  }
  bool terminal_ = isatty(STDOUT_FILENO) != 0, dim_ = false;
};

template <class P>
class Chat {
 public:
  Chat(const cli::Args& args, const dsv3::Config& config)
      : executor_(cli::make_executor(args.threads())),
        ctx_(executor_),
        loading_(args[0]),
        text_(args[0], config, args.value("--format")),
        model_(cli::load_model<P>(ctx_, args[0], cli::read_weight_options(args), loading_.options())),
        known_{model_.make_cache({args.number<dsv3::Index>("--context", std::min<dsv3::Index>(config.max_position_embeddings, 16384), 16,
                                                           dsv3::Index{1} << 24)})} {
    if (text_.chat_template == cli::TextModel::Template::unknown)
      throw dsv3::Error(std::string(args[0]) + ": " + cli::TextModel::unknown_template_message());
    thinking_ = args.has("--thinking");
    request_.max_new_tokens = args.number<dsv3::Index>("--max-new", 2048, 1, 1 << 24);
    const auto defaults = dsv3::io::read_generation_config(args[0], config);
    request_.sampling = cli::read_sampling(
        args,
        {.temperature = defaults.temperature.value_or(0.6), .top_k = defaults.top_k.value_or(0), .top_p = defaults.top_p.value_or(0.95)});
    if (text_.format == dsv3::ChatFormat::plain) request_.stop_strings = {"\n\n"};
    options_.depth = args.number<dsv3::Index>("--drafts", 0, 0, 16);
    options_.go_on = [] { return !interrupted; };
    if (options_.depth > 0 && model_.mtp_modules() == 0) throw cli::UsageError("--drafts: this checkpoint has no MTP modules");
    system_ = args.value("--system").value_or("");
    clear();
    if (text_.chat_template == cli::TextModel::Template::none)
      std::cerr << "no chat template: the conversation is plain lines, an answer ends with an empty one\n";
  }

  void run() {
    handle_interrupts();
    cli::LineEditor lines(interrupted, {"/clear", "/history", "/system ", "/help", "/exit"},
                          cli::HistoryFile(cli::HistoryFile::standard("chat_history")));
    while (const auto line = lines.next("> ")) {
      if (line->starts_with("//"))
        answer(line->substr(1));
      else if (!line->starts_with('/')) {
        if (line->find_first_not_of(" \t\n") != line->npos) answer(*line);
      } else if (!command(*line))
        return;
    }
  }

 private:
  using Role = dsv3::ChatMessage::Role;

  /// Does what a line with a slash says. False ends the program.
  bool command(const std::string& line) {
    constexpr const char* space = " \t\n";
    const std::string name = line.substr(0, line.find_first_of(space));
    const auto begin = std::min(line.find_first_not_of(space, name.size()), line.size());
    const std::string text = line.substr(begin, line.find_last_not_of(space) + 1 - begin);
    if (name == "/system") {
      system_ = text;
      clear();
    } else if (name == "/exit" && text.empty()) {
      return false;
    } else if (name == "/clear" && text.empty()) {
      clear();
    } else if (name == "/history" && text.empty()) {
      show_history();
    } else if (name == "/help" && text.empty()) {
      std::cout << commands << std::flush;
    } else {
      std::cerr << line.substr(0, line.find('\n')) << " is no command. There are:\n" << commands;
    }
    return true;
  }

  void clear() {
    messages_.clear();
    if (!system_.empty()) messages_.push_back({Role::system, system_});
  }

  void show_history() const {
    for (const auto& m : messages_)
      std::cout << (m.role == Role::system ? "system: "
                    : m.role == Role::user ? "user: "
                                           : "assistant: ")
                << m.content.value_or("") << '\n';
    std::cout << std::flush;
  }

  void answer(const std::string& question) {
    messages_.push_back({Role::user, question});
    dsv3::Request request = request_;
    std::vector<dsv3::ChatPiece> pieces;
    try {
      pieces = dsv3::chat_pieces(text_.format, messages_, {.thinking = thinking_});
      request.prompt = text_.encode_chat(pieces);
    } catch (const dsv3::Error& e) {  // not UTF-8
      messages_.pop_back();
      std::cerr << e.what() << '\n';
      return;
    }
    if (static_cast<dsv3::Index>(request.prompt.size()) >= known_.cache.max_tokens()) {
      messages_.pop_back();
      std::cerr << "the conversation has " << request.prompt.size() << " tokens, the context " << known_.cache.max_tokens()
                << ": /clear begins a new one\n";
      return;
    }
    ++request_.sampling.seed;

    dsv3::ChatParser parser(dsv3::starts_thinking(pieces));
    dsv3::io::Utf8Stream characters;
    Display display;
    dsv3::ChatMessage said{Role::assistant, ""};
    const auto take = [&](const dsv3::ChatDelta& delta) {
      *said.content += delta.content;
      said.tool_calls.insert(said.tool_calls.end(), delta.tool_calls.begin(), delta.tool_calls.end());
      display.show(delta);
    };
    interrupted = false;
    using Clock = std::chrono::steady_clock;
    const auto start = Clock::now();
    auto first = start;
    const auto finish = dsv3::complete(
        ctx_, model_, known_, std::move(request), options_,
        [&](const dsv3::Token& token) {
          if (token.index == 0) first = Clock::now();
          take(parser.push(characters.push(token.text)));
          return !interrupted;
        },
        [this](int id) { return text_.text_of(id); });
    take(parser.push(characters.push(finish.text) + characters.finish()));
    take(parser.finish());
    display.end();
    messages_.push_back(std::move(said));
    report(finish, std::chrono::duration<double>(Clock::now() - first).count());
  }

  void report(const dsv3::Finish& finish, double seconds) const {
    const auto& s = finish.stats;
    if (finish.reason == dsv3::FinishReason::error) std::cerr << finish.error << '\n';
    std::fprintf(stderr, "[%td tokens, %.1f tokens/s; prompt %td, %td of them known", s.new_tokens,
                 s.new_tokens > 1 ? static_cast<double>(s.new_tokens - 1) / seconds : 0.0, s.prompt_tokens, s.cached_tokens);
    if (options_.depth > 0)
      std::fprintf(stderr, "; %.0f%% of drafts accepted, %.2f tokens a pass", 100 * s.acceptance_rate(), s.tokens_per_pass());
    std::fprintf(stderr, "; context %td of %td%s]\n", s.prompt_tokens + s.new_tokens, known_.cache.max_tokens(),
                 finish.reason == dsv3::FinishReason::cancelled    ? "; stopped"
                 : finish.reason == dsv3::FinishReason::cache_full ? "; context full"
                                                                   : "");
  }

  cli::Executor executor_;
  dsv3::Context ctx_;
  cli::Loading loading_;
  cli::TextModel text_;
  dsv3::Model<P> model_;
  dsv3::CachedText<dsv3::Cache<P>> known_;
  dsv3::Request request_;  // without its prompt
  dsv3::CompleteOptions options_;
  bool thinking_ = false;
  std::string system_;
  std::vector<dsv3::ChatMessage> messages_;
};

}  // namespace

int DSV3_MAIN(int argc, char** argv) {
  return cli::run("dsv3-chat", usage, [&] {
    const cli::Args args(
        argc, argv, 1,
        cli::with_weights(cli::with_sampling({"--system", "--format", "--max-new", "--context", "--drafts", "--compute", "--threads"})),
        {"--thinking"});
    const auto compute = args.compute();
    const dsv3::Config config = dsv3::io::read_config(args[0]);
    cli::with_policy("dsv3-chat", config, compute, [&]<class P>(P) { Chat<P>(args, config).run(); });
  });
}
