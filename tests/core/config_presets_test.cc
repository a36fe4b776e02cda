#include <gtest/gtest.h>

#include <set>
#include <string>

#include "core/config/job_config.h"

namespace swinfleet {
namespace {

TEST(ModelPreset, AllAreValidAndDifferent) {
  const std::vector<std::string> names = ModelPresetNames();
  EXPECT_EQ(names.size(), 12u);
  EXPECT_EQ(std::set<std::string>(names.begin(), names.end()).size(), names.size());
  for (const std::string& name : names) {
    const std::optional<ModelConfig> model = ModelPreset(name);
    ASSERT_TRUE(model.has_value()) << name;
    EXPECT_EQ(ValidateModel(*model), std::vector<std::string>()) << name;
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
