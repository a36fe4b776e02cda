// What a step of a job will exchange, and how long it will take: the step's own code, run dry over
// modelled links. docs/communication.md explains the model.
#ifndef SWINFLEET_WORKER_COMMUNICATION_PLAN_H_
#define SWINFLEET_WORKER_COMMUNICATION_PLAN_H_

#include <optional>

#include "core/config/job_config.h"
#include "distributed/link_model.h"

namespace swinfleet {

struct PlannedTime {
  double step_seconds = 0;
  double compute_seconds = 0;
  // Of the step, how long computing waits for communication.
  double exposed_seconds = 0;
};

// Of one step in a row of many.
struct CommunicationPlan {
  LinkTraffic traffic;
  // All collectives one after the other.
  double communication_seconds = 0;
  // Not there where nobody said how fast a rank computes.
  std::optional<PlannedTime> time;
};

// Of rank `rank` of `ranks`, as if all had as many micro-batches. `flops_per_second`: matrix
// products of a whole step by its time, of a rank that waits for nobody; 0: not known. `device`:
// where tensors are. `config` is valid, and `ranks` are at most its micro-batches.
CommunicationPlan PlanCommunication(const JobConfig& config, int rank, int ranks,
                                    const Links& links, double flops_per_second,
                                    Device device = Device::kCpu);

}  // namespace swinfleet

#endif  // SWINFLEET_WORKER_COMMUNICATION_PLAN_H_
