// What jobs have reported, for curves: bounded, in memory, with what of it the store lacks. The run
// folder has all of it.
#ifndef SWINFLEET_COORDINATOR_JOB_HISTORY_H_
#define SWINFLEET_COORDINATOR_JOB_HISTORY_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "proto/coordinator.pb.h"

namespace swinfleet::coordinator {

// Limits of what is kept: jobs, and of each job.
inline constexpr size_t kMaxHistories = 500;
inline constexpr int kMaxHistoryPoints = 300;
inline constexpr int kMaxCheckpointRecords = 100;

// What the store is to change, in this order.
struct HistoryChanges {
  // Numbers are stored: never reuse one.
  enum class Kind { kPoint = 0, kCheckpoint = 1 };
  // A record of a job: points by their steps, checkpoints in the order of their numbers.
  struct Key {
    std::string job_id;
    Kind kind = Kind::kPoint;
    uint64_t number = 0;
  };
  // Jobs that are forgotten, with all their records.
  std::vector<std::string> forgotten;
  std::vector<Key> deleted;
  // Each with its message.
  std::vector<std::pair<Key, std::string>> put;
  // Whose changes these are.
  std::vector<std::string> jobs;

  bool empty() const { return forgotten.empty() && deleted.empty() && put.empty(); }
};

// It does no input or output; the time is given.
class JobHistories {
 public:
  // `since`: seconds since 1970 from which on something can be known that the store does not have.
  explicit JobHistories(double since) : since_(since) {}

  void AddProgress(const std::string& job_id, uint32_t attempt, double time,
                   const Progress& progress);
  void AddCheckpoint(const std::string& job_id, CheckpointRecord record);

  // Takes what the store has, at the beginning. Points of a job come in the order of their steps,
  // checkpoints in that of their numbers, from `first_checkpoint` on.
  void Restore(const std::string& job_id, JobHistory history, uint64_t first_checkpoint);

  // Null: nothing is known of the job.
  const JobHistory* Find(const std::string& job_id) const;
  double since() const { return since_; }

  // The store lacks something.
  bool unstored() const { return !changed_.empty() || !forgotten_.empty(); }
  // It, as far as it comes to about so many rows; the rest another time.
  HistoryChanges Unstored(size_t rows) const;
  // The store has taken these, and nothing was added meanwhile.
  void Stored(const HistoryChanges& changes);

 private:
  struct Entry {
    JobHistory history;
    // Steps that two points are apart at least, but for the last one.
    uint64_t spacing = 1;
    // Of the last change, by which the oldest job is found.
    uint64_t order = 0;
    // Number of the first checkpoint in the list.
    uint64_t first_checkpoint = 0;
    // What the store has: steps of points, in order, with their times; checkpoints from one number
    // to before another one.
    std::vector<std::pair<uint64_t, double>> stored_points;
    uint64_t stored_begin = 0;
    uint64_t stored_end = 0;
  };
  // The job's, made if it is new; the one that changed least lately gives way to it.
  Entry& EntryOf(const std::string& job_id);
  static void ComparePoints(const std::string& job_id, const Entry& entry, HistoryChanges* out);
  static void CompareCheckpoints(const std::string& job_id, const Entry& entry,
                                 HistoryChanges* out);

  double since_;
  std::map<std::string, Entry> entries_;      // by job
  std::map<uint64_t, std::string> by_order_;  // -> job
  uint64_t next_order_ = 0;
  // Jobs of which the store lacks something, and those of which it has too much.
  std::set<std::string> changed_;
  std::set<std::string> forgotten_;
};

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_COORDINATOR_JOB_HISTORY_H_
