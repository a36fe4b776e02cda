// Ranks that stop without dying, and those that always die: the rank is named, with the operation
// that it was in, and the job goes on or ends.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "tests/end_to_end/fleet_test.h"

namespace swinfleet {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;

// A step of these jobs takes milliseconds, so ranks wait for ten seconds; whatever follows has to
// come within another thirty.
constexpr double kDeadline = 10 + 30;

class FaultTest : public FleetTest {
 protected:
  // What the rank's flight recorder says of attempt 1: that it waits in its last collective, and
  // what it did before.
  void ExpectFlightOf(int rank) const {
    const std::string path =
        RunDir(job_) + "/flight/attempt-001/rank-0000" + std::to_string(rank) + ".json";
    const json flight = json::parse(ReadFile(path), nullptr, /*allow_exceptions=*/false);
    ASSERT_FALSE(flight.is_discarded()) << path << ReadFile(path);
    EXPECT_EQ(flight.at("rank"), rank);
    EXPECT_EQ(flight.at("in_collective"), true);
    EXPECT_GT(flight.at("seconds"), 2);
    const json& collectives = flight.at("collectives");
    ASSERT_GT(collectives.size(), 10u);
    uint64_t sequence = collectives.front().at("sequence");
    for (const json& collective : collectives) {
      EXPECT_EQ(collective.at("sequence"), sequence++);
      EXPECT_NE(collective.at("operation"), "");
      EXPECT_NE(collective.at("unit"), "");
      const bool before = collective.at("sequence") < flight.at("collective");
      EXPECT_EQ(before, collective.at("end") > 0) << collective;
      EXPECT_TRUE(!before || collective.at("end") >= collective.at("start")) << collective;
    }
    const auto of = [&](const json& collective) { return collective.at("unit") == "patch_embed"; };
    const auto unit = std::find_if(collectives.begin(), collectives.end(), of);
    ASSERT_NE(unit, collectives.end()) << collectives;
    EXPECT_GT(unit->at("bytes"), 100);
  }
};

TEST_F(FaultTest, AStoppedRankIsNamedWithItsOperationAndTheJobGoesOn) {
  // It is to stop in a step that doesn't follow a save or an evaluation: those have 120 s.
  job_.eval_every_epochs = 0;
  job_.checkpoint_every = 100;
  TrainOnAFleet();
  ASSERT_FALSE(HasFatalFailure());
  const pid_t pid = PidOfRank(1);
  ASSERT_TRUE(WaitForStep(job_, 1, job_.checkpoint_every + 5));
  ASSERT_EQ(kill(pid, SIGSTOP), 0);
  // Lost, for whoever asks, long before the others give up.
  const std::string silent = "; " + Named(1, pid) + " silent for ";
  std::string reason;
  EXPECT_TRUE(WaitUntil(
      [&] {
        reason = Status(job_id_).at("reason");
        return reason.find(silent) != std::string::npos;
      },
      8, 0.2))
      << reason;
  EXPECT_THAT(reason, HasSubstr(" collective "));
  EXPECT_TRUE(WaitUntil([&] { return LastStep(job_, 2) > 0; }, kDeadline)) << Logs(job_id_);
  const std::string logs = Logs(job_id_);
  EXPECT_THAT(logs, AllOf(HasSubstr(Named(1, pid) + ", silent for "), HasSubstr(" is stuck "),
                          HasSubstr("rank 0 waited in collective "),
                          HasSubstr("past the deadline of 10 s; last collectives in " +
                                    RunDir(job_) + "/flight/attempt-001"),
                          HasSubstr("attempt 1 died: its launch on fleet test ended (exit code 4)"),
                          HasSubstr("rank 0 has waited 10 s in collective ")));
  ExpectFlightOf(0);
  ExpectTheSameEnd(1);
}

TEST_F(FaultTest, AStoppedRankEndsARunOfAJobFile) {
  job_.epochs = 100000;
  job_.eval_every_epochs = 0;
  job_.checkpoint_every = 100000;
  const Process& training = Start(LocalCommand(WriteJob(job_), 3));
  ASSERT_TRUE(WaitForStep(job_, 1, 3));
  const std::vector<pid_t> workers = processes_.Find("swinfleet-worker");
  ASSERT_EQ(workers.size(), 3u);
  kill(workers[2], SIGSTOP);
  EXPECT_EQ(training.Wait(kDeadline), 4) << training.Err();
  EXPECT_THAT(training.Err(),
              AllOf(HasSubstr(" has waited 10 s in collective "),
                    HasSubstr("the same command goes on from the last checkpoint")));
  EXPECT_TRUE(WaitUntil([this] { return processes_.Find("").empty(); }));
  int saved = 0;
  for (int rank = 0; rank < 3; ++rank) {
    saved +=
        fs::exists(RunDir(job_) + "/flight/attempt-001/rank-0000" + std::to_string(rank) + ".json")
            ? 1
            : 0;
  }
  EXPECT_GE(saved, 2);
}

TEST_F(FaultTest, AWorkerThatCrashesAtEveryStartFailsTheJobByName) {
  job_.checkpoint_every = 100000;
  job_.epochs = 100000;
  job_.eval_every_epochs = 0;
  StartCoordinator();
  StartFleet(2);
  job_id_ = Submit(job_);
  pid_t pid = 0;
  for (int attempt = 1; attempt <= 3; ++attempt) {
    ASSERT_TRUE(WaitForStep(job_, attempt, 1)) << Logs(job_id_);
    pid = PidOfRank(1);
    ASSERT_EQ(kill(pid, SIGSEGV), 0);
  }
  const json status = WaitForEnd(job_id_);
  EXPECT_EQ(status.at("state"), "FAILED");
  EXPECT_EQ(status.at("attempt"), 3);
  EXPECT_THAT(status.at("reason").get<std::string>(),
              AllOf(HasSubstr("3 attempts died without a new checkpoint between them"),
                    HasSubstr("attempt 3 died"),
                    HasSubstr("the first to leave was " + Named(1, pid)), HasSubstr("collective")));
  EXPECT_EQ(Swinfleet({"watch", job_id_}).Wait(), 1);
  // The fleet is there for other jobs.
  TestJob good;
  good.name = "good";
  EXPECT_EQ(WaitForEnd(Submit(good)).at("state"), "SUCCEEDED");
}

// The kernel kills the largest process of a fleet that may take 400 MiB, as it would on a host that
// has no more. A job that fits trains on the same fleet afterwards.
TEST_F(FaultTest, ARankThatRunsOutOfMemoryIsNamed) {
  // Both versions of the kernel's interface.
  const bool first = fs::exists("/sys/fs/cgroup/memory");
  const std::string group = std::string("/sys/fs/cgroup/") + (first ? "memory/" : "") +
                            "swinfleet-test-" + std::to_string(getpid());
  std::error_code error;
  if (!fs::create_directory(group, error)) GTEST_SKIP() << "no memory groups: " << error.message();
  std::ofstream(group + (first ? "/memory.limit_in_bytes" : "/memory.max")) << (400 << 20) << "\n";
  const bool limited = ReadFile(group + (first ? "/memory.limit_in_bytes" : "/memory.max")) ==
                       std::to_string(400 << 20) + "\n";
  if (limited) {
    StartCoordinator();
    std::vector<std::string> command = {"sh", "-c",
                                        "echo $$ >" + group + "/cgroup.procs; exec \"$@\"", "sh"};
    const std::vector<std::string> fleet = FleetCommand(2);
    command.insert(command.end(), fleet.begin(), fleet.end());
    Start(command);
    job_.embed_dim = 640;
    const json status = WaitForEnd(Submit(job_));
    EXPECT_EQ(status.at("state"), "FAILED");
    EXPECT_THAT(status.at("reason").get<std::string>(),
                AllOf(HasSubstr("3 attempts died without a new checkpoint between them"),
                      HasSubstr("exit code 137"), HasSubstr("the first to leave was rank "),
                      HasSubstr("(step 0, load)")));
    TestJob good;
    good.name = "good";
    EXPECT_EQ(WaitForEnd(Submit(good)).at("state"), "SUCCEEDED");
    processes_.KillAll();
  }
  EXPECT_TRUE(WaitUntil([&] { return rmdir(group.c_str()) == 0; }, 10)) << group;
  if (!limited) GTEST_SKIP() << "memory can't be limited in " << group;
}

// A rank that runs half of the time only, as on a processor that it shares with another program.
TEST_F(FaultTest, AStragglerIsNamed) {
  job_.epochs = 100000;
  job_.eval_every_epochs = 0;
  job_.checkpoint_every = 100000;
  // Most of a step is work.
  job_.embed_dim = 128;
  StartCoordinator();
  StartFleet(2);
  job_id_ = Submit(job_);
  ASSERT_TRUE(WaitForStep(job_, 1, 3));
  const pid_t slow = PidOfRank(1);
  json status;
  int turns = 0;
  const auto named = [&] {
    const bool stop = ++turns % 2 == 0;
    kill(slow, stop ? SIGSTOP : SIGCONT);
    if (stop || turns % 16 != 1) return false;
    status = Status(job_id_);
    return !status.at("stragglers").empty();
  };
  EXPECT_TRUE(WaitUntil(named, 60, 0.05)) << status.dump(1);
  const std::string text = Named(1, slow) + ": its own work takes ";
  EXPECT_THAT(status.at("stragglers").at(0).get<std::string>(), HasSubstr(text));
  EXPECT_EQ(status.at("ranks").at(0).at("straggler"), false);
  EXPECT_EQ(status.at("ranks").at(1).at("straggler"), true);
  EXPECT_THAT(Swinfleet({"status", job_id_}).Out(), AllOf(HasSubstr(text), HasSubstr("(slow)")));
  EXPECT_THAT(Logs(job_id_), HasSubstr(text));
}

}  // namespace
}  // namespace swinfleet
