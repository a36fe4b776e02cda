// A fleet that serves one job after the other, however each of them ends.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>
#include <string>

#include "tests/end_to_end/harness.h"

namespace swinfleet {
namespace {

using nlohmann::json;
using testing::ContainsRegex;
using testing::HasSubstr;

using JobsTest = EndToEndTest;

TestJob Named(const std::string& name) {
  TestJob job;
  job.name = name;
  return job;
}

TEST_F(JobsTest, AJobQueuesBehindAnotherThatIsCancelled) {
  StartCoordinator();
  TestJob endless = Named("endless");
  endless.epochs = 100000;
  endless.eval_every_epochs = 0;
  const std::string first = Submit(endless);
  const std::string none = Status(first).at("reason");
  EXPECT_THAT(none, HasSubstr("none is registered"));
  EXPECT_EQ(Status(first).at("state"), "QUEUED");
  EXPECT_EQ(Status(first).at("queue_position"), 1);

  const Process& supervisor = StartFleet(2);
  ASSERT_TRUE(WaitForStep(endless, 1, 3)) << Status(first).dump(1);
  const Process& watch = Start({Program("swinfleet"), "watch", first});
  const std::string second = Submit(Named("second"));
  const json waiting = Status(second);
  EXPECT_EQ(waiting.at("state"), "QUEUED");
  EXPECT_EQ(waiting.at("queue_position"), 1);
  EXPECT_THAT(waiting.at("reason").get<std::string>(), HasSubstr("busy with job " + first));

  EXPECT_EQ(Swinfleet({"cancel", first}).Wait(), 0);
  EXPECT_EQ(WaitForEnd(first).at("state"), "CANCELLED");
  EXPECT_EQ(watch.Wait(), 6) << watch.Err();
  const int64_t last = LastStep(endless, 1);
  EXPECT_TRUE(std::filesystem::exists(CheckpointDir(endless, 1, last) + "/manifest.json"));

  const json done = WaitForEnd(second);
  EXPECT_EQ(done.at("state"), "SUCCEEDED") << done.dump(1);
  EXPECT_EQ(done.at("restarts"), 0);
  EXPECT_TRUE(Weights(Named("second")) == UndisturbedWeights(Named("second")));
  // A job that waits can be cancelled too, and one that has ended can't.
  EXPECT_EQ(Swinfleet({"cancel", second}).Wait(), 5);
  EXPECT_FALSE(supervisor.Ended());
  supervisor.Signal(SIGTERM);
  EXPECT_EQ(supervisor.Wait(), 0) << supervisor.Err();
}

TEST_F(JobsTest, ACancelledJobThatWaitsNeverStarts) {
  StartCoordinator();
  const std::string id = Submit(Named("waiting"));
  EXPECT_EQ(Swinfleet({"cancel", id}).Wait(), 0);
  EXPECT_EQ(Status(id).at("state"), "CANCELLED");
  EXPECT_EQ(Swinfleet({"watch", id}).Wait(), 6);
  EXPECT_FALSE(std::filesystem::exists(RunDir(Named("waiting"))));
}

TEST_F(JobsTest, AJobThatTakesSomeRanksLeavesTheOthersIdle) {
  StartCoordinator();
  StartFleet(3);
  TestJob job = Named("two-of-three");
  job.ranks = 2;
  const std::string id = Submit(job);
  const json done = WaitForEnd(id);
  EXPECT_EQ(done.at("state"), "SUCCEEDED") << done.dump(1);
  EXPECT_TRUE(Weights(job) == UndisturbedWeights(job));
  EXPECT_TRUE(WaitUntil([this] { return Fleet().at("state") == "idle"; })) << Fleet().dump(1);
}

// Non-finite steps are skipped by all ranks together; ten in a row fail the job, not the fleet.
TEST_F(JobsTest, AJobThatDivergesFailsAndTheNextOneRuns) {
  StartCoordinator();
  StartFleet(2);
  TestJob diverging = Named("diverging");
  diverging.epochs = 100;
  diverging.learning_rate = 1e30;
  diverging.checkpoint_every = 1000;
  const Process& submit = Start({Program("swinfleet"), "submit", WriteJob(diverging), "--watch"});
  const std::string next = [&] {
    EXPECT_TRUE(WaitUntil([&] { return !submit.Out().empty(); }));
    return Submit(Named("next"));
  }();
  EXPECT_EQ(submit.Wait(), 1) << submit.Err();
  const std::string id = submit.Out().substr(0, submit.Out().find('\n'));
  const json failed = Status(id);
  EXPECT_EQ(failed.at("state"), "FAILED");
  EXPECT_EQ(failed.at("restarts"), 0);
  EXPECT_EQ(failed.at("progress").at("skipped_steps"), "10");
  const std::string reason = failed.at("reason");
  EXPECT_THAT(reason, HasSubstr("10 steps in a row were not finite"));
  EXPECT_THAT(reason, ContainsRegex("first tensor: [a-z_]+\\.[a-z0-9_.]+"));
  EXPECT_THAT(Logs(id), HasSubstr("first tensor that is not finite"));

  const json done = WaitForEnd(next);
  EXPECT_EQ(done.at("state"), "SUCCEEDED") << done.dump(1);
  EXPECT_TRUE(Weights(Named("next")) == UndisturbedWeights(Named("next")));
}

// Masters in float32 go beyond what float16 holds: nothing of that is saved.
TEST_F(JobsTest, WeightsThatLeaveFloat16FailTheJobAtOnce) {
  // Found by who saves, and by the next step.
  for (const int every : {1, 1000}) {
    TestJob job = Named("overflow-" + std::to_string(every));
    job.learning_rate = 1e8;
    job.checkpoint_every = every;
    std::string yaml = Yaml(job);
    const std::string train = "train:\n";
    yaml.insert(yaml.find(train) + train.size(), "  dtype: fp16\n  allow_emulation: true\n");
    const std::string file = Write("overflow.yaml", yaml);
    const Process& training = Start(LocalCommand(file, 2));
    EXPECT_EQ(training.Wait(), 1) << training.Err();
    EXPECT_THAT(training.Err(), HasSubstr("step 1 made a weight of "));
    EXPECT_THAT(training.Err(), HasSubstr(" that fp16 can't hold"));
    EXPECT_THAT(training.Err(), HasSubstr("Lower the learning rate"));
    EXPECT_FALSE(std::filesystem::exists(CheckpointDir(job, 1, 1)));
  }
}

TEST_F(JobsTest, ADivergingRunOfAJobFileEndsOnAllRanks) {
  TestJob job = Named("diverging");
  job.epochs = 100;
  job.learning_rate = 1e30;
  job.checkpoint_every = 1000;
  for (const int ranks : {1, 2}) {
    const Process& training = Start(LocalCommand(WriteJob(job), ranks));
    EXPECT_EQ(training.Wait(), 1) << training.Err();
    EXPECT_THAT(training.Err(), HasSubstr("10 steps in a row were not finite"));
    EXPECT_TRUE(WaitUntil([this] { return processes_.Find("").empty(); }));
  }
  // The steps that count were the same.
  EXPECT_EQ(MetricsText(job, 1), MetricsText(job, 2));
}

}  // namespace
}  // namespace swinfleet
