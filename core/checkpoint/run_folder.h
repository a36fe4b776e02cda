// Whose a run folder is. A folder belongs to one job for good: two jobs never mix their
// checkpoints.
#ifndef SWINFLEET_CORE_CHECKPOINT_RUN_FOLDER_H_
#define SWINFLEET_CORE_CHECKPOINT_RUN_FOLDER_H_

#include <string>

#include "core/checkpoint/file_ops.h"

namespace swinfleet {

// The job id of a run without coordinator.
inline constexpr char kLocalJobId[] = "local";

enum class RunFolderState {
  // The folder was free and now belongs to the job.
  kNew,
  // It belonged to the job before: there may be checkpoints to go on from.
  kClaimedBefore
};

// Makes `run_dir` the folder of the job, creating it if need be, and checks that it can be written.
// Who owns it is in `run.json`, of which exactly one claimant can be the author, also on a network
// filesystem. Throws Error when the folder belongs to another job, when it cannot be created or
// written, and, for a job that is kLocalJobId, when its specification differs from the one that the
// folder was made for: without a coordinator the specification is all that tells jobs apart.
RunFolderState ClaimRunFolder(const std::string& run_dir, const std::string& job_id,
                              const std::string& spec, FileOps& ops = FileOps::System());

// Whether ClaimRunFolder would find the folder claimed before by this very job. Changes nothing;
// false for a folder that is not there. Throws Error when it can't be told.
bool OwnsRunFolder(const std::string& run_dir, const std::string& job_id, const std::string& spec,
                   FileOps& ops = FileOps::System());

// Whether a run has begun in the folder, or a start was imported into it. Changes nothing.
bool HoldsRun(const std::string& run_dir);

// Held by the process that trains in a run folder without a coordinator, so that a second one does
// not train there at the same time. The operating system lets go of it when the process ends,
// however it ends. With a coordinator its attempts do this, across machines.
class RunFolderLock {
 public:
  // Throws Error when another process holds it. A filesystem without locks is warned of.
  explicit RunFolderLock(const std::string& run_dir, FileOps& ops = FileOps::System());
  ~RunFolderLock();
  RunFolderLock(const RunFolderLock&) = delete;
  RunFolderLock& operator=(const RunFolderLock&) = delete;

 private:
  FileOps& ops_;
  int fd_ = -1;
};

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_CHECKPOINT_RUN_FOLDER_H_
