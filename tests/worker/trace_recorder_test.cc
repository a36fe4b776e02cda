// Traces of a job that runs: who begins when, what is in the file, and what a bad disk does.
#include "worker/trace_recorder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kernels/profile.h"
#include "tests/kernels/fake_gpu.h"
#include "tests/worker/still_communicator.h"

namespace swinfleet {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

double UnixTime() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// Has the collectives that the test says.
class ListedCommunicator : public StillCommunicator {
 public:
  ListedCommunicator() : StillCommunicator(false) {}
  std::vector<CollectiveRecord> recent() const override { return records; }
  std::vector<CollectiveRecord> records;
};

class TraceReporter : public Reporter {
 public:
  void SetPhase(Phase) override {}
  void SetStep(int64_t) override {}
  void ReportProgress(const TrainingProgress&) override {}
  void ReportCheckpoint(const std::string&, int64_t) override {}
  bool CancelRequested() override { return false; }
  std::optional<TraceRequest> TakeTraceRequest() override {
    return std::exchange(request, std::nullopt);
  }
  void ReportTrace(const TraceResult& result) override { results.push_back(result); }

  std::optional<TraceRequest> request;
  std::vector<TraceResult> results;
};

class TraceRecorderTest : public testing::Test {
 protected:
  TraceRecorderTest() {
    std::string pattern = fs::temp_directory_path() / "swinfleet-trace-XXXXXX";
    options_.run_dir = folder_ = mkdtemp(pattern.data());
  }
  ~TraceRecorderTest() override { fs::remove_all(folder_); }

  void Make() { recorder_.emplace(options_, &context_, &communicator_, &reporter_); }
  // As Attempt does it, with a step of `calls` additions; `others` ranks are asked too.
  void Step(int64_t others = 0, int calls = 2) {
    const int64_t asked = (recorder_->Asked() ? 1 : 0) + others;
    recorder_->BeginStep(++step_);
    {
      const ProfileScope scope(context_, "forward");
      for (int i = 0; i < calls; ++i) {
        context_.ops->add({.x = ViewOf(x_, {4}), .y = ViewOf(y_, {4})}, context_);
        recorder_->Note();
      }
    }
    recorder_->EndStep(asked);
  }
  void Ask(int64_t steps, int64_t ranks = 1) {
    reporter_.request =
        TraceRequest{.id = "t", .steps = steps, .ranks = ranks, .origin = UnixTime() - 100};
  }
  void Collective(uint64_t sequence, double posted, double ended) {
    communicator_.records.push_back({.sequence = sequence,
                                     .operation = "all-reduce",
                                     .name = "all-reduce of " + std::to_string(sequence),
                                     .bytes = 16,
                                     .posted = posted,
                                     .started = posted,
                                     .ended = ended});
  }
  nlohmann::json Read(const std::string& path) {
    std::ifstream file(path);
    return nlohmann::json::parse(file);
  }
  static std::map<std::string, int> Count(const nlohmann::json& trace) {
    std::map<std::string, int> counts;
    for (const auto& event : trace.at("traceEvents")) {
      ++counts[event.value("cat", event.at("ph").get<std::string>())];
    }
    return counts;
  }

