// Floor 6. The loss of a model on texts, without gradients: nothing is kept, counted or learned.
#pragma once

#include "dsv3/model/model.hpp"
#include "dsv3/train/cross_entropy.hpp"
#include "dsv3/train/objective.hpp"

namespace dsv3::inline DSV3_ISA::train {

/// The mean cross-entropy of the next token over all targets of `samples` (spec T1). A pass has at most `pass_rows` rows, or one longer
/// sample. Throws: Error if the samples have no target.
template <class P>
[[nodiscard]] double evaluate(Context& ctx, const Model<P>& model, std::span<const Sample> samples, Index pass_rows = 2048) {
  const Index vocab = model.config().vocab_size;
  const Index chunk = std::clamp((Index{1} << 20) / vocab, Index{16}, Index{512});
  double sum = 0;
  Index targets = 0;
  for (std::size_t first = 0; first < samples.size();) {
    std::vector<std::span<const int>> texts;
    std::vector<std::pair<Index, int>> rows;  // row, target
    Index count = 0;
    for (; first < samples.size() && (count == 0 || count + std::ssize(samples[first].ids) <= pass_rows); ++first) {
      const Sample& s = samples[first];
      s.for_each_text([&](Index begin, Index n) {
        texts.push_back(s.ids.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(n)));
        for (Index t = 0; t + 1 < n; ++t)
          if (s.counts(begin + t + 1)) rows.emplace_back(count + t, s.ids[static_cast<std::size_t>(begin + t + 1)]);
        count += n;
      });
    }
    auto scope = ctx.scratch();
    auto h = scope.template matrix<float>(count, model.width()), some = scope.template matrix<float>(chunk, model.width()),
         logits = scope.template matrix<float>(chunk, vocab);
    const auto losses = scope.template array<double>(chunk);
    NoTape none;
    model.forward_texts(ctx, texts, h, none);
    for (Index at = 0; at < std::ssize(rows); at += chunk) {
      const Index n = std::min(chunk, std::ssize(rows) - at);
      for (Index i = 0; i < n; ++i) std::copy_n(h.row_data(rows[static_cast<std::size_t>(at + i)].first), h.cols(), some.row_data(i));
      model.logits(ctx, some.slice(0, n), logits.slice(0, n));
      ctx.parallel_for(n, n * vocab * 16, [&](Index i, int) {
        losses[static_cast<std::size_t>(i)] =
            cross_entropy_backward<typename P::Arch>(logits.row_data(i), vocab, rows[static_cast<std::size_t>(at + i)].second, 0);
      });
      for (Index i = 0; i < n; ++i) sum += losses[static_cast<std::size_t>(i)];
    }
    targets += std::ssize(rows);
  }
  require(targets > 0, "evaluate: the samples have no target");
  return sum / static_cast<double>(targets);
}

}  // namespace dsv3::inline DSV3_ISA::train
