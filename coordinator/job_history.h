// What jobs reported since the coordinator started, for curves: bounded, and in memory alone. The
// run folder has all of it.
#ifndef SWINFLEET_COORDINATOR_JOB_HISTORY_H_
#define SWINFLEET_COORDINATOR_JOB_HISTORY_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

#include "proto/coordinator.pb.h"

namespace swinfleet::coordinator {

// Limits of what is kept: jobs, and of each job.
inline constexpr size_t kMaxHistories = 500;
inline constexpr int kMaxHistoryPoints = 300;
inline constexpr int kMaxCheckpointRecords = 100;

// It does no input or output; the time is given.
class JobHistories {
 public:
  // `since`: seconds since 1970 from which on something can be known.
  explicit JobHistories(double since) : since_(since) {}

  void AddProgress(const std::string& job_id, uint32_t attempt, double time,
                   const Progress& progress);
  void AddCheckpoint(const std::string& job_id, CheckpointRecord record);

  // Null: nothing is known of the job.
  const JobHistory* Find(const std::string& job_id) const;
  double since() const { return since_; }

 private:
  struct Entry {
    JobHistory history;
    // Steps that two points are apart at least, but for the last one.
    uint64_t spacing = 1;
    // Of the last change, by which the oldest job is found.
    uint64_t order = 0;
  };
  // The job's, made if it is new; the one that changed least lately gives way to it.
  Entry& EntryOf(const std::string& job_id);

  const double since_;
  std::map<std::string, Entry> entries_;      // by job
  std::map<uint64_t, std::string> by_order_;  // -> job
  uint64_t next_order_ = 0;
};

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_COORDINATOR_JOB_HISTORY_H_
