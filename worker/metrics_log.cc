#include "worker/metrics_log.h"

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <span>

#include "core/checkpoint/checkpoint.h"

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

MetricsLog::MetricsLog(const std::string& run_dir, int64_t attempt, int64_t first_step,
                       bool tensorboard)
    : file_("the metrics file",
            (std::filesystem::path(run_dir) / "metrics" / (AttemptName(attempt) + ".jsonl"))
                .string()) {
  if (tensorboard) events_.emplace(run_dir, attempt, first_step);
}

void MetricsLog::Step(int64_t step, const StepResult& result, double seconds, double input_wait) {
  file_.Add("{\"step\": " + std::to_string(step) + ", \"loss\": " + Number(result.loss) +
            ", \"grad_norm\": " + Number(result.grad_norm) + ", \"learning_rate\": " +
            Number(result.learning_rate) + ", \"seconds\": " + Number(seconds) +
            ", \"exposed_communication_seconds\": " + Number(result.exposed_seconds) +
            ", \"disk_wait_seconds\": " + Number(result.disk_wait_seconds) +
            ", \"skipped\": " + (result.skipped ? "true" : "false") +
            ", \"replaced_pictures\": " + std::to_string(result.replaced_pictures) +
            ", \"input_wait_seconds\": " + Number(input_wait) + "}\n");
  if (!events_) return;
  const Scalar scalars[] = {{"train/loss", result.loss},
                            {"train/grad_norm", result.grad_norm},
                            {"train/learning_rate", result.learning_rate}};
  events_->Add(step, scalars);
}

void MetricsLog::Evaluated(int64_t step, const Evaluation& evaluation) {
  file_.Add("{\"step\": " + std::to_string(step) + ", \"eval_loss\": " + Number(evaluation.loss) +
            ", \"top1\": " + Number(evaluation.top1) + ", \"top5\": " + Number(evaluation.top5) +
            ", \"replaced_pictures\": " + std::to_string(evaluation.replaced_pictures) + "}\n");
  if (!events_) return;
  const Scalar scalars[] = {{"evaluation/loss", evaluation.loss},
                            {"evaluation/top1", evaluation.top1},
                            {"evaluation/top5", evaluation.top5}};
  events_->Add(step, std::span(scalars).first(std::isnan(evaluation.top1) ? 1 : 3));
}

void MetricsLog::Speed(int64_t step, double images_per_second) {
  if (!events_) return;
  const Scalar scalars[] = {{"train/images_per_second", images_per_second}};
  events_->Add(step, scalars);
}

void MetricsLog::Flush() {
  file_.Flush();
  if (events_) events_->Flush();
}

}  // namespace swinfleet