  std::string folder_;
  TraceRecorderOptions options_;
  float x_[4] = {1, 2, 3, 4}, y_[4] = {};
  Arena workspace_ = Arena::OnHost("workspace", 1 << 16);
  Context context_ = {.ops = &CpuOps(), .workspace = &workspace_};
  ListedCommunicator communicator_;
  TraceReporter reporter_;
  std::optional<TraceRecorder> recorder_;
  int64_t step_ = 0;
};

TEST_F(TraceRecorderTest, RecordsWholeStepsAndNothingElse) {
  Make();
  for (int i = 0; i < 3; ++i) Step();
  EXPECT_EQ(context_.profile, nullptr);
  EXPECT_FALSE(fs::exists(folder_ + "/traces"));
  Ask(2);
  // Agreed on in the fourth, recorded in the two after it, and written after the seventh.
  for (int i = 0; i < 4; ++i) {
    Step();
    EXPECT_EQ(context_.ops, &CpuOps());
    EXPECT_EQ(context_.profile, nullptr);
  }
  recorder_->Finish();
  ASSERT_EQ(reporter_.results.size(), 1u);
  const TraceResult& result = reporter_.results[0];
  EXPECT_EQ(result.request_id, "t");
  EXPECT_EQ(result.error, "");
  EXPECT_EQ(result.path, folder_ + "/traces/attempt-001/step-00000005-rank-00003.json");
  EXPECT_EQ(result.first_step, 5);
  EXPECT_EQ(result.steps, 2);
  EXPECT_FALSE(fs::exists(result.path + ".part"));
  const auto trace = Read(result.path);
  const auto counts = Count(trace);
  EXPECT_EQ(counts.at("step"), 2);
  EXPECT_EQ(counts.at("module"), 2);
  EXPECT_EQ(counts.at("op"), 4);
  EXPECT_EQ(trace["otherData"]["calls_left_out"], 0);
  double step_end = 0;
  for (const auto& event : trace["traceEvents"]) {
    if (event["ph"] == "M") continue;
    EXPECT_EQ(event["pid"], 4);
    const double begin = event["ts"], end = begin + event["dur"].get<double>();
    // Times count from the request's origin.
    EXPECT_GE(begin, 100e6);
    EXPECT_LT(begin, 200e6);
    if (event["cat"] == "step") step_end = std::max(step_end, end);
    if (event["cat"] != "op") continue;
    EXPECT_EQ(event["args"]["pass"], "forward");
  }
  for (const auto& event : trace["traceEvents"]) {
    if (event["ph"] != "X") continue;
    EXPECT_LE(event["ts"].get<double>(), step_end);
  }
}

TEST_F(TraceRecorderTest, RanksBeginTogether) {
  Make();
  Ask(1, /*ranks=*/3);
  for (int i = 0; i < 5; ++i) Step(/*others=*/1);
  EXPECT_TRUE(recorder_->Asked());
  Step(/*others=*/2);
  Step();
  Step();
  recorder_->Finish();
  ASSERT_EQ(reporter_.results.size(), 1u);
  EXPECT_EQ(reporter_.results[0].first_step, 7);
}

TEST_F(TraceRecorderTest, CollectivesAreThoseThatRanBesideTheSteps) {
  Make();
  const double before = UnixTime() - 50;
  Collective(6, before, before + 1);
  Ask(1);
  Step();
  // Started by the step before, and two of this one, of which the second has not ended.
  Collective(7, before, UnixTime() + 1);
  Collective(8, UnixTime(), UnixTime() + 1);
  Collective(10, UnixTime(), 0);
  Step();
  communicator_.records.back().ended = UnixTime() + 2;
  // Of the step after it.
  Collective(11, UnixTime() + 3, UnixTime() + 4);
  Step();
  recorder_->Finish();
  ASSERT_EQ(reporter_.results.size(), 1u);
  const auto trace = Read(reporter_.results[0].path);
  std::vector<uint64_t> sequences;
  for (const auto& event : trace["traceEvents"]) {
    if (event.value("cat", "") != "collective") continue;
    EXPECT_EQ(event["tid"], 2);
    sequences.push_back(event["args"]["sequence"]);
  }
  EXPECT_THAT(sequences, testing::ElementsAre(7, 8, 10));
  // The flight recorder has forgotten one.
  EXPECT_EQ(trace["otherData"]["collectives_left_out"], 1);
}

TEST_F(TraceRecorderTest, ACollectiveThatTheFlightRecorderForgetsWithinAStepIsKept) {
  Make();
  Ask(1);
  Step();
  recorder_->BeginStep(++step_);
  Collective(1, UnixTime(), UnixTime() + 1);
  recorder_->Note();
  communicator_.records.clear();
  recorder_->EndStep(0);
  Step();
  recorder_->Finish();
  EXPECT_EQ(Count(Read(reporter_.results.at(0).path)).at("collective"), 1);
}

TEST_F(TraceRecorderTest, AnAttemptThatEndsLeavesTheStepsThatThereWere) {
  Make();
  Ask(20);
  for (int i = 0; i < 4; ++i) Step();
  recorder_->Finish();
  ASSERT_EQ(reporter_.results.size(), 1u);
  EXPECT_EQ(reporter_.results[0].first_step, 2);
  EXPECT_EQ(reporter_.results[0].steps, 3);
  EXPECT_EQ(Count(Read(reporter_.results[0].path)).at("step"), 3);
}

TEST_F(TraceRecorderTest, OneThatNeverBeganHasNoResult) {
  Make();
  Ask(1, /*ranks=*/2);
  for (int i = 0; i < 4; ++i) Step();
  recorder_->Finish();
  EXPECT_TRUE(reporter_.results.empty());
  EXPECT_FALSE(fs::exists(folder_ + "/traces"));
}

TEST_F(TraceRecorderTest, AFolderThatCantBeWrittenIsAnErrorAndTheNextTraceWorks) {
  std::ofstream(folder_ + "/traces") << "in the way";
  Make();
  Ask(1);
  for (int i = 0; i < 3; ++i) Step();
  while (reporter_.results.empty()) Step();
  EXPECT_EQ(reporter_.results[0].path, "");
  EXPECT_THAT(reporter_.results[0].error, HasSubstr(folder_ + "/traces"));
  fs::remove(folder_ + "/traces");
  Ask(1);
  for (int i = 0; i < 3; ++i) Step();
  recorder_->Finish();
  ASSERT_EQ(reporter_.results.size(), 2u);
  EXPECT_EQ(reporter_.results[1].error, "");
}

// A disk that is full, or that answers only when the test says so.
class BadDisk : public FileOps {
 public:
  int64_t PWrite(int fd, const void* data, size_t size, uint64_t offset) override {
    return full ? -ENOSPC : FileOps::PWrite(fd, data, size, offset);
  }
  int Fsync(int fd) override {
    while (hangs) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return FileOps::Fsync(fd);
  }
  std::atomic<bool> full = false, hangs = false;
};

TEST_F(TraceRecorderTest, AFullDiskIsAnErrorAndLeavesNothing) {
  BadDisk disk;
  disk.full = true;
  options_.files = &disk;
  Make();
  Ask(1);
  for (int i = 0; i < 3; ++i) Step();
  recorder_->Finish();
  ASSERT_EQ(reporter_.results.size(), 1u);
  EXPECT_EQ(reporter_.results[0].path, "");
  EXPECT_THAT(reporter_.results[0].error, HasSubstr("No space left on device"));
  EXPECT_TRUE(fs::is_empty(folder_ + "/traces/attempt-001"));
}

TEST_F(TraceRecorderTest, ADiskThatHangsHoldsUpNoStepAndNoEnd) {
  // The thread that waits for it may go on when the test is over.
  static BadDisk disk;
  disk.hangs = true;
  options_.files = &disk;
  options_.patience_seconds = 0.1;
  Make();
  Ask(1);
  for (int i = 0; i < 5; ++i) Step();
  recorder_->Finish();
  ASSERT_EQ(reporter_.results.size(), 1u);
  EXPECT_EQ(reporter_.results[0].request_id, "t");
  EXPECT_THAT(reporter_.results[0].error, HasSubstr("not be written in time"));
  disk.hangs = false;
}

class GpuTraceRecorderTest : public TraceRecorderTest {
 protected:
  GpuTraceRecorderTest() {
    context_.device = Device::kCuda;
    context_.accelerator = &gpu_;
    context_.stream = gpu_.stream();
    options_.calls_of_step = 2;
    Make();
  }

