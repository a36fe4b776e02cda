#include "worker/print_reporter.h"

#include <glog/logging.h>

#include <cmath>
#include <cstdio>

namespace swinfleet {
namespace {

// "3:12", "2:03:12".
std::string Duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) return "unknown";
  const int64_t whole = std::llround(std::min(seconds, 1e9));
  char text[48];
  if (whole < 3600) {
    snprintf(text, sizeof(text), "%lld:%02lld", static_cast<long long>(whole / 60),
             static_cast<long long>(whole % 60));
  } else {
    snprintf(text, sizeof(text), "%lld:%02lld:%02lld", static_cast<long long>(whole / 3600),
             static_cast<long long>(whole / 60 % 60), static_cast<long long>(whole % 60));
  }
  return text;
}

}  // namespace

std::string ProgressLine(const TrainingProgress& progress) {
  char text[384];
  snprintf(text, sizeof(text),
           "epoch %lld/%lld step %lld/%lld loss %.4f lr %.3g norm %.3g %.1f images/s eta %s",
           static_cast<long long>(progress.epoch), static_cast<long long>(progress.epochs),
           static_cast<long long>(progress.step), static_cast<long long>(progress.total_steps),
           progress.loss, progress.learning_rate, progress.grad_norm, progress.images_per_second,
           Duration(progress.eta_seconds).c_str());
  std::string line = text;
  if (progress.evaluated_step > 0) {
    if (progress.has_accuracy) {
      snprintf(text, sizeof(text), " top-1 %.2f%% top-5 %.2f%%", 100 * progress.top1,
               100 * progress.top5);
    } else {
      snprintf(text, sizeof(text), " eval loss %.4f", progress.eval_loss);
    }
    line += text;
  }
  if (progress.input_wait >= 0.01) {
    snprintf(text, sizeof(text), " waiting for pictures %.0f%%", 100 * progress.input_wait);
    line += text;
  }
  if (progress.skipped_steps > 0) {
    line += " skipped " + std::to_string(progress.skipped_steps);
  }
  if (progress.replaced_pictures > 0) {
    line += " pictures replaced " + std::to_string(progress.replaced_pictures);
  }
  return line;
}

void PrintReporter::ReportProgress(const TrainingProgress& progress) {
  LOG(INFO) << ProgressLine(progress);
}

void PrintReporter::ReportCheckpoint(const std::string& path, int64_t step) {
  LOG(INFO) << "checkpoint of step " << step << ": " << path;
}

}  // namespace swinfleet
