// Choosing how to hold memory down: the cheapest way that fits.
#ifndef SWINFLEET_WORKER_MEMORY_BUDGET_H_
#define SWINFLEET_WORKER_MEMORY_BUDGET_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/config/job_config.h"
#include "worker/memory_plan.h"

namespace swinfleet {

// Ranks that are proposed at most.
inline constexpr int64_t kMostRanks = 4096;

// CPU seconds that are spent on proposals at most, but for the dry runs of the one in progress: a
// refusal should not wait long for them. The giant models' take most.
inline constexpr double kProposalSeconds = 4;

// One way to run a job: its checkpointing and sequential attention, and what they lead to on the
// busiest rank.
struct MemoryChoice {
  MemoryConfig memory;
  // MemoryPlan::PredictedProcessBytes.
  size_t process_bytes = 0;
  // Of one step.
  WorkCount step;
};

// What there is to choose from, for each stage: none, selective or whole-block checkpointing, with
// attention of all windows at once or in groups of a few sizes.
struct ChoiceSearch {
  // Without any of it.
  MemoryChoice plain;
  // The one of the least memory.
  MemoryChoice least;
  // The one of the least FLOPs, and among these of the fewest bytes touched, that takes at most
  // `limit` bytes; absent when none does.
  std::optional<MemoryChoice> cheapest;
};

// The job's own settings of what is chosen here are not looked at. Every choice returned was run
// dry as a whole. The same for the same job, ranks, limit and processor.
ChoiceSearch SearchChoices(const JobConfig& config, int ranks, size_t limit,
                           const PlanOptions& options = {});

// One choice for the job, run dry.
MemoryChoice RunChoiceDry(const JobConfig& config, const MemoryConfig& memory, int ranks,
                          const PlanOptions& options = {});

// What the budget of a job that has one leads to; `cheapest` is there. Throws Error when nothing
// fits: it says the least that the job needs, and what would work.
ChoiceSearch ChooseForBudget(const JobConfig& config, int ranks, const PlanOptions& options = {});

// Sets the job's memory.checkpointing and memory.sequential_windows, and returns a line for the
// log: what was taken, what it will take, and what the job would take with `plain`.
std::string TakeChoice(const MemoryChoice& taken, const MemoryChoice& plain, JobConfig* config);

// Sets memory.checkpointing and memory.sequential_windows of a job with a memory.budget to the
// cheapest choice that fits, for `ranks` ranks, and returns TakeChoice's line. Changes nothing, and
// returns nothing, for a job without a budget. Throws as ChooseForBudget does.
std::string ResolveBudget(JobConfig* config, int ranks, const PlanOptions& options = {});

// Changes to a job that does not fit, with which it would take at most `limit` bytes a rank, each a
// phrase that names settings as job files do. Each was run dry. Where no setting helps alone, the
// first few that help together, those that leave the training's results as they are before others.
// After `seconds` of CPU time what was found so far is all. Empty when nothing was found.
std::vector<std::string> WhatWouldFit(const JobConfig& config, int ranks, size_t limit,
                                      const PlanOptions& options = {},
                                      double seconds = kProposalSeconds);

// The fewest ranks, a power of two, on which the job takes at most `limit` bytes a rank, with its
// own settings or, with a budget, any; absent when there are none.
std::optional<int> FewestRanks(const JobConfig& config, size_t limit,
                               const PlanOptions& options = {});

// The largest micro-batch that takes at most `limit` bytes, such that global_batch / micro_batch is
// a power of two and no rank is without one; 0 when there is none, or when `go_on`, which is asked
// before each that is tried, wants no more. A job with a budget makes a new choice for each;
// otherwise its settings stay.
int64_t LargestMicroBatch(const JobConfig& config, int ranks, size_t limit,
                          const PlanOptions& options = {},
                          const std::function<bool()>& go_on = nullptr);

// Memory of this machine, or of the control group (container) that this process runs in; 0 when
// neither can be read.
size_t MachineBytes();

// "[none, none, block, none]", "none" for all stages alike.
std::string CheckpointingText(const MemoryConfig& memory);
// "[16, 16, 4, 0]", "off" where no stage has any.
std::string SequentialText(const MemoryConfig& memory);

}  // namespace swinfleet

#endif  // SWINFLEET_WORKER_MEMORY_BUDGET_H_
