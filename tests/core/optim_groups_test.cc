#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "core/optim/parameter_groups.h"

namespace swinfleet {
namespace {

double DecayOf(const std::string& name, const Shape& shape) {
  ParameterTable table;
  table.BeginUnit("unit");
  table.Add(name, shape, Initializer{});
  const std::vector<ParameterHyper> groups = ClassificationGroups(table, 0.05);
  EXPECT_EQ(groups.size(), 1u);
  EXPECT_EQ(groups[0].lr_scale, 1);
  return groups[0].weight_decay;
}

TEST(ClassificationGroups, MatricesDecay) {
  EXPECT_EQ(DecayOf("layers.0.blocks.0.attn.qkv.weight", Shape{96, 32}), 0.05);
  EXPECT_EQ(DecayOf("patch_embed.proj.weight", Shape{32, 3, 4, 4}), 0.05);
  EXPECT_EQ(DecayOf("head.weight", Shape{10, 64}), 0.05);
}

TEST(ClassificationGroups, VectorsAndBiasesDoNot) {
  EXPECT_EQ(DecayOf("norm.weight", Shape{64}), 0);
  EXPECT_EQ(DecayOf("layers.0.blocks.0.attn.q_bias", Shape{32}), 0);
  // By its name, whatever its shape.
  EXPECT_EQ(DecayOf("something.bias", Shape{2, 3}), 0);
}

TEST(ClassificationGroups, OfficialKeywordsDoNot) {
  EXPECT_EQ(DecayOf("absolute_pos_embed", Shape{1, 64, 32}), 0);
  EXPECT_EQ(DecayOf("layers.0.blocks.0.attn.cpb_mlp.0.weight", Shape{512, 2}), 0);
  EXPECT_EQ(DecayOf("layers.0.blocks.0.attn.cpb_mlp.2.weight", Shape{4, 512}), 0);
  EXPECT_EQ(DecayOf("layers.0.blocks.0.attn.logit_scale", Shape{4, 1, 1}), 0);
  EXPECT_EQ(DecayOf("layers.0.blocks.0.attn.relative_position_bias_table", Shape{49, 4}), 0);
}

// absolute_pos_embed is matched as a whole name, the keywords anywhere in one.
TEST(ClassificationGroups, PositionEmbeddingIsMatchedAsAWhole) {
  EXPECT_EQ(DecayOf("encoder.absolute_pos_embed", Shape{1, 64, 32}), 0.05);
}

TEST(ClassificationGroups, FollowTheTablesOrder) {
  ParameterTable table;
  table.BeginUnit("a");
  table.Add("a.weight", Shape{2, 2}, Initializer{});
  table.Add("a.bias", Shape{2}, Initializer{});
  table.BeginUnit("b");
  table.Add("b.weight", Shape{2, 2}, Initializer{});
  const std::vector<ParameterHyper> groups = ClassificationGroups(table, 0.1);
  ASSERT_EQ(groups.size(), 3u);
  EXPECT_EQ(groups[0].weight_decay, 0.1);
  EXPECT_EQ(groups[1].weight_decay, 0);
  EXPECT_EQ(groups[2].weight_decay, 0.1);
}

ParameterHyper Finetuned(const std::string& name, Architecture arch) {
  ParameterTable table;
  table.BeginUnit("unit");
  table.Add(name, Shape{2, 2}, Initializer{});
  ModelConfig model;
  model.arch = arch;
  model.depths =
      arch == Architecture::kVit ? std::vector<int64_t>{12} : std::vector<int64_t>{2, 2, 6, 2};
  return FinetuneGroups(table, model, 0.05, 0.5)[0];
}

TEST(FinetuneGroups, SwinLayersAreCountedFromTheEmbedding) {
  const auto scale = [](const std::string& name) {
    return Finetuned(name, Architecture::kSwinV2).lr_scale;
  };
  EXPECT_EQ(scale("patch_embed.proj.weight"), std::pow(0.5, 13));
  EXPECT_EQ(scale("layers.0.blocks.0.attn.qkv.weight"), std::pow(0.5, 12));
  EXPECT_EQ(scale("layers.0.blocks.1.norm3.weight"), std::pow(0.5, 11));
  EXPECT_EQ(scale("layers.0.downsample.reduction.weight"), std::pow(0.5, 11));
  EXPECT_EQ(scale("layers.2.blocks.5.mlp.fc1.weight"), std::pow(0.5, 3));
  EXPECT_EQ(scale("layers.3.blocks.1.attn.logit_scale"), 0.5);
  EXPECT_EQ(scale("norm.weight"), 1);
  EXPECT_EQ(scale("head.weight"), 1);
  EXPECT_EQ(scale("absolute_pos_embed"), 1);
}

TEST(FinetuneGroups, VideoEncodersLieOneLevelDown) {
  const auto scale = [](const std::string& name) {
    return Finetuned(name, Architecture::kVideoSwin).lr_scale;
  };
  EXPECT_EQ(scale("backbone.patch_embed.proj.weight"), std::pow(0.5, 13));
  EXPECT_EQ(scale("backbone.layers.3.blocks.0.mlp.fc1.weight"), 0.25);
  EXPECT_EQ(scale("cls_head.fc_cls.weight"), 1);
}

TEST(FinetuneGroups, VitLayersAreCountedFromTheEmbeddings) {
  const auto group = [](const std::string& name) { return Finetuned(name, Architecture::kVit); };
  for (const char* name : {"patch_embed.proj.weight", "pos_embed", "cls_token"}) {
    EXPECT_EQ(group(name).lr_scale, std::pow(0.5, 13)) << name;
  }
  EXPECT_EQ(group("cls_token").weight_decay, 0);
  EXPECT_EQ(group("pos_embed").weight_decay, 0);
  EXPECT_EQ(group("blocks.0.attn.qkv.weight").lr_scale, std::pow(0.5, 12));
  EXPECT_EQ(group("blocks.11.mlp.fc2.weight").lr_scale, 0.5);
  EXPECT_EQ(group("fc_norm.weight").lr_scale, 1);
  EXPECT_EQ(group("head.weight").weight_decay, 0.05);
}

TEST(FinetuneGroupsDeathTest, ABlockWithoutANumberIsABrokenInvariant) {
  EXPECT_DEATH(Finetuned("layers.0.blocks.x.weight", Architecture::kSwinV1), "is no number");
}

TEST(GroupsOf, FollowTheJob) {
  ParameterTable table;
  table.BeginUnit("unit");
  table.Add("encoder.layers.0.blocks.0.attn.logit_scale", Shape{4, 1, 1}, Initializer{});
  table.Add("encoder.mask_token", Shape{1, 1, 8}, Initializer{});
  table.Add("encoder.norm.weight", Shape{8}, Initializer{});
  JobConfig job;
  job.train.optimizer.weight_decay = 0.1;
  const auto decays = [&] {
    std::vector<double> result;
    for (const ParameterHyper& hyper : GroupsOf(job, table)) result.push_back(hyper.weight_decay);
    return result;
  };
  EXPECT_EQ(decays(), (std::vector<double>{0, 0.1, 0}));
  job.pretrain.method = PretrainConfig::Method::kSimMim;
  EXPECT_EQ(decays(), (std::vector<double>{0.1, 0, 0}));
  job.pretrain.method = PretrainConfig::Method::kMae;
  EXPECT_EQ(decays(), (std::vector<double>{0.1, 0.1, 0}));
  job.pretrain.method = PretrainConfig::Method::kNone;
  job.train.optimizer.layer_decay = 0.5;
  EXPECT_EQ(decays(), (std::vector<double>{0, 0.1, 0}));
}

}  // namespace
}  // namespace swinfleet
