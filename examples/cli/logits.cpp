// dsv3-logits: everything a checkpoint computes from given tokens, for comparison with another implementation.
#include <cstring>

#include "cli.hpp"
#include "dsv3/dsv3.hpp"
#include "dsv3/io/load.hpp"
#include "dsv3/io/safetensors_writer.hpp"
#include "gradients.hpp"
#include "policy.hpp"

namespace {

using dsv3::ConstMatrixView;
using dsv3::Index;
using dsv3::Matrix;

constexpr const char* usage =
    "usage: dsv3-logits DIR --ids IN.safetensors (--out OUT.safetensors | --gradients OUT.safetensors) [options]\n\n"
    "Runs the checkpoint in DIR on `input_ids` [B, T] (int32 or int64) and writes, in float32,\n"
    "  logits [B, T, S]           of the token after each position\n"
    "  hidden.0 ... hidden.L      [B, T, D]: the embeddings, the residual stream after each layer, the last after the final norm\n"
    "  mtp.K.logits [B, T-1-K, S] of MTP module K: row i predicts token i + K + 2\n"
    "  --compute exact|fp8        float activations (default), or activations rounded to fp8 in groups of 128 as in the report\n"
    "  --absorbed | --expanded    form of latent attention (default absorbed); with exact products both give the same up to\n"
    "                             rounding\n"
    "With --gradients it writes loss [1], the mean cross-entropy of the next token, and grad.NAME of every tensor, instead:\n"
    "  --mtp-weight X             adds X times the mean of the MTP modules' losses (loss_main, loss_mtp are written too)\n"
    "  --balance-weight X         adds X times the sequence-wise balance losses of all layers\n"
    "  --threads N                default: all processors\n"
    "  --help                     prints this text\n"
    "Exit status: 0 done, 1 error, 2 wrong arguments.\n";

constexpr Index chunk = 512;  // rows of a forward pass: bounds scratch memory, changes no result

Matrix<int> read_ids(const std::string& path) {
  const auto file = dsv3::io::Safetensors::open(path);
  const auto* t = file.find("input_ids");
  dsv3::require(t != nullptr, path, ": tensor input_ids is missing");
  const bool wide = t->dtype == dsv3::io::Dtype::I64;
  dsv3::require(t->shape.size() == 2 && t->shape[0] > 0 && t->shape[1] > 0 && (wide || t->dtype == dsv3::io::Dtype::I32), path,
                ": input_ids: expected I32 or I64 of shape [B, T], got ", dsv3::io::name(t->dtype), " ", dsv3::shape_string(t->shape));
  Matrix<int> ids(t->shape[0], t->shape[1]);
  for (Index i = 0; i < ids.size(); ++i) {
    std::int64_t id = 0;
    std::memcpy(&id, t->data.data() + static_cast<std::size_t>(i) * (wide ? 8 : 4), wide ? 8 : 4);  // little-endian
    ids.data()[i] = wide ? static_cast<int>(std::clamp<std::int64_t>(id, -1, std::numeric_limits<int>::max()))
                         : static_cast<int>(static_cast<std::int32_t>(id));
  }
  return ids;
}

/// Copies the residual stream of every layer to its place.
struct KeepHidden {
  std::vector<Matrix<float>>& hidden;
  Index row;

