// dsv3-train: trains a model from nothing, or goes on with a checkpoint.
#include <csignal>

#include <chrono>
#include <cmath>

#include "cli.hpp"
#include "dsv3/dsv3.hpp"
#include "dsv3/io/load.hpp"
#include "dsv3/io/utf8_stream.hpp"
#include "dsv3/model/init.hpp"
#include "dsv3/train/evaluate.hpp"
#include "dsv3/train/fp8.hpp"
#include "dsv3/train/schedule.hpp"
#include "train_data.hpp"
#include "train_folder.hpp"

namespace {

constexpr const char* usage =
    "usage: dsv3-train (CONFIG.json | DIR) --data FILE --out OUT [options]\n\n"
    "Trains the model that CONFIG.json describes from fresh weights, or goes on with the checkpoint in DIR. In OUT it leaves\n"
    "step-N, a checkpoint with the trainer's state, log.jsonl, loss.svg and load.svg (index.html shows both as they grow).\n"
    "  --data FILE        text, .jsonl ({\"text\": ...} a line), or .bin (token ids of nanoGPT, llm.c, Megatron); may be repeated\n"
    "  --valid FILE       the same, for the loss on text that is not learned\n"
    "  --tokenizer FILE   tokenizer.json or tiktoken.model, for text (default: DIR's)\n"
    "  --steps N          (default 1000)\n"
    "  --context N        tokens of a sample (default 256, or the longest that the model has)\n"
    "  --batch-tokens N   tokens of a step, a multiple of the context (default 16 samples)\n"
    "  --micro-tokens N   tokens of a pass, if less memory is to be used; changes no bit of the result (default: all of a step)\n"
    "  --recipe R         small (default: warm-up, cosine to a tenth) or report (the report's schedule and growth of the batch from a\n"
    "                     fifth, shrunk to N steps)\n"
    "  --lr X             highest learning rate (default 1e-3, report 2.2e-4)\n"
    "  --weight-decay X   (default 0.1)\n"
    "  --mtp-weight X     lambda of multi-token prediction (default 0.3, and a third of it in the last third)\n"
    "  --balance-weight X alpha of the balance loss (default 1e-4)\n"
    "  --bias-speed X     gamma of the routers' biases (default 1e-3, and 0 in the last thirtieth)\n"
    "  --init-deviation X of fresh weights (default 0.02, report 0.006)\n"
    "  --average X        keep a running average of the weights with this decay, and save that as the model\n"
    "  --isolate          documents, which end with the model's end token, do not see one another\n"
    "  --fim-rate X       share of documents that become fill-in-the-middle (default 0; the report has 0.1)\n"
    "  --recompute R      everything | report | report-fp8 | blocks: what the backward pass keeps (default everything)\n"
    "  --compute C        exact (default: float32, the same bits for any number of threads and any cut into passes), bf16\n"
    "                     (products with operands rounded to bf16; weights and sums stay float32) or fp8 (the report's recipe:\n"
    "                     operands in e4m3 with a scale for 1x128 or 128x128, moments of AdamW in bf16)\n"
    "  --moments M        of AdamW, with --compute bf16: float32 (default) or bf16, as fp8 has them\n"
    "  --save-every N     steps (default: at the end alone); --keep K of them stay (default 2)\n"
    "  --save-as T        float32 (default), bf16 or fp8; the state has the float32 weights in any case\n"
    "  --log-every N      steps between lines (default 10)\n"
    "  --valid-every N    steps between validations (default 100)\n"
    "  --sample TEXT      text that the model continues at every validation\n"
    "  --seed S           of weights and order (default 1)\n"
    "  --resume           goes on with the last checkpoint in OUT, bit for bit\n"
    "  --threads N        default: all processors\n"
    "  --help             prints this text\n"
    "Ctrl-C and SIGTERM save and stop. Exit status: 0 done, 1 error, 2 wrong arguments.\n";

volatile std::sig_atomic_t stop = 0;

using Clock = std::chrono::steady_clock;

struct Plan {
  dsv3::Index steps, context, batch_tokens, micro_tokens, save_every, keep, log_every, valid_every;
  bool report = false, isolate = false;
  double lr, weight_decay, mtp_weight, balance_weight, bias_speed, deviation, average, fim_rate;
  std::uint64_t seed;
  std::string save_as, compute;
  bool bf16_moments = false;
  dsv3::train::Keep recompute;

