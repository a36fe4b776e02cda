#include "worker/model_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/error.h"

namespace swinfleet {
namespace {

using testing::HasSubstr;

std::string ErrorOf(const std::string& text) {
  try {
    ModelConfigFromJson(text, "file.json");
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(ModelJson, RoundTrip) {
  ModelConfig model;
  model.image_h = 64;
  model.image_w = 32;
  model.in_chans = 1;
  model.num_classes = 10;
  model.patch_size = 2;
  model.embed_dim = 24;
  model.depths = {2, 3};
  model.num_heads = {2, 4};
  model.window_size = 8;
  model.mlp_ratio = 2.5;
  model.qkv_bias = false;
  model.ape = true;
  model.patch_norm = false;
  model.pretrained_window_sizes = {6, 3};
  model.extra_norm_period = 2;
  model.drop_path_rate = 0.1;
  model.layer_norm_eps = 1e-6;
  const std::string text = ModelConfigToJson(model);
  const ModelConfig back = ModelConfigFromJson(text, "test");
  EXPECT_EQ(ModelConfigToJson(back), text);
  EXPECT_EQ(back.image_w, 32);
  EXPECT_EQ(back.pretrained_window_sizes, model.pretrained_window_sizes);
  EXPECT_EQ(back.drop_path_rate, 0.1);
  EXPECT_TRUE(back.ape);
}

TEST(ModelJson, EveryPreset) {
  for (const std::string& name : ModelPresetNames()) {
    const std::string text = ModelConfigToJson(*ModelPreset(name));
    EXPECT_EQ(ModelConfigToJson(ModelConfigFromJson(text, name)), text);
  }
}

TEST(ModelJson, WhatIsNoModelIsRefused) {
  const std::string good = ModelConfigToJson(ModelConfig());
  const auto with = [&good](const std::string& from, const std::string& to) {
    std::string text = good;
    text.replace(text.find(from), from.size(), to);
    return text;
  };
  EXPECT_EQ(ErrorOf(good), "");
  EXPECT_THAT(ErrorOf(""), HasSubstr("file.json"));
  EXPECT_THAT(ErrorOf("[]"), HasSubstr("file.json"));
  EXPECT_THAT(ErrorOf(with("\"embed_dim\"", "\"embed_dims\"")), HasSubstr("embed_dim"));
  EXPECT_THAT(ErrorOf(with("{", "{\"extra\":1,")), HasSubstr("\"extra\" is unknown"));
  EXPECT_THAT(ErrorOf(with("\"swin_v2\"", "\"vit\"")), HasSubstr("arch"));
  EXPECT_THAT(ErrorOf(with("[224,224]", "[224]")), HasSubstr("img_size"));
  EXPECT_THAT(ErrorOf(with("\"window_size\":7", "\"window_size\":\"7\"")), HasSubstr("file.json"));
  EXPECT_THAT(ErrorOf(with("\"window_size\":7", "\"window_size\":9")), HasSubstr("window_size"));
}

}  // namespace
}  // namespace swinfleet
