// SimMIM: its model, its loss, and its normalised targets.
#include <cmath>
#include <memory>

#include "core/data/mask.h"
#include "core/loss/masked.h"
#include "tests/golden/golden_check.h"

namespace swinfleet::golden {
namespace {

// The mask of units that a mask of patches (B, patches down, patches across) was expanded from.
std::vector<int32_t> UnitMask(const Golden& golden, const ModelConfig& model, int64_t unit,
                              int64_t pictures) {
  const std::vector<int64_t> values = golden.LoadIntegers("input/mask");
  const std::vector<int32_t> patches(values.begin(), values.end());
  const int64_t factor = unit / model.patch_size, across = model.image_w / model.patch_size;
  const int64_t tokens = model.StageTokens(0);
  const int64_t units_h = model.image_h / unit, units_w = model.image_w / unit;
  if (static_cast<int64_t>(patches.size()) != pictures * tokens) {
    throw Error(golden.path() + ": input/mask has " + std::to_string(patches.size()) + " patches");
  }
  std::vector<int32_t> mask;
  for (int64_t i = 0; i < pictures * units_h * units_w; ++i) {
    const int64_t row = i / units_w % units_h * factor, column = i % units_w * factor;
    mask.push_back(patches[i / (units_h * units_w) * tokens + row * across + column]);
  }
  std::vector<int32_t> expanded(patches.size());
  ExpandMask(mask, pictures * units_h, units_w, factor, expanded);
  if (expanded != patches) throw Error(golden.path() + ": input/mask is not made of units");
  return mask;
}

// (B, L, C) to (B, C, L).
std::vector<float> ChannelsFirst(const std::vector<float>& tokens, int64_t batch,
                                 int64_t channels) {
  std::vector<float> result(tokens.size());
  const int64_t length = static_cast<int64_t>(tokens.size()) / batch / channels;
  for (int64_t i = 0; i < static_cast<int64_t>(tokens.size()); ++i) {
    const int64_t b = i / (length * channels), l = i / channels % length, c = i % channels;
    result[(b * channels + c) * length + l] = tokens[i];
  }
  return result;
}

// A few roundings of the predictions, which differ by them from the reference's.
constexpr float kKink = 5e-6f;

void FindKinkPixels(std::span<const float> target, std::span<const float> prediction,
                    std::span<float> dprediction, KinkPixels* kink) {
  kink->count = 0;
  for (size_t i = 0; i < target.size(); ++i) {
    if (dprediction[i] == 0 || std::abs(prediction[i] - target[i]) > kKink) continue;
    ++kink->count;
    if (kink->flip) dprediction[i] = -dprediction[i];
  }
}

}  // namespace

void UseMaskedLoss(const ModelConfig& model, const PretrainConfig& pretrain,
                   ModelRunner::Pass* pass, const std::shared_ptr<KinkPixels>& kink) {
  struct Data {
    std::vector<float> image;
    std::vector<int32_t> mask;
    std::unique_ptr<Objective> objective;
  };
  const auto data = std::make_shared<Data>();
  *data = {pass->image, pass->mask, MakeMaskedObjective(model, pretrain)};
  pass->grad_scale = 1.0 / static_cast<double>(pass->pictures);
  pass->loss = [data, kink, image_shape = pass->image_shape, mask_shape = pass->mask_shape,
                grad_scale = static_cast<float>(pass->grad_scale)](
                   const TensorView& output, const TensorView& loss, const TensorView& doutput,
                   Arena& activations, Context& context) {
    const ModelInput input = {ViewOf(data->image.data(), image_shape),
                              ViewOf(data->mask.data(), mask_shape)};
    const double sum =
        data->objective->Compute(Batch(), input, output, doutput, grad_scale, activations, context);
    if (kink != nullptr) FindKinkPixels(data->image, output.span(), doutput.span(), kink.get());
    // Only the mean over pictures is compared.
    for (float& value : loss.span()) value = 0;
    loss.span()[0] = static_cast<float>(sum);
  };
}

void ComparePass(const Golden& golden, const ModelRunner::Result& result, ModelRunner& runner,
                 const std::string& note, Comparison& comparison) {
  const std::vector<double> loss = {result.MeanLoss()};
  comparison.Compare("output/loss", std::span<const double>(loss), note);
  CompareExactLoss(golden, loss, comparison);
  const std::vector<ParameterInfo>& infos = runner.table().parameters();
  for (int i = 0; i < static_cast<int>(infos.size()); ++i) {
    comparison.Compare("grad/" + infos[i].name, runner.parameters().GradientOf(i), note);
  }
  if (golden.Has("grad/input/image")) {
    comparison.Compare("grad/input/image", std::span<const float>(result.image_gradient), note);
  }
}

SimMimCase LoadSimMim(const Golden& golden) {
  Json model = golden.config().at("model");
  SimMimCase result;
  const auto stride = model.at("encoder_stride").get<int64_t>();
  PretrainConfig& pretrain = result.pretrain;
  pretrain.method = PretrainConfig::Method::kSimMim;
  pretrain.norm_target = model.at("norm_target").get<bool>();
  pretrain.norm_target_window = model.at("norm_target_patch_size").get<int64_t>();
  pretrain.mask_unit = golden.config().at("mask").at("mask_patch_size").get<int64_t>();
  pretrain.mask_ratio = golden.config().at("mask").at("mask_ratio").get<double>();
  for (const char* key : {"encoder_stride", "norm_target", "norm_target_patch_size"}) {
    model.erase(key);
  }
  // SimMIM has no classes.
  model["num_classes"] = 1;
  result.model = ParseModel(model);
  if (stride != result.model.patch_size << (result.model.num_stages() - 1)) {
    throw Unsupported("encoder_stride " + std::to_string(stride) + " is not the model's");
  }
  ModelRunner::Pass& pass = result.pass;
  pass.pictures = golden.config().at("batch_size").get<int64_t>();
  pass.image_shape = result.model.ImageShape(pass.pictures);
  pass.image = golden.Load("input/image", pass.image_shape).values;
  pass.mask_shape = MaskShape(MaskConfigFor(result.model, pretrain), pass.pictures);
  pass.mask = UnitMask(golden, result.model, pretrain.mask_unit, pass.pictures);
  pass.want_image_gradient = golden.Has("grad/input/image");
  if (!pretrain.norm_target) result.kink = std::make_shared<KinkPixels>();
  UseMaskedLoss(result.model, pretrain, &pass, result.kink);
  return result;
}

void CheckSimMim(const Golden& golden, const Machine& machine, Comparison& comparison) {
  const SimMimCase simmim = LoadSimMim(golden);
  ModelRunner runner(golden, MakeModel(simmim.model, simmim.pretrain, MemoryConfig()), machine);
  const ModelRunner::Result result = runner.Run(simmim.pass);
  comparison.Compare("output/reconstruction", std::span<const float>(result.logits));
  const std::vector<float> encoder = ChannelsFirst(
      result.captured.at("encoder"), simmim.pass.pictures, simmim.model.num_features());
  comparison.Compare("output/encoder", std::span<const float>(encoder));
  if (golden.Has("output/target")) {
    Tensor image = golden.Load("input/image"), target = Tensor::Zeros(image.shape);
    OpRunner(machine.threads)
        .Run(&OpTable::norm_targets,
             {image.View(), simmim.pretrain.norm_target_window, target.View()});
    comparison.Compare("output/target", std::span<const float>(target.values));
  }
  ComparePass(golden, result, runner, "", comparison);
}

void CheckNormTargets(const Golden& golden, const OpRunner& runner, Comparison& comparison) {
  Tensor x = golden.Load("input/x"), y = Tensor::Zeros(x.shape);
  runner.Run(&OpTable::norm_targets,
             {x.View(), golden.config().at("patch_size").get<int64_t>(), y.View()});
  comparison.Compare("output/y", std::span<const float>(y.values));
}

}  // namespace swinfleet::golden
