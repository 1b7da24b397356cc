// The snippets of docs/variants.md, each between // [name] and // [/name], and a check of what each of them claims.
#include <doctest/doctest.h>

#include <atomic>
#include <future>

#include "dsv3/dsv3.hpp"
#include "variants/tiny.hpp"

using namespace dsv3;

namespace {

// [storage]
struct AllBf16 : DeepSeekV3 {
  using Storage = Bf16;  // one type for every weight: no choice at run time, fewer instantiations
};
struct WithE5m2 : DeepSeekV3 {
  using Storage = OneOf<F32, Bf16, Dense<codec::E5m2>>;
};
// [/storage]

// [int8]
struct Int8 {  // a codec: number format
  using Code = std::int8_t;
  static constexpr bool exact_in_bf16 = true;
  static float decode(Code c) { return c; }
  static Code encode(float x) { return static_cast<Code>(std::lrint(std::clamp(x, -127.0f, 127.0f))); }
  template <class Arch>
  static simd::Floats<Arch> load(const Code* p) {
    return codec::load_partial<Int8, Arch>(p, simd::width<Arch>);
  }
};

struct Int8Rows {  // a storage: codes with one float scale a row
  using Codec = Int8;
  static constexpr bool scaled = true;
  static constexpr Index k_block = 128;

  struct View {
    using Storage = Int8Rows;
    const Int8::Code* data = nullptr;
    Index rows = 0, cols = 0, stride = 0;
    const float* scales = nullptr;  // [rows]

    const Int8::Code* row(Index i) const { return data + i * stride; }
    float scale(Index i, Index) const { return scales[i]; }
    Index uniform_rows(Index i) const { return i + 1; }
    View slice(Index begin, Index count) const { return {row(begin), count, cols, stride, scales + begin}; }
  };
};

struct Int8Model : DeepSeekV3 {
  using Storage = OneOf<F32, Int8Rows>;
};
// [/int8]

// [compute]
struct Fp8Model : DeepSeekV3 {
  using Compute = compute::Fp8Activations<ScaleFormat::power_of_two>;  // as DeepSeek-V3.1
};

struct Bf16Activations {
  template <WeightView W>
  static ConstMatrixView<float> prepare(Context&, Workspace::Scope& scope, ConstMatrixView<float> x, const W&) {
    auto y = scope.matrix<float>(x.rows(), x.cols());
    y = x.unaryExpr([](float v) { return codec::BFloat16::decode(codec::BFloat16::encode(v)); });
    return y;
  }
};
struct Bf16Model : DeepSeekV3 {
  using Compute = Bf16Activations;
};
// [/compute]

// [cache_format]
struct SmallCacheModel : DeepSeekV3 {
  using CacheFormat = cache_format::Fp8;  // 656 bytes a token and layer in the place of 2304
};
// [/cache_format]

// [norm]
template <class P>
class LayerNorm {
 public:
  LayerNorm(Index channels, double eps) : weight_{channels}, eps_(static_cast<float>(eps)) {}

  void forward(Context&, ConstMatrixView<float> x, MatrixView<float> y) const {
    using Arch = typename P::Arch;
    using Floats = simd::Floats<Arch>;
    const Index n = x.cols();
    for (Index t = 0; t < x.rows(); ++t) {
      const float total = simd::map_sum<Arch>([](const Floats& v, const Floats& sum) { return sum + v; }, n, x.row_data(t));
      const Floats mean(total / static_cast<float>(n));
      simd::map<Arch>([&](const Floats& v) { return v - mean; }, n, y.row_data(t), x.row_data(t));
      kernels::rms_norm_row<Arch>(y.row_data(t), weight_.values.data(), n, eps_, y.row_data(t));
    }
  }

  template <class Self, class Visit>
  static void for_each_tensor(Self& self, const std::string& prefix, Visit&& visit) {
    visit(prefix + "weight", self.weight_);
  }

 private:
  WeightVector weight_;
  float eps_;
};

struct LayerNormModel : DeepSeekV3 {
  template <class P>
  using Norm = LayerNorm<P>;
};
// [/norm]

// [rope_pairing]
struct HalvesModel : DeepSeekV3 {
  using RopePairing = rope::Halves;  // for config.rope_interleave == false
};
// [/rope_pairing]

// [rope_scaling]
/// Position interpolation: every frequency divided by the same factor.
struct LinearScaling : rope::Unscaled {
  static double frequency(const rope::Config& c, Index j) { return Unscaled::frequency(c, j) / (c.yarn ? c.yarn->factor : 1); }
};
struct LinearModel : DeepSeekV3 {
  using RopeScaling = LinearScaling;
};
// [/rope_scaling]

// [attention]
/// Latent attention with a learned gain for every channel of its output.
template <class P>
class GainMla {
 public:
  using Cache = typename Mla<P>::Cache;
  explicit GainMla(const Config& c) : mla_(c), gain_{c.hidden_size} {}

