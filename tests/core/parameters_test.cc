#include "core/nn/parameters.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/ops.h"

namespace swinfleet {
namespace {

const Initializer kNormal{Initializer::Kind::kTruncatedNormal, 0.02};

ParameterTable TwoUnits() {
  ParameterTable table;
  EXPECT_EQ(table.BeginUnit("embedding"), 0);
  EXPECT_EQ(table.Add("embedding.weight", Shape{96, 48}, kNormal), 0);
  EXPECT_EQ(table.Add("embedding.bias", Shape{96}, {}), 1);
  EXPECT_EQ(table.BeginUnit("block"), 1);
  EXPECT_EQ(table.Add("block.scale", Shape{3}, {Initializer::Kind::kConstant, std::log(10.0)}), 2);
  EXPECT_EQ(table.Add("block.weight", Shape{96, 96}, kNormal), 3);
  EXPECT_EQ(table.Add("block.gamma", Shape{96}, {Initializer::Kind::kOnes}), 4);
  EXPECT_EQ(table.Add("block.uniform", Shape{5000}, {Initializer::Kind::kUniform, 0.25}), 5);
  return table;
}

std::vector<float> Initial(const ParameterTable& table, int unit, uint64_t seed) {
  std::vector<float> values(table.units()[unit].padded_size, -1.0f);
  InitializeUnit(table, unit, seed, values);
  return values;
}

TEST(ParameterTable, PlacesParametersWithoutOverlap) {
  const ParameterTable table = TwoUnits();
  ASSERT_EQ(table.units().size(), 2u);
  EXPECT_EQ(table.TotalElements(), 96 * 48 + 96 + 3 + 96 * 96 + 96 + 5000);
  for (const Unit& unit : table.units()) {
    int64_t end = 0;
    for (const int p : unit.parameters) {
      const ParameterInfo& info = table.parameters()[p];
      EXPECT_GE(info.offset, end) << info.name;
      EXPECT_EQ(info.offset % 16, 0) << info.name;
      end = info.offset + info.size();
    }
    EXPECT_EQ(unit.size, end);
    EXPECT_EQ(unit.padded_size % kNormChunk, 0);
    EXPECT_LT(unit.padded_size - unit.size, kNormChunk);
  }
  EXPECT_EQ(table.Find("block.weight"), 3);
  EXPECT_EQ(table.parameters()[3].unit, 1);
  EXPECT_EQ(table.Find("nothing"), -1);
}

TEST(ParameterTableDeathTest, NamesAreUnique) {
  ParameterTable table = TwoUnits();
  EXPECT_DEATH(table.Add("block.scale", Shape{1}, {}), "two parameters named block.scale");
}

TEST(InitializeUnit, FillsEachKindAndKeepsTheRestZero) {
  const ParameterTable table = TwoUnits();
  const std::vector<float> values = Initial(table, 1, 7);
  std::vector<bool> used(values.size());
  for (const int p : table.units()[1].parameters) {
    const ParameterInfo& info = table.parameters()[p];
    std::fill_n(used.begin() + info.offset, info.size(), true);
  }
  for (size_t i = 0; i < values.size(); ++i) {
    if (used[i]) continue;
    ASSERT_EQ(values[i], 0.0f) << i;
  }
  const auto of = [&](const char* name) {
    const ParameterInfo& info = table.parameters()[table.Find(name)];
    return std::span(values).subspan(info.offset, info.size());
  };
  for (const float x : of("block.scale")) EXPECT_EQ(x, static_cast<float>(std::log(10.0)));
  for (const float x : of("block.gamma")) EXPECT_EQ(x, 1.0f);
  double mean = 0, squares = 0;
  for (const float x : of("block.weight")) {
    mean += x / (96.0 * 96);
    squares += x * x / (96.0 * 96);
  }
  EXPECT_NEAR(mean, 0, 0.001);
  EXPECT_NEAR(std::sqrt(squares), 0.02, 0.0005);
  const auto [least, most] = std::ranges::minmax(of("block.uniform"));
  EXPECT_NEAR(least, -0.25, 0.002);
  EXPECT_NEAR(most, 0.25, 0.002);
}

TEST(InitializeUnit, DrawsAreCutOffAtTwo) {
  ParameterTable table;
  table.BeginUnit("wide");
  table.Add("wide", Shape{4096}, {Initializer::Kind::kTruncatedNormal, 1.5});
  const std::vector<float> values = Initial(table, 0, 1);
  const auto [least, most] = std::ranges::minmax(values);
  EXPECT_GE(least, -2.0f);
  EXPECT_LE(most, 2.0f);
  EXPECT_GT(most, 1.9f);
}

TEST(InitializeUnit, DependsOnSeedAndNameAlone) {
  const ParameterTable table = TwoUnits();
  EXPECT_EQ(Initial(table, 1, 7), Initial(table, 1, 7));
  EXPECT_NE(Initial(table, 1, 7), Initial(table, 1, 8));
  // Another place in another unit, with another parameter's draws before it.
  ParameterTable other;
  other.BeginUnit("all");
  other.Add("first", Shape{777}, kNormal);
  other.Add("block.weight", Shape{96, 96}, kNormal);
  const std::vector<float> here = Initial(table, 1, 7), there = Initial(other, 0, 7);
  const int64_t at = table.parameters()[3].offset, other_at = other.parameters()[1].offset;
  for (int64_t i = 0; i < 96 * 96; ++i) ASSERT_EQ(here[at + i], there[other_at + i]) << i;
  EXPECT_NE(there[0], there[other_at]);
}

TEST(InitializeUnit, ChunksOfALargeParameterDiffer) {
  const ParameterTable table = TwoUnits();
  const std::vector<float> values = Initial(table, 1, 7);
  const int64_t at = table.parameters()[3].offset;
  EXPECT_FALSE(
      std::equal(values.begin() + at, values.begin() + at + 100, values.begin() + at + kNormChunk));
}

TEST(LocalParameters, GivesUnitsAndParameters) {
  const ParameterTable table = TwoUnits();
  LocalParameters local(table, true);
  const TensorView unit = local.Acquire(1);
  EXPECT_EQ(unit.NumElements(), table.units()[1].padded_size);
  InitializeUnit(table, 1, 3, unit.span());
  EXPECT_EQ(local.Value(4)[95], 1.0f);
  {
    const AcquiredUnit acquired(table, local, 1);
    EXPECT_EQ(acquired[3].shape, (Shape{96, 96}));
    EXPECT_EQ(acquired[3].f32(), local.Value(3).data());
    EXPECT_TRUE(acquired[-1].empty());
    acquired.At(local.Gradient(1), 2).f32()[1] += 5;
  }
  EXPECT_EQ(local.GradientOf(2)[1], 5.0f);
  local.GradientReady(1);
  local.ZeroGradients();
  EXPECT_EQ(local.GradientOf(2)[1], 0.0f);
}

TEST(LocalParametersDeathTest, NoGradientsWhereNoneWereAskedFor) {
  const ParameterTable table = TwoUnits();
  LocalParameters local(table, false);
  EXPECT_DEATH(local.Gradient(0), "made without gradients");
}

}  // namespace
}  // namespace swinfleet
