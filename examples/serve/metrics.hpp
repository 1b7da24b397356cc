// Counters and histograms in the text format of Prometheus.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "dsv3/generate/scheduler.hpp"

namespace serve::inline DSV3_ISA {

/// How often a duration was at most so long.
class Histogram {
 public:
  void add(double seconds);
  /// Lines for the metric `name`.
  std::string text(const std::string& name, const std::string& help) const;

 private:
  static constexpr std::array bounds{0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0};
  std::array<std::uint64_t, bounds.size()> counts_{};
  std::uint64_t total_ = 0;
  double sum_ = 0;
};

/// What the HTTP side counts; the engine counts for itself. For any thread.
class Metrics {
 public:
  void count_response(const std::string& path, int status);
  void add_first_token(double seconds);
  void add_request(double seconds);
  void count_disconnect();

  std::string text(const dsv3::SchedulerStats& engine) const;

 private:
  mutable std::mutex mutex_;
  std::map<std::pair<std::string, int>, std::uint64_t> responses_;
  std::uint64_t disconnects_ = 0;
  Histogram first_token_, request_;
};

}  // namespace serve::inline DSV3_ISA