  void forward(Context& ctx, ConstMatrixView<float> x, const auto& rows, MatrixView<float> y) const {
    mla_.forward(ctx, x, rows, y);
    y.array().rowwise() *= gain_.values.array();
  }

  template <class Self, class Visit>
  static void for_each_tensor(Self& self, const std::string& prefix, Visit&& visit) {
    Mla<P>::for_each_tensor(self.mla_, prefix, visit);
    visit(prefix + "output_gain.weight", self.gain_);
  }

 private:
  Mla<P> mla_;
  WeightVector gain_;
};

struct GainModel : DeepSeekV3 {
  template <class P>
  using Attention = GainMla<P>;
};
// [/attention]

// [ffn]
/// W_down max(W_up x, 0)^2: no gate.
template <class P>
class SquaredRelu {
 public:
  SquaredRelu(Index hidden, Index inner) : up_(inner, hidden), down_(hidden, inner) {}

  static void forward_group(Context& ctx, std::span<const FfnJob<SquaredRelu>> jobs, const auto& rows) {
    for (const auto& job : jobs) {
      auto scope = ctx.scratch();
      auto h = scope.template matrix<float>(job.x.rows(), job.ffn->up_.out_features());
      job.ffn->up_.forward(ctx, job.x, rows, h);
      h = h.cwiseMax(0.0f).cwiseAbs2();
      job.ffn->down_.forward(ctx, h, rows, job.y);
    }
  }

  template <class Self, class Visit>
  static void for_each_tensor(Self& self, const std::string& prefix, Visit&& visit) {
    Linear<P>::for_each_tensor(self.up_, prefix + "up_proj.", visit);
    Linear<P>::for_each_tensor(self.down_, prefix + "down_proj.", visit);
  }

 private:
  Linear<P> up_, down_;
};

struct SquaredReluModel : DeepSeekV3 {
  template <class P>
  using DenseFfn = SquaredRelu<P>;
  template <class P>
  using ExpertFfn = SquaredRelu<P>;
};
// [/ffn]

// [feed_forward]
/// One dense network in every layer, in the place of the experts.
template <class P>
class DenseOnly {
 public:
  explicit DenseOnly(const Config& c) : ffn_(c.hidden_size, c.intermediate_size) {}

  void forward(Context& ctx, ConstMatrixView<float> x, const auto& rows, MatrixView<float> y) const { ffn_.forward(ctx, x, rows, y); }

  template <class Self, class Visit>
  static void for_each_tensor(Self& self, const std::string& prefix, Visit&& visit) {
    GatedFfn<P>::for_each_tensor(self.ffn_, prefix, visit);
  }

 private:
  GatedFfn<P> ffn_;
};

struct DenseModel : DeepSeekV3 {
  template <class P>
  using FeedForward = DenseOnly<P>;
};
// [/feed_forward]

// [block]
/// Attention and experts side by side, on one normalised input: x += Attn(n) + FFN(n) with n = Norm(x).
template <class P>
class ParallelBlock {
 public:
  using Attention = typename P::template Attention<P>;
  using Cache = typename Attention::Cache;
  using Norm = typename P::template Norm<P>;
  using Sparse = typename P::template FeedForward<P>;

  ParallelBlock(const Config& c, Index layer) : norm_(c.hidden_size, c.rms_norm_eps), attention_(c), ffn_(c, layer) {}

  static Index width(const Config& c) { return c.hidden_size; }

  void forward(Context& ctx, MatrixView<float> x, const auto& rows) const {
    auto scope = ctx.scratch();
    auto n = scope.template matrix<float>(x.rows(), x.cols());
    auto attended = scope.template matrix<float>(x.rows(), x.cols());
    auto fed = scope.template matrix<float>(x.rows(), x.cols());
    norm_.forward(ctx, x, n);
    attention_.forward(ctx, n, rows, attended);
    ffn_.forward(ctx, n, rows, fed);
    x += attended + fed;
  }