  static constexpr double report_tokens = 14.8e12;  // of the report's pre-training; its lengths in tokens become shares of the steps

  /// Samples of a step.
  dsv3::Index batch(dsv3::Index step) const {
    const dsv3::Index full = batch_tokens / context;
    if (!report) return full;
    const double share = dsv3::train::report_batch_size(static_cast<double>(steps) / report_tokens).at(static_cast<double>(step)) / 15360;
    return std::max<dsv3::Index>(1, std::llround(static_cast<double>(full) * share));
  }

  /// Settings without which a run does not go on bit for bit.
  std::string text(const std::vector<std::string>& data) const {
    std::ostringstream out;
    out.imbue(std::locale::classic());
    out.precision(17);
    out << "steps " << steps << "\ncontext " << context << "\nbatch-tokens " << batch_tokens << "\nrecipe " << (report ? "report" : "small")
        << "\nlr " << lr << "\nweight-decay " << weight_decay << "\nmtp-weight " << mtp_weight << "\nbalance-weight " << balance_weight
        << "\nbias-speed " << bias_speed << "\naverage " << average << "\nisolate " << isolate << "\nfim-rate " << fim_rate << "\nseed "
        << seed << "\ncompute " << compute << (recompute.fp8 ? " with an fp8 cache" : "")
        << (compute == "bf16" && bf16_moments ? "\nmoments bf16" : "");
    for (const auto& file : data) out << "\ndata " << file;
    return out.str();
  }

