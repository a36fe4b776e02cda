// One way to keep a memory budget for all ranks of a job.
#ifndef SWINFLEET_WORKER_BUDGET_AGREEMENT_H_
#define SWINFLEET_WORKER_BUDGET_AGREEMENT_H_

#include <string>

#include "core/config/job_config.h"
#include "distributed/communicator.h"
#include "worker/memory_budget.h"

namespace swinfleet {

// Sets the job's checkpointing and sequential attention to a choice that all ranks share, and
// returns a line about it for the log. `own` is what this rank chose: processors of several kinds
// need different amounts of scratch memory, so ranks may choose differently, and the order of sums,
// with it the bits, depends on sequential attention. Taken is what fits on every rank: the cheapest
// of the ranks' choices, or the most frugal way that one of them has. Throws Error when nothing
// does, then on all ranks. Collective.
std::string AgreeOnChoice(const ChoiceSearch& own, const PlanOptions& options,
                          Communicator* communicator, JobConfig* config);

}  // namespace swinfleet

#endif  // SWINFLEET_WORKER_BUDGET_AGREEMENT_H_
