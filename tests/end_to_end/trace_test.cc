// Traces of a job that trains: what is in them, and what becomes of them when things break.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tests/end_to_end/fleet_test.h"

namespace swinfleet {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;

class TraceTest : public FleetTest {
 protected:
  // A job that goes on until it is cancelled or disturbed, on two ranks.
  TraceTest() {
    job_.epochs = 100000;
    job_.eval_every_epochs = 0;
  }
  const Process& StartTrace(std::vector<std::string> options = {}) {
    options.insert(options.begin(), {Program("swinfleet"), "trace", job_id_});
    return Start(options);
  }
  // It is asked for and can't be recorded, because rank 1 is stopped.
  const Process& TraceThatWaits() {
    stopped_ = PidOfRank(1);
    EXPECT_EQ(kill(stopped_, SIGSTOP), 0);
    const Process& trace = StartTrace();
    EXPECT_TRUE(WaitUntil([&] { return !Status(job_id_)["trace"].is_null(); }));
    EXPECT_FALSE(trace.Ended());
    return trace;
  }
  std::string TraceFolder() const { return RunDir(job_) + "/traces"; }

  pid_t stopped_ = 0;
};

// Of a trace, by process: numbers of the steps, names of collectives with how often, operations.
struct Contents {
  std::map<int, std::set<std::string>> steps;
  std::map<int, std::map<std::string, int>> collectives;
  std::map<int, int> operations;
};

Contents Read(const std::string& path) {
  std::ifstream file(path);
  const json trace = json::parse(file);
  Contents contents;
  std::map<int, std::vector<std::pair<double, double>>> steps;
  for (const json& event : trace.at("traceEvents")) {
    if (event.at("ph") != "X" || event.at("cat") != "step") continue;
    const double begin = event.at("ts");
    steps[event.at("pid")].emplace_back(begin, begin + event.at("dur").get<double>());
    contents.steps[event.at("pid")].insert(event.at("name"));
  }
  for (const json& event : trace.at("traceEvents")) {
    if (event.at("ph") != "X") continue;
    const int process = event.at("pid");
    if (event.at("cat") == "collective") ++contents.collectives[process][event.at("name")];
    if (event.at("cat") != "op") continue;
    ++contents.operations[process];
    // Each lies in one of the steps.
    const double begin = event.at("ts"), end = begin + event.at("dur").get<double>();
    const bool inside = std::ranges::any_of(steps[process], [&](const auto& step) {
      return begin >= step.first - 1 && end <= step.second + 1;
    });
    EXPECT_TRUE(inside) << event;
  }
  return contents;
}

TEST_F(TraceTest, RanksRecordTheSameSteps) {
  TrainOnAFleet(2);
  const std::string file = Path("trace.json");
  const Process& trace = StartTrace({"--steps", "3", "--output", file});
  ASSERT_EQ(trace.Wait(), 0) << trace.Err() << Logs(job_id_);
  EXPECT_THAT(trace.Out(), AllOf(HasSubstr("rank 0: steps "), HasSubstr("rank 1: steps "),
                                 HasSubstr(TraceFolder() + "/attempt-001/step-")));
  const Contents contents = Read(file);
  ASSERT_EQ(contents.steps.size(), 2u);
  EXPECT_EQ(contents.steps.at(1).size(), 3u);
  EXPECT_EQ(contents.steps.at(1), contents.steps.at(2));
  for (const int process : {1, 2}) {
    EXPECT_EQ(contents.collectives.at(process).at("losses and flags"), 3);
    EXPECT_GT(contents.operations.at(process), 100);
  }

  const json status = Status(job_id_).at("trace");
  EXPECT_EQ(status.at("complete"), true);
  ASSERT_EQ(status.at("ranks").size(), 2u);
  const std::string path = status.at("ranks").at(1).at("path");
  EXPECT_EQ(Read(path).steps.at(2), contents.steps.at(2));
  EXPECT_THAT(Swinfleet({"status", job_id_}).Out(), HasSubstr("of 2 of 2 ranks: " + TraceFolder()));

  const Process& one = StartTrace({"--rank", "1", "--json"});
  ASSERT_EQ(one.Wait(), 0) << one.Err();
  const json ranks = json::parse(one.Out()).at("ranks");
  ASSERT_EQ(ranks.size(), 1u);
  EXPECT_EQ(ranks[0].at("rank"), 1);
  EXPECT_EQ(ranks[0].at("steps"), 1);
  EXPECT_NE(ranks[0].at("path"), path);
  EXPECT_THAT(StartTrace({"--rank", "7"}).Wait(), 5);
}

TEST_F(TraceTest, AFolderThatCantBeWrittenIsToldAndTrainingGoesOn) {
  TrainOnAFleet(2);
  std::ofstream(TraceFolder()) << "in the way";
  const Process& trace = StartTrace();
  EXPECT_EQ(trace.Wait(), 1);
  EXPECT_THAT(trace.Out(), AllOf(HasSubstr("rank 0: no trace: "), HasSubstr("rank 1: no trace: "),
                                 HasSubstr(TraceFolder())));
  EXPECT_TRUE(WaitUntil(
      [&] { return Logs(job_id_).find("there is no trace of this rank") != std::string::npos; }));
  const int64_t step = LastStep(job_, 1);
  EXPECT_TRUE(WaitForStep(job_, 1, step + 20));
  fs::remove(TraceFolder());
  const Process& again = StartTrace({"--output", Path("no/such/folder/file")});
  EXPECT_EQ(again.Wait(), 2);
  EXPECT_THAT(again.Err(), HasSubstr("can't write"));
  EXPECT_TRUE(fs::exists(TraceFolder() + "/attempt-001"));
  EXPECT_EQ(Status(job_id_).at("restarts"), 0);
}

TEST_F(TraceTest, AnAttemptThatEndsBeforeTheTraceClosesIt) {
  TrainOnAFleet(2);
  const Process& trace = TraceThatWaits();
  kill(stopped_, SIGKILL);
  EXPECT_EQ(trace.Wait(), 1);
  EXPECT_THAT(trace.Out(), HasSubstr("rank 0: no trace: attempt 1 ended before this rank had "
                                     "recorded a step"));
  // The next attempt has nothing left of it to do, and takes the next request.
  ASSERT_TRUE(WaitForStep(job_, 2, 1));
  const Process& again = StartTrace();
  EXPECT_EQ(again.Wait(), 0) << again.Err() << again.Out();
  EXPECT_THAT(again.Out(), HasSubstr("/traces/attempt-002/"));
}

TEST_F(TraceTest, ACoordinatorThatIsKilledForgetsNoTraceAndMakesNoSecondOne) {
  TrainOnAFleet(2);
  const Process& trace = TraceThatWaits();
  for (const pid_t pid : processes_.Find("swinfleet-coordinator")) kill(pid, SIGKILL);
  ASSERT_TRUE(WaitUntil([&] { return processes_.Find("swinfleet-coordinator").empty(); }));
  StartCoordinator();
  kill(stopped_, SIGCONT);
  EXPECT_EQ(trace.Wait(), 0) << trace.Err() << trace.Out();
  size_t files = 0;
  for (const auto& entry : fs::recursive_directory_iterator(TraceFolder())) {
    files += entry.is_regular_file() ? 1 : 0;
  }
  EXPECT_EQ(files, 2u);
  EXPECT_EQ(Status(job_id_).at("restarts"), 0);
}

TEST_F(TraceTest, AJobThatDoesNotRunIsRefused) {
  StartCoordinator();
  job_id_ = Submit(job_);
  const Process& trace = StartTrace();
  EXPECT_EQ(trace.Wait(), 5);
  EXPECT_THAT(trace.Err(), HasSubstr("is QUEUED; ranks record steps while it is RUNNING"));
  EXPECT_EQ(Swinfleet({"trace", "j9-none"}).Wait(), 4);
}

}  // namespace
}  // namespace swinfleet
