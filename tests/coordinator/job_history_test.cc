#include "coordinator/job_history.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <tuple>
#include <utility>

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

// What a store would hold that took all changes.
class Rows {
 public:
  void Take(const HistoryChanges& changes) {
    for (const std::string& job : changes.forgotten) {
      std::erase_if(rows_, [&](const auto& row) { return std::get<0>(row.first) == job; });
    }
    for (const auto& key : changes.deleted) EXPECT_EQ(rows_.erase(Key(key)), 1u);
    for (const auto& [key, record] : changes.put) rows_[Key(key)] = record;
  }
  // Histories as they are made from it.
  JobHistories Load() const {
    JobHistories histories(0);
    std::map<std::string, std::pair<JobHistory, uint64_t>> jobs;
    for (const auto& [key, record] : rows_) {
      const auto& [job, kind, number] = key;
      auto& [history, first] = jobs[job];
      if (kind == HistoryChanges::Kind::kPoint) {
        EXPECT_TRUE(history.add_points()->ParseFromString(record));
      } else {
        if (history.checkpoints().empty()) first = number;
        EXPECT_TRUE(history.add_checkpoints()->ParseFromString(record));
      }
    }
    for (auto& [job, found] : jobs) histories.Restore(job, found.first, found.second);
    return histories;
  }
  size_t size() const { return rows_.size(); }

 private:
  using Tuple = std::tuple<std::string, HistoryChanges::Kind, uint64_t>;
  static Tuple Key(const HistoryChanges::Key& key) { return {key.job_id, key.kind, key.number}; }
  std::map<Tuple, std::string> rows_;
};

std::string TextOf(const JobHistories& histories, const std::string& job) {
  const JobHistory* history = histories.Find(job);
  return history == nullptr ? "" : history->DebugString();
}

void StoreAll(JobHistories* histories, Rows* rows, size_t at_once) {
  while (histories->unstored()) {
    const HistoryChanges changes = histories->Unstored(at_once);
    ASSERT_FALSE(changes.jobs.empty() && changes.forgotten.empty());
    rows->Take(changes);
    histories->Stored(changes);
  }
}

TEST(JobHistories, TheStoreFollowsWhateverComes) {
  std::mt19937_64 random(3);
  Rows rows;
  JobHistories histories(0);
  std::map<std::string, uint64_t> steps;
  double time = 1000;
  for (int i = 0; i < 20000; ++i) {
    const std::string job = "j" + std::to_string(random() % 3);
    uint64_t& step = steps[job];
    switch (random() % 100) {
      case 0:
        // Another attempt, from an older checkpoint.
        step -= std::min<uint64_t>(step, random() % 50);
        break;
      case 1:
      case 4:
      case 5:
      case 6:
      case 7:
        histories.AddCheckpoint(job, Checkpoint(step));
        break;
      case 2:
        StoreAll(&histories, &rows, 1 + random() % 500);
        break;
      case 3:
        // A start of the coordinator; whatever it had not stored is lost.
        histories = rows.Load();
        break;
      default:
        histories.AddProgress(job, 1, time += 1, At(step += 1 + random() % 3));
    }
  }
  StoreAll(&histories, &rows, 100);
  const JobHistories loaded = rows.Load();
  EXPECT_FALSE(loaded.unstored());
  for (const char* job : {"j0", "j1", "j2"}) {
    EXPECT_EQ(TextOf(loaded, job), TextOf(histories, job));
    EXPECT_GT(histories.Find(job)->points_size(), 100);
    EXPECT_EQ(histories.Find(job)->checkpoints_size(), kMaxCheckpointRecords);
  }
}

TEST(JobHistories, AStoredListGoesOnAsEvenlyAsBefore) {
  Rows rows;
  JobHistories histories(0);
  constexpr uint64_t kSteps = 20000;
  for (uint64_t step = 1; step <= kSteps; ++step) {
    histories.AddProgress("j", 1, static_cast<double>(step), At(step));
    if (step % 1000 != 0) continue;
    StoreAll(&histories, &rows, 1000);
    histories = rows.Load();
  }
  const auto& points = histories.Find("j")->points();
  EXPECT_GE(points.size(), kMaxHistoryPoints / 2);
  uint64_t widest = 0;
  for (int i = 1; i < points.size(); ++i) {
    widest = std::max(widest, points[i].step() - points[i - 1].step());
  }
  EXPECT_LE(widest, 3 * kSteps / kMaxHistoryPoints);
}

TEST(JobHistories, AReportChangesFewRows) {
  Rows rows;
  JobHistories histories(0);
  histories.AddProgress("j", 1, 1, At(1));
  histories.AddCheckpoint("j", Checkpoint(1));
  EXPECT_EQ(histories.Unstored(100).put.size(), 2u);
  StoreAll(&histories, &rows, 100);
  histories.AddProgress("j", 1, 2, At(2));
  const HistoryChanges changes = histories.Unstored(100);
  EXPECT_EQ(changes.put.size(), 1u);
  EXPECT_TRUE(changes.deleted.empty());
  // Not taken: it is still to be stored.
  EXPECT_TRUE(histories.unstored());
  EXPECT_EQ(histories.Unstored(100).put.size(), 1u);
}

TEST(JobHistories, WhatIsForgottenLeavesTheStore) {
  Rows rows;
  JobHistories histories(0);
  for (size_t i = 0; i < kMaxHistories + 10; ++i) {
    histories.AddProgress("j" + std::to_string(i), 1, 0, At(1));
    if (i % 100 == 0) StoreAll(&histories, &rows, 50);
  }
  // One of those that were forgotten is back.
  histories.AddProgress("j3", 2, 0, At(7));
  StoreAll(&histories, &rows, 50);
  EXPECT_EQ(rows.size(), kMaxHistories);
  const JobHistories loaded = rows.Load();
  EXPECT_EQ(loaded.Find("j4"), nullptr);
  EXPECT_EQ(loaded.Find("j3")->points(0).step(), 7u);
}

TEST(JobHistories, NoMoreRowsAtOnceThanAJobHasOver) {
  JobHistories histories(0);
  for (int job = 0; job < 100; ++job) {
    for (uint64_t step = 1; step <= 50; ++step) {
      histories.AddProgress("j" + std::to_string(job), 1, 0, At(step));
    }
  }
  EXPECT_EQ(histories.Unstored(120).put.size(), 150u);
}

}  // namespace
}  // namespace swinfleet::coordinator
