#include "metrics.hpp"

#include <sstream>

namespace serve::inline DSV3_ISA {
namespace {

void describe(std::ostream& out, const std::string& name, const char* type, const std::string& help) {
  out << "# HELP " << name << ' ' << help << "\n# TYPE " << name << ' ' << type << '\n';
}

}  // namespace

void Histogram::add(double seconds) {
  for (std::size_t i = 0; i < bounds.size(); ++i) counts_[i] += seconds <= bounds[i];
  ++total_;
  sum_ += seconds;
}

std::string Histogram::text(const std::string& name, const std::string& help) const {
  std::ostringstream out;
  describe(out, name, "histogram", help);
  for (std::size_t i = 0; i < bounds.size(); ++i) out << name << "_bucket{le=\"" << bounds[i] << "\"} " << counts_[i] << '\n';
  out << name << "_bucket{le=\"+Inf\"} " << total_ << '\n' << name << "_sum " << sum_ << '\n' << name << "_count " << total_ << '\n';
  return out.str();
}

void Metrics::count_response(const std::string& path, int status) {
  const std::lock_guard lock(mutex_);
  ++responses_[{path, status}];
}

void Metrics::add_first_token(double seconds) {
  const std::lock_guard lock(mutex_);
  first_token_.add(seconds);
}

void Metrics::add_request(double seconds) {
  const std::lock_guard lock(mutex_);
  request_.add(seconds);
}

void Metrics::count_disconnect() {
  const std::lock_guard lock(mutex_);
  ++disconnects_;
}

std::string Metrics::text(const dsv3::SchedulerStats& s) const {
  std::ostringstream out;
  out.precision(12);
  const auto put = [&](const std::string& name, const char* type, auto value, const char* help) {
    describe(out, name, type, help);
    out << name << ' ' << value << '\n';
  };
  put("dsv3_sequences_running", "gauge", s.running, "Answers being computed.");
  put("dsv3_sequences_waiting", "gauge", s.queued, "Answers in the queue.");
  put("dsv3_cache_tokens", "gauge", s.cache_tokens, "Tokens of cache in use or kept.");
  put("dsv3_cache_kept_tokens", "gauge", s.kept_tokens, "Of these, kept for prompts that begin alike, as long as there is room.");
  put("dsv3_sequences_submitted_total", "counter", s.submitted, "Answers put into the queue.");
  put("dsv3_sequences_refused_total", "counter", s.refused, "Answers refused because the queue was full.");
  put("dsv3_sequences_finished_total", "counter", s.finished, "Answers that came to their end.");
  put("dsv3_sequences_cancelled_total", "counter", s.cancelled, "Answers given up: clients that left, timeouts, shutdown.");
  put("dsv3_sequences_preempted_total", "counter", s.preempted, "Times that an answer gave way to older ones, to be continued later.");
  put("dsv3_sequences_failed_total", "counter", s.failed, "Answers that ended with an error.");
  put("dsv3_prompt_tokens_total", "counter", s.prompt_tokens, "Prompt tokens of ended answers.");
  put("dsv3_cached_prompt_tokens_total", "counter", s.cached_tokens, "Of these, found in the cache.");
  put("dsv3_generated_tokens_total", "counter", s.new_tokens, "Tokens of ended answers.");
  put("dsv3_draft_tokens_total", "counter", s.drafted, "Drafts judged, of ended answers.");
  put("dsv3_accepted_draft_tokens_total", "counter", s.accepted, "Drafts accepted, of ended answers.");
  put("dsv3_steps_total", "counter", s.steps, "Passes over the weights.");
  put("dsv3_step_rows_total", "counter", s.rows, "Tokens and drafts that went through them.");
  put("dsv3_busy_seconds_total", "counter", s.busy_seconds, "Time spent computing.");
  const std::lock_guard lock(mutex_);
  put("dsv3_client_disconnects_total", "counter", disconnects_, "Requests whose client left before the end.");
  describe(out, "dsv3_http_responses_total", "counter", "Responses by path and status.");
  for (const auto& [key, count] : responses_)
    out << "dsv3_http_responses_total{path=\"" << key.first << "\",status=\"" << key.second << "\"} " << count << '\n';
  out << first_token_.text("dsv3_time_to_first_token_seconds", "From a request's arrival to its first token.");
  out << request_.text("dsv3_request_seconds", "From a request's arrival to the end of its answers.");
  return out.str();
}

}  // namespace serve::inline DSV3_ISA
