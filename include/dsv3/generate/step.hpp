// Floor 6. One step of generation for any number of sequences: a pass over the weights that prefills, decodes and verifies drafts, then
// the MTP modules, which propose the next drafts.
//
// Which sequences take part, and with how many tokens, is the caller's decision: complete.hpp has one sequence, scheduler.hpp many. No
// sequence's logits depend on the others in the step.
//
// Notation: a sequence knows tokens t_0 ... t_n, of which its cache holds the first n; h_i is the main model's state at position i. MTP
// module k at position i sees the state of module k - 1 (h_i for k = 0) and t_{i+k+1}, and gives the logits of t_{i+k+2}. So at position
// n - 1 module 0 drafts t_{n+1}, module 1 sees that draft and proposes t_{n+2}, and so on (eq. 21-25). For more drafts than modules, the
// last module is used again: one position further, with its own last state as the previous depth's state. Those rows are removed from its
// cache after drafting, and rows that have seen a rejected draft are computed again.
#pragma once

#include <exception>
#include <utility>
#include <vector>

#include "dsv3/generate/answer.hpp"
#include "dsv3/model/language_model.hpp"

namespace dsv3::inline DSV3_ISA {

/// A sequence between two steps: its answer, its cache (not owned), which holds a prefix of the answer's text, and the states that the MTP
/// modules have not seen yet.
template <LanguageModel M>
class RunningSequence {
 public:
  /// The cache may already hold the first tokens of the prompt. It is truncated: one token must be left for the pass that gives the first
  /// logits; if `depth` > 0, tokens that the MTP modules have not seen must be computed again; and if the prompt's logits are needed, all
  /// of them.
  RunningSequence(Answer a, typename M::Cache& c, Index depth) : answer(std::move(a)), cache(&c) {
    Index modules = 0;
    if constexpr (Speculative<M>) modules = std::min(depth, c.mtp_modules());
    const Index kept = answer.reports_prompt() ? 0 : std::min(tokens_seen(c, modules), answer.size() - 1);
    if (kept < c.size()) c.truncate(kept, c.size());
    states_begin = kept;
    if (answer.stats().passes == 0) answer.stats().cached_tokens = std::min(kept, answer.stats().prompt_tokens);
  }

  /// Known tokens that the cache does not hold: 1 if the sequence is decoding.
  Index waiting() const { return answer.size() - cache->size(); }
  /// Upper bound of the sequence's rows in the next step.
  Index rows() const { return waiting() + answer.drafts(); }

  Answer answer;
  typename M::Cache* cache;
  Matrix<float> states{};  // of the main model, positions [states_begin, cache->size())
  Index states_begin = 0;
};

/// A sequence's part in a step: its next `tokens` waiting tokens, 1 <= tokens <= waiting(). If these are all, its drafts are verified in
/// the same step.
template <LanguageModel M>
struct StepWork {
  RunningSequence<M>* sequence = nullptr;
  Index tokens = 0;
};

namespace detail {

/// Reports prompt tokens from the states h that a step has computed for positions [begin, begin + h.rows()). Computes logits of a few rows
/// at a time, because the vocabulary is large.
template <LanguageModel M>
void report_prompt(Context& ctx, const M& model, RunningSequence<M>& s, Index begin, ConstMatrixView<float> h) {
  constexpr Index most = 32;
  auto scope = ctx.scratch();
  auto logits = scope.template matrix<float>(std::min(most, h.rows()), model.config().vocab_size);
  try {
    for (Index at = 0; at < h.rows() && s.answer.reports_prompt(begin + at) && !s.answer.finish(); at += most) {
      const auto some = logits.slice(0, std::min(most, h.rows() - at));
      model.logits(ctx, h.slice(at, some.rows()), some);
      require(some.allFinite(), "generate: the logits after token ", begin + at + 1, " or one of the next ", some.rows() - 1,
              " are not finite: NaN or infinite weights?");
      s.answer.report_prompt(begin + at, some);
    }
  } catch (const std::exception& e) {
    s.answer.end(FinishReason::error, e.what());
  } catch (...) {
    s.answer.end(FinishReason::error, "a callback threw what is no std::exception");
  }
}

/// The MTP modules' part of a step.
template <Speculative M>
class Drafting {
 public:
  Drafting(Context& ctx, const M& model, std::span<const StepWork<M>> work, Index depth)
      : ctx_(ctx), model_(model), depth_(depth), modules_(std::min(depth, model.mtp_modules())) {
    for (const auto& w : work)
      if (!w.sequence->answer.finish()) add(*w.sequence);
  }

