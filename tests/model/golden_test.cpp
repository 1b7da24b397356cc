// Every golden case, every tensor there: computed by Hugging Face's implementation, in float32.
#include "support/checkpoint.hpp"

using namespace test;

namespace {

// max |a - b| / max |b| for a whole model in float32; docs/numerics.md.
constexpr double tolerance = 2e-5;

/// The same models, with MTP module 1 starting from the state it is given: the reference lists it after the final norm.
template <class P>
struct GivenState : P {
  static constexpr MtpInput mtp_input = MtpInput::before_final_norm;
};

struct Sorted {
  Matrix<int> experts;
  Matrix<float> weights;
};

/// Choices in ascending order of expert, as the reference lists them: the order within a set is not part of the result.
Sorted sorted_by_expert(const Matrix<int>& experts, const Matrix<float>& weights) {
  Sorted s{experts, weights};
  for (Index t = 0; t < experts.rows(); ++t) {
    std::vector<std::pair<int, float>> row;
    for (Index k = 0; k < experts.cols(); ++k) row.emplace_back(experts(t, k), weights(t, k));
    std::sort(row.begin(), row.end());
    for (Index k = 0; k < experts.cols(); ++k) std::tie(s.experts(t, k), s.weights(t, k)) = row[static_cast<std::size_t>(k)];
  }
  return s;
}

template <class P>
void check_case(const std::string& folder, mla::Form form) {
  Context ctx;
  auto model = io::load<P>(folder);
  set_form(model, form);
  const Config& c = model.config();
  const Reference golden(folder + "/golden.safetensors");
  const Matrix<int> ids = golden.ints("input_ids");

  std::vector<Cache<P>> caches;
  KeepAll tape;
  const Matrix<float> h = run_batch(ctx, model, ids, caches, tape);
  for (Index i = 0; i < c.num_hidden_layers; ++i) {
    CAPTURE(i);
    const std::string layer = "layers." + std::to_string(i) + ".";
    const Matrix<float> entering = golden.floats("hidden." + std::to_string(i));
    CHECK(relative_error(tape.at(i, "hidden"), entering) <= tolerance);
    if (golden.has(layer + "experts"))
      CHECK(sorted_by_expert(tape.ints.at({i, "experts"}), tape.at(i, "weights")).experts == golden.ints(layer + "experts"));

    // The block by itself, from the reference's state: what layers before it were off by is not its error (docs/numerics.md).
    Matrix<float> x = entering;
    std::vector<Cache<P>> fresh;
    std::vector<Segment<typename Cache<P>::Layer>> segments;
    for (Index b = 0; b < ids.rows(); ++b) fresh.push_back(model.make_cache({ids.cols()}));
    for (Index b = 0; b < ids.rows(); ++b)
      segments.push_back({b * ids.cols(), ids.cols(), 0, &fresh[static_cast<std::size_t>(b)].layer(i)});
    KeepAll block;
    model.blocks()[static_cast<std::size_t>(i)].forward(ctx, view(x),
                                                        Rows<typename Cache<P>::Layer, KeepAll>{{x.rows(), i}, {}, {}, segments, &block});
    CHECK(relative_error(block.at(i, "attn"), golden.floats(layer + "attn")) <= tolerance);
    CHECK(relative_error(block.at(i, "mlp"), golden.floats(layer + "mlp")) <= tolerance);
    if (golden.has(layer + "experts")) {
      const Sorted found = sorted_by_expert(block.ints.at({i, "experts"}), block.at(i, "weights"));
      CHECK(found.experts == golden.ints(layer + "experts"));
      CHECK(relative_error(found.weights, golden.floats(layer + "weights")) <= tolerance);
    }
  }
  Matrix<float> normed(h.rows(), h.cols());
  model.final_norm().forward(ctx, view(h), view(normed));
  CHECK(relative_error(normed, golden.floats("hidden." + std::to_string(c.num_hidden_layers))) <= tolerance);
  CHECK(relative_error(logits(ctx, model, h), golden.floats("logits")) <= tolerance);

  // MTP module k sees position i with token i + k + 1, so each depth has one row a sequence less.
  Matrix<float> previous = golden.floats("hidden." + std::to_string(c.num_hidden_layers));
  Index tokens = ids.cols();
  for (Index k = 0; k < model.mtp_modules(); ++k, --tokens) {
    CAPTURE(k);
    std::vector<typename Model<P>::Sequence> batch;
    Matrix<float> in(ids.rows() * (tokens - 1), c.hidden_size), out(in.rows(), in.cols()), found(in.rows(), c.vocab_size);
    for (Index b = 0; b < ids.rows(); ++b) {
      in.middleRows(b * (tokens - 1), tokens - 1) = previous.middleRows(b * tokens, tokens - 1);
      batch.push_back({{ids.row(b).data() + k + 1, static_cast<std::size_t>(tokens - 1)}, &caches[static_cast<std::size_t>(b)]});
    }
    model.mtp_forward(ctx, k, batch, view(in), view(out));
    const std::string mtp = "mtp." + std::to_string(k) + ".";
    previous = golden.floats(mtp + "hidden");
    CHECK(relative_error(out, previous) <= tolerance);
    model.mtp_logits(ctx, k, view(previous), view(found));
    CHECK(relative_error(found, golden.floats(mtp + "logits")) <= tolerance);
  }

  // 200 tokens, past the original context of YaRN.
  const Reference longer(folder + "/long.safetensors");
  NoTape none;
  const Matrix<float> last = run_batch(ctx, model, longer.ints("input_ids"), caches, none).bottomRows(1);
  CHECK(relative_error(logits(ctx, model, last), longer.floats("last_logits")) <= tolerance);
}

}  // namespace

TEST_CASE("golden checkpoints") {
  for (const auto form : {mla::Form::absorbed, mla::Form::expanded, mla::Form::automatic}) {
    CAPTURE(static_cast<int>(form));
    for (const std::string name : {"v3-tiny", "v3-noq", "v3-odd", "v3-fp8"}) {
      CAPTURE(name);
      check_case<GivenState<DeepSeekV3>>(DSV3_TEST_DATA "/golden/" + name, form);
    }
    check_case<GivenState<DeepSeekV2>>(DSV3_TEST_DATA "/golden/v2-lite", form);
  }
}
