#include <gtest/gtest.h>

#include <string>

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

}  // namespace
}  // namespace swinfleet
