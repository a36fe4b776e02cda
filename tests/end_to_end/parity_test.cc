// The same bits on any number of ranks, at any ZeRO stage, and after any interruption.
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "tests/end_to_end/harness.h"

namespace swinfleet {
namespace {

using nlohmann::json;

class ParityTest : public EndToEndTest {
 protected:
  // Trains for a while on so many ranks, as a new attempt, and is then told to stop.
  void TrainAndStop(const TestJob& job, int ranks, int attempt, int64_t until_step) {
    const Process& training = Start(LocalCommand(WriteJob(job), ranks));
    ASSERT_TRUE(WaitForStep(job, attempt, until_step)) << training.Err();
    training.Signal(SIGTERM);
    ASSERT_NE(training.Wait(), -1) << training.Err();
    // mpirun does not always wait for its ranks.
    ASSERT_TRUE(WaitUntil([this] { return processes_.Find("swinfleet-worker").empty(); }));
    EXPECT_LT(LastStep(job, attempt), job.epochs * kStepsPerEpoch) << "it was not interrupted";
  }
};

TEST_F(ParityTest, RanksAndZeroStagesGiveTheSameBits) {
  TestJob job;
  job.name = "one-rank";
  TrainLocally(job, 1);
  ASSERT_FALSE(HasFatalFailure());
  const std::string metrics = MetricsText(job, 1);
  const std::string weights = Weights(job);

  // The training is one in which differences would show.
  const std::vector<json> lines = Metrics(job, 1);
  ASSERT_EQ(lines.size(), 16u + 2u);
  for (const json& line : lines) {
    if (line.contains("grad_norm")) {
      EXPECT_GT(line.at("grad_norm"), job.clip_grad_norm) << "not clipped: " << line;
    }
  }
  EXPECT_LT(lines[16].at("loss"), lines[0].at("loss"));
  TestJob different = job;
  different.name = "different";
  different.learning_rate *= 1.0001;
  TrainLocally(different, 1);
  ASSERT_FALSE(HasFatalFailure());
  EXPECT_FALSE(Weights(different) == weights);

  for (const int zero_stage : {0, 1, 2, 3}) {
    for (const int ranks : {1, 2, 4}) {
      if (ranks == 1 && zero_stage == job.zero_stage) continue;
      TestJob other = job;
      other.name = "zero-" + std::to_string(zero_stage) + "-ranks-" + std::to_string(ranks);
      other.zero_stage = zero_stage;
      TrainLocally(other, ranks);
      ASSERT_FALSE(HasFatalFailure());
      EXPECT_EQ(MetricsText(other, 1), metrics) << other.name;
      EXPECT_TRUE(Weights(other) == weights) << other.name << " ended with other weights";
    }
  }
}

TEST_F(ParityTest, OffloadedStateGivesTheSameBits) {
  TestJob job;
  job.name = "in-memory";
  TrainLocally(job, 1);
  ASSERT_FALSE(HasFatalFailure());
  const std::string metrics = MetricsText(job, 1);
  const std::string weights = Weights(job);
  std::string rounded;
  for (const std::string moments : {"fp32", "bf16"}) {
    for (const auto& [zero_stage, ranks] :
         {std::pair(0, 1), {0, 2}, {1, 2}, {2, 1}, {2, 2}, {3, 2}}) {
      TestJob other = job;
      other.offloaded_moments = moments;
      other.zero_stage = zero_stage;
      other.name = moments + "-zero-" + std::to_string(zero_stage) + "-" + std::to_string(ranks);
      TrainLocally(other, ranks);
      ASSERT_FALSE(HasFatalFailure());
      EXPECT_TRUE(std::filesystem::is_empty(Path("offload"))) << "the files go with the attempt";
      if (moments == "fp32") {
        EXPECT_EQ(MetricsText(other, 1), metrics) << other.name;
        EXPECT_TRUE(Weights(other) == weights) << other.name << " ended with other weights";
        continue;
      }
      // Rounded moments have bits of their own, and the same for all.
      if (rounded.empty()) rounded = Weights(other);
      EXPECT_FALSE(rounded == weights);
      EXPECT_TRUE(Weights(other) == rounded) << other.name << " ended with other weights";
    }
  }
}

TEST_F(ParityTest, OtherNumbersOfRanksComeClose) {
  TestJob one;
  one.name = "one-rank";
  TrainLocally(one, 1);
  ASSERT_FALSE(HasFatalFailure());
  const std::vector<json> expected = Metrics(one, 1);
  // Of 8 micro-batches 3, 5 and 6 ranks have unequal numbers; so they have of 3 batches to
  // evaluate.
  for (const auto& [ranks, zero_stage] : {std::pair(3, 1), {3, 2}, {3, 3}, {5, 3}, {6, 3}}) {
    TestJob job;
    job.name = "zero-" + std::to_string(zero_stage) + "-ranks-" + std::to_string(ranks);
    job.zero_stage = zero_stage;
    TrainLocally(job, ranks);
    ASSERT_FALSE(HasFatalFailure());
    const std::vector<json> actual = Metrics(job, 1);
    ASSERT_EQ(actual.size(), expected.size());
    for (size_t i = 0; i < actual.size(); ++i) {
      for (const char* name : {"loss", "eval_loss"}) {
        ASSERT_EQ(actual[i].contains(name), expected[i].contains(name));
        if (!expected[i].contains(name)) continue;
        EXPECT_NEAR(actual[i].at(name), expected[i].at(name), 1e-3) << job.name << expected[i];
      }
    }
  }
}

TEST_F(ParityTest, AStoppedRunGoesOnWithTheSameBitsOnOtherRanks) {
  TestJob job;
  job.epochs = 60;
  job.eval_every_epochs = 20;
  TestJob undisturbed = job;
  undisturbed.name = "undisturbed";
  TrainLocally(undisturbed, 1);
  ASSERT_FALSE(HasFatalFailure());

  job.zero_stage = 3;
  TrainAndStop(job, 1, 1, 13);
  ASSERT_FALSE(HasFatalFailure());
  TrainAndStop(job, 4, 2, LastStep(job, 1) + 5);
  ASSERT_FALSE(HasFatalFailure());
  TrainLocally(job, 2);
  ASSERT_FALSE(HasFatalFailure());

  EXPECT_TRUE(Weights(job) == Weights(undisturbed));
  // Every loss, norm and accuracy on the way is one of the undisturbed run's.
  const std::vector<json> expected = Metrics(undisturbed, 1);
  for (const int attempt : {1, 2, 3}) {
    const std::vector<json> lines = Metrics(job, attempt);
    ASSERT_FALSE(lines.empty());
    EXPECT_EQ(attempt == 1, lines.front().at("step") == 1) << "attempt " << attempt;
    for (const json& line : lines) {
      EXPECT_NE(std::find(expected.begin(), expected.end(), line), expected.end()) << line;
    }
  }
}

TEST_F(ParityTest, AStoppedProcessSaysHowToGoOn) {
  TestJob job;
  job.epochs = 100000;
  job.eval_every_epochs = 0;
  const Process& training = Start(LocalCommand(WriteJob(job), 1));
  ASSERT_TRUE(WaitForStep(job, 1, 3));
  training.Signal(SIGTERM);
  EXPECT_EQ(training.Wait(), 130) << training.Err();
  const int64_t last = LastStep(job, 1);
  EXPECT_TRUE(std::filesystem::exists(CheckpointDir(job, 1, last) + "/manifest.json"));
  EXPECT_NE(training.Err().find("the same command goes on from there"), std::string::npos);
}

}  // namespace
}  // namespace swinfleet
