// The answers to one request on their way from the engine's thread to the client's.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "api_request.hpp"
#include "dsv3/core/isa.hpp"

namespace serve::inline DSV3_ISA {

/// A token of an answer or, with a negative index, of its prompt; or the answer's end, with the stop token if there was one.
struct Event {
  std::size_t answer = 0;
  int id = -1;            ///< of a token
  dsv3::Index index = 0;  ///< as dsv3::Token has it
  std::string text;
  std::optional<dsv3::sampling::LogProbabilities> log_probabilities{};
  std::optional<dsv3::Finish> finish{};
};

/// Submits all answers of a request; gives up those that have not ended when it is destroyed.
class Answers {
 public:
  /// Throws: ApiError with status 429 if the queue is full.
  Answers(Service& service, const ApiRequest& request);
  ~Answers();
  Answers(const Answers&) = delete;
  Answers& operator=(const Answers&) = delete;

  std::size_t count() const { return ids_.size(); }
  bool all_ended() const { return ended_ == ids_.size(); }

  /// The next event, or nothing within `timeout`.
  /// Throws: ApiError with status 500 or 503 if an answer failed or was given up, 408 if the request takes too long.
  std::optional<Event> next(std::chrono::milliseconds timeout);

  /// What usage reports; complete when all have ended.
  dsv3::Index prompt_tokens() const { return prompt_tokens_; }
  dsv3::Index cached_tokens() const { return cached_tokens_; }
  dsv3::Index new_tokens() const { return new_tokens_; }

 private:
  struct Channel {
    std::mutex mutex;
    std::condition_variable filled;
    std::deque<Event> events;

    void push(Event event);
  };

  Service& service_;
  std::shared_ptr<Channel> channel_ = std::make_shared<Channel>();  // the engine may hold on to it a little longer
  std::vector<Engine::Id> ids_;
  std::vector<char> has_ended_;
  std::size_t ended_ = 0;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  bool first_token_ = false;
  dsv3::Index prompt_tokens_ = 0, cached_tokens_ = 0, new_tokens_ = 0;
};

}  // namespace serve::inline DSV3_ISA
