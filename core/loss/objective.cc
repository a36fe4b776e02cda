#include "core/loss/objective.h"

#include <algorithm>

#include "core/data/mask.h"
#include "core/loss/masked.h"
#include "core/loss/targets.h"
#include "kernels/placement.h"

namespace swinfleet {
namespace {

// Cross entropy with smoothed or mixed targets (timm's SoftTargetCrossEntropy).
class CrossEntropyObjective : public Objective {
 public:
  explicit CrossEntropyObjective(double smoothing) : smoothing_(smoothing) {}

  double Compute(const Batch& batch, const ModelInput&, const TensorView& logits,
                 const TensorView& dlogits, float grad_scale, Arena& activations,
                 Context& context) override {
    ArenaScope scope(&activations);
    const int64_t pictures = logits.shape[0], classes = logits.shape[1];
    const TensorView target = activations.Allocate({pictures, classes});
    const TensorView loss = activations.Allocate({pictures});
    if (activations.device() != Device::kDryRun) {
      HostElements<float> values(target, context);
      FillTargets(batch, classes, values.span());
      values.Publish();
    }
    context.ops->cross_entropy({logits, target, loss, dlogits, grad_scale}, context);
    return SumOfLosses(loss, context);
  }

 private:
  void FillTargets(const Batch& batch, int64_t classes, std::span<float> target) const {
    if (batch.target.empty()) {
      SmoothedTargets(batch.label, classes, smoothing_, target);
    } else {
      CHECK_EQ(batch.target.size(), target.size());
      std::ranges::copy(batch.target, target.begin());
    }
  }

  const double smoothing_;
};

}  // namespace

double SumOfLosses(const TensorView& loss, const Context& context) {
  if (loss.device == Device::kDryRun) return 0;
  const ElementsOnHost<float> losses(loss, context);
  double sum = 0;
  for (const float value : losses.span()) sum += value;
  return sum;
}

std::unique_ptr<Objective> MakeObjective(const JobConfig& config, bool training) {
  if (config.pretrain.on()) return MakeMaskedObjective(config.model, config.pretrain);
  return std::make_unique<CrossEntropyObjective>(training ? config.train.label_smoothing : 0);
}

ModelInput InputOf(const Batch& batch, const JobConfig& config, Arena& activations,
                   const Context& context) {
  const Device host = activations.device() == Device::kDryRun ? Device::kDryRun : Device::kCpu;
  const TensorView image =
      ViewOf(const_cast<float*>(batch.image.data()), config.model.ImageShape(batch.pictures), host);
  ModelInput input = {.image = OnDevice(image, &activations, context), .mask = {}};
  if (config.pretrain.on()) {
    input.mask =
        ViewOf(const_cast<int32_t*>(batch.mask.data()),
               MaskShape(MaskConfigFor(config.model, config.pretrain), batch.pictures), host);
  }
  return input;
}

}  // namespace swinfleet
