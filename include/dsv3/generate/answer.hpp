// Floor 6. An answer while it is generated: its text, the drafted tokens after it, and the decision which drafts to accept.
//
// Knows logits but no model. Speculative sampling is that of Leviathan et al., "Fast inference from transformers via speculative decoding",
// 2023: whatever proposes drafts, the text's distribution is the same as without drafts.
#pragma once

#include <algorithm>
#include <optional>
#include <utility>

#include "dsv3/core/matrix.hpp"
#include "dsv3/generate/request.hpp"
#include "dsv3/generate/stop_matcher.hpp"

namespace dsv3::inline DSV3_ISA {

/// How a drafted token x is accepted. p is the model's distribution after all processors, q the draft's. At temperature 0 both ways give
/// the same text as without drafts.
///   rejection:   x is accepted with probability min(1, p(x) / q(x)), else a token is drawn from max(p - q, 0). Accepts the most.
///   same_choice: the token is drawn as without drafts; x is accepted if it is the same. Accepts less, but a seed's text is the
///                same with and without speculation.
enum class Verification { rejection, same_choice };

/// The state of one request from its prompt to its end.
class Answer {
 public:
  /// `capacity` is the number of tokens that the cache can hold.
  /// Throws: Error if the request does not fit the model or the cache, or asks for stop strings without `token_bytes`.
  Answer(Request request, const Config& c, Index capacity, OnToken on_token = {}, TokenBytes token_bytes = {},
         Verification verification = Verification::rejection)
      : request_(std::move(request)),
        on_token_(std::move(on_token)),
        token_bytes_(std::move(token_bytes)),
        verification_(verification),
        stop_matcher_(request_.stop_strings),
        ids_(request_.prompt),
        known_(static_cast<Index>(ids_.size())) {
    require(!ids_.empty(), "request: prompt: expected at least one token");
    for (const int id : ids_)
      require(id >= 0 && id < c.vocab_size, "request: prompt: expected token ids in [0, ", c.vocab_size, "), got ", id);
    require(known_ <= capacity, "request: the prompt has ", known_, " tokens, the cache has room for ", capacity);
    require(request_.max_new_tokens >= 0, "request: max_new_tokens: expected at least 0, got ", request_.max_new_tokens);
    require(request_.stop_strings.empty() || token_bytes_, "request: stop_strings need the tokens' bytes, which were not given");
    if (const auto n = request_.log_probabilities)
      require(*n >= 0 && *n <= Request::max_log_probabilities, "request: log_probabilities: expected 0 to ", Request::max_log_probabilities,
              ", got ", *n);
    validate(request_.sampling, c.vocab_size);
    pipeline_ = sampling::Pipeline(request_.sampling, request_.processors);
    if (!request_.stop_tokens) request_.stop_tokens = c.eos_token_id;
    stats_.prompt_tokens = known_;
    limit_ = std::min(request_.max_new_tokens, capacity - known_ + 1);  // the last token need not go into the cache
  }

  /// Prompt and answer so far.
  std::span<const int> ids() const { return std::span(ids_).first(static_cast<std::size_t>(known_)); }
  Index size() const { return known_; }
  /// The same, followed by the drafts.
  std::span<const int> ids_and_drafts() const { return ids_; }
  Index drafts() const { return static_cast<Index>(ids_.size()) - known_; }
  /// Tokens that may still be generated.
  Index left() const { return limit_ - stats_.new_tokens; }
  /// Whether the logits after the token at `position` are to be given to report_prompt().
  bool reports_prompt(Index position = 0) const {
    return request_.report_prompt && prompt_reported_ < stats_.prompt_tokens && position < stats_.prompt_tokens;
  }

  const Request& request() const { return request_; }
  GenerationStats& stats() { return stats_; }
  /// Set when the answer has ended.
  const std::optional<Finish>& finish() const { return finish_; }

  /// Ends the answer.
  void end(FinishReason reason, std::string error = {}) {
    ids_.resize(static_cast<std::size_t>(known_));
    finish_ = Finish{reason, stop_matcher_.finish(), std::move(error), stats_, -1, {}};
  }

  /// Proposes the token after ids_and_drafts() from a draft's logits [S]. Returns whether another draft makes sense.
  bool draft(std::span<const float> logits) {
    auto& q = draft_distribution(drafts());
    try {
      pipeline_.distribution(text(ids_.size()), logits, q);
    } catch (const Error&) {  // constraints that leave no token are an error only if the answer gets there
      return false;
    }
    const Index token = static_cast<Index>(ids_.size()) - stats_.prompt_tokens;
    const auto purpose = verification_ == Verification::rejection ? sampling::Draw::draft : sampling::Draw::choice;
    ids_.push_back(sampling::draw(q, sampling::uniform(request_.sampling.seed, token, purpose)));
    return !is_stop(ids_.back());
  }

  /// logits [n, S] after the prompt's tokens from `begin` on: reports the prompt tokens that follow these, and before them, if `begin` is
  /// 0, the first prompt token, which has no logits. Throws: what callbacks throw; the answer must not be continued then.
  void report_prompt(Index begin, ConstMatrixView<float> logits) {
    if (begin == 0) report_prompt_token(0, {});
    for (Index i = 0; i < logits.rows() && begin + i + 1 < stats_.prompt_tokens && !finish_; ++i)
      report_prompt_token(begin + i + 1, {logits.row_data(i), static_cast<std::size_t>(logits.cols())});
  }