  FakeGpu gpu_;
};

// No step waits for the GPU: its times are read at the end of the next step, and the last ones when
// there is none.
TEST_F(GpuTraceRecorderTest, TimesAreReadAStepLater) {
  Step();
  EXPECT_EQ(gpu_.room, 0u) << "there was a clock without a trace";
  Ask(3);
  Step();
  EXPECT_GE(gpu_.room, 2u * 2 * 2);
  const int before = gpu_.reads;
  for (const int read : {0, 4, 8}) {
    Step();
    EXPECT_EQ(gpu_.reads, before + read);
  }
  EXPECT_FALSE(gpu_.moments.empty());
  Step();
  EXPECT_TRUE(gpu_.moments.empty());
  EXPECT_EQ(gpu_.reads, before + 12);
  recorder_->Finish();
  ASSERT_EQ(reporter_.results.size(), 1u);
  EXPECT_EQ(reporter_.results[0].error, "");
  EXPECT_EQ(Count(Read(reporter_.results[0].path)).at("op"), 6);
}

// On a row what the GPU did, second by second, and on another what the host did.
TEST_F(GpuTraceRecorderTest, RowsAreOfTheGpuAndOfTheHost) {
  Ask(2);
  for (int i = 0; i < 3; ++i) Step();
  // An attempt that ends with the last step that was to be recorded.
  recorder_->Finish();
  ASSERT_EQ(reporter_.results.size(), 1u);
  const auto trace = Read(reporter_.results[0].path);
  std::map<int, std::string> rows;
  std::map<std::pair<int, std::string>, std::vector<double>> seconds;
  for (const auto& event : trace["traceEvents"]) {
    const int row = event["tid"];
    if (event["name"] == "thread_name") rows[row] = event["args"]["name"];
    if (event["ph"] != "X") continue;
    seconds[{row, event["cat"]}].push_back(1e-6 * event["dur"].get<double>());
  }
  EXPECT_EQ(rows, (std::map<int, std::string>{{1, "computing (GPU)"},
                                              {3, "starting operations (host)"}}));
  using testing::DoubleNear;
  using testing::ElementsAre;
  const auto one = DoubleNear(1, 1e-6), three = DoubleNear(3, 1e-6);
  EXPECT_THAT((seconds[{1, "step"}]), ElementsAre(three, three));
  EXPECT_THAT((seconds[{1, "module"}]), ElementsAre(three, three));
  EXPECT_THAT((seconds[{1, "op"}]), ElementsAre(one, one, one, one));
  // Two steps, two modules, four operations.
  const std::vector<double>& host = seconds[{3, "host"}];
  EXPECT_EQ(host.size(), 8u);
  for (const double one_of_them : host) EXPECT_LT(one_of_them, 0.5);
  EXPECT_EQ(seconds.size(), 4u);
}

TEST_F(GpuTraceRecorderTest, AClockThatCantBeHadIsAnErrorAndTheNextTraceWorks) {
  gpu_.clock_problem = "no events left";
  Ask(1);
  for (int i = 0; i < 3; ++i) Step();
  ASSERT_EQ(reporter_.results.size(), 1u);
  EXPECT_EQ(reporter_.results[0].error, "no events left");
  EXPECT_EQ(context_.profile, nullptr);
  gpu_.clock_problem.clear();
  Ask(1);
  for (int i = 0; i < 3; ++i) Step();
  recorder_->Finish();
  ASSERT_EQ(reporter_.results.size(), 2u);
  EXPECT_EQ(reporter_.results[1].error, "");
}

TEST_F(TraceRecorderTest, CallsHaveALimit) {
  options_.most_calls = 3;
  Make();
  Ask(2);
  for (int i = 0; i < 4; ++i) Step();
  recorder_->Finish();
  const auto trace = Read(reporter_.results.at(0).path);
  EXPECT_EQ(Count(trace).at("op"), 3);
  EXPECT_EQ(trace["otherData"]["calls_left_out"], 1);
}

TEST_F(TraceRecorderTest, AStepThatThrowsLeavesTheContextAsItWas) {
  Make();
  Ask(2);
  Step();
  recorder_->BeginStep(++step_);
  EXPECT_NE(context_.profile, nullptr);
  recorder_.reset();
  EXPECT_EQ(context_.ops, &CpuOps());
  EXPECT_EQ(context_.profile, nullptr);
}

}  // namespace
}  // namespace swinfleet
