// What a fleet of four ranks goes through when one of them stops in the midst of a reduction, and
// when one is killed. How long that took is printed, for docs/reliability.md, and judged by nobody
// here.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <cstdio>
#include <string>

#include "tests/end_to_end/fleet_test.h"

namespace swinfleet {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;

constexpr int kRanks = 4;
// The one that it happens to.
constexpr int kVictim = 2;
// Two of three hit one.
constexpr int kStops = 40;

class DrillTest : public FleetTest {
 protected:
  using Clock = std::chrono::steady_clock;

  DrillTest() {
    // Steps after a save or an evaluation have longer deadlines.
    job_.eval_every_epochs = 0;
    job_.checkpoint_every = 100;
    job_.epochs = 100;
  }
  void Print(const std::string& what) const {
    std::printf("drill: %s: %.1f s\n", what.c_str(),
                std::chrono::duration<double>(Clock::now() - began_).count());
  }
  // A step whose deadline is the usual one.
  bool IsUsualStep(int64_t step) const {
    const int64_t since_save = step % job_.checkpoint_every;
    return step > job_.checkpoint_every && since_save > 5 && since_save < 80;
  }
  // Stops the victim so that all others wait for it in the same reduction.
  testing::AssertionResult StopInAReduction(pid_t victim) {
    for (int stops = 0; stops < kStops && WaitForStep(job_, 1, LastStep(job_, 1) + 1);) {
      if (!IsUsualStep(LastStep(job_, 1))) continue;
      ++stops;
      kill(victim, SIGSTOP);
      began_ = Clock::now();
      if (OthersWaitInAReduction()) return testing::AssertionSuccess();
      kill(victim, SIGCONT);
    }
    return testing::AssertionFailure() << "never in a reduction: " << Status(job_id_).dump(1);
  }
  // Decided once each of the others has beaten since the victim fell silent.
  bool OthersWaitInAReduction() {
    json ranks;
    WaitUntil(
        [&] {
          ranks = Status(job_id_).at("ranks");
          const double silence = ranks.at(kVictim).at("seconds_since_heartbeat");
          bool settled = silence > 2.5;
          for (int r = 0; r < kRanks; ++r) {
            settled = settled && (r == kVictim || ranks.at(r).at("seconds_since_heartbeat") < 1.5);
          }
          return settled;
        },
        8, 0.05);
    for (int r = 0; r < kRanks; ++r) {
      if (r == kVictim) continue;
      const json& rank = ranks.at(r);
      const std::string collective = rank.at("collective");
      if (rank.at("in_collective") != true || !collective.starts_with("reduce-scatter ") ||
          rank.at("collective_sequence") != ranks.at(0).at("collective_sequence")) {
        return false;
      }
    }
    return true;
  }

  Clock::time_point began_;
};

TEST_F(DrillTest, ARankOfFourStopsInAReductionAndIsNamed) {
  TrainOnAFleet(kRanks);
  ASSERT_FALSE(HasFatalFailure());
  const pid_t pid = PidOfRank(kVictim);
  ASSERT_TRUE(WaitForStep(job_, 1, job_.checkpoint_every + 5));
  ASSERT_TRUE(StopInAReduction(pid));
  const std::string name = Named(kVictim, pid);
  EXPECT_TRUE(WaitUntil(
      [&] {
        // What the status says for a while stays in the log.
        const std::string reason = Status(job_id_).at("reason");
        return reason.find("; " + name + " silent for ") != std::string::npos ||
               Logs(job_id_).find(" has been silent for ") != std::string::npos;
      },
      120, 0.05));
  Print("a stopped rank is named silent");
  EXPECT_TRUE(
      WaitUntil([&] { return Logs(job_id_).find(" is stuck ") != std::string::npos; }, 120, 0.05));
  Print("it is named stuck");
  EXPECT_TRUE(WaitUntil([&] { return LastStep(job_, 2) > 0; })) << Logs(job_id_);
  Print("the next attempt has finished its first step");
  EXPECT_THAT(Logs(job_id_),
              AllOf(HasSubstr(name + ", silent for "), HasSubstr("waited in collective "),
                    HasSubstr("reduce-scatter ")));
  ExpectTheSameEnd(1);
}

TEST_F(DrillTest, ARankOfFourIsKilled) {
  TrainOnAFleet(kRanks);
  ASSERT_FALSE(HasFatalFailure());
  const pid_t pid = PidOfRank(kVictim);
  ASSERT_EQ(kill(pid, SIGKILL), 0);
  began_ = Clock::now();
  EXPECT_TRUE(WaitUntil([&] { return LastStep(job_, 2) > 0; })) << Logs(job_id_);
  Print("after a kill the next attempt has finished its first step");
  ExpectTheSameEnd(1);
  EXPECT_THAT(Logs(job_id_), HasSubstr("the first to leave was " + Named(kVictim, pid)));
}

}  // namespace
}  // namespace swinfleet
