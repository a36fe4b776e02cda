// One optimizer step: the screen that the rest of the program exists for.
#ifndef SWINFLEET_WORKER_TRAIN_STEP_H_
#define SWINFLEET_WORKER_TRAIN_STEP_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/config/job_config.h"
#include "core/data/loader.h"
#include "core/loss/objective.h"
#include "core/nn/model.h"
#include "core/optim/loss_scaler.h"
#include "core/optim/parameter_groups.h"
#include "distributed/communicator.h"
#include "distributed/shard_layout.h"
#include "distributed/zero_engine.h"
#include "kernels/ops.h"

namespace swinfleet {

// What each rank adds to the step's sums besides its loss; agreed on by all ranks with them.
struct StepFlags {
  bool cancel = false;
  bool stop = false;
  // This rank's part of the checkpoint in flight has been written, well or not.
  bool saved = false;
  // This rank is asked for a trace, and has not begun it.
  bool trace = false;
};

struct StepResult {
  // Ranks that had no micro-batch when it was their turn. If there are any, nothing was changed,
  // and the loss and all that follows below mean nothing.
  int64_t without_input = 0;
  // Pictures of the step that couldn't be decoded, and that others stood for.
  int64_t replaced_pictures = 0;
  // Mean over the global batch, the same bits on every rank.
  double loss = 0;
  double grad_norm = 0;
  double learning_rate = 0;
  // How long this rank's computing waited for communication: what of it did not run beside.
  double exposed_seconds = 0;
  // How long this rank waited for updates of state that is offloaded to a disk: what of them did
  // not run beside.
  double disk_wait_seconds = 0;
  // The step changed nothing, because its loss or its norm was not finite.
  bool skipped = false;
  // Then: the first tensor of the gradient that is not finite, or "loss".
  std::string first_nonfinite;
  // The first tensor in which the step found a weight that is not finite, as of float16 above
  // 65504; empty when there is none. The update before made it: this one's weights the next step
  // looks through, or ZeroEngine::FirstNonfiniteWeight. Then the step changed nothing, and all that
  // follows here means nothing. Such a model is of no use any more, and must not be saved.
  std::string nonfinite_weight;
  // Skipped although there is no loss scale left to lower: a failure of training.
  bool failed = false;
  // Ranks that raised each flag.
  int64_t cancel = 0;
  int64_t stop = 0;
  int64_t saved = 0;
  int64_t trace = 0;
};

class TrainStep {
 public:
  // Everything must outlive the step. `steps_per_epoch` is what the schedule counts by.
  TrainStep(const JobConfig& config, int64_t steps_per_epoch, Model* model, ZeroEngine* engine,
            MemoryClasses* memory, Context* context);

  // Step `step` (0 is the first) of the job, the `updates`-th that changes the weights.
  // `next_batch` gives this rank's micro-batches in order, each to be used up; null when it can't.
  // Collective: also a rank without input takes part to the end. From the second step on no tensor
  // memory and no scratch is taken from the system; that it isn't is checked.
  StepResult Run(int64_t step, int64_t updates, const StepFlags& flags,
                 const std::function<Batch*()>& next_batch);

  // This rank's micro-batches of a step.
  const ShardLayout::Leaves& leaves() const { return leaves_; }
  // Of float16: kept in checkpoints.
  LossScaler& loss_scaler() { return loss_scaler_; }

 private:
  // The batch, or what stands for one that isn't there.
  Batch& Checked(Batch* batch);
  // Its gradients go to the engine. Losses, (B), are there after FinishCopies.
  void ForwardBackward(Batch& batch, int64_t step, std::span<float> losses);
  // Of the pictures of this rank's micro-batch.
  std::span<float> LossesOf(int64_t pass);
  // Drop path's factors for a micro-batch, or nothing when the model drops none.
  std::function<float(int, int, int64_t)> DropPathFactor(const Batch& batch, int64_t step) const;
  // Sums over ranks: the losses of all leaves, and the flags.
  void Reduce(const StepFlags& flags, StepResult* result);

  const JobConfig& config_;
  const int64_t steps_per_epoch_;
  Model* model_;
  std::unique_ptr<Objective> objective_;
  ZeroEngine* engine_;
  Communicator* communicator_;
  MemoryClasses* memory_;
  Context* context_;
  std::vector<double> drop_path_rates_;
  const ShardLayout::Leaves leaves_;
  const int64_t passes_;
  const std::vector<ParameterHyper> hypers_;
  std::vector<double> rates_;
  InputBuffers inputs_;
  // Of the pictures of this rank's micro-batches.
  std::vector<float> picture_losses_;
  // Of the step's micro-batches, those of other ranks zero until they are reduced; then the flags.
  std::vector<double> losses_;
  // Of this rank's micro-batches of the step.
  bool without_input_ = false;
  int64_t replaced_pictures_ = 0;
  // Black pictures, made when they are needed first.
  Batch stand_in_;
  LossScaler loss_scaler_;
  int64_t steps_begun_ = 0;
};

// The sum of a binary tree whose leaves come in order: the tree that the engine sums gradients by.
class TreeSum {
 public:
  void Add(double leaf);
  // The sum of what was added.
  double Total() const;

 private:
  std::vector<double> levels_;
  uint64_t count_ = 0;
};

}  // namespace swinfleet

#endif  // SWINFLEET_WORKER_TRAIN_STEP_H_