  double learning_rate(dsv3::Index step) const {
    const auto n = static_cast<double>(steps), x = static_cast<double>(step);
    if (report) return dsv3::train::report_schedule(n / report_tokens, lr).at(x);
    const double warmup = std::min(100.0, std::ceil(n / 20));
    return dsv3::train::warmup_cosine(lr, lr / 10, warmup, 0, n - warmup).at(x);
  }
  dsv3::train::StepSettings settings(dsv3::Index step) const {
    const double done = static_cast<double>(step) / static_cast<double>(steps);
    return {learning_rate(step), {done <= 2.0 / 3 ? mtp_weight : mtp_weight / 3, balance_weight}, done <= 29.0 / 30 ? bias_speed : 0.0};
  }
};

Plan read_plan(const cli::Args& args, const dsv3::Config& config) {
  using dsv3::Index;
  constexpr Index most = Index{1} << 40;
  Plan p{};
  const std::string recipe = args.value("--recipe").value_or("small");
  if (recipe != "small" && recipe != "report") throw cli::UsageError("--recipe: expected small or report, got '" + recipe + "'");
  p.report = recipe == "report";
  p.steps = args.number<Index>("--steps", 1000, 1, most);
  p.context = args.number<Index>("--context", std::min<Index>(256, config.max_position_embeddings), 2, config.max_position_embeddings);
  p.batch_tokens = args.number<Index>("--batch-tokens", 16 * p.context, 2, most);
  if (p.batch_tokens % p.context != 0)
    throw cli::UsageError("--batch-tokens: expected a multiple of the context of " + std::to_string(p.context) + ", got " +
                          std::to_string(p.batch_tokens));
  p.micro_tokens = args.number<Index>("--micro-tokens", p.batch_tokens, p.context, p.batch_tokens);
  p.save_every = args.number<Index>("--save-every", p.steps, 1, most);
  p.keep = args.number<Index>("--keep", 2, 1, most);
  p.log_every = args.number<Index>("--log-every", 10, 1, most);
  p.valid_every = args.number<Index>("--valid-every", 100, 1, most);
  p.lr = args.number("--lr", p.report ? 2.2e-4 : 1e-3, 0.0, 1e3);
  p.weight_decay = args.number("--weight-decay", 0.1, 0.0, 1e3);
  p.mtp_weight = config.num_nextn_predict_layers > 0 ? args.number("--mtp-weight", 0.3, 0.0, 1e3) : 0;
  p.balance_weight = args.number("--balance-weight", 1e-4, 0.0, 1e3);
  p.bias_speed = args.number("--bias-speed", 1e-3, 0.0, 1e3);
  p.deviation = args.number("--init-deviation", p.report ? 0.006 : 0.02, 0.0, 1e3);
  p.average = args.number("--average", 0.0, 0.0, 1.0);
  p.fim_rate = args.number("--fim-rate", 0.0, 0.0, 1.0);
  p.isolate = args.has("--isolate");
  p.seed = args.number<std::uint64_t>("--seed", 1, 0, ~std::uint64_t{0});
  p.save_as = args.value("--save-as").value_or("float32");
  if (p.save_as != "float32" && p.save_as != "bf16" && p.save_as != "fp8")
    throw cli::UsageError("--save-as: expected float32, bf16 or fp8, got '" + p.save_as + "'");
  p.compute = args.value("--compute").value_or("exact");
  if (p.compute != "exact" && p.compute != "bf16" && p.compute != "fp8")
    throw cli::UsageError("--compute: expected exact, bf16 or fp8, got '" + p.compute + "'");
  const std::string moments = args.value("--moments").value_or(p.compute == "fp8" ? "bf16" : "float32");
  if (moments != "float32" && moments != "bf16") throw cli::UsageError("--moments: expected float32 or bf16, got '" + moments + "'");
  p.bf16_moments = moments == "bf16";
  if (p.compute != "bf16" && p.bf16_moments != (p.compute == "fp8"))
    throw cli::UsageError("--moments: --compute " + p.compute + " has moments in " + (p.bf16_moments ? "float32" : "bf16") +
                          " alone; only --compute bf16 leaves a choice");
  const std::string recompute = args.value("--recompute").value_or("everything");
  if (recompute == "report")
    p.recompute = dsv3::train::keep::report;
  else if (recompute == "report-fp8")
    p.recompute = dsv3::train::keep::report_fp8;
  else if (recompute == "blocks")
    p.recompute = dsv3::train::keep::blocks;
  else if (recompute != "everything")
    throw cli::UsageError("--recompute: expected everything, report, report-fp8 or blocks, got '" + recompute + "'");
  return p;
}

/// The model under training with everything that a run has.
template <class Policy, class Moments = dsv3::codec::Float32>
class Run {
 public:
  Run(const cli::Args& args, const dsv3::Config& config, bool fresh)
      : plan_(read_plan(args, config)),
        executor_(cli::make_executor(args.threads())),
        ctx_(executor_),
        model_(make_model(args, config, fresh, plan_)),
        folder_(*args.value("--out")),
        resume_(args.has("--resume")) {
    dsv3::train::TrainerOptions options;
    options.adamw.weight_decay = plan_.weight_decay;
    options.micro_batch = plan_.micro_tokens / plan_.context;
    options.keep = plan_.recompute;
    trainer_.emplace(model_, options);
    open_tokenizer(args, fresh);
    dsv3::io::TokenizeOptions text;
    if (!config.eos_token_id.empty()) text.end_token = config.eos_token_id[0];
    if (plan_.fim_rate > 0) text.fim_tokens = fim_tokens(), text.fim_rate = plan_.fim_rate, text.seed = plan_.seed;
    if (plan_.isolate && !text.end_token) throw cli::UsageError("--isolate: the configuration has no eos_token_id, where documents end");
    const auto documents = plan_.isolate ? text.end_token : std::nullopt;
    data_.emplace(args.values("--data"), tokenizer_, folder_.path() / "tokens", text, config.vocab_size, documents);
    data_->samples(plan_.context);
    if (args.has("--valid")) {
      auto plain = text;
      plain.fim_rate = 0;
      read_valid(cli::TrainData(args.values("--valid"), tokenizer_, folder_.path() / "tokens", plain, config.vocab_size, documents));
    }
    sample_ = args.value("--sample");
    if (sample_ && !tokenizer_) throw cli::UsageError("--sample: needs --tokenizer");
    position_ = {0, 0, dsv3::io::config_to_json(config), plan_.text(args.values("--data"))};
    if (resume_) resume();
    if (!resume_ && !folder_.checkpoints().empty())
      dsv3::fail(folder_.path().string(), ": has checkpoints of another run: --resume goes on with them, or choose another --out");
    if (plan_.average > 0 && average_.size() == 0) average_ = trainer_->parameters().values();
  }