  void run() {
    auto scope = ctx_.scratch();
    Index rows = 0;
    for (const Part& p : parts_) rows += p.rows;
    auto h = scope.template matrix<float>(rows, model_.width());
    gather_states(h);
    for (Index k = 0; k < depth_ && !parts_.empty(); ++k) {
      const Index module = std::min(k, modules_ - 1);
      std::vector<typename M::Sequence> batch;
      for (const Part& p : parts_) {
        const auto ids = p.sequence->answer.ids_and_drafts();
        batch.push_back({ids.subspan(static_cast<std::size_t>(p.begin + k + 1), static_cast<std::size_t>(p.rows)), p.sequence->cache});
      }
      model_.mtp_forward(ctx_, module, batch, h.slice(0, rows), h.slice(0, rows));
      draft(module, h);
      rows = keep_going(k + 1, h);
    }
    for (const Part& p : all_) {  // beyond the cache, the last module has seen only drafts
      typename M::Cache& c = *p.sequence->cache;
      c.truncate_mtp(modules_ - 1, std::min(c.mtp_size(modules_ - 1), c.size()));
    }
  }

 private:
  struct Part {
    RunningSequence<M>* sequence;
    Index begin, rows;  // positions [begin, begin + rows) of the module
    Index drafts;       // to be made; 0 while the prompt is not complete
    bool going = true;
  };

  void add(RunningSequence<M>& s) {
    typename M::Cache& c = *s.cache;
    // No drafts before the first new token, and none if some exist: drafts, and so the tokens drawn, must not depend on how the prompt was
    // cut into steps.
    const bool decoding = s.waiting() == 1 && s.answer.stats().new_tokens > 0 && s.answer.drafts() == 0;
    Part p{&s, c.size(), 0, 0};
    if (decoding) p.drafts = std::min({depth_, s.answer.left() - 1, c.max_tokens() - c.size() - 1});
    for (Index k = 0; k < modules_; ++k) p.begin = std::min(p.begin, c.mtp_size(k));
    for (Index k = 0; k < modules_; ++k) c.truncate_mtp(k, p.begin);
    forget_states(s, p.begin);
    // While the prompt is not complete: only rows for which every module's token is known.
    p.rows = (decoding ? c.size() : std::min(c.size(), s.answer.size() - modules_)) - p.begin;
    if (p.rows <= 0 || (decoding && p.drafts <= 0)) return;
    parts_.push_back(p);
    all_.push_back(p);
  }

  static void forget_states(RunningSequence<M>& s, Index begin) {
    const Index gone = begin - s.states_begin;
    s.states = Matrix<float>(s.states.bottomRows(s.states.rows() - gone));
    s.states_begin = begin;
  }

  void gather_states(MatrixView<float> h) const {
    Index row = 0;
    for (const Part& p : parts_) {
      h.slice(row, p.rows) = p.sequence->states.topRows(p.rows);
      row += p.rows;
    }
  }

  // Drafts of the sequences that want one, from their last rows.
  void draft(Index module, ConstMatrixView<float> h) {
    auto scope = ctx_.scratch();
    Index count = 0, row = 0;
    for (const Part& p : parts_) count += p.drafts > 0;
    auto last = scope.template matrix<float>(count, h.cols());
    auto logits = scope.template matrix<float>(count, model_.config().vocab_size);
    count = 0;
    for (const Part& p : parts_) {
      row += p.rows;
      if (p.drafts > 0) std::copy_n(h.row_data(row - 1), h.cols(), last.row_data(count++));
    }
    if (count == 0) return;
    model_.mtp_logits(ctx_, module, last, logits);
    count = 0;
    for (Part& p : parts_)
      if (p.drafts > 0)
        p.going = p.sequence->answer.draft({logits.row_data(count++), static_cast<std::size_t>(logits.cols())}) &&
                  p.sequence->answer.drafts() < p.drafts;
  }

  // Keeps only the sequences that take part in pass `next`, and moves their rows to the start of h. Returns the number of these rows.
  Index keep_going(Index next, MatrixView<float> h) {
    const bool again = next >= modules_;
    std::vector<Part> going;
    Index from = 0, to = 0;
    for (Part p : parts_) {
      const Index rows = p.rows;
      if (p.going && (!again || p.drafts > 0)) {
        if (again) {
          p.begin += rows - 1;
          p.rows = 1;
        }
        if (const Index source = from + rows - p.rows; source != to) std::copy_n(h.row_data(source), p.rows * h.cols(), h.row_data(to));
        to += p.rows;
        going.push_back(p);
      }
      from += rows;
    }
    parts_ = std::move(going);
    return to;
  }

