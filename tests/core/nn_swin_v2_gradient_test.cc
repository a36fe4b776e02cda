// Gradients of whole models against finite differences, for the options that goldens don't cover.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/nn/swin_v2.h"

namespace swinfleet {
namespace {

constexpr int64_t kPictures = 2;

ModelConfig SmallModel() {
  ModelConfig model;
  model.image_h = 16;
  model.image_w = 32;
  model.num_classes = 5;
  model.patch_size = 2;
  model.embed_dim = 16;
  model.depths = {2, 1};
  model.num_heads = {2, 4};
  model.window_size = 4;
  model.mlp_ratio = 2;
  model.drop_path_rate = 0;
  return model;
}

// A model with parameters away from their initial values, and a batch.
class Experiment {
 public:
  explicit Experiment(const ModelConfig& config)
      : model_(config), access_(model_.parameters(), /*gradients=*/true) {
    for (int i = 0; i < Count(); ++i) {
      const std::string& name = Name(i);
      const bool gain = name.ends_with("norm.weight") || name.ends_with("norm1.weight") ||
                        name.ends_with("norm2.weight") || name.ends_with("norm3.weight");
      const float centre = gain ? 1.0f : (name.ends_with("logit_scale") ? 2.0f : 0.0f);
      for (float& x : access_.Value(i)) x = centre + 0.2f * Next();
    }
    image_.resize(kPictures * config.in_chans * config.image_h * config.image_w);
    for (float& x : image_) x = Next();
    target_.assign(kPictures * config.num_classes, 0.0f);
    for (int64_t b = 0; b < kPictures; ++b) target_[b * config.num_classes + b + 1] = 1;
    Run();
  }

  int Count() const { return static_cast<int>(model_.parameters().parameters().size()); }
  const std::string& Name(int parameter) const {
    return model_.parameters().parameters()[parameter].name;
  }
  std::vector<float> Gradient(int parameter) {
    const std::span<float> gradient = access_.GradientOf(parameter);
    return {gradient.begin(), gradient.end()};
  }
  std::span<float> Value(int parameter) { return access_.Value(parameter); }
  std::vector<float>& image() { return image_; }
  const std::vector<float>& image_gradient() const { return dimage_; }

  // Forward and backward; returns the sum of the pictures' losses.
  double Run() {
    access_.ZeroGradients();
    dimage_.assign(image_.size(), 0.0f);
    if (activations_ == nullptr) {
      Arena activations = Arena::DryRun("activations");
      Arena workspace = Arena::DryRun("workspace");
      WorkCount count;
      Context context{&DryRunOps(), &workspace, 1, &count};
      Execute(activations, context);
      activations_ =
          std::make_unique<Arena>(Arena::OnHost("activations", activations.high_water()));
      workspace_ = std::make_unique<Arena>(Arena::OnHost("workspace", workspace.high_water()));
    }
    Context context{&CpuOps(), workspace_.get(), 1, nullptr};
    return Execute(*activations_, context);
  }

 private:
  // Uniform in [-1, 1], the same on every machine.
  float Next() {
    state_ = state_ * 6364136223846793005ull + 1442695040888963407ull;
    return static_cast<float>(static_cast<double>(state_ >> 11) * 0x1p-52 - 1);
  }

  double Execute(Arena& activations, Context& context) {
    const ModelConfig& config = model_.config();
    const Shape image_shape{kPictures, config.in_chans, config.image_h, config.image_w};
    const Shape logits_shape{kPictures, config.num_classes};
    std::vector<float> logits(target_.size());
    std::vector<float> dlogits(target_.size());
    std::vector<float> loss(kPictures);
    ArenaScope scope(&activations);
    CrossEntropyArgs args;
    args.logits = ViewOf(logits.data(), logits_shape);
    args.target = ViewOf(target_.data(), logits_shape);
    args.loss = ViewOf(loss.data(), Shape{kPictures});
    args.dlogits = ViewOf(dlogits.data(), logits_shape);
    model_.Forward(ViewOf(image_.data(), image_shape), args.logits, ForwardOptions{}, access_,
                   activations, context);
    context.ops->cross_entropy(args, context);
    model_.Backward(args.dlogits, ViewOf(dimage_.data(), image_shape), access_, activations,
                    context);
    double sum = 0;
    for (const float x : loss) sum += x;
    return sum;
  }