  void run() {
    folder_.open_log(position_.step);
    std::fprintf(stderr, "%td parameters, %td ids of text, %td samples an epoch; %td steps of %td samples of %td ids\n", count(),
                 data_->size(), data_->samples(plan_.context), plan_.steps, plan_.batch(plan_.steps), plan_.context);
    const auto start = Clock::now();
    const dsv3::Index first = position_.step;
    while (position_.step < plan_.steps && stop == 0) {
      const auto before = Clock::now();
      const auto report = step();
      const double seconds = std::chrono::duration<double>(Clock::now() - before).count();
      const dsv3::Index s = position_.step;
      nlohmann::json line{{"step", s},
                          {"loss", report.losses.total},
                          {"main", report.losses.main},
                          {"mtp", report.losses.mtp},
                          {"lr", plan_.learning_rate(s)},
                          {"norm", report.gradient_norm},
                          {"seconds", seconds},
                          {"load", busiest(report.loads)}};
      if (report.skipped) line["skipped"] = true;
      const bool last = s == plan_.steps || stop != 0, checked = s % plan_.valid_every == 0 || last;
      if (checked && !valid_.empty()) line["valid"] = validate();
      folder_.log(line);
      if (s % plan_.log_every == 0 || last || checked) {
        const double each = std::chrono::duration<double>(Clock::now() - start).count() / static_cast<double>(s - first);
        std::printf("step %td  loss %.4f  main %.4f", s, report.losses.total, report.losses.main);
        for (const double mtp : report.losses.mtp) std::printf("  mtp %.4f", mtp);
        if (line.contains("valid")) std::printf("  valid %.4f", line["valid"].get<double>());
        std::printf("  lr %.2e  norm %.2f  %.0f tokens/s  load %.2f  %.0f s left%s\n", plan_.learning_rate(s), report.gradient_norm,
                    static_cast<double>(plan_.batch(s) * plan_.context) / seconds, largest(line["load"]),
                    each * static_cast<double>(plan_.steps - s), report.skipped ? "  SKIPPED: not finite" : "");
        std::fflush(stdout);
      }
      if (checked) {
        folder_.plot();
        if (sample_) write_sample();
      }
      if (s % plan_.save_every == 0 || last) save();
    }
  }

 private:
  static dsv3::Model<Policy> make_model(const cli::Args& args, const dsv3::Config& config, bool fresh, const Plan& plan) {
    if (!fresh) return dsv3::io::load<Policy>(args[0]);
    dsv3::Model<Policy> model(config);
    init_normal(model, plan.seed, plan.deviation);
    return model;
  }

  void open_tokenizer(const cli::Args& args, bool fresh) {
    const auto given = args.value("--tokenizer");
    const std::filesystem::path own = args[0];
    std::filesystem::path source = given ? std::filesystem::path(*given) : fresh ? own.parent_path() : own;
    if (source.empty()) source = ".";
    tokenizer_file_ = std::filesystem::is_directory(source) ? dsv3::io::Tokenizer::find(source) : source;
    if (tokenizer_file_.empty() && !given) return;
    tokenizer_ = dsv3::io::Tokenizer::open(source);
    dsv3::require(tokenizer_->vocab_size() <= model_.config().vocab_size, tokenizer_file_.string(), ": has ids up to ",
                  tokenizer_->vocab_size() - 1, ", the model a vocabulary of ", model_.config().vocab_size);
  }

  dsv3::train::FimTokens fim_tokens() const {
    dsv3::require(tokenizer_.has_value(), "--fim-rate: needs a tokenizer");
    const auto id = [&](const char* token) {
      const auto found = tokenizer_->token_id(token);
      dsv3::require(found.has_value(), "--fim-rate: the tokenizer has no token ", token);
      return *found;
    };
    return {id("<｜fim▁begin｜>"), id("<｜fim▁hole｜>"), id("<｜fim▁end｜>")};
  }

