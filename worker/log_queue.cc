#include "worker/log_queue.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "worker/utf8.h"

namespace swinfleet {

void LogQueue::BeginAttempt(const std::string& job_id, uint32_t attempt) {
  const std::lock_guard lock(mutex_);
  job_id_ = job_id;
  attempt_ = attempt;
  tokens_ = limits_.burst;
}

void LogQueue::EndAttempt() {
  const std::lock_guard lock(mutex_);
  job_id_.clear();
}

bool LogQueue::TakeToken(double time) {
  const double passed = std::max(0.0, time - tokens_at_);
  tokens_ = std::min(limits_.burst, tokens_ + passed * limits_.lines_per_second);
  tokens_at_ = time;
  if (tokens_ < 1) return false;
  tokens_ -= 1;
  return true;
}

bool LogQueue::Append(const char* severity, const std::string& text, double time) {
  const std::lock_guard lock(mutex_);
  if (job_id_.empty()) return false;
  if (std::strcmp(severity, "INFO") == 0 && !TakeToken(time)) {
    ++dropped_;
    return false;
  }
  if (lines_.size() >= limits_.capacity) {
    lines_.pop_front();
    ++dropped_;
  }
  Line line;
  line.job_id = job_id_;
  line.attempt = attempt_;
  line.line.set_time(time);
  line.line.set_attempt(attempt_);
  line.line.set_rank(rank_);
  line.line.set_severity(severity);
  line.line.set_text(ToUtf8(text, limits_.line_bytes));
  lines_.push_back(std::move(line));
  return true;
}

bool LogQueue::Take(size_t limit, LogReport* report) {
  const std::lock_guard lock(mutex_);
  if (lines_.empty()) return false;
  report->Clear();
  report->set_job_id(lines_.front().job_id);
  report->set_attempt(lines_.front().attempt);
  if (dropped_ > 0) {
    LogLine* note = report->add_lines();
    *note = lines_.front().line;
    note->set_severity("WARNING");
    note->set_text(std::to_string(dropped_) +
                   " lines of this rank were dropped: they came too fast, or the coordinator was"
                   " away for too long; the worker's own stderr has them");
    dropped_ = 0;
  }
  while (!lines_.empty() && static_cast<size_t>(report->lines_size()) < limit &&
         lines_.front().job_id == report->job_id() && lines_.front().attempt == report->attempt()) {
    *report->add_lines() = std::move(lines_.front().line);
    lines_.pop_front();
  }
  return true;
}

bool LogQueue::empty() const {
  const std::lock_guard lock(mutex_);
  return lines_.empty();
}

}  // namespace swinfleet