  template <class Self, class Visit>
  static void for_each_tensor(Self& self, const std::string& prefix, Visit&& visit) {
    Norm::for_each_tensor(self.norm_, prefix + "input_layernorm.", visit);
    Attention::for_each_tensor(self.attention_, prefix + "self_attn.", visit);
    Sparse::for_each_tensor(self.ffn_, prefix + "mlp.", visit);
  }

 private:
  Norm norm_;
  Attention attention_;
  Sparse ffn_;
};

struct ParallelModel : DeepSeekV3 {
  template <class P>
  using Block = ParallelBlock<P>;
};
// [/block]

// [mtp]
/// h' = Block(e + Norm(h)): a sum in the place of the projection.
template <class P>
class SummedMtp {
 public:
  using Block = typename P::template Block<P>;
  using Cache = typename Block::Cache;
  using Norm = typename P::template Norm<P>;

  SummedMtp(const Config& c, Index layer)
      : hnorm_(c.hidden_size, c.rms_norm_eps), block_(c, layer), head_norm_(c.hidden_size, c.rms_norm_eps) {}

  void forward(Context& ctx, ConstMatrixView<float> e, ConstMatrixView<float> h, const auto& rows, MatrixView<float> out) const {
    hnorm_.forward(ctx, h, out);
    out += e;
    block_.forward(ctx, out, rows);
  }
  void finish(Context& ctx, ConstMatrixView<float> h, MatrixView<float> x) const { head_norm_.forward(ctx, h, x); }

  template <class Self, class Visit>
  static void for_each_tensor(Self& self, const std::string& prefix, Visit&& visit) {
    Norm::for_each_tensor(self.hnorm_, prefix + "hnorm.", visit);
    Block::for_each_tensor(self.block_, prefix, visit);
    Norm::for_each_tensor(self.head_norm_, prefix + "shared_head.norm.", visit);
  }

 private:
  Norm hnorm_;
  Block block_;
  Norm head_norm_;
};

struct SummedMtpModel : DeepSeekV3 {
  template <class P>
  using Mtp = SummedMtp<P>;
};
// [/mtp]

// [mtp_input]
struct EarlyStateModel : DeepSeekV3 {
  static constexpr MtpInput mtp_input = MtpInput::before_final_norm;
};
// [/mtp_input]

#ifdef __SSE2__
// [arch]
struct Sse2Model : DeepSeekV3 {
  using Arch = xsimd::sse2;
};
// [/arch]
#endif

// [executor]
/// Starts its threads anew for every loop.
struct Threads {
  int threads;

  int workers() const { return threads; }
  void run(Index tasks, TaskRef f) const {
    std::atomic<Index> next = 0;
    std::vector<std::future<void>> pool;
    for (int worker = 0; worker < threads; ++worker)
      pool.push_back(std::async(std::launch::async, [&, worker] {
        for (Index task; (task = next++) < tasks;) f(task, worker);
      }));
    for (auto& thread : pool) thread.get();  // rethrows what a task threw
  }
};
// [/executor]

// [sampler]
/// The likeliest token that is not banned.
struct Without {
  std::vector<int> banned;

  int operator()(std::span<const float> logits) const {
    std::vector<float> allowed(logits.begin(), logits.end());
    for (const int id : banned) allowed[static_cast<std::size_t>(id)] = -std::numeric_limits<float>::infinity();
    return Greedy{}(allowed);
  }
};
// [/sampler]

// [tape]
/// Counts how often each expert of each layer is chosen.
struct ExpertLoads {
  Matrix<int> loads;  // [layers, experts]

