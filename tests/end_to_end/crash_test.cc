// kill -9 of anything: the run goes on, and ends with the bits of an undisturbed one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "tests/end_to_end/fleet_test.h"

namespace swinfleet {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::IsEmpty;

using CrashTest = FleetTest;

TEST_F(CrashTest, AWorkerIsKilled) {
  TrainOnAFleet();
  ASSERT_FALSE(HasFatalFailure());
  const pid_t pid = PidOfRank(1);
  EXPECT_THAT(processes_.Find("swinfleet-worker"), testing::Contains(pid));
  ASSERT_EQ(kill(pid, SIGKILL), 0);
  ExpectTheSameEnd(1);
  EXPECT_THAT(Logs(job_id_), AllOf(HasSubstr("going on from checkpoint"),
                                   HasSubstr("attempt 1 died: its launch on fleet test ended"),
                                   HasSubstr("the first to leave was " + Named(1, pid))));
  EXPECT_FALSE(supervisor_->Ended());
}

TEST_F(CrashTest, AWorkerWithOffloadedStateIsKilled) {
  job_.offloaded_moments = "bf16";
  job_.zero_stage = 3;
  // Each update waits for the disk, which others may keep busy.
  job_.epochs = 20;
  TrainOnAFleet();
  ASSERT_FALSE(HasFatalFailure());
  ASSERT_EQ(kill(PidOfRank(1), SIGKILL), 0);
  ExpectTheSameEnd(1);
  EXPECT_TRUE(fs::is_empty(Path("offload"))) << "what the crash left is gone too";
}

TEST_F(CrashTest, MpirunIsKilled) {
  TrainOnAFleet();
  ASSERT_FALSE(HasFatalFailure());
  // Debian's mpirun is a link to orterun.
  std::vector<pid_t> mpirun = processes_.Find("orterun");
  ASSERT_EQ(mpirun.size(), 1u);
  ASSERT_EQ(kill(mpirun[0], SIGKILL), 0);
  ExpectTheSameEnd(1);
}

TEST_F(CrashTest, TheCoordinatorIsKilledAndTrainingIsNeverInterrupted) {
  const Process& coordinator = StartCoordinator();
  StartFleet(2);
  job_id_ = Submit(job_);
  ASSERT_TRUE(WaitForMidEpoch(job_, 1));
  const std::vector<pid_t> workers = processes_.Find("swinfleet-worker");
  const int64_t step = LastStep(job_, 1);
  coordinator.Signal(SIGKILL);
  ASSERT_EQ(coordinator.Wait(), 128 + SIGKILL);
  // Training goes on all the while that there is no coordinator.
  ASSERT_TRUE(WaitForStep(job_, 1, step + 50));
  StartCoordinator();
  ASSERT_FALSE(HasFailure());
  ExpectTheSameEnd(0);
  EXPECT_EQ(processes_.Find("swinfleet-worker"), workers);
  const std::vector<json> lines = Metrics(job_, 1);
  int64_t last = 0;
  for (const json& line : lines) {
    if (!line.contains("loss")) continue;
    EXPECT_EQ(line.at("step"), ++last);
  }
  EXPECT_EQ(last, job_.epochs * kStepsPerEpoch);
}

TEST_F(CrashTest, TheSupervisorIsKilledAndTheNextAdoptsItsLaunch) {
  TrainOnAFleet();
  ASSERT_FALSE(HasFatalFailure());
  const std::vector<pid_t> workers = processes_.Find("swinfleet-worker");
  supervisor_->Signal(SIGKILL);
  ASSERT_EQ(supervisor_->Wait(), 128 + SIGKILL);
  const Process& next = StartFleet(2);
  ASSERT_TRUE(next.WaitForErr("still runs: adopted")) << next.Err();
  ExpectTheSameEnd(0);
  EXPECT_EQ(processes_.Find("swinfleet-worker"), workers);
  // It ends the adopted launch like one of its own.
  next.Signal(SIGTERM);
  EXPECT_EQ(next.Wait(), 0) << next.Err();
  EXPECT_THAT(processes_.Find("swinfleet-worker"), IsEmpty());
  EXPECT_TRUE(WaitUntil([this] { return Fleet().at("state") == "down"; })) << Fleet().dump(1);
}

class EverythingIsKilledTest : public CrashTest {
 protected:
  // As TrainOnAFleet, but the supervisor has noted the launch's shared memory: after a crash nobody
  // else knows of it.
  void TrainOnANotedFleet() {
    StartCoordinator();
    StartFleet(2);
    const std::string record = Path("fleet/test.json");
    ASSERT_TRUE(WaitUntil([&] {
      const json value = json::parse(ReadFile(record), nullptr, /*allow_exceptions=*/false);
      return !value.is_discarded() && !value.at("shared_memory").empty();
    })) << ReadFile(record);
    const json noted = json::parse(ReadFile(record));
    for (const json& file : noted.at("shared_memory")) {
      leftovers_.push_back(file.get<std::string>());
    }
    job_id_ = Submit(job_);
    ASSERT_TRUE(WaitForMidEpoch(job_, 1)) << Status(job_id_).dump(1);
  }
  void StartEverythingAgain() {
    StartCoordinator();
    supervisor_ = &StartFleet(2);
  }

