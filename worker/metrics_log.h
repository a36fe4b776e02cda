// Every step's figures, as one line of JSON each: `<run>/metrics/attempt-001.jsonl`.
#ifndef SWINFLEET_WORKER_METRICS_LOG_H_
#define SWINFLEET_WORKER_METRICS_LOG_H_

#include <cstdint>
#include <string>

#include "worker/evaluate.h"
#include "worker/train_step.h"

namespace swinfleet {

// Each attempt writes a file of its own; an attempt that resumed at step k goes on with step k + 1,
// so the history of a run is each attempt's lines up to the first step of the next one. Losses are
// written so that reading them gives the same bits. A file that can't be written is warned of and
// ends nothing: only whole lines get into it, and what found no room is written later.
class MetricsLog {
 public:
  MetricsLog(const std::string& run_dir, int64_t attempt);
  ~MetricsLog();
  MetricsLog(const MetricsLog&) = delete;
  MetricsLog& operator=(const MetricsLog&) = delete;

  // `step` is the number of steps done, 1 after the first. It took `seconds`, and for `input_wait`
  // of them this rank waited for pictures.
  void Step(int64_t step, const StepResult& result, double seconds, double input_wait);
  void Evaluated(int64_t step, const Evaluation& evaluation);
  void Flush();

 private:
  bool Open();
  void Fail(int code);

  std::string path_;
  int fd_ = -1;
  // The length of the file, all of it whole lines.
  int64_t written_ = 0;
  // Lines that are not in the file yet.
  std::string pending_;
  bool failing_ = false;
};

}  // namespace swinfleet

#endif  // SWINFLEET_WORKER_METRICS_LOG_H_