  void record(dsv3::point::Hidden, Index layer, ConstMatrixView<float> x) {
    hidden[static_cast<std::size_t>(layer)].middleRows(row, x.rows()) = x;
  }
};

struct Results {
  std::vector<Matrix<float>> hidden, mtp_logits;
  Matrix<float> logits;
};

template <class P>
Results compute(dsv3::Context& ctx, const dsv3::Model<P>& model, const Matrix<int>& ids) {
  const dsv3::Config& c = model.config();
  const Index batch = ids.rows(), tokens = ids.cols();
  Results r;
  r.hidden.assign(static_cast<std::size_t>(c.num_hidden_layers) + 1, Matrix<float>(ids.size(), model.width()));
  r.logits.resize(ids.size(), c.vocab_size);
  for (Index k = 0; k < model.mtp_modules() && tokens > k + 1; ++k) r.mtp_logits.emplace_back(batch * (tokens - 1 - k), c.vocab_size);

  for (Index b = 0; b < batch; ++b) {
    auto cache = model.make_cache({tokens});
    Matrix<float> h(tokens, model.width());
    for (Index t = 0; t < tokens; t += chunk) {
      const Index n = std::min(chunk, tokens - t), row = b * tokens + t;
      const typename dsv3::Model<P>::Sequence s{{ids.data() + row, static_cast<std::size_t>(n)}, &cache};
      KeepHidden tape{r.hidden, row};
      model.forward(ctx, {&s, 1}, dsv3::view(h).slice(t, n), tape);
      model.logits(ctx, dsv3::view(h).slice(t, n), dsv3::view(r.logits).slice(row, n));
    }
    for (std::size_t k = 0; k < r.mtp_logits.size(); ++k) {
      const auto depth = static_cast<Index>(k);
      const Index rows = tokens - 1 - depth;
      for (Index t = 0; t < rows; t += chunk) {
        const Index n = std::min(chunk, rows - t);
        const typename dsv3::Model<P>::Sequence s{{ids.row(b).data() + t + depth + 1, static_cast<std::size_t>(n)}, &cache};
        auto part = dsv3::view(h).slice(t, n);
        model.mtp_forward(ctx, depth, {&s, 1}, part, part);
        model.mtp_logits(ctx, depth, part, dsv3::view(r.mtp_logits[k]).slice(b * rows + t, n));
      }
    }
  }
  Matrix<float> last(ids.size(), c.hidden_size);
  model.finish(ctx, dsv3::view(r.hidden.back()), dsv3::view(last));
  r.hidden.back() = std::move(last);
  return r;
}

template <class P>
void run(const cli::Args& args) {
  const auto ids = read_ids(*args.value("--ids"));
  auto model = dsv3::io::load<P>(args[0]);
  model.for_each_attention(
      [&](auto& attention) { attention.form = args.has("--expanded") ? dsv3::mla::Form::expanded : dsv3::mla::Form::absorbed; });
  const auto executor = cli::make_executor(args.threads());
  dsv3::Context ctx(executor);
  const Results r = compute(ctx, model, ids);

  std::vector<dsv3::io::Tensor> tensors;
  const auto add = [&](std::string name, const Matrix<float>& m) {
    tensors.push_back({std::move(name),
                       dsv3::io::Dtype::F32,
                       {ids.rows(), m.rows() / ids.rows(), m.cols()},
                       std::as_bytes(std::span(m.data(), static_cast<std::size_t>(m.size()))),
                       {}});
  };
  for (std::size_t i = 0; i < r.hidden.size(); ++i) add("hidden." + std::to_string(i), r.hidden[i]);
  add("logits", r.logits);
  for (std::size_t k = 0; k < r.mtp_logits.size(); ++k) add("mtp." + std::to_string(k) + ".logits", r.mtp_logits[k]);
  dsv3::io::write_safetensors(*args.value("--out"), tensors);
}

}  // namespace

int DSV3_MAIN(int argc, char** argv) {
  return cli::run("dsv3-logits", usage, [&] {
    const cli::Args args(argc, argv, 1, {"--ids", "--out", "--gradients", "--mtp-weight", "--balance-weight", "--compute", "--threads"},
                         {"--absorbed", "--expanded"});
    if (!args.has("--ids") || args.has("--out") == args.has("--gradients"))
      throw cli::UsageError("--ids and either --out or --gradients are needed");
    for (const char* option : {"--mtp-weight", "--balance-weight"})
      if (args.has(option) && !args.has("--gradients")) throw cli::UsageError(std::string(option) + " needs --gradients");
    if (args.has("--gradients") && args.has("--compute")) throw cli::UsageError("--gradients are computed exactly: no --compute");
    if (args.has("--absorbed") && args.has("--expanded")) throw cli::UsageError("--absorbed and --expanded exclude each other");
    const std::string arithmetic = args.value("--compute").value_or("exact");
    if (arithmetic != "exact" && arithmetic != "fp8") throw cli::UsageError("--compute: expected exact or fp8, got '" + arithmetic + "'");
    const dsv3::Config config = dsv3::io::read_config(args[0]);
    if (arithmetic == "fp8") return cli::with_fp8_policy(config, [&]<class P>(P) { run<P>(args); });
    dsv3::io::with_policy(config, [&]<class P>(P) {
      if (const auto out = args.value("--gradients"))
        cli::write_gradients<P>(args, read_ids(*args.value("--ids")), *out);
      else
        run<P>(args);
    });
  });
}
