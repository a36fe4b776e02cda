#include <gtest/gtest.h>

#include <set>
#include <string>

#include "core/config/job_config.h"
#include "core/nn/model.h"

namespace swinfleet {
namespace {

TEST(ModelPreset, AllAreValidAndDifferent) {
  const std::vector<std::string> names = ModelPresetNames();
  EXPECT_EQ(names.size(), 35u);
  EXPECT_EQ(std::set<std::string>(names.begin(), names.end()).size(), names.size());
  for (const std::string& name : names) {
    const std::optional<ModelConfig> model = ModelPreset(name);
    ASSERT_TRUE(model.has_value()) << name;
    EXPECT_EQ(ValidateModel(*model), std::vector<std::string>()) << name;
    if (model->arch == Architecture::kVit) continue;
    for (int stage = 0; stage < model->num_stages(); ++stage) {
      EXPECT_EQ(model->StageDim(stage) / model->num_heads[stage], 32) << name;
    }
  }
}

TEST(ModelPreset, TinyIsTimms) {
  const ModelConfig model = *ModelPreset("swinv2_tiny_window8_256");
  EXPECT_EQ(model.image_h, 256);
  EXPECT_EQ(model.image_w, 256);
  EXPECT_EQ(model.embed_dim, 96);
  EXPECT_EQ(model.depths, (std::vector<int64_t>{2, 2, 6, 2}));
  EXPECT_EQ(model.num_heads, (std::vector<int64_t>{3, 6, 12, 24}));
  EXPECT_EQ(model.window_size, 8);
  EXPECT_EQ(model.num_classes, 1000);
  EXPECT_EQ(model.drop_path_rate, 0.2);
  EXPECT_TRUE(model.pretrained_window_sizes.empty());
}

TEST(ModelPreset, FineTunedOnesKnowTheirPretrainingWindow) {
  const ModelConfig model = *ModelPreset("swinv2_large_window12to24_192to384");
  EXPECT_EQ(model.image_h, 384);
  EXPECT_EQ(model.embed_dim, 192);
  EXPECT_EQ(model.window_size, 24);
  EXPECT_EQ(model.pretrained_window_sizes, (std::vector<int64_t>{12, 12, 12, 6}));
  // The last stage's map is 12 tokens wide: one window, without a shift.
  EXPECT_EQ(model.StageWindow(3), 12);
  EXPECT_EQ(model.StageShift(3), 0);
  EXPECT_EQ(model.StageShift(2), 0);
  EXPECT_EQ(model.StageShift(1), 12);
  EXPECT_EQ(model.PretrainedWindow(3), 6);
}

TEST(ModelPreset, Window12ModelsHaveTheClassesOf22k) {
  EXPECT_EQ(ModelPreset("swinv2_base_window12_192")->num_classes, 21841);
}

int64_t Parameters(const std::string& name) {
  return MakeModel(*ModelPreset(name), {}, {})->parameters().TotalElements();
}

TEST(ModelPreset, ParametersAreThoseOfThePublishedModels) {
  // timm's counts.
  EXPECT_EQ(Parameters("swin_tiny_patch4_window7_224"), 28288354);
  EXPECT_EQ(Parameters("swin_small_patch4_window7_224"), 49606258);
  EXPECT_EQ(Parameters("swin_base_patch4_window7_224"), 87768224);
  EXPECT_EQ(Parameters("swin_base_patch4_window12_384"), 87903584);
  EXPECT_EQ(Parameters("swin_large_patch4_window7_224"), 196532476);
  EXPECT_EQ(Parameters("swin_large_patch4_window12_384"), 196735516);
  EXPECT_EQ(Parameters("swinv2_tiny_window8_256"), 28347154);
}

TEST(ModelPreset, HugeAndGiantAreThePapers) {
  const ModelConfig huge = *ModelPreset("swinv2_huge_window12_192");
  EXPECT_EQ(huge.embed_dim, 352);
  EXPECT_EQ(huge.depths, (std::vector<int64_t>{2, 2, 18, 2}));
  EXPECT_EQ(huge.num_heads, (std::vector<int64_t>{11, 22, 44, 88}));
  const ModelConfig giant = *ModelPreset("swinv2_giant_window12to40_192to640");
  EXPECT_EQ(giant.embed_dim, 512);
  EXPECT_EQ(giant.depths, (std::vector<int64_t>{2, 2, 42, 4}));
  EXPECT_EQ(giant.num_heads, (std::vector<int64_t>{16, 32, 64, 128}));
  EXPECT_EQ(giant.pretrained_window_sizes, (std::vector<int64_t>{12, 12, 12, 6}));
  EXPECT_EQ(giant.extra_norm_period, 6);
  EXPECT_EQ(giant.StageWindow(0), 40);
  EXPECT_EQ(giant.StageWindow(3), 20);
  // 658 million and 3.0 billion, with the classifier of ImageNet-1K.
  EXPECT_NEAR(static_cast<double>(Parameters("swinv2_huge_window12to40_192to640")), 658e6, 0.5e6);
  EXPECT_NEAR(static_cast<double>(Parameters("swinv2_giant_window12to40_192to640")), 3.0e9, 0.05e9);
}

TEST(ModelPreset, VideoSwinIsTheOfficialConfigurations) {
  const ModelConfig model = *ModelPreset("swin_base_patch244_window1677_sthv2");
  EXPECT_EQ(model.frames, 32);
  EXPECT_EQ(model.patch_frames, 2);
  EXPECT_EQ(model.window_frames, 16);
  EXPECT_EQ(model.window_size, 7);
  EXPECT_EQ(model.num_classes, 174);
  EXPECT_EQ(model.drop_path_rate, 0.4);
  // "28M" and "88M" in the official table, whose classifier has 400 classes.
  EXPECT_NEAR(static_cast<double>(Parameters("swin_tiny_patch244_window877_kinetics400_1k")), 28e6,
              0.5e6);
  EXPECT_NEAR(static_cast<double>(Parameters("swin_base_patch244_window877_kinetics400_22k")), 88e6,
              0.5e6);
}

TEST(ModelPreset, MaesEncodersAreVisionTransformers) {
  // Of the fine-tuned models of MAE, with 1000 classes: the position embedding counts.
  EXPECT_EQ(Parameters("mae_vit_base_patch16"), 86567656);
  EXPECT_EQ(ModelPreset("mae_vit_huge_patch14")->patch_size, 14);
  EXPECT_EQ(ModelPreset("mae_vit_large_patch16")->layer_norm_eps, 1e-6);
}

TEST(ModelPreset, UnknownNameIsNothing) {
  EXPECT_FALSE(ModelPreset("swinv2_tiny").has_value());
  EXPECT_FALSE(ModelPreset("").has_value());
}

TEST(ModelConfig, RectanglesShrinkTheWindowInBothDirections) {
  ModelConfig model;
  model.image_h = 32;
  model.image_w = 64;
  model.depths = {2, 2};
  model.window_size = 6;
  // 8x16 tokens, then 4x8.
  EXPECT_EQ(model.StageWindow(0), 6);
  EXPECT_EQ(model.StageShift(0), 3);
  EXPECT_EQ(model.StageWindow(1), 4);
  EXPECT_EQ(model.StageShift(1), 0);
}

}  // namespace
}  // namespace swinfleet