  /// logits [1 + drafts, S] of the tokens after ids() and after each draft: adds the accepted drafts and the token after them, and drops
  /// the other drafts. Each token is reported before the next is chosen.
  /// Throws: Error if no token can be chosen, and what processors and callbacks throw; the answer must not be continued then.
  void verify(ConstMatrixView<float> logits) {
    if (left() == 0) return end(FinishReason::max_new_tokens);  // none was asked for
    ++stats_.passes;
    const Index drafted = drafts();
    for (Index j = 0; j <= drafted && !finish_; ++j) {
      const std::span<const float> row(logits.row_data(j), static_cast<std::size_t>(logits.cols()));
      pipeline_.distribution(text(static_cast<std::size_t>(known_)), row, p_);
      int id = 0;
      if (j == drafted) {
        id = choose(p_);
      } else {
        const int proposed = ids_[static_cast<std::size_t>(known_)];
        ++stats_.drafted;
        id = judge(proposed, draft_distribution(j));
        if (id == proposed)
          ++stats_.accepted;
        else
          ids_.resize(static_cast<std::size_t>(known_));
      }
      const bool agreed = static_cast<Index>(ids_.size()) > known_;
      if (!agreed) ids_.push_back(id);
      add(id, row);
      if (!agreed) break;
    }
    ids_.resize(static_cast<std::size_t>(known_));
  }

 private:
  TextSoFar text(std::size_t size) const { return {std::span(ids_).first(size), static_cast<std::size_t>(stats_.prompt_tokens)}; }
  bool is_stop(int id) const {
    return std::find(request_.stop_tokens->begin(), request_.stop_tokens->end(), id) != request_.stop_tokens->end();
  }
  double uniform(sampling::Draw purpose) const { return sampling::uniform(request_.sampling.seed, known_ - stats_.prompt_tokens, purpose); }
  std::vector<double>& draft_distribution(Index j) {
    if (draft_p_.size() <= static_cast<std::size_t>(j)) draft_p_.resize(static_cast<std::size_t>(j) + 1);
    return draft_p_[static_cast<std::size_t>(j)];
  }

  int choose(std::span<const double> weights) const { return sampling::draw(weights, uniform(sampling::Draw::choice)); }

  // The token in the place of the draft `proposed`, which was drawn from q. It equals the draft only if the draft is accepted.
  int judge(int proposed, std::vector<double>& q) {
    const auto x = static_cast<std::size_t>(proposed);
    if (verification_ == Verification::same_choice) return choose(p_);
    if (uniform(sampling::Draw::acceptance) * q[x] < p_[x]) return proposed;
    double total = 0;
    for (std::size_t i = 0; i < q.size(); ++i) total += q[i] = std::max(p_[i] - q[i], 0.0);
    return choose(total > 0 ? q : p_);
  }

  std::optional<sampling::LogProbabilities> log_probabilities(std::span<const float> logits, int id) const {
    if (!request_.log_probabilities) return std::nullopt;
    return sampling::log_probabilities(logits, id, *request_.log_probabilities);
  }

  void report_prompt_token(Index at, std::span<const float> logits) {
    if (at < prompt_reported_) return;  // the sequence was preempted, and its prompt is computed again
    ++prompt_reported_;
    const int id = ids_[static_cast<std::size_t>(at)];
    Token token{id, at - stats_.prompt_tokens, token_bytes_ ? std::string(token_bytes_(id)) : std::string(), logits, {}};
    if (!logits.empty()) token.log_probabilities = log_probabilities(logits, id);
    if (on_token_ && !on_token_(token)) end(FinishReason::cancelled);
  }

  // Adds the token ids_[known_] to the answer.
  void add(int id, std::span<const float> logits) {
    if (is_stop(id)) {
      end(FinishReason::stop_token);
      finish_->stop_token = id;
      finish_->stop_log_probabilities = log_probabilities(logits, id);
      return;
    }
    Token token{id, stats_.new_tokens, token_bytes_ ? stop_matcher_.push(token_bytes_(id)) : std::string(), logits, {}};
    token.log_probabilities = log_probabilities(logits, id);
    ++known_;
    ++stats_.new_tokens;
    const bool go_on = !on_token_ || on_token_(token);
    if (stop_matcher_.stopped()) return end(FinishReason::stop_string);
    if (!go_on) return end(FinishReason::cancelled);
    if (left() == 0) return end(limit_ < request_.max_new_tokens ? FinishReason::cache_full : FinishReason::max_new_tokens);
  }

  Request request_;
  OnToken on_token_;
  TokenBytes token_bytes_;
  Verification verification_;
  StopMatcher stop_matcher_;
  std::vector<int> ids_;  // known tokens, then drafts
  Index known_, limit_ = 0, prompt_reported_ = 0;
  sampling::Pipeline pipeline_;
  std::vector<double> p_;
  std::vector<std::vector<double>> draft_p_;
  GenerationStats stats_;
  std::optional<Finish> finish_;
};

}  // namespace dsv3::inline DSV3_ISA
