// What a running attempt tells the world, and what the world may tell it.
#ifndef SWINFLEET_WORKER_REPORTER_H_
#define SWINFLEET_WORKER_REPORTER_H_

#include <cstdint>
#include <optional>
#include <string>

namespace swinfleet {

class Communicator;

// Rank 0's view of the training, at a line of progress.
struct TrainingProgress {
  int64_t step = 0;
  int64_t total_steps = 0;
  int64_t epoch = 0;
  int64_t epochs = 0;
  double loss = 0;
  double learning_rate = 0;
  double grad_norm = 0;
  double images_per_second = 0;
  // Accuracies of the last evaluation, 0..1; evaluated_step 0 means that there was none yet.
  double top1 = 0;
  double top5 = 0;
  double eval_loss = 0;
  int64_t evaluated_step = 0;
  // Of the last evaluation's pictures those that couldn't be decoded: others stood for them.
  int64_t eval_replaced_pictures = 0;
  // Of evaluations: pre-training has a loss alone.
  bool has_accuracy = true;
  double eta_seconds = 0;
  uint64_t peak_memory_rank_bytes = 0;
  uint64_t peak_memory_total_bytes = 0;
  int64_t skipped_steps = 0;
  // How often in training another picture stood for one that couldn't be decoded.
  int64_t replaced_pictures = 0;
  // Of the steps since the last line, of this rank: a share of their time, 0..1, and seconds of
  // each; and the share of the rank that waited for its pictures the longest.
  double exposed_communication = 0;
  double exposed_communication_seconds = 0;
  double input_wait = 0;
  // Of the same steps: seconds of each in which this rank's update waited for the disk of offloaded
  // state.
  double disk_wait_seconds = 0;
};

// What a rank is doing; heartbeats carry it.
enum class Phase { kIdle, kLoad, kTrain, kEvaluate, kSave };
const char* PhaseName(Phase phase);

// Somebody wants to see the next steps of ranks, this one among them.
struct TraceRequest {
  std::string id;
  // To be recorded, and how many ranks are asked.
  int64_t steps = 1;
  int64_t ranks = 1;
  // Times in the file count from here: seconds since 1970.
  double origin = 0;
};

// What came of it on this rank: a path, or an error.
struct TraceResult {
  std::string request_id;
  std::string path{};
  std::string error{};
  // In the file; 1 is the job's first step.
  int64_t first_step = 0;
  int64_t steps = 0;
};

// Implementations: printing only (a worker without a coordinator), and the coordinator's client.
// All functions return at once; they may be called from the training thread only.
class Reporter {
 public:
  virtual ~Reporter() = default;
  // Every rank: by whose position it can be told where the rank is. It lives until another one, or
  // null, is set.
  virtual void SetCommunicator(Communicator* communicator) {}
  // Every rank, at each change.
  virtual void SetPhase(Phase phase) = 0;
  virtual void SetStep(int64_t step) = 0;
  // Every rank, once it is known: the bytes of a checkpoint of the job.
  virtual void SetStateBytes(uint64_t bytes) {}
  // Every rank, after each step: what of the attempt's steps but the first two was its own work,
  // and not waiting for other ranks. By it stragglers are found.
  virtual void SetOwnWork(double seconds, int64_t steps) {}
  // Rank 0.
  virtual void ReportProgress(const TrainingProgress& progress) = 0;
  virtual void ReportCheckpoint(const std::string& path, int64_t step) = 0;
  // True once the attempt is to be cancelled. All ranks agree on it in the next step's collectives,
  // so it is enough that one rank knows.
  virtual bool CancelRequested() = 0;
  // True once this process is asked to leave (SIGTERM). Agreed upon like a cancellation: the
  // attempt saves a checkpoint at the next step boundary and ends as Outcome::kStopped.
  virtual bool StopRequested() { return false; }
  // A trace that this rank is asked for in this attempt; each one once. It is answered by
  // ReportTrace, unless the attempt ends before there is something to report.
  virtual std::optional<TraceRequest> TakeTraceRequest() { return std::nullopt; }
  virtual void ReportTrace(const TraceResult& result) {}
};

}  // namespace swinfleet

#endif  // SWINFLEET_WORKER_REPORTER_H_
