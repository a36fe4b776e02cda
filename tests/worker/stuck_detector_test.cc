#include "worker/stuck_detector.h"

#include <gtest/gtest.h>

namespace swinfleet {
namespace {

const CollectivePosition kIn{7, "reduce-scatter head", true};
const CollectivePosition kAfter{7, "reduce-scatter head", false};

class StuckDetectorTest : public testing::Test {
 protected:
  // Seconds after which the rank is called stuck, if nothing changes; 0: not within an hour.
  double StuckAfter(const CollectivePosition& position) {
    const double begin = now_;
    // It is noticed that something has changed.
    detector_.Observe(now_, {position.sequence + 1, "", false});
    for (int i = 0; i < 3600 * 4; ++i) {
      if (detector_.Observe(now_, position)) return now_ - begin;
      now_ += StuckDetector::kPeriod;
    }
    return 0;
  }
  void Steps(int count, double seconds) {
    for (int i = 0; i < count; ++i) {
      now_ += seconds;
      detector_.SetStep(++step_, now_, 0);
    }
  }

  StuckDetector detector_{Deadlines{}};
  double now_ = 1000;
  int64_t step_ = 0;
};

TEST_F(StuckDetectorTest, DeadlinesFollowPhasesAndSteps) {
  EXPECT_NEAR(StuckAfter(kIn), 120, 0.5);
  detector_.SetPhase(Phase::kTrain, now_, 0);
  EXPECT_NEAR(StuckAfter(kIn), 120, 0.5);
  detector_.SetPhase(Phase::kTrain, now_, 0);
  Steps(1, 1);
  EXPECT_EQ(detector_.Deadline(), 120);
  Steps(1, 1);
  EXPECT_EQ(detector_.Deadline(), 10);
  EXPECT_NEAR(StuckAfter(kIn), 10, 0.5);
  // A save or an evaluation: also the next step may find a rank that still has to do with it.
  for (const Phase phase : {Phase::kSave, Phase::kEvaluate}) {
    detector_.SetPhase(phase, now_, 0);
    EXPECT_EQ(detector_.Deadline(), 120);
    detector_.SetPhase(Phase::kTrain, now_, 0);
    EXPECT_EQ(detector_.Deadline(), 120);
    Steps(1, 1);
    EXPECT_EQ(detector_.Deadline(), 10);
  }
}

// One rank verifies the checkpoint that all go on from, or has the slowest disk.
TEST_F(StuckDetectorTest, LoadsAndSavesOfMuchStateMayTakeLonger) {
  detector_.SetStateBytes(uint64_t{3200} << 20);
  EXPECT_EQ(detector_.Deadline(), 120 + 100);
  detector_.SetPhase(Phase::kTrain, now_, 0);
  EXPECT_EQ(detector_.Deadline(), 120 + 100);
  Steps(1, 1);
  EXPECT_EQ(detector_.Deadline(), 120);
  Steps(1, 1);
  EXPECT_EQ(detector_.Deadline(), 10);
  detector_.SetPhase(Phase::kEvaluate, now_, 0);
  EXPECT_EQ(detector_.Deadline(), 120);
  detector_.SetPhase(Phase::kSave, now_, 0);
  detector_.SetPhase(Phase::kTrain, now_, 0);
  EXPECT_EQ(detector_.Deadline(), 120 + 100);
  Steps(1, 1);
  EXPECT_EQ(detector_.Deadline(), 10);
}

TEST_F(StuckDetectorTest, FiveMedianStepsWhereThatIsLonger) {
  detector_.SetPhase(Phase::kTrain, now_, 0);
  // The first step, and now and then one, takes much longer.
  Steps(1, 100);
  Steps(4, 6);
  Steps(1, 500);
  EXPECT_EQ(detector_.Deadline(), 30);
  EXPECT_NEAR(StuckAfter(kIn), 30, 0.5);
  // Only the last steps count.
  detector_.SetPhase(Phase::kTrain, now_, 0);
  Steps(StepTimes::kMedianOf, 3);
  EXPECT_EQ(detector_.Deadline(), 15);
}

TEST_F(StuckDetectorTest, OnlyARankInACollectiveIsStuck) {
  EXPECT_EQ(StuckAfter(kAfter), 0);
  EXPECT_GT(detector_.still(), 3000);
}

TEST_F(StuckDetectorTest, EachCollectiveHasItsOwnTime) {
  for (uint64_t sequence = 1; sequence < 100; ++sequence) {
    for (double waited = 0; waited < 60; waited += StuckDetector::kPeriod) {
      now_ += StuckDetector::kPeriod;
      ASSERT_FALSE(detector_.Observe(now_, {sequence, "all-gather", true}));
    }
  }
}

// As with SIGSTOP and SIGCONT, or a debugger: the process has not waited while it did not run.
TEST_F(StuckDetectorTest, TimeInWhichTheProcessWasStoppedDoesNotCount) {
  detector_.Observe(now_, kIn);
  now_ += 100000;
  EXPECT_FALSE(detector_.Observe(now_, kIn));
  EXPECT_LE(detector_.still(), 1);
}

TEST(StepTimes, OwnWorkIsWhatIsNotWaiting) {
  StepTimes times;
  times.Begin(10, 0);
  times.End(20, 4);
  times.End(30, 5);
  // The first two steps are not counted.
  EXPECT_EQ(times.own_steps(), 0);
  EXPECT_EQ(times.own_seconds(), 0);
  times.End(40, 12);
  EXPECT_EQ(times.own_steps(), 1);
  EXPECT_EQ(times.own_seconds(), 3);
  // What lies between, such as an evaluation, belongs to no step.
  times.Begin(1000, 500);
  times.End(1006, 501);
  EXPECT_EQ(times.own_steps(), 2);
  EXPECT_EQ(times.own_seconds(), 8);
  EXPECT_EQ(times.MedianStep(), 10);
}

}  // namespace
}  // namespace swinfleet
