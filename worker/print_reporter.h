// Reports as lines of the log: a worker without a coordinator.
#ifndef SWINFLEET_WORKER_PRINT_REPORTER_H_
#define SWINFLEET_WORKER_PRINT_REPORTER_H_

#include <atomic>
#include <string>

#include "worker/reporter.h"

namespace swinfleet {

// "epoch 1/6 step 120/1404 loss 0.5432 lr 4.9e-04 norm 1.23 812 images/s eta 3:12".
std::string ProgressLine(const TrainingProgress& progress);

class PrintReporter : public Reporter {
 public:
  void SetPhase(Phase phase) override {}
  void SetStep(int64_t step) override {}
  void ReportProgress(const TrainingProgress& progress) override;
  void ReportCheckpoint(const std::string& path, int64_t step) override;
  bool CancelRequested() override { return cancelled_; }

  // From any thread.
  void Cancel() { cancelled_ = true; }

 private:
  std::atomic<bool> cancelled_ = false;
};

}  // namespace swinfleet

#endif  // SWINFLEET_WORKER_PRINT_REPORTER_H_
