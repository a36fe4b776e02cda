#include "core/loss/masked.h"

#include "core/data/mask.h"
#include "kernels/placement.h"

namespace swinfleet {
namespace {

// Units that are masked, over all pictures of the batch.
int64_t MaskedIn(const TensorView& mask, int64_t batch) {
  int64_t masked = 0;
  for (int64_t i = 0; i < mask.NumElements(); ++i) masked += mask.i32()[i] != 0;
  return mask.shape[0] == 1 ? masked * batch : masked;
}

class SimMimObjective : public Objective {
 public:
  SimMimObjective(const ModelConfig& model, const PretrainConfig& pretrain)
      : channels_(model.in_chans), pretrain_(pretrain) {}

  void Start(const Batch&, const ModelInput& input, const TensorView& output,
             const TensorView& doutput, float grad_scale, std::span<float> losses,
             Arena& activations, Context& context) override {
    ArenaScope scope(&activations);
    const int64_t pictures = output.shape[0], unit = pretrain_.mask_unit;
    const TensorView loss = activations.Allocate({pictures});
    TensorView target = input.image;
    if (pretrain_.norm_target) {
      target = activations.Allocate(input.image.shape);
      context.ops->norm_targets({input.image, pretrain_.norm_target_window, target}, context);
    }
    const bool dry = activations.device() == Device::kDryRun;
    // The official code counts the masked pixels so.
    const double pixels =
        dry ? 1 : static_cast<double>(MaskedIn(input.mask, pictures) * unit * unit) + 1e-5;
    context.ops->masked_l1({.prediction = output,
                            .target = target,
                            .mask = OnDevice(input.mask, &activations, context),
                            .unit = unit,
                            .scale = static_cast<float>(static_cast<double>(pictures) /
                                                        (pixels * static_cast<double>(channels_))),
                            .loss = loss,
                            .dprediction = doutput,
                            .grad_scale = grad_scale},
                           context);
    CopyToHostLater(loss, losses.data(), context);
  }

 private:
  const int64_t channels_;
  const PretrainConfig pretrain_;
};

class PatchObjective : public Objective {
 public:
  PatchObjective(const ModelConfig& model, const PretrainConfig& pretrain)
      : side_(model.patch_size << (model.num_stages() - 1)),
        unit_(pretrain.method == PretrainConfig::Method::kMae ? side_ : pretrain.mask_unit),
        units_h_(model.image_h / unit_),
        units_w_(model.image_w / unit_),
        normalise_(pretrain.norm_target) {}

  void Start(const Batch&, const ModelInput& input, const TensorView& output,
             const TensorView& doutput, float grad_scale, std::span<float> losses,
             Arena& activations, Context& context) override {
    ArenaScope scope(&activations);
    const int64_t pictures = output.shape[0];
    const TensorView loss = activations.Allocate({pictures});
    const TensorView target = activations.Allocate(output.shape);
    const TensorView mask = PatchMask(input.mask, output.shape[1], activations, context);
    context.ops->patch_targets({input.image, side_, normalise_, target}, context);
    const bool dry = activations.device() == Device::kDryRun;
    const double masked = dry ? 1 : static_cast<double>(MaskedPatches(input.mask, pictures));
    context.ops->masked_mse({.prediction = output,
                             .target = target,
                             .mask = mask,
                             .scale = static_cast<float>(static_cast<double>(pictures) / masked),
                             .loss = loss,
                             .dprediction = doutput,
                             .grad_scale = grad_scale},
                            context);
    CopyToHostLater(loss, losses.data(), context);
  }

 private:
  int64_t MaskedPatches(const TensorView& units, int64_t pictures) const {
    return MaskedIn(units, pictures) * (unit_ / side_) * (unit_ / side_);
  }
  // The mask of units as one of patches, i32 (B or 1, L).
  TensorView PatchMask(const TensorView& units, int64_t patches, Arena& activations,
                       const Context& context) const {
    if (unit_ == side_) return OnDevice(units, &activations, context);
    const int64_t count = units_h_ * units_w_;
    const TensorView mask = activations.Allocate({units.shape[0], patches}, DType::kI32);
    if (mask.device == Device::kDryRun) return mask;
    HostElements<int32_t> values(mask, context);
    for (int64_t b = 0; b < units.shape[0]; ++b) {
      ExpandMask({units.i32() + b * count, static_cast<size_t>(count)}, units_h_, units_w_,
                 unit_ / side_, {values.data() + b * patches, static_cast<size_t>(patches)});
    }
    values.Publish();
    return mask;
  }

  // Side of a patch, and of a mask unit, in pixels.
  const int64_t side_, unit_;
  const int64_t units_h_, units_w_;
  const bool normalise_;
};

}  // namespace

std::unique_ptr<Objective> MakeMaskedObjective(const ModelConfig& model,
                                               const PretrainConfig& pretrain) {
  CHECK(pretrain.on());
  if (pretrain.method == PretrainConfig::Method::kSimMim) {
    return std::make_unique<SimMimObjective>(model, pretrain);
  }
  return std::make_unique<PatchObjective>(model, pretrain);
}

}  // namespace swinfleet
