#include "coordinator/job_history.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

namespace swinfleet::coordinator {
namespace {

Progress At(uint64_t step) {
  Progress progress;
  progress.set_step(step);
  progress.set_loss(1.0 / static_cast<double>(step + 1));
  return progress;
}

CheckpointRecord Checkpoint(uint64_t step) {
  CheckpointRecord record;
  record.set_step(step);
  return record;
}

TEST(JobHistories, KeepsWhatIsReported) {
  JobHistories histories(1000);
  EXPECT_EQ(histories.since(), 1000);
  EXPECT_EQ(histories.Find("j"), nullptr);
  Progress progress = At(7);
  progress.set_learning_rate(0.5);
  progress.set_grad_norm(2);
  progress.set_images_per_second(300);
  histories.AddProgress("j", 3, 1001, progress);
  histories.AddCheckpoint("j", Checkpoint(5));
  const JobHistory* history = histories.Find("j");
  ASSERT_NE(history, nullptr);
  ASSERT_EQ(history->points_size(), 1);
  const HistoryPoint& point = history->points(0);
  EXPECT_EQ(point.time(), 1001);
  EXPECT_EQ(point.step(), 7u);
  EXPECT_EQ(point.attempt(), 3u);
  EXPECT_EQ(point.loss(), 0.125);
  EXPECT_EQ(point.learning_rate(), 0.5);
  EXPECT_EQ(point.grad_norm(), 2);
  EXPECT_EQ(point.images_per_second(), 300);
  ASSERT_EQ(history->checkpoints_size(), 1);
  EXPECT_EQ(history->checkpoints(0).step(), 5u);
}

TEST(JobHistories, AreThinnedEvenly) {
  JobHistories histories(0);
  constexpr uint64_t kSteps = 100000;
  for (uint64_t step = 1; step <= kSteps; ++step) {
    histories.AddProgress("j", 1, 0, At(step));
    const auto& points = histories.Find("j")->points();
    ASSERT_LE(points.size(), kMaxHistoryPoints);
    // The newest is always there.
    ASSERT_EQ(points.rbegin()->step(), step);
  }
  const auto& points = histories.Find("j")->points();
  EXPECT_GE(points.size(), kMaxHistoryPoints / 2);
  uint64_t widest = 0;
  for (int i = 1; i < points.size(); ++i) {
    ASSERT_GT(points[i].step(), points[i - 1].step());
    widest = std::max(widest, points[i].step() - points[i - 1].step());
  }
  EXPECT_LE(widest, 3 * kSteps / kMaxHistoryPoints);
  EXPECT_LE(points[0].step(), widest);
}

TEST(JobHistories, StepsThatAreTrainedAgainReplaceThoseBefore) {
  JobHistories histories(0);
  for (uint64_t step = 1; step <= 20; ++step) histories.AddProgress("j", 1, 0, At(step));
  histories.AddProgress("j", 2, 0, At(11));
  const auto& points = histories.Find("j")->points();
  ASSERT_EQ(points.size(), 11);
  EXPECT_EQ(points[9].attempt(), 1u);
  EXPECT_EQ(points[10].attempt(), 2u);
  EXPECT_EQ(points[10].step(), 11u);
}

TEST(JobHistories, TheJobThatReportedLongestAgoIsForgotten) {
  JobHistories histories(0);
  const auto name = [](size_t i) { return "j" + std::to_string(i); };
  for (size_t i = 0; i < kMaxHistories; ++i) histories.AddProgress(name(i), 1, 0, At(1));
  histories.AddProgress(name(0), 1, 0, At(2));
  histories.AddCheckpoint("new", Checkpoint(1));
  EXPECT_EQ(histories.Find(name(1)), nullptr);
  EXPECT_NE(histories.Find(name(0)), nullptr);
  EXPECT_NE(histories.Find(name(2)), nullptr);
  EXPECT_NE(histories.Find("new"), nullptr);
}

TEST(JobHistories, CheckpointsAreBounded) {
  JobHistories histories(0);
  for (uint64_t step = 1; step <= 250; ++step) histories.AddCheckpoint("j", Checkpoint(step));
  const auto& records = histories.Find("j")->checkpoints();
  ASSERT_EQ(records.size(), kMaxCheckpointRecords);
  EXPECT_EQ(records.rbegin()->step(), 250u);
  EXPECT_EQ(records.begin()->step(), 151u);
}

}  // namespace
}  // namespace swinfleet::coordinator