  void read_valid(const cli::TrainData& data) {
    const dsv3::Index n = std::max<dsv3::Index>(1, data.size() / plan_.context);
    valid_ids_.resize(n, std::min(plan_.context, data.size()));
    for (dsv3::Index i = 0; i < n; ++i) {
      const std::span<int> row(valid_ids_.row(i).data(), static_cast<std::size_t>(valid_ids_.cols()));
      data.read(i * plan_.context, row);
      valid_.push_back({row});
    }
    for (std::size_t i = 0; i < valid_.size(); ++i) valid_documents_.push_back(data.documents(valid_[i].ids));
    for (std::size_t i = 0; i < valid_.size(); ++i) valid_[i].documents = valid_documents_[i];
  }

  void resume() {
    const auto all = folder_.checkpoints();
    dsv3::require(!all.empty(), folder_.path().string(), ": --resume: no checkpoint is here");
    const auto state = all.rbegin()->second / "state.safetensors";
    const std::string run = position_.run;
    position_ = dsv3::io::load_state(state, *trainer_, position_.config, average_);
    if (position_.run == run) return;
    std::istringstream a(position_.run), b(run);
    std::string was, is;
    while (std::getline(a, was), std::getline(b, is), was == is && (a || b)) {
    }
    dsv3::fail(state.string(), ": run: this state was saved with \"", was, "\", this run has \"", is, "\": it would not go on bit for bit");
  }

  dsv3::train::StepReport step() {
    const dsv3::Index samples = plan_.batch(position_.step + 1);
    dsv3::Matrix<int> ids(samples, plan_.context);
    std::vector<std::vector<dsv3::Index>> documents;
    std::vector<dsv3::train::Sample> batch;
    for (dsv3::Index i = 0; i < samples; ++i) {
      const std::span<int> row(ids.row(i).data(), static_cast<std::size_t>(plan_.context));
      data_->sample(position_.samples + i, plan_.seed, row);
      documents.push_back(data_->documents(row));
      batch.push_back({row});
    }
    for (std::size_t i = 0; i < batch.size(); ++i) batch[i].documents = documents[i];
    const auto report = trainer_->step(ctx_, batch, plan_.settings(position_.step + 1));
    position_.samples += samples;
    ++position_.step;
    if (plan_.average > 0) dsv3::train::update_average(ctx_, trainer_->parameters(), plan_.average, average_);
    return report;
  }

  /// f() while the model has the averaged weights, if there are any.
  template <class F>
  auto with_average(F&& f) {
    if (average_.size() == 0) return f();
    struct Swap {
      Run& run;
      explicit Swap(Run& r) : run(r) { swap(); }
      ~Swap() { swap(); }
      void swap() const {
        auto& parameters = run.trainer_->parameters();
        for (const auto& p : parameters.list())
          if (p.kind != dsv3::train::Kind::buffer)
            std::swap_ranges(run.average_.data() + p.offset, run.average_.data() + p.offset + p.size(),
                             parameters.values().data() + p.offset);
        parameters.refresh();
      }
    } const swap(*this);
    return f();
  }

  double validate() {
    return with_average([&] { return dsv3::train::evaluate(ctx_, model_, valid_); });
  }

  void write_sample() {
    with_average([&] {
      const auto prompt = tokenizer_->encode(*sample_);
      auto cache = model_.make_cache({static_cast<dsv3::Index>(prompt.size()) + 80});
      std::string text = *sample_;
      dsv3::io::Utf8Stream stream;
      dsv3::generate(
          ctx_, model_, cache, prompt, {.max_new_tokens = 80},
          [&](int id) {
            if (id < tokenizer_->vocab_size()) text += stream.push(tokenizer_->token_bytes(id));
            return true;
          },
          dsv3::Temperature(0.8, plan_.seed));
      std::printf("---\n%s%s\n---\n", text.c_str(), stream.finish().c_str());
      std::fflush(stdout);
    });
  }

  void save() {
    folder_.add(position_.step, plan_.keep, [&](const std::filesystem::path& target) {
      with_average([&] { dsv3::io::save(cli::stored_as(ctx_, model_, plan_.save_as), target); });
      if (tokenizer_file_.extension() == ".model") {
        std::filesystem::copy_file(tokenizer_file_, target / "tiktoken.model");
        std::filesystem::copy_file(tokenizer_file_.parent_path() / "tokenizer_config.json", target / "tokenizer_config.json");
      } else if (!tokenizer_file_.empty()) {
        std::filesystem::copy_file(tokenizer_file_, target / "tokenizer.json");
      }
      dsv3::io::save_state(target / "state.safetensors", *trainer_, position_, average_);
    });
  }

