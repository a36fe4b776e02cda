// Every step's figures, as one line of JSON each: `<run>/metrics/attempt-001.jsonl`; and if wanted
// for TensorBoard.
#ifndef SWINFLEET_WORKER_METRICS_LOG_H_
#define SWINFLEET_WORKER_METRICS_LOG_H_

#include <cstdint>
#include <optional>
#include <string>

#include "worker/evaluate.h"
#include "worker/event_file.h"
#include "worker/record_file.h"
#include "worker/train_step.h"

namespace swinfleet {

// Each attempt writes a file of its own; an attempt that resumed at step k goes on with step k + 1,
// so the history of a run is each attempt's lines up to the first step of the next one. Losses are
// written so that reading them gives the same bits.
class MetricsLog {
 public:
  // The attempt goes on after `first_step` steps.
  MetricsLog(const std::string& run_dir, int64_t attempt, int64_t first_step, bool tensorboard);

  // `step` is the number of steps done, 1 after the first. It took `seconds`, and for `input_wait`
  // of them this rank waited for pictures.
  void Step(int64_t step, const StepResult& result, double seconds, double input_wait);
  void Evaluated(int64_t step, const Evaluation& evaluation);
  // Of the steps since the last line of progress.
  void Speed(int64_t step, double images_per_second);
  void Flush();

 private:
  RecordFile file_;
  std::optional<EventFile> events_;
};

}  // namespace swinfleet

#endif  // SWINFLEET_WORKER_METRICS_LOG_H_
