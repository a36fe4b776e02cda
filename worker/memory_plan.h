// How much memory a rank will need: the step's own code, run dry.
#ifndef SWINFLEET_WORKER_MEMORY_PLAN_H_
#define SWINFLEET_WORKER_MEMORY_PLAN_H_

#include "core/config/job_config.h"
#include "core/memory/memory_classes.h"
#include "kernels/ops.h"

namespace swinfleet {

struct MemoryPlan {
  // Dry-run arenas whose high-water marks are the plan.
  MemoryClasses memory;
  // Of one step of this rank.
  WorkCount step;
  // Bytes of the copy that an asynchronous save is written from.
  size_t save_copy_bytes = 0;
};

// Runs one training step and one batch of evaluation of rank `rank` of `ranks` on the dry-run
// device. `config` is valid. `with_evaluation` off leaves the evaluation out.
MemoryPlan PlanMemory(const JobConfig& config, int rank, int ranks, bool with_evaluation = true);

}  // namespace swinfleet

#endif  // SWINFLEET_WORKER_MEMORY_PLAN_H_
