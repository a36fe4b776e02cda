// Gradients of whole models against finite differences, for the options that goldens don't cover.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "tests/core/nn_experiment.h"

namespace swinfleet {
namespace {

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

void ExpectGradients(const ModelConfig& model, int64_t pictures = 2, DropPath drop_path = {}) {
  ASSERT_EQ(ValidateModel(model), std::vector<std::string>());
  Experiment experiment(model, MemoryConfig(), pictures, std::move(drop_path));
  std::vector<std::vector<float>> gradients;
  for (int i = 0; i < experiment.Count(); ++i) gradients.push_back(experiment.Gradient(i));
  const std::vector<float> dimage = experiment.image_gradient();
  for (int i = 0; i < experiment.Count(); ++i) {
    ExpectSlope(experiment.Name(i), experiment, experiment.Value(i), gradients[i]);
  }
  ExpectSlope("image", experiment, experiment.image(), dimage);
}

TEST(ModelGradientTest, Plain) { ExpectGradients(SmallModel()); }

TEST(ModelGradientTest, WithoutQkvBias) {
  ModelConfig model = SmallModel();
  model.qkv_bias = false;
  const auto built = MakeModel(model, PretrainConfig(), MemoryConfig());
  EXPECT_EQ(built->parameters().Find("layers.0.blocks.0.attn.q_bias"), -1);
  ExpectGradients(model);
}

TEST(ModelGradientTest, WithoutPatchNorm) {
  ModelConfig model = SmallModel();
  model.patch_norm = false;
  const auto built = MakeModel(model, PretrainConfig(), MemoryConfig());
  EXPECT_EQ(built->parameters().Find("patch_embed.norm.weight"), -1);
  ExpectGradients(model);
}

TEST(ModelGradientTest, PositionEmbeddingAndOneChannel) {
  ModelConfig model = SmallModel();
  model.ape = true;
  model.in_chans = 1;
  const auto built = MakeModel(model, PretrainConfig(), MemoryConfig());
  const int ape = built->parameters().Find("absolute_pos_embed");
  ASSERT_GE(ape, 0);
  EXPECT_EQ(built->parameters().parameters()[ape].shape, Shape({1, 128, 16}));
  ExpectGradients(model);
}

TEST(ModelGradientTest, ExtraNormAfterEveryBlock) {
  ModelConfig model = SmallModel();
  model.extra_norm_period = 1;
  const auto built = MakeModel(model, PretrainConfig(), MemoryConfig());
  EXPECT_GE(built->parameters().Find("layers.0.blocks.1.norm3.weight"), 0);
  ExpectGradients(model);
}

TEST(ModelGradientTest, PretrainedWindowsAndAnOddWindow) {
  ModelConfig model = SmallModel();
  model.image_h = model.image_w = 24;
  model.window_size = 3;
  model.pretrained_window_sizes = {6, 3};
  ExpectGradients(model);
}

TEST(ModelGradientTest, MapOfOneToken) {
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

TEST(ModelGradientTest, OneStageOneBlock) {
  ModelConfig model = SmallModel();
  model.depths = {1};
  model.num_heads = {4};
  ExpectGradients(model);
}

// The last stage's 3 x 6 map is padded to 4 x 8, with shifted windows.
ModelConfig PaddedModel(Architecture arch) {
  ModelConfig model = SmallModel();
  model.arch = arch;
  model.image_h = 24;
  model.image_w = 40;
  model.depths = {2, 2};
  model.window_size = 5;
  return model;
}

ModelConfig VideoModel() {
  ModelConfig model = SmallModel();
  model.arch = Architecture::kVideoSwin;
  model.image_h = 22;
  model.image_w = 18;
  model.frames = 5;
  model.patch_frames = 2;
  model.window_frames = 2;
  return model;
}

TEST(ModelGradientTest, MapsThatWindowsDoNotDivide) {
  ExpectGradients(PaddedModel(Architecture::kSwinV2));
}

TEST(ModelGradientTest, V1) {
  ModelConfig model = SmallModel();
  model.arch = Architecture::kSwinV1;
  ExpectGradients(model);
}

TEST(ModelGradientTest, V1MapsThatWindowsDoNotDivide) {
  ExpectGradients(PaddedModel(Architecture::kSwinV1));
}

TEST(ModelGradientTest, Clips) { ExpectGradients(VideoModel()); }

TEST(ModelGradientTest, ClipsThatWindowsDivide) {
  ModelConfig model = VideoModel();
  model.image_h = model.image_w = 16;
  model.frames = 8;
  ExpectGradients(model);
}

TEST(ModelGradientTest, DropPath) {
  for (const Architecture arch :
       {Architecture::kSwinV1, Architecture::kSwinV2, Architecture::kVideoSwin}) {
    ModelConfig model = arch == Architecture::kVideoSwin ? VideoModel() : SmallModel();
    model.arch = arch;
    // Other pictures in each branch, one or two of three.
    ExpectGradients(model, 3, [](int block, int branch, int64_t picture) {
      return (picture + block + branch) % 3 == 0 || (block == 1 && picture == 1) ? 0.0f : 1.5f;
    });
  }
}

}  // namespace
}  // namespace swinfleet
