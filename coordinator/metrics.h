// What Prometheus is shown. docs/observability.md lists the metrics.
#ifndef SWINFLEET_COORDINATOR_METRICS_H_
#define SWINFLEET_COORDINATOR_METRICS_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "coordinator/control_loop.h"

namespace swinfleet::coordinator {

// Jobs that have metrics of their own: those that are under way, the oldest first.
inline constexpr size_t kMaxJobMetrics = 1000;

// What is taken from the control state, so that the control thread is not held up by text.
struct MetricsSnapshot {
  struct JobSample {
    std::string id;
    std::string name;
    std::string user;
    std::string fleet;
    Progress progress;
    bool has_progress = false;
    uint32_t restarts = 0;
    uint32_t preemptions = 0;
    uint32_t ranks = 0;
    uint32_t silent_ranks = 0;
    uint32_t stragglers = 0;
    double run_seconds = 0;
    double checkpoint_age = 0;
    uint64_t checkpoint_step = 0;
  };
  struct FleetSample {
    std::string name;
    std::string state;
    uint32_t world_size = 0;
    uint32_t connected_ranks = 0;
  };

  std::map<JobState, uint64_t> jobs;  // of every state
  uint64_t queue_length = 0;
  // Seconds for which the job that waits the longest has waited; 0: none waits.
  double queue_seconds = 0;
  uint64_t hosts_left_out = 0;
  bool store_writable = true;
  // Seconds since the coordinator was started.
  double up_seconds = 0;
  std::vector<JobSample> running;
  std::vector<FleetSample> fleets;
};

// On the control thread.
MetricsSnapshot TakeMetrics(const ControlView& view, double unix_time);

// In Prometheus's text format.
std::string FormatMetrics(const MetricsSnapshot& snapshot);

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_COORDINATOR_METRICS_H_
