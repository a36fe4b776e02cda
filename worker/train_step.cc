#include "worker/train_step.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "core/optim/optimizer.h"
#include "core/optim/schedule.h"
#include "core/rng/counter_rng.h"
#include "kernels/placement.h"
#include "kernels/profile.h"
#include "worker/follow.h"
#include "worker/memory_plan.h"

namespace swinfleet {
namespace {

// Of StepFlags, and what else the ranks add up.
constexpr int kFlags = 6;

// Checks at its end that since its beginning no arena was reserved and no product prepared, whose
// code would be more memory than was planned for. Drop path leaves branches with other numbers of
// rows from step to step, each of which has products of its own.
class NothingReserved {
 public:
  NothingReserved(int64_t step, bool drop_path) : step_(step), drop_path_(drop_path) {}
  ~NothingReserved() {
    CHECK_EQ(Arena::HostBlocks(), blocks_) << "step " << step_ << " reserved tensor memory";
    CHECK(drop_path_ || CpuProductsMade() == products_)
        << "step " << step_ << " prepared " << CpuProductsMade() - products_ << " products anew";
  }
  NothingReserved(const NothingReserved&) = delete;
  NothingReserved& operator=(const NothingReserved&) = delete;

 private:
  const int64_t step_;
  const bool drop_path_;
  const int64_t blocks_ = Arena::HostBlocks();
  const int64_t products_ = CpuProductsMade();
};

}  // namespace

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

TrainStep::TrainStep(const JobConfig& config, int64_t steps_per_epoch, Model* model,
                     ZeroEngine* engine, MemoryClasses* memory, Context* context)
    : config_(config),
      steps_per_epoch_(steps_per_epoch),
      model_(model),
      objective_(MakeObjective(config, /*training=*/true)),
      engine_(engine),
      communicator_(engine->communicator()),
      memory_(memory),
      context_(context),
      drop_path_rates_(model->DropPathRates()),
      leaves_(ShardLayout::LeavesOf(config.train.accumulation, communicator_->rank(),
                                    communicator_->size(), config.train.micro_batches())),
      passes_(ShardLayout::PassesOf(config.train.accumulation, communicator_->rank(),
                                    communicator_->size(), config.train.micro_batches())),
      hypers_(GroupsOf(config, model->parameters())),
      rates_(hypers_.size()),
      inputs_(config, config.train.micro_batch, &memory->activations, context),
      picture_losses_(leaves_.count * config.train.micro_batch),
      losses_(config.train.micro_batches() + kFlags),
      loss_scaler_(config.train.dtype) {}

StepResult TrainStep::Run(int64_t step, int64_t updates, const StepFlags& flags,
                          const std::function<Batch*()>& next_batch) {
  std::optional<NothingReserved> nothing_reserved;
  if (steps_begun_++ > 0) nothing_reserved.emplace(step, model_->HasDropPath());
  StepResult result;
  std::ranges::fill(losses_, 0.0);
  without_input_ = false;
  replaced_pictures_ = 0;
  const double waited = communicator_->wait_seconds();
  const double waited_for_disk = engine_->disk_wait_seconds();
  engine_->BeginStep();
  for (int64_t pass = 0; pass < passes_; ++pass) {
    engine_->BeginMicroBatch(pass);
    if (pass >= leaves_.count) {
      FollowTraining(config_, model_, engine_);
      continue;
    }
    Batch& batch = Checked(next_batch());
    // All-gather and reduce-scatter of units, overlapped.
    ForwardBackward(batch, step, LossesOf(pass));
  }
  const GradientNorm gradient = engine_->FinishReduction();  // all-gather of the chunks' norms
  FinishCopies(*context_);
  for (int64_t pass = 0; pass < leaves_.count; ++pass) {
    losses_[leaves_[pass]] = SumOfLosses(LossesOf(pass));
  }
  Reduce(flags, &result);                                     // all-reduce
  result.nonfinite_weight = engine_->FirstNonfiniteWeight();  // all-gather of a number
  result.exposed_seconds = communicator_->wait_seconds() - waited;
  result.disk_wait_seconds = engine_->disk_wait_seconds() - waited_for_disk;
  if (result.without_input > 0 || !result.nonfinite_weight.empty()) return result;
  const float scale = loss_scaler_.scale();
  result.grad_norm = gradient.norm / scale;
  result.learning_rate = RateOfUpdate(config_.train.schedule, config_.train.optimizer.learning_rate,
                                      config_.train.epochs, steps_per_epoch_, step);
  result.skipped = !std::isfinite(result.loss) || !std::isfinite(gradient.norm);
  result.failed = loss_scaler_.Record(!result.skipped) == LossScaler::Verdict::kFailure;
  if (result.skipped) {
    result.first_nonfinite = gradient.first_nonfinite.empty() ? "loss" : gradient.first_nonfinite;
    return result;
  }
  const float clip = ClipFactor(result.grad_norm, config_.train.clip_grad_norm);
  RatesOfUpdate(config_.train, hypers_, steps_per_epoch_, step, rates_);
  engine_->Update(rates_, updates, clip / scale);
  engine_->PublishParameters();  // all-gather, overlapped with what comes next
  result.exposed_seconds = communicator_->wait_seconds() - waited;
  result.disk_wait_seconds = engine_->disk_wait_seconds() - waited_for_disk;
  return result;
}

Batch& TrainStep::Checked(Batch* batch) {
  if (batch != nullptr) {
    replaced_pictures_ += static_cast<int64_t>(batch->broken.size());
    return *batch;
  }
  // The others wait for this rank's gradients, whatever these are worth.
  without_input_ = true;
  if (stand_in_.pictures == 0) {
    stand_in_ = DryBatch(config_, config_.train.micro_batch);
    stand_in_.image.resize(config_.model.ImageShape(stand_in_.pictures).NumElements());
    stand_in_.label.resize(stand_in_.pictures);
    stand_in_.sample.resize(stand_in_.pictures);
  }
  return stand_in_;
}

void TrainStep::ForwardBackward(Batch& batch, int64_t step, std::span<float> losses) {
  Arena& activations = memory_->activations;
  ArenaScope scope(&activations);
  CHECK_EQ(batch.pictures, std::ssize(losses));
  const DType dtype = config_.train.dtype;
  const ModelInput input = inputs_.Begin(&batch);
  const TensorView output = activations.Allocate(model_->OutputShape(batch.pictures), dtype);
  const TensorView doutput = activations.Allocate(output.shape, dtype);
  ForwardOptions options;
  options.dtype = dtype;
  options.drop_path_factor = DropPathFactor(batch, step);
  options.drop_path_rates = drop_path_rates_;
  const float scale = loss_scaler_.scale() / static_cast<float>(config_.train.global_batch);

  {
    const ProfileScope profile(*context_, "forward");
    model_->Forward(input, output, options, *engine_, activations, *context_);
  }
  {
    const ProfileScope profile(*context_, "loss");
    objective_->Start(batch, input, output, doutput, scale, losses, activations, *context_);
  }
  const ProfileScope profile(*context_, "backward");
  model_->Backward(doutput, {}, *engine_, activations, *context_);
  inputs_.Done();
}

std::span<float> TrainStep::LossesOf(int64_t pass) {
  return std::span(picture_losses_)
      .subspan(pass * config_.train.micro_batch, config_.train.micro_batch);
}

std::function<float(int, int, int64_t)> TrainStep::DropPathFactor(const Batch& batch,
                                                                  int64_t step) const {
  if (!model_->HasDropPath()) return {};
  return [this, &batch, step](int block, int branch, int64_t picture) {
    const double keep = 1 - drop_path_rates_[block];
    CounterRng random(config_.train.seed, RandomPurpose::kDropPath, batch.sample[picture],
                      static_cast<uint32_t>(step), static_cast<uint32_t>(2 * block + branch));
    return random.Uniform() < keep ? static_cast<float>(1 / keep) : 0.0f;
  };
}

void TrainStep::Reduce(const StepFlags& flags, StepResult* result) {
  double* raised = losses_.data() + config_.train.micro_batches();
  raised[0] = flags.cancel ? 1 : 0;
  raised[1] = flags.stop ? 1 : 0;
  raised[2] = flags.saved ? 1 : 0;
  raised[3] = without_input_ ? 1 : 0;
  raised[4] = static_cast<double>(replaced_pictures_);
  raised[5] = flags.trace ? 1 : 0;
  communicator_->AllReduceSum(losses_, "losses and flags");
  TreeSum loss;
  for (int64_t leaf = 0; leaf < config_.train.micro_batches(); ++leaf) loss.Add(losses_[leaf]);
  result->loss = loss.Total() / static_cast<double>(config_.train.global_batch);
  result->cancel = static_cast<int64_t>(raised[0]);
  result->stop = static_cast<int64_t>(raised[1]);
  result->saved = static_cast<int64_t>(raised[2]);
  result->without_input = static_cast<int64_t>(raised[3]);
  result->replaced_pictures = static_cast<int64_t>(raised[4]);
  result->trace = static_cast<int64_t>(raised[5]);
}

}  // namespace swinfleet
