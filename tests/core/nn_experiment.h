// A small model with a batch, for tests of whole models.
#ifndef SWINFLEET_TESTS_CORE_NN_EXPERIMENT_H_
#define SWINFLEET_TESTS_CORE_NN_EXPERIMENT_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/nn/model.h"

namespace swinfleet {

// ForwardOptions::drop_path_factor.
using DropPath = std::function<float(int block, int branch, int64_t picture)>;

inline ModelConfig SmallModel() {
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

// One with an extra normalisation in Swin V2, of clips in Video Swin.
inline ModelConfig SmallModelOf(Architecture arch) {
  ModelConfig model = SmallModel();
  model.arch = arch;
  model.depths = {2, 2};
  model.extra_norm_period = arch == Architecture::kSwinV2 ? 2 : 0;
  if (model.is_video()) {
    model.frames = 6;
    model.patch_frames = 2;
    model.window_frames = 2;
  }
  return model;
}

// The kinds of Swin Transformers, for INSTANTIATE_TEST_SUITE_P.
inline const auto kSwinKinds =
    testing::Values(Architecture::kSwinV1, Architecture::kSwinV2, Architecture::kVideoSwin);
inline std::string SwinKindName(const testing::TestParamInfo<Architecture>& info) {
  return info.param == Architecture::kSwinV1   ? "V1"
         : info.param == Architecture::kSwinV2 ? "V2"
                                               : "Video";
}

// A model with parameters away from their initial values, and a batch.
class Experiment {
 public:
  explicit Experiment(const ModelConfig& config, const MemoryConfig& memory = {},
                      int64_t pictures = 2, DropPath drop_path = {})
      : config_(config),
        pictures_(pictures),
        drop_path_(std::move(drop_path)),
        model_(MakeModel(config, PretrainConfig(), memory)),
        access_(model_->parameters(), /*gradients=*/true) {
    for (int i = 0; i < Count(); ++i) {
      const std::string& name = Name(i);
      const bool gain = name.ends_with("norm.weight") || name.ends_with("norm1.weight") ||
                        name.ends_with("norm2.weight") || name.ends_with("norm3.weight");
      const float centre = gain ? 1.0f : (name.ends_with("logit_scale") ? 2.0f : 0.0f);
      for (float& x : access_.Value(i)) x = centre + 0.2f * Next();
    }
    image_.resize(config.ImageShape(pictures).NumElements());
    for (float& x : image_) x = Next();
    target_.assign(pictures * config.num_classes, 0.0f);
    for (int64_t b = 0; b < pictures; ++b) {
      target_[b * config.num_classes + (b + 1) % config.num_classes] = 1;
    }
    Run();
  }

  int Count() const { return static_cast<int>(model_->parameters().parameters().size()); }
  const std::string& Name(int parameter) const {
    return model_->parameters().parameters()[parameter].name;
  }
  std::vector<float> Gradient(int parameter) {
    const std::span<float> gradient = access_.GradientOf(parameter);
    return {gradient.begin(), gradient.end()};
  }
  std::span<float> Value(int parameter) { return access_.Value(parameter); }
  std::vector<float>& image() { return image_; }
  const std::vector<float>& image_gradient() const { return dimage_; }
  size_t activation_bytes() const { return activations_->high_water(); }

  // Forward and backward; returns the sum of the pictures' losses.
  double Run() {
    access_.ZeroGradients();
    dimage_.assign(image_.size(), 0.0f);
    if (activations_ == nullptr) {
      Arena activations = Arena::DryRun("activations");
      Arena workspace = Arena::DryRun("workspace");
      WorkCount count;
      Context context{.ops = &DryRunOps(), .workspace = &workspace, .threads = 1, .count = &count};
      Execute(activations, context);
      activations_ =
          std::make_unique<Arena>(Arena::OnHost("activations", activations.high_water()));
      workspace_ = std::make_unique<Arena>(Arena::OnHost("workspace", workspace.high_water()));
    }
    Context context{.ops = &CpuOps(), .workspace = workspace_.get(), .threads = 1};
    return Execute(*activations_, context);
  }

 private:
  // Uniform in [-1, 1], the same on every machine.
  float Next() {
    state_ = state_ * 6364136223846793005ull + 1442695040888963407ull;
    return static_cast<float>(static_cast<double>(state_ >> 11) * 0x1p-52 - 1);
  }

  double Execute(Arena& activations, Context& context) {
    const Shape image_shape = config_.ImageShape(pictures_);
    const Shape logits_shape = model_->OutputShape(pictures_);
    std::vector<float> logits(target_.size());
    std::vector<float> dlogits(target_.size());
    std::vector<float> loss(pictures_);
    ArenaScope scope(&activations);
    CrossEntropyArgs args;
    args.logits = ViewOf(logits.data(), logits_shape);
    args.target = ViewOf(target_.data(), logits_shape);
    args.loss = ViewOf(loss.data(), Shape{pictures_});
    args.dlogits = ViewOf(dlogits.data(), logits_shape);
    ForwardOptions options;
    options.drop_path_factor = drop_path_;
    model_->Forward({ViewOf(image_.data(), image_shape), {}}, args.logits, options, access_,
                    activations, context);
    context.ops->cross_entropy(args, context);
    model_->Backward(args.dlogits, ViewOf(dimage_.data(), image_shape), access_, activations,
                     context);
    double sum = 0;
    for (const float x : loss) sum += x;
    return sum;
  }

  const ModelConfig config_;
  const int64_t pictures_;
  const DropPath drop_path_;
  std::unique_ptr<Model> model_;
  LocalParameters access_;
  std::vector<float> image_, dimage_, target_;
  std::unique_ptr<Arena> activations_, workspace_;
  uint64_t state_ = 1;
};

// Loss and all gradients.
inline std::vector<float> Results(const ModelConfig& model, const MemoryConfig& memory,
                                  int64_t pictures = 2, const DropPath& drop_path = {}) {
  Experiment experiment(model, memory, pictures, drop_path);
  std::vector<float> results = {static_cast<float>(experiment.Run())};
  for (int i = 0; i < experiment.Count(); ++i) {
    const std::vector<float> gradient = experiment.Gradient(i);
    results.insert(results.end(), gradient.begin(), gradient.end());
  }
  results.insert(results.end(), experiment.image_gradient().begin(),
                 experiment.image_gradient().end());
  return results;
}

// But for the rounding of sums in another order.
inline void ExpectClose(const std::vector<float>& results, const std::vector<float>& expected) {
  ASSERT_EQ(results.size(), expected.size());
  float largest = 0, worst = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    largest = std::max(largest, std::abs(expected[i]));
    worst = std::max(worst, std::abs(results[i] - expected[i]));
  }
  EXPECT_LE(worst, 2e-6f * largest);
}

}  // namespace swinfleet

#endif  // SWINFLEET_TESTS_CORE_NN_EXPERIMENT_H_
