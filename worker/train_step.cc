#include "worker/train_step.h"

#include <array>
#include <cmath>

#include "core/loss/targets.h"
#include "core/optim/optimizer.h"
#include "core/optim/schedule.h"
#include "core/rng/counter_rng.h"

namespace swinfleet {

void TreeSum::Add(double leaf) {
  for (uint64_t bits = count_++; bits & 1; bits >>= 1) {
    leaf = levels_.back() + leaf;
    levels_.pop_back();
  }
  levels_.push_back(leaf);
}

double TreeSum::Total() const {
  double total = 0;
  for (auto level = levels_.rbegin(); level != levels_.rend(); ++level) {
    total = level == levels_.rbegin() ? *level : *level + total;
  }
  return total;
}

TrainStep::TrainStep(const JobConfig& config, int64_t steps_per_epoch, SwinV2* model,
                     ZeroEngine* engine, Communicator* communicator, MemoryClasses* memory,
                     Context* context)
    : config_(config),
      steps_per_epoch_(steps_per_epoch),
      model_(model),
      engine_(engine),
      communicator_(communicator),
      memory_(memory),
      context_(context),
      drop_path_rates_(model->DropPathRates()) {
  leaves_ = ShardLayout::LeafCount(communicator->rank(), communicator->size(),
                                   config.train.micro_batches());
}

StepResult TrainStep::Run(int64_t step, int64_t updates, const StepFlags& flags,
                          const std::function<const Batch*()>& next_batch) {
  const TrainConfig& train = config_.train;
  StepResult result;
  TreeSum loss;
  engine_->BeginStep();
  for (int64_t leaf = 0; leaf < leaves_; ++leaf) {
    engine_->BeginMicroBatch(leaf);
    loss.Add(ForwardBackward(*next_batch(), step));  // reduce-scatter, under backward
  }
  const GradientNorm gradient = engine_->FinishReduction();  // all-gather of the chunks' norms
  Reduce(loss.Total(), flags, &result);                      // all-reduce
  result.grad_norm = gradient.norm;
  result.learning_rate = RateOfUpdate(train.schedule, train.optimizer.learning_rate, train.epochs,
                                      steps_per_epoch_, step);
  result.skipped = !std::isfinite(result.loss) || !std::isfinite(gradient.norm);
  if (result.skipped) {
    result.first_nonfinite = gradient.first_nonfinite.empty() ? "loss" : gradient.first_nonfinite;
    return result;
  }
  engine_->Update(result.learning_rate, updates, ClipFactor(gradient.norm, train.clip_grad_norm));
  engine_->PublishParameters();  // all-gather
  return result;
}

double TrainStep::ForwardBackward(const Batch& batch, int64_t step) {
  ArenaScope scope(&memory_->activations);
  const ModelConfig& model = config_.model;
  const Device device = memory_->activations.device();
  const Shape per_class = {batch.pictures, model.num_classes};
  const TensorView logits = memory_->activations.Allocate(per_class);
  const TensorView target = memory_->activations.Allocate(per_class);
  const TensorView dlogits = memory_->activations.Allocate(per_class);
  const TensorView loss = memory_->activations.Allocate({batch.pictures});
  const TensorView image =
      ViewOf(const_cast<float*>(batch.image.data()),
             {batch.pictures, model.in_chans, model.image_h, model.image_w}, device);

  ForwardOptions options;
  options.drop_path_factor = DropPathFactor(batch, step);
  model_->Forward(image, logits, options, *engine_, memory_->activations, *context_);
  if (device != Device::kDryRun) {
    SmoothedTargets(batch.label, model.num_classes, config_.train.label_smoothing, target.span());
  }
  const float scale = 1.0f / static_cast<float>(config_.train.global_batch);
  context_->ops->cross_entropy({logits, target, loss, dlogits, scale}, *context_);
  model_->Backward(dlogits, {}, *engine_, memory_->activations, *context_);
  if (device == Device::kDryRun) return 0;
  double sum = 0;
  for (float value : loss.span()) sum += value;
  return sum;
}

std::function<float(int, int, int64_t)> TrainStep::DropPathFactor(const Batch& batch,
                                                                  int64_t step) const {
  if (config_.model.drop_path_rate == 0) return {};
  return [this, &batch, step](int block, int branch, int64_t picture) {
    const double keep = 1 - drop_path_rates_[block];
    CounterRng random(config_.train.seed, RandomPurpose::kDropPath, batch.sample[picture],
                      static_cast<uint32_t>(step), static_cast<uint32_t>(2 * block + branch));
    return random.Uniform() < keep ? static_cast<float>(1 / keep) : 0.0f;
  };
}

void TrainStep::Reduce(double loss, const StepFlags& flags, StepResult* result) {
  std::array<double, 4> sums = {loss, flags.cancel ? 1.0 : 0.0, flags.stop ? 1.0 : 0.0,
                                flags.saved ? 1.0 : 0.0};
  communicator_->AllReduceSum(sums, "loss and flags");
  result->loss = sums[0] / static_cast<double>(config_.train.global_batch);
  result->cancel = static_cast<int64_t>(sums[1]);
  result->stop = static_cast<int64_t>(sums[2]);
  result->saved = static_cast<int64_t>(sums[3]);
}

}  // namespace swinfleet
