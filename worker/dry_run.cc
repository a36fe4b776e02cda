#include "worker/dry_run.h"

#include "worker/memory_plan.h"

namespace swinfleet {

DryRun::DryRun(const JobConfig& job,
               const std::function<std::unique_ptr<Communicator>(DryRun* run)>& communicate,
               Device device)
    : config(job),
      memory(MemoryClasses::DryRun(device)),
      constants(&memory.parameters),
      context{.ops = device == Device::kCuda ? &CudaDryRunOps() : &DryRunOps(),
              .workspace = &memory.workspace,
              .threads = job.parallel.threads_per_rank,
              .device = device,
              .constants = &constants,
              .count = &work},
      model(MakeModel(config.model, config.pretrain, config.memory)),
      communicator(communicate(this)),
      engine(model->parameters(), communicator.get(), ZeroOptionsFor(config, model->parameters()),
             &memory, &context),
      step(config, /*steps_per_epoch=*/1, model.get(), &engine, &memory, &context) {
  // Preparing the engine is no part of a step.
  work = {};
}

StepResult DryRun::Step() {
  Batch batch = DryBatch(config, config.train.micro_batch);
  return step.Run(0, 0, {}, [&] { return &batch; });
}

JobConfig WithLeaves(const JobConfig& config, int ranks, int64_t leaves) {
  JobConfig shorter = config;
  shorter.train.global_batch = config.train.micro_batch * ranks * leaves;
  return shorter;
}

}  // namespace swinfleet
