#include "worker/memory_plan.h"

#include "core/checkpoint/async_saver.h"
#include "core/optim/parameter_groups.h"
#include "worker/evaluate.h"
#include "worker/train_step.h"

namespace swinfleet {

MemoryPlan PlanMemory(const JobConfig& config, int rank, int ranks, bool with_evaluation) {
  MemoryPlan plan = {.memory = MemoryClasses::DryRun(), .step = {}, .save_copy_bytes = 0};
  Context context = {.ops = &DryRunOps(),
                     .workspace = &plan.memory.workspace,
                     .threads = config.parallel.threads_per_rank,
                     .count = &plan.step};
  SwinV2 model(config.model);
  const std::unique_ptr<Communicator> communicator = MakeDryRunCommunicator(rank, ranks);
  const ZeroOptions options = {
      .stage = config.parallel.zero_stage,
      .optimizer = config.train.optimizer,
      .hypers = ClassificationGroups(model.parameters(), config.train.optimizer.weight_decay),
      .leaves = ShardLayout::LeafCount(rank, ranks, config.train.micro_batches())};
  ZeroEngine engine(model.parameters(), communicator.get(), options, &plan.memory, &context);
  TrainStep step(config, /*steps_per_epoch=*/1, &model, &engine, communicator.get(), &plan.memory,
                 &context);
  Batch batch;
  batch.pictures = config.train.micro_batch;
  step.Run(0, 0, {}, [&] { return &batch; });
  plan.save_copy_bytes = SaveBufferElements(engine.OwnedState()) * sizeof(float);

  if (with_evaluation) {
    // Its work is not the step's.
    const WorkCount counted = plan.step;
    batch.pictures = config.train.eval_batch;
    EvaluateBatch(config.model, batch, &model, &engine, &plan.memory, &context);
    plan.step = counted;
  }
  return plan;
}

}  // namespace swinfleet