  void record(point::Experts, Index layer, ConstMatrixView<int> ids) {
    for (Index i = 0; i < ids.size(); ++i) ++loads(layer, ids(i / ids.cols(), i % ids.cols()));
  }
};
// [/tape]

using test::InFloat32;

Config small_config() {
  Config c;
  c.vocab_size = 64;
  c.hidden_size = 32;
  c.intermediate_size = 48;
  c.moe_intermediate_size = 16;
  c.num_hidden_layers = 2;
  c.first_k_dense_replace = 1;
  c.num_attention_heads = c.num_key_value_heads = 2;
  c.q_lora_rank = 24;
  c.kv_lora_rank = 16;
  c.qk_nope_head_dim = c.v_head_dim = 16;
  c.qk_rope_head_dim = 8;
  c.n_routed_experts = 8;
  c.n_group = 4;
  c.topk_group = 2;
  c.num_experts_per_tok = 2;
  c.bos_token_id.reset();
  c.eos_token_id.clear();
  return c;
}

const std::vector<int> kText = {3, 14, 15, 9, 26, 5, 35, 8};

/// The last block's output for kText, and that of the first MTP module.
template <class P>
struct Run {
  explicit Run(const Model<P>& model, Context& ctx, MatrixView<float> out) {
    auto cache = model.make_cache({.max_tokens = 8});
    const typename Model<P>::Sequence all{kText, &cache};
    model.forward(ctx, {&all, 1}, out);
    const typename Model<P>::Sequence next{std::span(kText).subspan(1), &cache};
    mtp.resize(7, out.cols());
    model.mtp_forward(ctx, 0, {&next, 1}, out.slice(0, 7), view(mtp));
  }
  Matrix<float> mtp;
};

struct Result {
  Matrix<float> states, mtp;
};

template <class P>
Result run(const Model<P>& model) {
  Context ctx;
  Result r{Matrix<float>(8, model.config().hidden_size), {}};
  r.mtp = Run<P>(model, ctx, view(r.states)).mtp;
  return r;
}

/// A model with fresh weights; every variant gets the same values for the same sequence of tensors.
template <class P>
Model<P> make(const Config& c = small_config()) {
  static_assert(ModelPolicy<P>);
  Model<P> model(c);
  init_normal(model, 1, 0.1);
  return model;
}

template <class P>
Result run_fresh() {
  return run(make<InFloat32<P>>());
}

template <class P>
std::vector<std::string> names(const Model<P>& model) {
  std::vector<std::string> all;
  Model<P>::for_each_tensor(model, [&](const std::string& name, const auto&) { all.push_back(name); });
  return all;
}

bool has(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

double distance(const Matrix<float>& a, const Matrix<float>& b) {
  return static_cast<double>((a - b).cwiseAbs().maxCoeff()) / static_cast<double>(b.cwiseAbs().maxCoeff());
}

}  // namespace

TEST_CASE("storage") {
  static_assert(ModelPolicy<AllBf16> && ModelPolicy<WithE5m2> && ModelPolicy<Int8Model> && ModelPolicy<SmallCacheModel>);
  const auto exact = make<InFloat32<DeepSeekV3>>();
  auto model = make<Int8Model>();
  // [convert]
  Model<Int8Model>::for_each_tensor(model, [&]<class T>(const std::string& name, T& parameter) {
    if constexpr (requires { parameter.view; }) {
      if (!is_published_as_fp8(name)) return;
      struct Owned {
        Matrix<std::int8_t> codes;
        Vector<float> scales;
      };
      const auto& w = std::get<F32::View>(parameter.view);
      const auto owned = std::make_shared<Owned>(Owned{Matrix<std::int8_t>(w.rows, w.cols), Vector<float>(w.rows)});
      for (Index i = 0; i < w.rows; ++i) {
        const ConstMatrixView<float> row(w.row(i), 1, w.cols);
        const float scale = owned->scales[i] = row.cwiseAbs().maxCoeff() / 127;
        owned->codes.row(i) = row.unaryExpr([scale](float x) { return Int8::encode(x / scale); });
      }
      parameter.view = Int8Rows::View{owned->codes.data(), w.rows, w.cols, w.cols, owned->scales.data()};
      model.keep(owned);
    }
  });
  // [/convert]
  const Result found = run(model), expected = run(exact);
  CHECK(distance(found.states, expected.states) > 0);
  CHECK(distance(found.states, expected.states) < 0.05);
}

TEST_CASE("compute") {
  const Result exact = run_fresh<DeepSeekV3>(), rounded = run_fresh<Bf16Model>();
  CHECK(distance(rounded.states, exact.states) > 0);
  CHECK(distance(rounded.states, exact.states) < 0.05);
  CHECK(run_fresh<Fp8Model>().states == exact.states);  // applies to block-scaled weights only
}

TEST_CASE("norm") {
  Context ctx;
  LayerNorm<DeepSeekV3> norm(32, 0);
  LayerNorm<DeepSeekV3>::for_each_tensor(norm, "", [](const std::string&, auto& w) { w.values.setOnes(w.length); });
  Matrix<float> x = Matrix<float>::Random(3, 32), y(3, 32);
  norm.forward(ctx, view(x), view(y));
  for (Index t = 0; t < 3; ++t) {
    const Eigen::ArrayXd row = y.row(t).cast<double>().transpose();
    CHECK(std::abs(row.mean()) < 1e-6);
    CHECK(row.square().mean() == doctest::Approx(1));
  }
  CHECK(run_fresh<LayerNormModel>().states.allFinite());
}

TEST_CASE("rope") {
  Config halves = small_config();
  halves.rope_interleave = false;
  CHECK_NOTHROW(Model<HalvesModel>{halves});
  CHECK_THROWS_AS(Model<DeepSeekV3>{halves}, Error);

  const rope::Config plain{8, 10000, std::nullopt}, scaled{8, 10000, rope::Yarn{4}};
  const rope::Rotation<rope::Neighbours, rope::Unscaled> near(plain);
  const rope::Rotation<rope::Neighbours, LinearScaling> far(scaled);
  std::vector<float> a(8), b(8);
  near.angles(2, a.data());
  far.angles(8, b.data());
  CHECK(a == b);
  CHECK(run_fresh<LinearModel>().states != run_fresh<DeepSeekV3>().states);
}

TEST_CASE("attention") {
  const auto model = make<InFloat32<GainModel>>();
  CHECK(has(names(model), "model.layers.1.self_attn.output_gain.weight"));
  CHECK(run(model).states == run_fresh<DeepSeekV3>().states);  // a fresh gain is 1
}

TEST_CASE("feed-forward") {
  const auto squared = make<InFloat32<SquaredReluModel>>();
  CHECK(has(names(squared), "model.layers.1.mlp.experts.7.up_proj.weight"));
  CHECK(!has(names(squared), "model.layers.1.mlp.experts.7.gate_proj.weight"));
  CHECK(run(squared).states.allFinite());
  const auto dense = make<InFloat32<DenseModel>>();
  CHECK(has(names(dense), "model.layers.1.mlp.gate_proj.weight"));
  CHECK(run(dense).states.allFinite());
}

TEST_CASE("block and multi-token prediction") {
  CHECK(run_fresh<ParallelModel>().states.allFinite());
  const auto summed = make<InFloat32<SummedMtpModel>>();
  CHECK(!has(names(summed), "model.layers.2.eh_proj.weight"));
  CHECK(run(summed).mtp.allFinite());

  const Result late = run_fresh<DeepSeekV3>(), early = run_fresh<EarlyStateModel>();
  CHECK(early.states == late.states);
  CHECK(distance(early.mtp, late.mtp) < 1e-4);  // hnorm normalises what the final norm has scaled; fresh norms have weight 1
  CHECK(early.mtp != late.mtp);
#ifdef __SSE2__
  CHECK(distance(run_fresh<Sse2Model>().states, late.states) < 1e-5);
#endif
}

TEST_CASE("executor, sampler, tape") {
  const auto model = make<InFloat32<DeepSeekV3>>();
  // [run]
  const Threads threads{3};
  Context ctx(threads, /*min_parallel_work=*/0);  // 0: every loop is shared, however small
  auto cache = model.make_cache({.max_tokens = 16});
  std::vector<int> ids;
  const auto keep = [&](int id) {
    ids.push_back(id);
    return true;
  };
  generate(ctx, model, cache, kText, {.max_new_tokens = 4}, keep, Without{{7, 8}});
  // [/run]
  CHECK(ids.size() == 4);
  Context serial;
  auto again = model.make_cache({.max_tokens = 16});
  const std::vector<int> shared = std::exchange(ids, {});
  generate(serial, model, again, kText, {.max_new_tokens = 4}, keep, Without{{7, 8}});
  CHECK(ids == shared);
  again.clear();
  const auto differs = [&](int id) {
    CHECK(id != ids[0]);
    return true;
  };
  generate(serial, model, again, kText, {.max_new_tokens = 1}, differs, Without{{ids[0]}});

  again.clear();
  Matrix<float> h(8, 32);
  const Model<InFloat32<DeepSeekV3>>::Sequence sequence{kText, &again};
  // [watch]
  ExpertLoads watch{Matrix<int>::Zero(model.config().num_hidden_layers, model.config().n_routed_experts)};
  model.forward(serial, {&sequence, 1}, view(h), watch);
  // [/watch]
  CHECK(watch.loads.row(0).sum() == 0);  // a dense layer
  CHECK(watch.loads.row(1).sum() == 16);
}

TEST_CASE("experts of one's own under Fast: a prompt in one chunk or two gives the same bits, however few rows each expert gets") {
  const auto model = make<InFloat32<Fast<SquaredReluModel>>>();
  for (unsigned seed = 0; seed < 10; ++seed) {
    const std::vector<int> ids = test::Random(seed).ids(60, 64);
    const Matrix<float> whole = test::states(model, ids);
    for (const Index chunk : {20, 30}) CHECK(test::same_bits(test::states(model, ids, chunk), whole));
  }
}
