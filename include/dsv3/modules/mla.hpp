// Floor 4. Multi-head latent attention (eq. 1-11), absorbed and expanded.
//
// Absorbed: queries are carried into the latent space by W_UK and results out of it by W_UV, so that attention runs on the cache as it is.
// Expanded: keys and values of every head are computed from the cache first. Both give the same result up to rounding; absorbed is cheaper
// for few rows, expanded for many. W_UK and W_UV are rows of kv_b_proj and never stored a second time.
#pragma once

#include "dsv3/modules/mla_stages.hpp"

namespace dsv3::inline DSV3_ISA {

namespace mla {
/// Which of the two forms a call computes. `automatic`: absorbed for segments of at most 16 rows, else expanded. Only with `automatic` do a
/// row's bits depend on the size of its segment. Segments without a cache are always expanded.
enum class Form { absorbed, expanded, automatic };
inline constexpr Index automatic_rows = 16;
}  // namespace mla

/// Latent attention of a policy bundle P.
template <class P>
class Mla {
 public:
  using Cache = LatentCache<typename P::CacheFormat>;

  explicit Mla(const typename P::Config& c, Index layer = 0) : weights_(c, layer) {}

  /// Absorbed by default, so that a row's bits do not depend on the size of its segment; automatic if the compute policy's bits depend on
  /// the number of rows anyway.
  mla::Form form = mla::in_tiles<P> ? mla::Form::automatic : mla::Form::absorbed;

  /// x [T, D] -> y [T, D], y overwritten; the segments' latents are written to their caches.
  template <Tape T>
  void forward(Context& ctx, ConstMatrixView<float> x, const Rows<Cache, T>& rows, MatrixView<float> y) const {
    const mla::Heads& heads = weights_.heads;
    auto scope = ctx.scratch();
    auto q = scope.matrix<float>(x.rows(), heads.count * heads.query());
    auto o = scope.matrix<float>(x.rows(), heads.count * heads.value);
    auto kv = scope.matrix<float>(x.rows(), heads.rank + heads.rope);
    mla::project(ctx, weights_, x, rows, q, kv);
    mla::append(ctx, weights_, rows, q, kv);
    auto lse = records<T, point::LogSumExp> ? scope.matrix<float>(x.rows(), heads.count) : MatrixView<float>();
    const auto texts = scope.array<mla::Text>(std::ssize(rows.segments));  // segments without a cache
    std::size_t alone = 0;
    for (auto s = rows.segments.begin(); s != rows.segments.end();) {
      auto end = s + 1;
      if (!records<T, point::LogSumExp> && absorbed(*s)) {
        while (end != rows.segments.end() && absorbed(*end) && end->begin == (end - 1)->begin + (end - 1)->count) ++end;
        mla::attend_absorbed(ctx, weights_, std::span<const Segment<Cache>>(s, end), q, o);
      } else if (s->cache == nullptr) {
        texts[alone++] = {s->begin, s->count, s->begin, 0};
      } else if (s->count > 0) {
        expand(ctx, *s, rows, q.slice(s->begin, s->count), o.slice(s->begin, s->count),
               lse.rows() > 0 ? lse.slice(s->begin, s->count) : lse);
      }
      s = end;
    }
    if (alone > 0) mla::attend_expanded(ctx, weights_, rows, texts.first(alone), kv, q, o, lse);
    record(rows, point::LogSumExp{}, lse);
    record(rows, point::HeadsOutput{}, o);
    weights_.o_proj.forward(ctx, o, rows, y);
  }

  const mla::Weights<P>& weights() const { return weights_; }

  template <class Self, class Visit>
  static void for_each_tensor(Self& self, const std::string& prefix, Visit&& visit) {
    mla::Weights<P>::for_each_tensor(self.weights_, prefix, visit);
  }

 private:
  bool absorbed(const Segment<Cache>& s) const {
    if (s.cache == nullptr) return false;
    return form == mla::Form::absorbed || (form == mla::Form::automatic && s.count <= mla::automatic_rows);
  }

  void expand(Context& ctx, const Segment<Cache>& s, const Pass& pass, MatrixView<float> q, MatrixView<float> o,
              MatrixView<float> lse) const {
    auto scope = ctx.scratch();
    auto latents = scope.matrix<float>(s.position + s.count, weights_.heads.rank + weights_.heads.rope);
    mla::read_latents<typename P::Arch>(ctx, *s.cache, latents);
    const mla::Text text{0, s.count, 0, s.position};
    mla::attend_expanded(ctx, weights_, pass, {&text, 1}, latents, q, o, lse);
  }

  mla::Weights<P> weights_;
};

}  // namespace dsv3::inline DSV3_ISA
