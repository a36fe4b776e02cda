// When and how an attempt saves.
#ifndef SWINFLEET_WORKER_CHECKPOINTER_H_
#define SWINFLEET_WORKER_CHECKPOINTER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "core/checkpoint/async_saver.h"
#include "core/checkpoint/checkpoint.h"
#include "core/config/job_config.h"
#include "distributed/communicator.h"
#include "distributed/zero_engine.h"
#include "kernels/accelerator.h"
#include "kernels/arena.h"
#include "worker/reporter.h"

namespace swinfleet {

// Saves run beside the training: Begin copies (or has a GPU copy, beside the next step), a thread
// writes, and when every rank's part is written (each says so in its step's flags) all ranks call
// Finish, and rank 0 commits the manifest. A save that fails on any rank is a warning; it is tried
// again some steps later. All ranks take the same decisions at the same steps.
class Checkpointer {
 public:
  // `copy_bytes`: the most that this rank's part takes, of pinned memory where a GPU copies.
  // Without that much free memory, or when the job asks for it, saves hold the step until they are
  // written.
  Checkpointer(const JobConfig& config, int64_t attempt, int64_t steps_per_epoch, size_t copy_bytes,
               Communicator* communicator, ZeroEngine* engine, Accelerator* gpu,
               Reporter* reporter);
  ~Checkpointer();

  // Whether a save begins after `step` steps.
  bool Due(int64_t step) const;
  // Begins to save the present state; a save in flight is finished first. Collective.
  void Begin(const CheckpointMeta& meta);
  bool InFlight() const { return in_flight_; }
  // This rank's part has been written (or has failed).
  bool PartWritten();
  // Ends the save in flight, waiting for this rank's part. True when the checkpoint exists.
  // Collective.
  bool Finish();
  // Saves the present state and waits for it; tries again with growing pauses. Throws Error on all
  // ranks when it can't be written. Collective.
  void SaveNow(const CheckpointMeta& meta);

  // The newest checkpoint of this attempt, or the one it resumed from.
  const std::string& last() const { return last_; }
  void SetLast(const std::string& dir) { last_ = dir; }
  // Why the last save failed, as all ranks know it.
  const std::string& failure() const { return failure_; }

 private:
  // Memory for copies, and who writes from it. Throws Error when there is too little.
  void MakeSaver(size_t copy_bytes, Accelerator* gpu);
  void WritePart();
  // Puts the parts of all ranks together; true when the checkpoint exists. Collective.
  bool Commit();
  // On rank 0. Returns its error, empty when all is well.
  std::string WriteManifest(const std::vector<std::string>& parts);
  void Retain();

  const JobConfig& config_;
  const int64_t attempt_;
  const int64_t every_;
  Communicator* communicator_;
  ZeroEngine* engine_;
  Reporter* reporter_;
  std::unique_ptr<Arena> copy_;
  std::span<float> buffer_;
  std::unique_ptr<AsyncSaver> saver_;
  bool in_flight_ = false;
  std::string dir_;
  CheckpointMeta meta_;
  std::optional<SaveOutcome> outcome_;
  std::string last_;
  std::string failure_;
  // Steps after which a failed save is tried again; 0: none failed.
  int64_t retry_step_ = 0;
};

}  // namespace swinfleet

#endif  // SWINFLEET_WORKER_CHECKPOINTER_H_