  SwinV2 model_;
  LocalParameters access_;
  std::vector<float> image_, dimage_, target_;
  std::unique_ptr<Arena> activations_, workspace_;
  uint64_t state_ = 1;
};

// Moves `values` along their gradient and against it, by so much that the loss changes well above
// its rounding (but not so far that the loss bends), and compares the slope with the gradient's
// length.
void ExpectSlope(const std::string& name, Experiment& experiment, std::span<float> values,
                 const std::vector<float>& gradient) {
  double squares = 0;
  for (const float g : gradient) squares += static_cast<double>(g) * g;
  ASSERT_GT(squares, 1e-12) << name << " has no gradient";
  const std::vector<float> original(values.begin(), values.end());
  constexpr double kFarthest = 0.01;
  constexpr double kLossRounding = 1e-6;
  const double length = std::sqrt(squares);
  const double step = std::min(5e-4 / length, kFarthest) / length;
  double loss[2];
  for (const int side : {0, 1}) {
    const double by = side == 0 ? -step : step;
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = static_cast<float>(original[i] + by * gradient[i]);
    }
    loss[side] = experiment.Run();
  }
  std::copy(original.begin(), original.end(), values.begin());
  EXPECT_NEAR((loss[1] - loss[0]) / (2 * step) / squares, 1,
              0.02 + kLossRounding / (step * squares))
      << name;
}

void ExpectGradients(const ModelConfig& model) {
  ASSERT_EQ(ValidateModel(model), std::vector<std::string>());
  Experiment experiment(model);
  std::vector<std::vector<float>> gradients;
  for (int i = 0; i < experiment.Count(); ++i) gradients.push_back(experiment.Gradient(i));
  const std::vector<float> dimage = experiment.image_gradient();
  for (int i = 0; i < experiment.Count(); ++i) {
    ExpectSlope(experiment.Name(i), experiment, experiment.Value(i), gradients[i]);
  }
  ExpectSlope("image", experiment, experiment.image(), dimage);
}

TEST(SwinV2Gradient, Plain) { ExpectGradients(SmallModel()); }

TEST(SwinV2Gradient, WithoutQkvBias) {
  ModelConfig model = SmallModel();
  model.qkv_bias = false;
  const SwinV2 built(model);
  EXPECT_EQ(built.parameters().Find("layers.0.blocks.0.attn.q_bias"), -1);
  ExpectGradients(model);
}

TEST(SwinV2Gradient, WithoutPatchNorm) {
  ModelConfig model = SmallModel();
  model.patch_norm = false;
  const SwinV2 built(model);
  EXPECT_EQ(built.parameters().Find("patch_embed.norm.weight"), -1);
  ExpectGradients(model);
}

TEST(SwinV2Gradient, PositionEmbeddingAndOneChannel) {
  ModelConfig model = SmallModel();
  model.ape = true;
  model.in_chans = 1;
  const SwinV2 built(model);
  const int ape = built.parameters().Find("absolute_pos_embed");
  ASSERT_GE(ape, 0);
  EXPECT_EQ(built.parameters().parameters()[ape].shape, Shape({1, 128, 16}));
  ExpectGradients(model);
}

TEST(SwinV2Gradient, ExtraNormAfterEveryBlock) {
  ModelConfig model = SmallModel();
  model.extra_norm_period = 1;
  const SwinV2 built(model);
  EXPECT_GE(built.parameters().Find("layers.0.blocks.1.norm3.weight"), 0);
  ExpectGradients(model);
}

TEST(SwinV2Gradient, PretrainedWindowsAndAnOddWindow) {
  ModelConfig model = SmallModel();
  model.image_h = model.image_w = 24;
  model.window_size = 3;
  model.pretrained_window_sizes = {6, 3};
  ExpectGradients(model);
}

TEST(SwinV2Gradient, MapOfOneToken) {
  ModelConfig model = SmallModel();
  model.image_h = model.image_w = 8;
  model.depths = {1, 1, 1};
  model.num_heads = {2, 4, 8};
  // The only window of the last stage holds one token: its attention doesn't depend on q and k.
  Experiment experiment(model);
  for (int i = 0; i < experiment.Count(); ++i) {
    for (const float g : experiment.Gradient(i)) ASSERT_TRUE(std::isfinite(g));
  }
}

TEST(SwinV2Gradient, OneStageOneBlock) {
  ModelConfig model = SmallModel();
  model.depths = {1};
  model.num_heads = {4};
  ExpectGradients(model);
}

}  // namespace
}  // namespace swinfleet
