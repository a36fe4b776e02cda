#include "worker/follow.h"

#include <algorithm>

#include "core/loss/objective.h"
#include "core/memory/memory_classes.h"
#include "worker/memory_plan.h"

namespace swinfleet {
namespace {

// Passes on what modules ask for, and gives them memory of the dry run.
class FollowedParameters : public ParameterAccess {
 public:
  FollowedParameters(const ParameterTable& table, ParameterAccess* followed, DType dtype)
      : table_(table), followed_(followed), memory_(Arena::DryRun("followed")) {
    int64_t largest = 0;
    for (const Unit& unit : table.units()) largest = std::max(largest, unit.padded_size);
    values_ = memory_.Allocate({largest}, dtype);
    gradient_ = memory_.Allocate({largest});
  }

  TensorView Acquire(int unit) override {
    followed_->Acquire(unit);
    return values_.Rows(0, table_.units()[unit].padded_size);
  }
  void Release(int unit) override { followed_->Release(unit); }
  // What the engine gives stays as it is, zero.
  TensorView Gradient(int unit) override {
    return gradient_.Rows(0, table_.units()[unit].padded_size);
  }
  bool TakeUnwritten(int parameter) override { return false; }
  void GradientReady(int unit) override { followed_->GradientReady(unit); }

 private:
  const ParameterTable& table_;
  ParameterAccess* followed_;
  Arena memory_;
  TensorView values_, gradient_;
};

void Follow(const JobConfig& config, int64_t pictures, bool training, Model* model,
            ParameterAccess* parameters) {
  MemoryClasses memory = MemoryClasses::DryRun();
  Context context = {.ops = &DryRunOps(),
                     .workspace = &memory.workspace,
                     .threads = config.parallel.threads_per_rank,
                     .count = nullptr};
  const DType dtype = config.train.dtype;
  FollowedParameters followed(model->parameters(), parameters, dtype);
  const Batch batch = DryBatch(config, pictures);
  const ModelInput input = InputOf(batch, config, memory.activations, context);
  const TensorView output = memory.activations.Allocate(model->OutputShape(pictures), dtype);
  ForwardOptions options;
  options.dtype = dtype;
  options.keep_for_backward = training;
  model->Forward(input, output, options, followed, memory.activations, context);
  if (!training) return;
  const TensorView doutput = memory.activations.Allocate(output.shape, dtype);
  model->Backward(doutput, {}, followed, memory.activations, context);
}

}  // namespace

void FollowTraining(const JobConfig& config, Model* model, ParameterAccess* parameters) {
  Follow(config, config.train.micro_batch, /*training=*/true, model, parameters);
}

void FollowEvaluation(const JobConfig& config, Model* model, ParameterAccess* parameters) {
  Follow(config, config.train.eval_batch, /*training=*/false, model, parameters);
}

}  // namespace swinfleet
