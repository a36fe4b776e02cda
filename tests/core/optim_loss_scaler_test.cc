#include <gtest/gtest.h>

#include "core/optim/loss_scaler.h"

namespace swinfleet {
namespace {

using Verdict = LossScaler::Verdict;

TEST(LossScaler, OtherDtypesAreNotScaled) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    LossScaler scaler(dtype);
    EXPECT_EQ(scaler.scale(), 1);
    EXPECT_EQ(scaler.Record(false), Verdict::kFailure);
    for (int64_t i = 0; i < 2 * LossScaler::kGrowthInterval; ++i) {
      ASSERT_EQ(scaler.Record(true), Verdict::kGood);
    }
    EXPECT_EQ(scaler.scale(), 1);
    EXPECT_FALSE(scaler.state().has_value());
    scaler.Restore(LossScaleState{.scale = 8, .good_steps = 3});
    EXPECT_EQ(scaler.scale(), 1);
  }
}

TEST(LossScaler, DoublesAfterManyGoodSteps) {
  LossScaler scaler(DType::kF16);
  EXPECT_EQ(scaler.scale(), 65536);
  for (int64_t i = 1; i < LossScaler::kGrowthInterval; ++i) scaler.Record(true);
  EXPECT_EQ(scaler.scale(), 65536);
  EXPECT_EQ(scaler.Record(true), Verdict::kGood);
  EXPECT_EQ(scaler.scale(), 131072);
  // The count begins again.
  for (int64_t i = 1; i < LossScaler::kGrowthInterval; ++i) scaler.Record(true);
  EXPECT_EQ(scaler.scale(), 131072);
}

TEST(LossScaler, ABadStepHalvesAndStartsTheCountAgain) {
  LossScaler scaler(DType::kF16);
  for (int64_t i = 1; i < LossScaler::kGrowthInterval; ++i) scaler.Record(true);
  EXPECT_EQ(scaler.Record(false), Verdict::kScaleReduced);
  EXPECT_EQ(scaler.scale(), 32768);
  scaler.Record(true);
  EXPECT_EQ(scaler.scale(), 32768);
  EXPECT_EQ(scaler.state()->good_steps, 1);
}

TEST(LossScaler, FailsOnlyAtTheFloor) {
  LossScaler scaler(DType::kF16);
  for (int i = 0; i < 16; ++i) ASSERT_EQ(scaler.Record(false), Verdict::kScaleReduced);
  EXPECT_EQ(scaler.scale(), 1);
  EXPECT_EQ(scaler.Record(false), Verdict::kFailure);
  EXPECT_EQ(scaler.scale(), 1);
}

TEST(LossScaler, GrowsNoFurtherThanItsLimit) {
  LossScaler scaler(DType::kF16);
  scaler.Restore(
      LossScaleState{.scale = LossScaler::kMost, .good_steps = LossScaler::kGrowthInterval - 1});
  scaler.Record(true);
  EXPECT_EQ(scaler.scale(), LossScaler::kMost);
}

TEST(LossScaler, ARestoredOneGoesOnAlike) {
  LossScaler original(DType::kF16);
  for (int i = 0; i < 1500; ++i) original.Record(i % 700 != 3);
  LossScaler resumed(DType::kF16);
  resumed.Restore(original.state());
  // Of a run in another dtype: nothing to go on from.
  resumed.Restore(std::nullopt);
  for (int i = 0; i < 3000; ++i) {
    original.Record(true);
    resumed.Record(true);
    ASSERT_EQ(original.scale(), resumed.scale());
  }
  EXPECT_EQ(original.state(), resumed.state());
}

}  // namespace
}  // namespace swinfleet
