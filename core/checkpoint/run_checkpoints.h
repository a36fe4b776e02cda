// The checkpoints of a run: which there are, which one to go on from, which ones to delete.
//
// Attempts. Each attempt at a run (numbered from 1, ever increasing) writes into a folder of its
// own and begins by recording there the step that it goes on from (BeginAttempt). What an older
// attempt wrote beyond that step is not part of the run's history any more: it was unusable, or it
// was written by processes that had already been given up. So a checkpoint (attempt a, step s)
// counts only if s is at most the recorded step of every later attempt. No clock is needed for this
// rule.
//
// Which checkpoint to go on from. The coordinator's assignment names one, since it knows what was
// reported to it: that one is tried first. If it is bad, or gone because newer ones were saved
// while the coordinator was away, all that count are tried, newest first, and so they are when none
// is named: all of them belong to this job (run_folder.h), and any of them leads to the same bits.
#ifndef SWINFLEET_CORE_CHECKPOINT_RUN_CHECKPOINTS_H_
#define SWINFLEET_CORE_CHECKPOINT_RUN_CHECKPOINTS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/checkpoint/checkpoint.h"

namespace swinfleet {

struct CheckpointInfo {
  std::string dir;
  int attempt = 0;
  int64_t step = 0;
  // It has a manifest. Whether it is intact is known only after CheckpointReader::Verify.
  bool complete = false;
  // Why it is not complete, or why it does not count (see above); empty for one to be used.
  std::string problem;
};

// All checkpoint folders of attempts 1 to `last_attempt`, newest first: by step, then by attempt.
// Folders and files of other names are not looked at. A run without any has an empty list. Throws
// Error when the folder cannot be read.
std::vector<CheckpointInfo> ListCheckpoints(const std::string& run_dir, int last_attempt);
// The same for all attempts there are.
std::vector<CheckpointInfo> ListCheckpoints(const std::string& run_dir);

// One more than the largest attempt that has a folder: the number of a new attempt in a run without
// coordinator.
int NextAttempt(const std::string& run_dir);

// Records that attempt `attempt` begins and goes on from `resumed_step` (0: from the start), before
// it writes anything else. Throws Error when this attempt has begun before, or on a full disk.
void BeginAttempt(const std::string& run_dir, int attempt, int64_t resumed_step,
                  FileOps& ops = FileOps::System());

// Throws Error when what BeginAttempt wrote is not there any more: the folder at `run_dir` is not
// the run's, as where its filesystem is not mounted any more.
void CheckAttemptFolder(const std::string& run_dir, int attempt);

// What may be resumed from in attempt `attempt`, in the order in which to try it, and, with a
// `problem`, what is passed over. Only older attempts count. `named` is the path of the checkpoint
// that the assignment names, or empty. Throws Error if `named` is no checkpoint folder of this run.
std::vector<CheckpointInfo> ResumeCandidates(const std::string& run_dir, int attempt,
                                             const std::string& named);

struct ResumeChoice {
  // Verified; null when there is no good checkpoint.
  std::unique_ptr<CheckpointReader> reader;
  // What was passed over before it, each with its problem.
  std::vector<CheckpointInfo> rejected;

  // For the log: a line for each rejected one, at most `max_lines` (the last says how many more),
  // and one for the chosen one.
  std::vector<std::string> LogLines(size_t max_lines) const;
};

// Tries the candidates in order, verifying all of each, until one is good. One process alone does
// all the reading; ranks that share it use ResumeCandidates and VerifyShards.
ResumeChoice FindNewestGood(const std::string& run_dir, int attempt, const std::string& named,
                            FileOps& ops = FileOps::System());

struct RetentionReport {
  std::vector<std::string> deleted;
  // What could not be deleted, and why.
  std::vector<std::string> problems;
};

// Deletes what attempt `attempt` needs no longer, in the folders of this and older attempts. Kept
// are the newest `keep_last` (at least 1) checkpoints that count and those whose step is a multiple
// of `keep_every_steps` (0: none), over all attempts. Of the others, and of folders that were never
// completed, those older than the newest are deleted, manifest first: half a checkpoint never looks
// whole. The one being written is newer than all complete ones and never touched. Throws Error only
// when the folder cannot be read.
RetentionReport ApplyRetention(const std::string& run_dir, int attempt, int64_t keep_last,
                               int64_t keep_every_steps, FileOps& ops = FileOps::System());

// Deletes a folder whose save has failed, so that it takes no room from the next one: for rank 0,
// once every rank has ended its part. A complete checkpoint is left alone. Returns what went wrong;
// empty: nothing.
std::string DiscardUnfinished(const std::string& dir);

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_CHECKPOINT_RUN_CHECKPOINTS_H_
