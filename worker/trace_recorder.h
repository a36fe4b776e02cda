// Records steps of a job that runs, when somebody asks for it (Reporter::TakeTraceRequest).
#ifndef SWINFLEET_WORKER_TRACE_RECORDER_H_
#define SWINFLEET_WORKER_TRACE_RECORDER_H_

#include <cstddef>
#include <cstdint>
#include <future>
#include <memory>
#include <optional>
#include <string>

#include "core/checkpoint/file_ops.h"
#include "distributed/communicator.h"
#include "kernels/ops.h"
#include "worker/reporter.h"

namespace swinfleet {

struct TraceRecorderOptions {
  std::string run_dir;
  int64_t attempt = 1;
  // Of one trace, so that a large step does not take a rank's memory: about half a KiB each.
  size_t most_calls = 100000;
  // Of a step, for which a GPU's clock gets room.
  size_t calls_of_step = 0;
  // What Finish waits for the disk.
  double patience_seconds = 10;
  // Of the file; must live as long as the process.
  FileOps* files = &FileOps::System();
};

// The ranks that are asked agree on the step at which they begin, by a flag among the step's sums.
// Then each records its steps, and in the step that follows it waits for collectives that these
// have started. When a GPU did what it did in a step is read after the next one, when all of it is
// over: no step waits for the one before. The file,
// <run>/traces/attempt-001/step-00000012-rank-00000.json, is written by a thread of its own, so
// that a disk that is slow, full or gone holds nobody up. To be used by the training thread. While
// nothing is asked for, a step costs a question to the reporter.
class TraceRecorder {
 public:
  // All must outlive it. Between BeginStep and EndStep the context's operations are recorded.
  TraceRecorder(const TraceRecorderOptions& options, Context* context,
                const Communicator* communicator, Reporter* reporter);
  ~TraceRecorder();
  TraceRecorder(const TraceRecorder&) = delete;
  TraceRecorder& operator=(const TraceRecorder&) = delete;

  // Before a step: this rank has been asked and has not begun (StepFlags::trace).
  bool Asked();
  // Step `step` begins, 1 is the job's first.
  void BeginStep(int64_t step);
  // In the midst of a step: takes note of collectives before the flight recorder forgets them.
  void Note();
  // It has ended, with as many ranks asked (StepResult::trace).
  void EndStep(int64_t asked);
  // There will be no more steps: what there is gets written and reported.
  void Finish();

 private:
  struct Recording;

  void Begin(const TraceRequest& request);
  // Hands the recording, which has been finished, to a thread that writes it.
  void Write();
  // Reports what that thread has come to, if it has.
  void ReportWritten();
  void Report(const TraceResult& result);

  const TraceRecorderOptions options_;
  Context* const context_;
  const Communicator* const communicator_;
  Reporter* const reporter_;

  std::optional<TraceRequest> asked_;
  // From the first step that is recorded until all collectives of the last one have ended.
  std::unique_ptr<Recording> recording_;
  // The context's own, during a step that is recorded.
  const OpTable* plain_ops_ = nullptr;
  // What is being written: its request's id, and what comes of it.
  std::string writing_;
  std::future<TraceResult> written_;
};

}  // namespace swinfleet

#endif  // SWINFLEET_WORKER_TRACE_RECORDER_H_
