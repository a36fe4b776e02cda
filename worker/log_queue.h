// Log lines on their way to the coordinator.
#ifndef SWINFLEET_WORKER_LOG_QUEUE_H_
#define SWINFLEET_WORKER_LOG_QUEUE_H_

#include <cstdint>
#include <deque>
#include <mutex>
#include <string>

#include "proto/coordinator.pb.h"

namespace swinfleet {

// Keeps the newest lines of the attempts that this process works on, at most `capacity` of them;
// lines of severity INFO pass a token bucket first. What is dropped is counted, and the count takes
// the place of the lines. Thread-safe; never logs and never fails a CHECK, because it is called
// from within the logging library.
class LogQueue {
 public:
  struct Limits {
    size_t capacity = 2000;
    double lines_per_second = 50;
    double burst = 500;
    size_t line_bytes = 4096;
  };
  LogQueue(uint32_t rank, const Limits& limits) : rank_(rank), limits_(limits) {}

  // Lines belong to this attempt until EndAttempt; without one they are not kept.
  void BeginAttempt(const std::string& job_id, uint32_t attempt);
  void EndAttempt();
  // `time` in seconds since 1970. Returns whether the line was kept. `severity` as glog names it.
  bool Append(const char* severity, const std::string& text, double time);
  // Moves the oldest lines, all of one attempt and at most `limit`, to `report`. False when there
  // are none.
  bool Take(size_t limit, LogReport* report);
  bool empty() const;

 private:
  struct Line {
    std::string job_id;
    uint32_t attempt = 0;
    LogLine line;
  };
  bool TakeToken(double time);

  const uint32_t rank_;
  const Limits limits_;
  mutable std::mutex mutex_;
  std::string job_id_;
  uint32_t attempt_ = 0;
  std::deque<Line> lines_;
  uint64_t dropped_ = 0;
  double tokens_ = 0;
  double tokens_at_ = 0;
};

}  // namespace swinfleet

#endif  // SWINFLEET_WORKER_LOG_QUEUE_H_