  static nlohmann::json busiest(const dsv3::Matrix<dsv3::Index>& loads) {
    nlohmann::json out = nlohmann::json::array();
    for (dsv3::Index i = 0; i < loads.rows(); ++i)
      out.push_back(static_cast<double>(loads.row(i).maxCoeff()) * static_cast<double>(loads.cols()) /
                    static_cast<double>(std::max<dsv3::Index>(1, loads.row(i).sum())));
    return out;
  }
  static double largest(const nlohmann::json& values) {
    double most = 0;
    for (const auto& v : values) most = std::max(most, v.get<double>());
    return most;
  }
  dsv3::Index count() const {
    dsv3::Index n = 0;
    for (const auto& p : trainer_->parameters().list()) n += p.size();
    return n;
  }

  Plan plan_;
  cli::Executor executor_;
  dsv3::Context ctx_;
  dsv3::Model<Policy> model_;
  cli::TrainFolder folder_;
  bool resume_;
  mutable std::optional<dsv3::train::Trainer<Policy, Moments>> trainer_;
  std::optional<dsv3::io::Tokenizer> tokenizer_;
  std::filesystem::path tokenizer_file_;
  std::optional<cli::TrainData> data_;
  dsv3::Matrix<int> valid_ids_;
  std::vector<std::vector<dsv3::Index>> valid_documents_;
  std::vector<dsv3::train::Sample> valid_;
  std::optional<std::string> sample_;
  dsv3::io::RunPosition position_;
  dsv3::train::Arena average_;
};

}  // namespace

int DSV3_MAIN(int argc, char** argv) {
  return cli::run("dsv3-train", usage, [&] {
    const cli::Args args(
        argc, argv, 1,
        {"--data",           "--valid",     "--out",         "--tokenizer",    "--steps",      "--context",        "--batch-tokens",
         "--micro-tokens",   "--recipe",    "--lr",          "--weight-decay", "--mtp-weight", "--balance-weight", "--bias-speed",
         "--init-deviation", "--average",   "--fim-rate",    "--recompute",    "--compute",    "--save-every",     "--keep",
         "--save-as",        "--log-every", "--valid-every", "--sample",       "--seed",       "--threads",        "--moments"},
        {"--resume", "--isolate"});
    for (const char* needed : {"--data", "--out"})
      if (!args.has(needed)) throw cli::UsageError(std::string(needed) + " is needed");
    const std::filesystem::path given = args[0];
    const bool folder = std::filesystem::is_directory(given);
    dsv3::Config config = folder ? dsv3::io::read_config(given)
                                 : dsv3::io::parse_config(dsv3::io::read_text_file(given, std::size_t{1} << 20), given.string());
    const bool fresh = !folder || !(std::filesystem::exists(given / "model.safetensors") ||
                                    std::filesystem::exists(given / "model.safetensors.index.json"));
    config.fp8 = false;
    for (const int signal : {SIGINT, SIGTERM}) {
      struct sigaction action {};
      action.sa_handler = [](int) { stop = 1; };
      action.sa_flags = SA_RESETHAND;  // a second signal ends the program at once
      sigaction(signal, &action, nullptr);
    }
    dsv3::io::with_policy(config, [&]<class P>(P) {
      const auto compute = args.value("--compute").value_or("exact");
      if (compute == "fp8")
        Run<dsv3::train::Fp8Training<P>, dsv3::codec::BFloat16>(args, config, fresh).run();
      else if (compute == "bf16" && args.value("--moments") == "bf16")
        Run<dsv3::train::FastTraining<P>, dsv3::codec::BFloat16>(args, config, fresh).run();
      else if (compute == "bf16")
        Run<dsv3::train::FastTraining<P>>(args, config, fresh).run();
      else
        Run<dsv3::train::Training<P>>(args, config, fresh).run();
    });
  });
}
