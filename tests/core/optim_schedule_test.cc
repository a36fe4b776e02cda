#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/optim/optimizer.h"
#include "core/optim/schedule.h"

namespace swinfleet {
namespace {

constexpr double kBase = 1e-3;
constexpr int64_t kEpochs = 20;
constexpr int64_t kSteps = 10;

ScheduleConfig Config(ScheduleConfig::Kind kind, double warmup_epochs) {
  ScheduleConfig schedule;
  schedule.kind = kind;
  schedule.warmup_epochs = warmup_epochs;
  schedule.warmup_learning_rate = 1e-6;
  schedule.min_learning_rate = 1e-5;
  return schedule;
}

double Rate(const ScheduleConfig& schedule, int64_t t, double base = kBase) {
  return ScheduledRate(schedule, base, kEpochs, kSteps, t);
}

TEST(Schedule, WarmUpRisesLinearlyToTheBase) {
  const ScheduleConfig schedule = Config(ScheduleConfig::Kind::kCosine, 2);
  EXPECT_DOUBLE_EQ(Rate(schedule, 0), 1e-6);
  EXPECT_DOUBLE_EQ(Rate(schedule, 5), 1e-6 + 5 * (kBase - 1e-6) / 20);
  EXPECT_DOUBLE_EQ(Rate(schedule, 20), kBase);
}

TEST(Schedule, WarmUpOfAFractionOfAnEpochIsCutOff) {
  // int(0.29 * 10) updates.
  const ScheduleConfig schedule = Config(ScheduleConfig::Kind::kCosine, 0.29);
  EXPECT_LT(Rate(schedule, 1), kBase);
  EXPECT_DOUBLE_EQ(Rate(schedule, 2), kBase);
}

TEST(Schedule, PrefixCosineEndsAtTheMinimum) {
  const ScheduleConfig schedule = Config(ScheduleConfig::Kind::kCosine, 2);
  EXPECT_NEAR(Rate(schedule, 20 + 90), (kBase + 1e-5) / 2, 1e-12);
  EXPECT_GT(Rate(schedule, 199), 1e-5);
  EXPECT_EQ(Rate(schedule, 200), 1e-5);
  EXPECT_EQ(Rate(schedule, 1000), 1e-5);
}

TEST(Schedule, CosineWithoutPrefixLiesUnderTheWarmUp) {
  ScheduleConfig schedule = Config(ScheduleConfig::Kind::kCosine, 2);
  schedule.warmup_prefix = false;
  // The cycle has run on for 20 of its 200 updates when the warm-up ends.
  const double expected = 1e-5 + 0.5 * (kBase - 1e-5) * (1 + std::cos(std::acos(-1.0) * 0.1));
  EXPECT_NEAR(Rate(schedule, 20), expected, 1e-15);
}

TEST(Schedule, LinearEndsAtOnePercent) {
  const ScheduleConfig schedule = Config(ScheduleConfig::Kind::kLinear, 2);
  EXPECT_DOUBLE_EQ(Rate(schedule, 20), kBase);
  EXPECT_NEAR(Rate(schedule, 200), 0.01 * kBase, 1e-15);
}

TEST(Schedule, StepDecayCountsFromUpdateZero) {
  ScheduleConfig schedule = Config(ScheduleConfig::Kind::kStep, 2);
  schedule.decay_epochs = 5;
  schedule.decay_rate = 0.5;
  EXPECT_DOUBLE_EQ(Rate(schedule, 49), kBase);
  EXPECT_DOUBLE_EQ(Rate(schedule, 50), kBase / 2);
  EXPECT_DOUBLE_EQ(Rate(schedule, 150), kBase / 8);
}

TEST(Schedule, StepOfLessThanAnUpdateCountsAsOne) {
  ScheduleConfig schedule = Config(ScheduleConfig::Kind::kStep, 0);
  schedule.decay_epochs = 0.01;
  schedule.decay_rate = 0.5;
  EXPECT_DOUBLE_EQ(Rate(schedule, 3), kBase / 8);
}

TEST(Schedule, MultistepDecaysAtItsEpochs) {
  ScheduleConfig schedule = Config(ScheduleConfig::Kind::kMultistep, 2);
  schedule.multisteps = {7, 14.5};
  schedule.decay_rate = 0.1;
  EXPECT_DOUBLE_EQ(Rate(schedule, 69), kBase);
  EXPECT_DOUBLE_EQ(Rate(schedule, 70), kBase * 0.1);
  EXPECT_DOUBLE_EQ(Rate(schedule, 144), kBase * 0.1);
  EXPECT_DOUBLE_EQ(Rate(schedule, 145), kBase * 0.1 * 0.1);
}

// A group's own base scales neither the start of the warm-up nor the minimum.
TEST(Schedule, GroupsShareTheStartAndTheMinimum) {
  const ScheduleConfig schedule = Config(ScheduleConfig::Kind::kCosine, 2);
  EXPECT_EQ(Rate(schedule, 0, kBase / 4), Rate(schedule, 0));
  EXPECT_EQ(Rate(schedule, 200, kBase / 4), Rate(schedule, 200));
  EXPECT_DOUBLE_EQ(Rate(schedule, 20, kBase / 4), kBase / 4);
}

TEST(Schedule, UpdatesZeroAndOneShareTheirRate) {
  const ScheduleConfig schedule = Config(ScheduleConfig::Kind::kCosine, 2);
  const auto used = [&](int64_t i) { return RateOfUpdate(schedule, kBase, kEpochs, kSteps, i); };
  EXPECT_EQ(used(0), Rate(schedule, 0));
  EXPECT_EQ(used(1), Rate(schedule, 0));
  EXPECT_EQ(used(2), Rate(schedule, 1));
  EXPECT_EQ(used(150), Rate(schedule, 149));
}

TEST(Schedule, MaeRisesFromZeroAndFallsByFractionsOfAnEpoch) {
  const ScheduleConfig schedule = Config(ScheduleConfig::Kind::kMaeCosine, 2.5);
  EXPECT_EQ(Rate(schedule, 0), 0);
  EXPECT_DOUBLE_EQ(Rate(schedule, 13), kBase * 1.3 / 2.5);
  EXPECT_DOUBLE_EQ(Rate(schedule, 25), kBase);
  const double expected = 1e-5 + 0.5 * (kBase - 1e-5) * (1 + std::cos(std::acos(-1.0) * 0.5));
  EXPECT_NEAR(Rate(schedule, 25 + 175 / 2), expected, 1e-5);
  // Set before the update, not after it.
  EXPECT_EQ(RateOfUpdate(schedule, kBase, kEpochs, kSteps, 7), Rate(schedule, 7));
}

TrainConfig LayeredTrain(ScheduleConfig::Kind kind) {
  TrainConfig train;
  train.epochs = kEpochs;
  train.optimizer.learning_rate = kBase;
  train.schedule = Config(kind, 2);
  return train;
}

TEST(RatesOfUpdate, FollowEachGroupsOwnSchedule) {
  const TrainConfig train = LayeredTrain(ScheduleConfig::Kind::kCosine);
  const std::vector<ParameterHyper> hypers = {
      {0, 0.25}, {0.05, 0.25}, {0.05, 0.5}, {0, 1}, {0, 0.25}};
  std::vector<double> rates(hypers.size());
  for (const int64_t i : {0, 1, 7, 21, 100, 199}) {
    RatesOfUpdate(train, hypers, kSteps, i, rates);
    for (size_t p = 0; p < hypers.size(); ++p) {
      const double base = kBase * hypers[p].lr_scale;
      EXPECT_EQ(rates[p], RateOfUpdate(train.schedule, base, kEpochs, kSteps, i)) << i << ", " << p;
    }
  }
}

TEST(RatesOfUpdate, MaeScalesTheWholeRate) {
  const TrainConfig train = LayeredTrain(ScheduleConfig::Kind::kMaeCosine);
  const std::vector<ParameterHyper> hypers = {{0, 0.25}, {0, 1}};
  std::vector<double> rates(2);
  RatesOfUpdate(train, hypers, kSteps, 199, rates);
  EXPECT_EQ(rates[0], 0.25 * rates[1]);
}

TEST(ScheduleDeathTest, WarmUpAsLongAsTheTrainingIsABrokenInvariant) {
  const ScheduleConfig schedule = Config(ScheduleConfig::Kind::kCosine, kEpochs);
  EXPECT_DEATH(Rate(schedule, 0), "warm-up");
}

}  // namespace
}  // namespace swinfleet
