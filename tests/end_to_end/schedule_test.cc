// Jobs that wait for others, make room for others and go on elsewhere.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>
#include <string>
#include <vector>

#include "tests/end_to_end/harness.h"

namespace swinfleet {
namespace {

using nlohmann::json;
using testing::HasSubstr;

class ScheduleTest : public EndToEndTest {
 protected:
  static TestJob Named(const std::string& name, const std::string& schedule) {
    TestJob job;
    job.name = name;
    job.schedule = schedule;
    return job;
  }
  static TestJob Long(const std::string& name, const std::string& schedule) {
    TestJob job = Named(name, schedule);
    job.epochs = 75;
    job.eval_every_epochs = 25;
    return job;
  }
  // The attempt begins with the step after the last one of the attempt before it.
  void ExpectNoStepTwice(const TestJob& job, int attempt) {
    const std::vector<json> lines = Metrics(job, attempt);
    ASSERT_FALSE(lines.empty());
    EXPECT_EQ(lines.front().at("step"), LastStep(job, attempt - 1) + 1);
  }
};

TEST_F(ScheduleTest, AJobMakesRoomAndEndsWithTheBitsOfAnUndisturbedOne) {
  const Process& coordinator = StartCoordinator({"--patience", "0"});
  StartFleet(2);
  const TestJob low = Long("low", "{preemptible: true}");
  const std::string first = Submit(low);
  ASSERT_TRUE(WaitForMidEpoch(low, 1)) << Status(first).dump(1);
  const TestJob high = Named("high", "{priority: 5}");
  const std::string second = Submit(high);
  EXPECT_EQ(WaitForEnd(second).at("state"), "SUCCEEDED") << Status(second).dump(1);
  const json yielded = Status(first);
  EXPECT_NE(yielded.at("state"), "SUCCEEDED") << "it did not make room";
  EXPECT_EQ(yielded.at("preemptions"), 1);
  EXPECT_THAT(Logs(first), HasSubstr("makes room for job " + second + " (high) of priority 5"));
  // Whatever is said and done while somebody makes room is durable.
  coordinator.Signal(SIGKILL);
  ASSERT_EQ(coordinator.Wait(), 128 + SIGKILL);
  StartCoordinator();
  const json done = WaitForEnd(first);
  EXPECT_EQ(done.at("state"), "SUCCEEDED") << done.dump(1);
  EXPECT_EQ(done.at("restarts"), 1);
  EXPECT_EQ(done.at("preemptions"), 1);
  ExpectNoStepTwice(low, 2);
  EXPECT_TRUE(Weights(low) == UndisturbedWeights(low));
}

TEST_F(ScheduleTest, AJobGoesOnWithFewerRanksElsewhereToTheSameBits) {
  StartCoordinator({"--patience", "1"});
  const Process& large = StartFleet(4, "large");
  TestJob job = Long("elastic", "{min_ranks: 2}");
  job.ranks = 4;
  const std::string id = Submit(job);
  ASSERT_TRUE(WaitForMidEpoch(job, 1)) << Status(id).dump(1);
  large.Signal(SIGTERM);
  EXPECT_EQ(large.Wait(), 0) << large.Err();
  StartFleet(3, "small");
  const json done = WaitForEnd(id);
  EXPECT_EQ(done.at("state"), "SUCCEEDED") << done.dump(1);
  EXPECT_EQ(done.at("fleet"), "small");
  EXPECT_EQ(done.at("attempt_ranks"), 2);
  TestJob undisturbed = job;
  undisturbed.schedule.clear();
  EXPECT_TRUE(Weights(job) == UndisturbedWeights(undisturbed));
}

TEST_F(ScheduleTest, AJobStartsAfterTheOneThatItComesAfter) {
  const Process& coordinator = StartCoordinator();
  const TestJob before = Named("before", "{}"), after = Named("after", "{after: before}");
  const std::string first = Submit(before), second = Submit(after);
  coordinator.Signal(SIGKILL);
  ASSERT_EQ(coordinator.Wait(), 128 + SIGKILL);
  StartCoordinator();
  const json waiting = Status(second);
  EXPECT_EQ(waiting.at("after"), json::array({first}));
  EXPECT_THAT(waiting.at("reason").get<std::string>(),
              HasSubstr("waits for the success of job " + first + " (before), which is QUEUED"));
  StartFleet(1, "one");
  StartFleet(1, "other");
  const json done = WaitForEnd(second);
  EXPECT_EQ(done.at("state"), "SUCCEEDED") << done.dump(1);
  EXPECT_GE(done.at("started_at"), Status(first).at("ended_at"));
}

TEST_F(ScheduleTest, AJobThatHasRunTooLongFailsWithACheckpoint) {
  StartCoordinator();
  StartFleet(2);
  TestJob job = Named("long", "{max_run_time: 3s}");
  job.epochs = 100000;
  job.eval_every_epochs = 0;
  const std::string id = Submit(job);
  const json failed = WaitForEnd(id);
  EXPECT_EQ(failed.at("state"), "FAILED") << failed.dump(1);
  EXPECT_GE(failed.at("run_seconds"), 3);
  EXPECT_THAT(failed.at("reason").get<std::string>(),
              HasSubstr("the 3s that schedule.max_run_time allows"));
  const int64_t last = LastStep(job, 1);
  EXPECT_EQ(failed.at("last_checkpoint_step"), std::to_string(last));
  EXPECT_TRUE(std::filesystem::exists(CheckpointDir(job, 1, last) + "/manifest.json"));
}

}  // namespace
}  // namespace swinfleet
