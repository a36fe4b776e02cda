#include "core/loss/objective.h"

#include <algorithm>

#include "core/data/mask.h"
#include "core/loss/masked.h"
#include "core/loss/targets.h"
#include "kernels/placement.h"
#include "kernels/profile.h"

namespace swinfleet {
namespace {

// Cross entropy with smoothed or mixed targets (timm's SoftTargetCrossEntropy).
class CrossEntropyObjective : public Objective {
 public:
  explicit CrossEntropyObjective(double smoothing) : smoothing_(smoothing) {}

  void Start(const Batch& batch, const ModelInput&, const TensorView& logits,
             const TensorView& dlogits, float grad_scale, std::span<float> losses,
             Arena& activations, Context& context) override {
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
    CopyToHostLater(loss, losses.data(), context);
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

double SumOfLosses(std::span<const float> losses) {
  double sum = 0;
  for (const float loss : losses) sum += loss;
  return sum;
}

double Objective::Compute(const Batch& batch, const ModelInput& input, const TensorView& output,
                          const TensorView& doutput, float grad_scale, Arena& activations,
                          Context& context) {
  std::vector<float> losses(output.shape[0]);
  Start(batch, input, output, doutput, grad_scale, losses, activations, context);
  FinishCopies(context);
  return SumOfLosses(losses);
}

std::unique_ptr<Objective> MakeObjective(const JobConfig& config, bool training) {
  if (config.pretrain.on()) return MakeMaskedObjective(config.model, config.pretrain);
  return std::make_unique<CrossEntropyObjective>(training ? config.train.label_smoothing : 0);
}

namespace {

TensorView ImageOf(const Batch& batch, const JobConfig& config, Device host) {
  return ViewOf(const_cast<float*>(batch.image.data()), config.model.ImageShape(batch.pictures),
                host);
}

TensorView MaskOf(const Batch& batch, const JobConfig& config, Device host) {
  if (!config.pretrain.on()) return {};
  return ViewOf(const_cast<int32_t*>(batch.mask.data()),
                MaskShape(MaskConfigFor(config.model, config.pretrain), batch.pictures), host);
}

Device HostOf(const Arena& activations) {
  return activations.device() == Device::kDryRun ? Device::kDryRun : Device::kCpu;
}

}  // namespace

ModelInput InputOf(const Batch& batch, const JobConfig& config, Arena& activations,
                   const Context& context) {
  const Device host = HostOf(activations);
  return {.image = OnDevice(ImageOf(batch, config, host), &activations, context),
          .mask = MaskOf(batch, config, host)};
}

InputBuffers::InputBuffers(const JobConfig& config, int64_t pictures, Arena* activations,
                           Context* context)
    : config_(config), activations_(activations), context_(*context), scope_(activations) {
  if (context_.device == Device::kCpu) return;
  for (int turn = 0; turn < Accelerator::kTurns; ++turn) {
    images_[turn] = activations->Allocate(config.model.ImageShape(pictures));
    // What had the memory before.
    if (context_.accelerator != nullptr) context_.accelerator->NoteUse(turn);
  }
}

ModelInput InputBuffers::Begin(Batch* batch) {
  const Device host = HostOf(*activations_);
  ModelInput input = {.image = ImageOf(*batch, config_, host),
                      .mask = MaskOf(*batch, config_, host)};
  if (context_.device != Device::kCpu) {
    const TensorView from = input.image;
    input.image = images_[turn_].Rows(0, batch->pictures);
    if (context_.accelerator != nullptr) {
      context_.accelerator->CopyInBeside(turn_, from.data, input.image.data, from.Bytes());
    }
  }
  if (!batch->mix_weight.empty()) Mix(batch, input.image);
  return input;
}

void InputBuffers::Mix(Batch* batch, const TensorView& image) {
  const ProfileScope profile(context_, "mixing");
  const Device host = HostOf(*activations_);
  const int64_t pictures = batch->pictures;
  const TensorView weight = ViewOf(batch->mix_weight.data(), {pictures, 2}, host);
  const TensorView box = ViewOf(batch->mix_box.data(), {pictures, 4}, host);
  const int64_t height = config_.model.image_h, width = config_.model.image_w;
  context_.ops->mix_pictures(
      {.image = image.Reshape(
           {pictures, image.NumElements() / (pictures * height * width), height, width}),
       .weight = OnDevice(weight, activations_, context_),
       .box = OnDevice(box, activations_, context_)},
      context_);
}

void InputBuffers::Done() {
  if (context_.accelerator != nullptr) context_.accelerator->NoteUse(turn_);
  turn_ = (turn_ + 1) % Accelerator::kTurns;
}

}  // namespace swinfleet
