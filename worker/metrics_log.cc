#include "worker/metrics_log.h"

#include <glog/logging.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>

namespace swinfleet {
namespace {

// JSON has no NaN and no infinity.
std::string Number(double value) {
  if (!std::isfinite(value)) return "null";
  char text[40];
  std::snprintf(text, sizeof(text), "%.17g", value);
  return text;
}

}  // namespace

MetricsLog::MetricsLog(const std::string& run_dir, int64_t attempt) {
  char name[40];
  std::snprintf(name, sizeof(name), "attempt-%03ld.jsonl", static_cast<long>(attempt));
  const std::filesystem::path folder = std::filesystem::path(run_dir) / "metrics";
  path_ = (folder / name).string();
  std::error_code ignored;
  std::filesystem::create_directories(folder, ignored);
  file_ = std::fopen(path_.c_str(), "w");
  if (file_ == nullptr) Fail();
}

MetricsLog::~MetricsLog() {
  if (file_ != nullptr) std::fclose(file_);
}

void MetricsLog::Step(int64_t step, const StepResult& result) {
  Write("{\"step\": " + std::to_string(step) + ", \"loss\": " + Number(result.loss) +
        ", \"grad_norm\": " + Number(result.grad_norm) +
        ", \"learning_rate\": " + Number(result.learning_rate) +
        ", \"skipped\": " + (result.skipped ? "true" : "false") + "}\n");
}

void MetricsLog::Evaluated(int64_t step, const Evaluation& evaluation) {
  Write("{\"step\": " + std::to_string(step) + ", \"eval_loss\": " + Number(evaluation.loss) +
        ", \"top1\": " + Number(evaluation.top1) + ", \"top5\": " + Number(evaluation.top5) +
        "}\n");
}

void MetricsLog::Flush() {
  if (file_ != nullptr && std::fflush(file_) != 0) Fail();
}

void MetricsLog::Write(const std::string& line) {
  if (file_ != nullptr && std::fwrite(line.data(), 1, line.size(), file_) != line.size()) Fail();
}

void MetricsLog::Fail() {
  LOG(WARNING) << "the metrics file " << path_ << " can't be written: " << std::strerror(errno)
               << ". Training goes on without it.";
  if (file_ != nullptr) std::fclose(file_);
  file_ = nullptr;
}

}  // namespace swinfleet
