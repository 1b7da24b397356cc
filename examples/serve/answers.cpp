#include "answers.hpp"

namespace serve::inline DSV3_ISA {

void Answers::Channel::push(Event event) {
  const std::lock_guard lock(mutex);
  events.push_back(std::move(event));
  filled.notify_one();
}

Answers::Answers(Service& service, const ApiRequest& request) : service_(service) {
  const auto give_up = [this] {
    for (const auto id : ids_) service_.engine->cancel(id);
  };
  try {
    for (const dsv3::Request& prompt : request.prompts) {
      prompt_tokens_ += static_cast<dsv3::Index>(prompt.prompt.size());
      for (dsv3::Index i = 0; i < request.best_of; ++i) {
        dsv3::Request one = prompt;
        one.sampling.seed += static_cast<std::uint64_t>(i);
        const std::size_t answer = ids_.size();
        const auto id = service.engine->submit(
            std::move(one),
            [channel = channel_, answer](const dsv3::Token& token) {
              channel->push({answer, token.id, token.index, token.text, token.log_probabilities});
              return true;
            },
            [channel = channel_, answer](const dsv3::Finish& finish) {
              channel->push({answer, finish.stop_token, 0, finish.text, finish.stop_log_probabilities, finish});
            });
        if (!id) throw ApiError(429, "The server has as many requests as it can hold. Please try again later.", {}, "overloaded");
        ids_.push_back(*id);
      }
    }
  } catch (const dsv3::Error& e) {
    give_up();
    throw ApiError(400, e.what());
  } catch (...) {
    give_up();
    throw;
  }
  has_ended_.assign(ids_.size(), 0);
}

Answers::~Answers() {
  for (std::size_t i = 0; i < ids_.size(); ++i)
    if (!has_ended_[i]) service_.engine->cancel(ids_[i]);
  service_.metrics.add_request(std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count());
}

std::optional<Event> Answers::next(std::chrono::milliseconds timeout) {
  Event event;
  {
    std::unique_lock lock(channel_->mutex);
    channel_->filled.wait_for(lock, timeout, [&] { return !channel_->events.empty(); });
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    if (seconds > service_.limits.request_seconds)
      throw ApiError(
          408,
          "The request took longer than this server allows (" + std::to_string(static_cast<long>(service_.limits.request_seconds)) + " s).",
          {}, "timeout");
    if (channel_->events.empty()) return std::nullopt;
    event = std::move(channel_->events.front());
    channel_->events.pop_front();
    if (!first_token_) service_.metrics.add_first_token(seconds);
    first_token_ = true;
  }
  if (const auto& finish = event.finish) {
    has_ended_[event.answer] = 1;
    ++ended_;
    new_tokens_ += finish->stats.new_tokens;
    cached_tokens_ += finish->stats.cached_tokens;
    if (finish->reason == dsv3::FinishReason::error) throw ApiError(500, "The answer could not be computed: " + finish->error);
    if (finish->reason == dsv3::FinishReason::cancelled) throw ApiError(503, "The server is shutting down.", {}, "shutting_down");
  }
  return event;
}

}  // namespace serve::inline DSV3_ISA