  Context& ctx_;
  const M& model_;
  Index depth_, modules_;
  std::vector<Part> parts_, all_;
};

/// Chooses tokens from the `logits` of a sequence's last rows, and removes the rejected drafts from its cache.
template <LanguageModel M>
void verify(RunningSequence<M>& s, ConstMatrixView<float> logits) {
  try {
    require(logits.allFinite(), "generate: the logits after token ", s.answer.size(),
            " are not finite: NaN or infinite weights in lm_head?");
    s.answer.verify(logits);
  } catch (const std::exception& e) {
    s.answer.end(FinishReason::error, e.what());
  } catch (...) {
    s.answer.end(FinishReason::error, "a callback threw what is no std::exception");
  }
  s.cache->truncate(s.answer.size() - 1);
}

}  // namespace detail

/// One step for the sequences of `work`, none of which has finished; `depth` is the number of drafts for each, any number if the model
/// has an MTP module, else 0. A sequence whose waiting tokens are all in the step gets one or more new ones. An answer whose processor
/// or callback throws ends with FinishReason::error.
/// Throws: Error if depth is not 0 and there are no MTP modules, if a cache is full, or if the model computes values that are not finite;
/// the sequences of the step must be dropped then.
template <LanguageModel M>
void generation_step(Context& ctx, const M& model, std::span<const StepWork<M>> work, Index depth) {
  require(depth >= 0 && (depth == 0 || mtp_modules(model) > 0),
          "speculation: expected a depth of at least 0, and of 0 for a model without MTP modules, got ", depth);
  auto scope = ctx.scratch();
  const auto choices = scope.template array<Index>(static_cast<Index>(work.size()));  // rows at each sequence's end that need logits
  std::vector<typename M::Sequence> batch;
  Index rows = 0, wanted = 0;
  for (std::size_t i = 0; i < work.size(); ++i) {
    const auto& [s, tokens] = work[i];
    if (tokens == s->waiting()) choices[i] = 1 + s->answer.drafts();
    const Index count = tokens + std::max(choices[i] - 1, Index{0});
    batch.push_back(
        {s->answer.ids_and_drafts().subspan(static_cast<std::size_t>(s->cache->size()), static_cast<std::size_t>(count)), s->cache});
    rows += count;
    wanted += choices[i];
  }
  auto h = scope.template matrix<float>(rows, model.width());
  auto last = scope.template matrix<float>(wanted, h.cols());
  auto logits = scope.template matrix<float>(wanted, model.config().vocab_size);
  model.forward(ctx, batch, h);

  Index row = 0, choice = 0;
  for (std::size_t i = 0; i < work.size(); ++i) {
    const auto count = static_cast<Index>(batch[i].ids.size());
    if (RunningSequence<M>& s = *work[i].sequence; s.answer.reports_prompt(s.cache->size() - count))
      detail::report_prompt(ctx, model, s, s.cache->size() - count, h.slice(row, count));
    row += count;
    last.slice(choice, choices[i]) = h.slice(row - choices[i], choices[i]);
    choice += choices[i];
  }
  if (wanted > 0) model.logits(ctx, last, logits);

  row = choice = 0;
  for (std::size_t i = 0; i < work.size(); ++i) {
    RunningSequence<M>& s = *work[i].sequence;
    const Index count = static_cast<Index>(batch[i].ids.size()), before = s.cache->size() - count;
    if (choices[i] > 0 && !s.answer.finish()) detail::verify(s, logits.slice(choice, choices[i]));
    if (depth > 0) {
      Matrix<float> states(s.cache->size() - s.states_begin, h.cols());
      if (s.states.rows() > 0) states.topRows(before - s.states_begin) = s.states;
      states.bottomRows(s.cache->size() - before) = h.slice(row, s.cache->size() - before);
      s.states = std::move(states);
    }
    row += count;
    choice += choices[i];
  }
  if constexpr (Speculative<M>)
    if (depth > 0) detail::Drafting<M>(ctx, model, work, depth).run();
}

}  // namespace dsv3::inline DSV3_ISA