  std::vector<std::string> leftovers_;
};

TEST_F(EverythingIsKilledTest, AndStartedAgain) {
  TrainOnANotedFleet();
  ASSERT_FALSE(HasFatalFailure());
  processes_.KillAll();
  for (const std::string& file : leftovers_) EXPECT_TRUE(fs::exists(file)) << file;
  StartEverythingAgain();
  ExpectTheSameEnd(1);
  for (const std::string& file : leftovers_) EXPECT_FALSE(fs::exists(file)) << file;
  EXPECT_THAT(supervisor_->Err(), HasSubstr("of an earlier supervisor: gone"));
}

TEST_F(EverythingIsKilledTest, AndTheNewestCheckpointIsDamagedMeanwhile) {
  TrainOnANotedFleet();
  ASSERT_FALSE(HasFatalFailure());
  // The coordinator would start from the newest that it knows; there has to be one before it.
  ASSERT_TRUE(WaitUntil([this] {
    const json status = Status(job_id_);
    return std::stoi(status.at("last_checkpoint_step").get<std::string>()) >=
           2 * job_.checkpoint_every;
  }));
  processes_.KillAll();
  std::set<std::string> saved;
  for (const fs::directory_entry& entry :
       fs::directory_iterator(RunDir(job_) + "/checkpoints/attempt-001")) {
    const std::string dir = entry.path().string();
    if (fs::exists(dir + "/manifest.json")) saved.insert(dir);
  }
  // All but the oldest: the coordinator may not have heard of the very newest.
  ASSERT_GE(saved.size(), 2u);
  const std::string newest = *saved.rbegin();
  saved.erase(saved.begin());
  for (const std::string& dir : saved) {
    for (const fs::directory_entry& entry : fs::directory_iterator(dir)) {
      if (entry.path().extension() != ".safetensors") continue;
      fs::resize_file(entry.path(), fs::file_size(entry.path()) - 4);
    }
  }
  StartEverythingAgain();
  ExpectTheSameEnd(1);
  EXPECT_THAT(Logs(job_id_), HasSubstr("passed over checkpoint " + newest));
}

// Without supervisor and coordinator: what a killed run leaves is in nobody's way.
TEST_F(CrashTest, AKilledRunOfAJobFileStartsAgainAtOnce) {
  const std::vector<std::string> command = LocalCommand(WriteJob(job_), 2);
  Start(command);
  ASSERT_TRUE(WaitForMidEpoch(job_, 1));
  processes_.KillAll();
  const Process& again = Start(command);
  ASSERT_EQ(again.Wait(), 0) << again.Err();
  EXPECT_THAT(again.Err(), HasSubstr("going on from checkpoint"));
  EXPECT_GT(Metrics(job_, 2).front().at("step"), 1);
  EXPECT_TRUE(Weights(job_) == UndisturbedWeights(job_));
}

// One dead rank ends the run at once, instead of leaving the others to wait.
TEST_F(CrashTest, AKilledRankEndsARunOfAJobFile) {
  job_.epochs = 100000;
  job_.eval_every_epochs = 0;
  const Process& training = Start(LocalCommand(WriteJob(job_), 2));
  ASSERT_TRUE(WaitForStep(job_, 1, 3));
  const std::vector<pid_t> workers = processes_.Find("swinfleet-worker");
  ASSERT_EQ(workers.size(), 2u);
  kill(workers[1], SIGKILL);
  const int code = training.Wait();
  EXPECT_NE(code, -1) << "it hangs";
  EXPECT_NE(code, 0);
  EXPECT_TRUE(WaitUntil([this] { return processes_.Find("").empty(); }));
}

}  // namespace
}  // namespace swinfleet
