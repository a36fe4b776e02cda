#include "worker/model_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/error.h"

namespace swinfleet {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

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

TEST(ModelJson, PreTrainingIsSaid) {
  ModelConfig model;
  PretrainConfig pretrain;
  pretrain.method = PretrainConfig::Method::kGreenMim;
  pretrain.mask_ratio = 0.75;
  pretrain.norm_target = true;
  pretrain.group_size = 49;
  const std::string text = ModelConfigToJson(model, pretrain);
  PretrainConfig back;
  EXPECT_EQ(ModelConfigToJson(ModelConfigFromJson(text, "test", &back), back), text);
  EXPECT_EQ(back.method, PretrainConfig::Method::kGreenMim);
  EXPECT_EQ(back.group_size, 49);
  // A classifier says nothing of it.
  EXPECT_THAT(ModelConfigToJson(model), Not(HasSubstr("pretrain\"")));
  ModelConfigFromJson(ModelConfigToJson(model), "test", &back);
  EXPECT_FALSE(back.on());
}

TEST(ModelJson, TheScaleOfQueriesIsKept) {
  ModelConfig model = *ModelPreset("swin_tiny_patch4_window7_224");
  EXPECT_THAT(ModelConfigToJson(model), Not(HasSubstr("qk_scale")));
  model.qk_scale = 0.25;
  EXPECT_EQ(ModelConfigFromJson(ModelConfigToJson(model), "test").qk_scale, 0.25);
}

TEST(ModelJson, PretrainingThatCannotBeBuiltIsRefused) {
  ModelConfig model = *ModelPreset("swin_tiny_patch4_window7_224");
  PretrainConfig pretrain;
  pretrain.method = PretrainConfig::Method::kSimMim;
  pretrain.mask_unit = 0;
  EXPECT_THAT(ErrorOf(ModelConfigToJson(model, pretrain)), HasSubstr("pretrain.mask_unit"));
}

TEST(ModelJson, ClipsHaveTheirFrames) {
  ModelConfig model = *ModelPreset("swin_tiny_patch244_window877_kinetics400_1k");
  const ModelConfig back = ModelConfigFromJson(ModelConfigToJson(model), "test");
  EXPECT_EQ(back.arch, Architecture::kVideoSwin);
  EXPECT_EQ(back.frames, 32);
  EXPECT_EQ(back.patch_frames, 2);
  EXPECT_EQ(back.window_frames, 8);
  EXPECT_THAT(ModelConfigToJson(ModelConfig()), Not(HasSubstr("frames")));
}

// What version 0.1 wrote.
TEST(ModelJson, OlderTextsAreRead) {
  const ModelConfig model = ModelConfigFromJson(
      "{\"ape\":false,\"arch\":\"swin_v2\",\"depths\":[1,1],\"drop_path_rate\":0.1,"
      "\"embed_dim\":8,\"extra_norm_period\":0,\"img_size\":[16,16],\"in_chans\":1,"
      "\"layer_norm_eps\":1e-05,\"mlp_ratio\":4.0,\"num_classes\":4,\"num_heads\":[2,4],"
      "\"patch_norm\":true,\"patch_size\":2,\"pretrained_window_sizes\":[0,0],"
      "\"qkv_bias\":true,\"window_size\":4}",
      "old");
  EXPECT_EQ(model.arch, Architecture::kSwinV2);
  EXPECT_EQ(model.embed_dim, 8);
}

TEST(PreprocessingJson, RoundTrip) {
  DataConfig data;
  data.format = "idx";
  data.mean = {0.25};
  data.std = {0.5};
  data.eval_crop = 0.9;
  data.interpolation = DataConfig::Interpolation::kRandom;
  data.frame_interval = 3;
  DataIdentity identity;
  identity.height = 28;
  identity.width = 20;
  const std::string text = PreprocessingToJson(data, identity);
  DataConfig back;
  DataIdentity size;
  PreprocessingFromJson(text, "test", &back, &size);
  EXPECT_EQ(PreprocessingToJson(back, size), text);
  EXPECT_EQ(back.mean, data.mean);
  EXPECT_EQ(back.interpolation, data.interpolation);
  EXPECT_EQ(size.width, 20);
  EXPECT_TRUE(back.crop_scale.empty());
  data.crop_scale = {0.08, 1};
  PreprocessingFromJson(PreprocessingToJson(data, identity), "test", &back, &size);
  EXPECT_FALSE(back.crop_scale.empty());
  try {
    PreprocessingFromJson("{\"interpolation\":\"bicubic\",\"resample\":1}", "test", &back, &size);
    ADD_FAILURE() << "a number for a truth value was taken";
  } catch (const Error& error) {
    EXPECT_STREQ(
        error.what(),
        "test does not say how pictures are prepared: \"resample\" is 1; it must be true or "
        "false");
  }
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
  EXPECT_THAT(ErrorOf(with("\"swin_v2\"", "\"resnet\"")),
              HasSubstr("\"arch\" is \"resnet\"; it must be one of swin_v1, swin_v2"));
  EXPECT_THAT(ErrorOf("{}"), HasSubstr("\"arch\" is missing; it is one of swin_v1, swin_v2"));
  EXPECT_THAT(ErrorOf(with("[224,224]", "[224]")),
              HasSubstr("\"img_size\" is [224]; it must be [height, width]"));
  EXPECT_THAT(ErrorOf(with("\"window_size\":7", "\"window_size\":\"7\"")),
              HasSubstr("\"window_size\" is \"7\"; it must be a whole number"));
  EXPECT_THAT(ErrorOf(with("\"window_size\":7", "\"window_size\":1e300")),
              HasSubstr("\"window_size\" is 1e+300; it must be a whole number"));
  EXPECT_THAT(ErrorOf(with("\"window_size\":7", "\"window_size\":18446744073709551615")),
              HasSubstr("it must be a whole number"));
  EXPECT_THAT(ErrorOf(with("\"mlp_ratio\":4.0", "\"mlp_ratio\":null")),
              HasSubstr("\"mlp_ratio\" is null; it must be a number"));
  EXPECT_THAT(ErrorOf(with("\"ape\":false", "\"ape\":0")),
              HasSubstr("\"ape\" is 0; it must be true or false"));
  EXPECT_THAT(ErrorOf(with("[2,2,6,2]", "[2,2,\"6\",2]")),
              HasSubstr("\"depths\" is [2,2,\"6\",2]; it must be a list of whole numbers"));
  // Dimensions that do not work together are all named.
  EXPECT_THAT(ErrorOf(with("\"window_size\":7", "\"window_size\":99")),
              AllOf(HasSubstr("file.json describes a model that can't be built: "),
                    HasSubstr("window_size is 99")));
}

TEST(ModelJson, UnknownAndMissingKeysAreNamedWithThoseThatThereAre) {
  std::string text = ModelConfigToJson(ModelConfig());
  text.replace(text.find("\"embed_dim\""), 11, "\"embed_dims\"");
  text.replace(text.find("\"depths\""), 8, "\"layers\"");
  EXPECT_THAT(
      ErrorOf(text),
      AllOf(HasSubstr(
                "file.json describes no model that this version knows: unknown are embed_dims, "
                "layers; missing are embed_dim, depths; the keys are arch, img_size, in_chans, "),
            Not(HasSubstr("frames"))));
  PretrainConfig pretrain;
  pretrain.method = PretrainConfig::Method::kSimMim;
  text = ModelConfigToJson(ModelConfig(), pretrain);
  text.replace(text.find("\"mask_unit\""), 11, "\"unit\"");
  EXPECT_THAT(ErrorOf(text), HasSubstr("unknown are pretrain.unit; missing are pretrain.mask_unit; "
                                       "the keys are pretrain.method, "));
}

TEST(ModelJson, WhatIsNoJsonIsSaidWithItsPlace) {
  EXPECT_EQ(ErrorOf(""),
            "file.json describes no model that this version knows: it is not valid JSON: character "
            "1 is missing, after nothing");
  EXPECT_THAT(ErrorOf("{\"arch\": swin_v2}"),
              HasSubstr("character 10 does not belong there, after {\"arch\": "));
  EXPECT_THAT(ErrorOf("{\"arch\": \"swin_v2\""), HasSubstr("character 19 is missing, after "));
  EXPECT_THAT(ErrorOf("{\"mlp_ratio\": 1e999}"), HasSubstr("a number in it is out of range"));
  EXPECT_THAT(ErrorOf("[]"), HasSubstr("it is no JSON object"));
  std::string text = ModelConfigToJson(ModelConfig());
  EXPECT_THAT(ErrorOf(text.insert(1, "\"pretrain\":5,")),
              HasSubstr("\"pretrain\" is no JSON object"));
}

}  // namespace
}  // namespace swinfleet
