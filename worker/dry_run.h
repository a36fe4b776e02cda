// Training steps on the device that only counts: what plans are made of.
#ifndef SWINFLEET_WORKER_DRY_RUN_H_
#define SWINFLEET_WORKER_DRY_RUN_H_

#include <functional>
#include <memory>

#include "core/config/job_config.h"
#include "core/memory/memory_classes.h"
#include "core/nn/model.h"
#include "distributed/communicator.h"
#include "distributed/zero_engine.h"
#include "kernels/ops.h"
#include "kernels/placement.h"
#include "worker/train_step.h"

namespace swinfleet {

// A rank, with everything that a step of the job needs, on memory that only counts. Nothing of the
// model's size is allocated.
struct DryRun {
  // `communicate` makes the communicator, which may refer to `work` and `traffic`.
  // `device` is the one that it stands for.
  DryRun(const JobConfig& job,
         const std::function<std::unique_ptr<Communicator>(DryRun* run)>& communicate,
         Device device = Device::kCpu);
  DryRun(const DryRun&) = delete;
  DryRun& operator=(const DryRun&) = delete;

  // The whole of a step, which `work` is added up over.
  StepResult Step();

  const JobConfig config;
  MemoryClasses memory;
  ConstantTables constants;
  WorkCount work;
  Traffic traffic;
  Context context;
  std::unique_ptr<Model> model;
  std::unique_ptr<Communicator> communicator;
  ZeroEngine engine;
  TrainStep step;
};

// The job with `leaves` micro-batches for every rank.
JobConfig WithLeaves(const JobConfig& config, int ranks, int64_t leaves);

}  // namespace swinfleet

#endif  // SWINFLEET_WORKER_DRY_RUN_H_
