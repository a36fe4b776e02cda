#include "worker/metrics_log.h"

#include <fcntl.h>
#include <glog/logging.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "core/checkpoint/checkpoint.h"

namespace swinfleet {
namespace {

// More than this is written without waiting for the next line of progress.
constexpr size_t kPendingBytes = 64 << 10;
// Lines that wait for room on the disk; beyond that they are lost.
constexpr size_t kMaxPendingBytes = 4 << 20;

// JSON has no NaN and no infinity.
std::string Number(double value) {
  if (!std::isfinite(value)) return "null";
  char text[40];
  std::snprintf(text, sizeof(text), "%.17g", value);
  return text;
}

}  // namespace

MetricsLog::MetricsLog(const std::string& run_dir, int64_t attempt) {
  path_ = (std::filesystem::path(run_dir) / "metrics" / (AttemptName(attempt) + ".jsonl")).string();
  Flush();
}

MetricsLog::~MetricsLog() {
  Flush();
  if (fd_ >= 0) close(fd_);
}

void MetricsLog::Step(int64_t step, const StepResult& result, double seconds, double input_wait) {
  pending_ += "{\"step\": " + std::to_string(step) + ", \"loss\": " + Number(result.loss) +
              ", \"grad_norm\": " + Number(result.grad_norm) +
              ", \"learning_rate\": " + Number(result.learning_rate) +
              ", \"seconds\": " + Number(seconds) +
              ", \"exposed_communication_seconds\": " + Number(result.exposed_seconds) +
              ", \"disk_wait_seconds\": " + Number(result.disk_wait_seconds) +
              ", \"skipped\": " + (result.skipped ? "true" : "false") +
              ", \"replaced_pictures\": " + std::to_string(result.replaced_pictures) +
              ", \"input_wait_seconds\": " + Number(input_wait) + "}\n";
  if (pending_.size() > kPendingBytes) Flush();
}

void MetricsLog::Evaluated(int64_t step, const Evaluation& evaluation) {
  pending_ += "{\"step\": " + std::to_string(step) + ", \"eval_loss\": " + Number(evaluation.loss) +
              ", \"top1\": " + Number(evaluation.top1) + ", \"top5\": " + Number(evaluation.top5) +
              ", \"replaced_pictures\": " + std::to_string(evaluation.replaced_pictures) + "}\n";
}

bool MetricsLog::Open() {
  if (fd_ >= 0) return true;
  std::error_code ignored;
  std::filesystem::create_directories(std::filesystem::path(path_).parent_path(), ignored);
  fd_ = open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  return fd_ >= 0;
}

void MetricsLog::Flush() {
  if (!Open()) return Fail(errno);
  size_t done = 0;
  while (done < pending_.size()) {
    const ssize_t size = pwrite(fd_, pending_.data() + done, pending_.size() - done,
                                written_ + static_cast<int64_t>(done));
    if (size < 0 && errno == EINTR) continue;
    if (size <= 0) return Fail(size < 0 ? errno : ENOSPC);
    done += static_cast<size_t>(size);
  }
  written_ += static_cast<int64_t>(done);
  LOG_IF(INFO, failing_ && done > 0) << "the metrics file " << path_ << " can be written again";
  failing_ = failing_ && done == 0;
  pending_.clear();
}

void MetricsLog::Fail(int code) {
  // Half a line would make the file unreadable; where it stays, the rest of it is written later.
  const bool cut = fd_ < 0 || ftruncate(fd_, written_) == 0;
  LOG_IF(WARNING, !failing_) << "the metrics file " << path_
                             << " can't be written: " << std::strerror(code)
                             << (cut ? "" : ", and ends in half a line")
                             << ". Training goes on, and what is missing is written later";
  failing_ = true;
  if (pending_.size() <= kMaxPendingBytes) return;
  LOG(WARNING) << "the metrics of " << pending_.size() << " bytes of lines are lost: " << path_
               << " could not be written for too long";
  pending_.clear();
}

}  // namespace swinfleet
