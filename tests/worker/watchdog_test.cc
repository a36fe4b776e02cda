#include "worker/watchdog.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <future>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "tests/worker/still_communicator.h"
#include "worker/print_reporter.h"

namespace swinfleet {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;
using namespace std::chrono_literals;

class WatchdogTest : public testing::Test {
 protected:
  WatchdogTest() {
    std::string pattern = (fs::temp_directory_path() / "swinfleet-watchdog-XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
    options_.run_dir = folder_ + "/run";
    options_.attempt = 2;
    options_.rank = 3;
    options_.deadlines = {.median_steps = 0, .least = 0.3, .patient = 0.3};
    options_.on_stuck = [this](const StuckNews& news) { stuck_.set_value(news); };
  }
  ~WatchdogTest() override { fs::remove_all(folder_); }
  json Flight() const {
    std::ifstream file(FlightPath(options_.run_dir, 2, 3));
    return json::parse(file, nullptr, /*allow_exceptions=*/false);
  }

  std::string folder_;
  WatchdogOptions options_;
  PrintReporter reporter_;
  std::promise<StuckNews> stuck_;
};

TEST_F(WatchdogTest, AStuckRankSavesItsFlightRecorderAndSaysWhereItIs) {
  StillCommunicator communicator(/*in_progress=*/true);
  Watchdog watchdog(options_, &reporter_);
  watchdog.SetCommunicator(&communicator);
  watchdog.SetPhase(Phase::kTrain);
  watchdog.SetStep(41);
  const StuckNews news = stuck_.get_future().get();
  watchdog.SetCommunicator(nullptr);
  EXPECT_EQ(news.position.sequence, 17u);
  EXPECT_EQ(news.step, 41);
  EXPECT_THAT(news.text, HasSubstr("rank 3 has waited"));
  EXPECT_THAT(news.text, HasSubstr("in collective 17, reduce-scatter head, at step 41 (train): the "
                                   "deadline is 0.3 s"));
  EXPECT_EQ(news.flight_recorder, folder_ + "/run/flight/attempt-002/rank-00003.json");
  const json flight = Flight();
  ASSERT_FALSE(flight.is_discarded());
  EXPECT_EQ(flight.at("rank"), 3);
  EXPECT_EQ(flight.at("step"), 41);
  EXPECT_EQ(flight.at("phase"), "train");
  EXPECT_EQ(flight.at("collectives"),
            json::parse(R"([{"sequence": 16, "operation": "all-reduce", "unit": "losses and flags",
                             "bytes": 72, "posted": 1.5, "start": 2.5, "end": 3.5},
                            {"sequence": 17, "operation": "reduce-scatter", "unit": "head",
                             "bytes": 4096, "posted": 4.5, "start": 5.5, "end": 0.0}])"));
}

// Long before the deadline; and what a GPU waits for is ended when the process is about to end.
TEST_F(WatchdogTest, AFailureOfTheCommunicatorIsNotWaitedOut) {
  options_.deadlines.patient = 1000;
  StillCommunicator communicator(/*in_progress=*/true, "the network is gone");
  Watchdog watchdog(options_, &reporter_);
  watchdog.SetCommunicator(&communicator);
  const StuckNews news = stuck_.get_future().get();
  EXPECT_THAT(news.text, HasSubstr("rank 3 can't exchange anything any more after collective 17, "
                                   "reduce-scatter head, at step 0 (load): the network is gone"));
  EXPECT_FALSE(Flight().is_discarded());
  EXPECT_FALSE(communicator.given_up());
  news.give_up();
  EXPECT_TRUE(communicator.given_up());
  watchdog.SetCommunicator(nullptr);
}

// The thread that trains waits for a GPU, which is what the watchdog has to end.
TEST_F(WatchdogTest, ARankThatReportsAStepKeepsItFromNothing) {
  std::promise<void> gate;
  StillCommunicator communicator(/*in_progress=*/true);
  communicator.SetGate(gate.get_future().share());
  Watchdog watchdog(options_, &reporter_);
  watchdog.SetCommunicator(&communicator);
  std::thread training([&] { watchdog.SetStep(41); });
  std::future<StuckNews> stuck = stuck_.get_future();
  EXPECT_EQ(stuck.wait_for(10s), std::future_status::ready);
  if (stuck.wait_for(0s) == std::future_status::ready) stuck.get().give_up();
  EXPECT_TRUE(communicator.given_up());
  gate.set_value();
  training.join();
  watchdog.SetCommunicator(nullptr);
}

// The others never come: there is no communicator yet.
TEST_F(WatchdogTest, FormingTheGroupCountsAsACollective) {
  const Watchdog watchdog(options_, &reporter_);
  EXPECT_THAT(stuck_.get_future().get().text, HasSubstr("forming the group"));
}

TEST_F(WatchdogTest, AFolderThatCannotBeWrittenKeepsNobody) {
  std::ofstream(folder_ + "/run") << "a file";
  const Watchdog watchdog(options_, &reporter_);
  EXPECT_EQ(stuck_.get_future().get().flight_recorder, "");
}

// A rank that another one has ended, by giving up first, has its part to tell.
TEST_F(WatchdogTest, ARankThatIsToldToLeaveWhileNothingMovesSavesItToo) {
  StillCommunicator communicator(/*in_progress=*/false);
  Watchdog watchdog(options_, &reporter_);
  watchdog.SetCommunicator(&communicator);
  reporter_.Cancel();
  while (!fs::exists(FlightPath(options_.run_dir, 2, 3))) std::this_thread::sleep_for(1ms);
  watchdog.SetCommunicator(nullptr);
  EXPECT_THAT(Flight().at("why").get<std::string>(), HasSubstr("told to leave"));
  EXPECT_EQ(Flight().at("in_collective"), false);
  EXPECT_EQ(stuck_.get_future().wait_for(0s), std::future_status::timeout);
}

}  // namespace
}  // namespace swinfleet
