// Thousands of schedules of crashes, delays, losses and repetitions, and proof that the invariants
// would have noticed wrong rules. SWINFLEET_SIMULATIONS sets how many; a failure names its seed.
#include <glog/logging.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <string>

#include "tests/coordinator/simulator.h"

namespace swinfleet::coordinator {
namespace {

uint64_t Simulations(uint64_t usual) {
  const char* wish = getenv("SWINFLEET_SIMULATIONS");
  return wish == nullptr ? usual : std::strtoull(wish, nullptr, 10);
}

TEST(Simulator, EveryScheduleKeepsTheInvariants) {
  std::map<std::string, int> counts;
  uint64_t events = 0;
  for (uint64_t seed = 1; seed <= Simulations(5000); ++seed) {
    Simulator simulator(seed, Mutation::kNone);
    ASSERT_EQ(simulator.Run(), "") << "seed " << seed;
    for (const auto& [what, count] : simulator.counts()) counts[what] += count;
    events += simulator.events();
  }
  for (const auto& [what, count] : counts) printf("%s: %d\n", what.c_str(), count);
  printf("events: %llu\n", static_cast<unsigned long long>(events));
  // A simulator in which nothing happens proves nothing.
  for (const char* what :
       {"death", "fence", "coordinator crash", "full disk", "rejected", "second launch", "cut off",
        "SUCCEEDED", "FAILED", "CANCELLED", "preemption", "fewer ranks", "run time over",
        "hosts left out", "given back", "trace"}) {
    EXPECT_GT(counts[what], 0) << what;
  }
}

// The number of schedules until the mutation is caught, or -1.
int SchedulesUntilCaught(Mutation mutation) {
  for (uint64_t seed = 1; seed <= 1000; ++seed) {
    Simulator simulator(seed, mutation);
    const std::string violation = simulator.Run();
    if (violation.empty()) continue;
    printf("seed %d: %s\n", static_cast<int>(seed), violation.c_str());
    return static_cast<int>(seed);
  }
  return -1;
}

TEST(Simulator, SameSeedSameSchedule) {
  Simulator first(7, Mutation::kNone), second(7, Mutation::kNone);
  EXPECT_EQ(first.Run(), second.Run());
  EXPECT_EQ(first.events(), second.events());
}

TEST(Simulator, CatchesSilenceThatEndsLaunches) {
  EXPECT_GT(SchedulesUntilCaught(Mutation::kSilenceEndsLaunches), 0);
}

TEST(Simulator, CatchesNewcomersThatSupersede) {
  EXPECT_GT(SchedulesUntilCaught(Mutation::kNewcomerSupersedes), 0);
}

TEST(Simulator, CatchesOldAttemptsThatAreHeard) {
  EXPECT_GT(SchedulesUntilCaught(Mutation::kOldAttemptsAreHeard), 0);
}

TEST(Simulator, CatchesSpeakingBeforeStoring) {
  EXPECT_GT(SchedulesUntilCaught(Mutation::kSpeaksBeforeStored), 0);
}

TEST(Simulator, CatchesAttemptsThatAreNotStored) {
  EXPECT_GT(SchedulesUntilCaught(Mutation::kAttemptsNotStored), 0);
}

TEST(Simulator, CatchesAssignmentsThatAreNotRepeated) {
  EXPECT_GT(SchedulesUntilCaught(Mutation::kAssignmentNotRepeated), 0);
}

TEST(Simulator, CatchesPrioritiesThatAreIgnored) {
  EXPECT_GT(SchedulesUntilCaught(Mutation::kPrioritiesIgnored), 0);
}

TEST(Simulator, CatchesDependenciesThatAreIgnored) {
  EXPECT_GT(SchedulesUntilCaught(Mutation::kDependenciesIgnored), 0);
}

TEST(Simulator, CatchesRunTimeThatIsIgnored) {
  EXPECT_GT(SchedulesUntilCaught(Mutation::kRunTimeIgnored), 0);
}

TEST(Simulator, CatchesRunTimeThatIsCutShort) {
  EXPECT_GT(SchedulesUntilCaught(Mutation::kRunTimeCutShort), 0);
}

TEST(Simulator, CatchesRestartsWithoutLimit) {
  EXPECT_GT(SchedulesUntilCaught(Mutation::kRestartsUnlimited), 0);
}

TEST(Simulator, CatchesRestartsWithoutAPause) {
  EXPECT_GT(SchedulesUntilCaught(Mutation::kPausesIgnored), 0);
}

TEST(Simulator, CatchesTooFewRanks) {
  EXPECT_GT(SchedulesUntilCaught(Mutation::kMinRanksIgnored), 0);
}

TEST(Simulator, CatchesAQuotaOfRanksThatIsIgnored) {
  EXPECT_GT(SchedulesUntilCaught(Mutation::kRankQuotaIgnored), 0);
}

TEST(Simulator, CatchesAQuotaOfJobsThatIsIgnored) {
  EXPECT_GT(SchedulesUntilCaught(Mutation::kJobQuotaIgnored), 0);
}

TEST(Simulator, CatchesJobsThatMakeRoomUnwillingly) {
  EXPECT_GT(SchedulesUntilCaught(Mutation::kUnwillingMakeRoom), 0);
}

TEST(Simulator, CatchesJobsThatMakeRoomForEquals) {
  EXPECT_GT(SchedulesUntilCaught(Mutation::kEqualsMakeRoom), 0);
}

TEST(Simulator, CatchesYieldersThatJumpTheQueue) {
  EXPECT_GT(SchedulesUntilCaught(Mutation::kYieldersJumpTheQueue), 0);
}

TEST(Simulator, CatchesJobsOnFleetsThatAreGivenBack) {
  EXPECT_GT(SchedulesUntilCaught(Mutation::kLeavingIgnored), 0);
}

TEST(Simulator, CatchesHostsThatAreLeftOutRegardless) {
  EXPECT_GT(SchedulesUntilCaught(Mutation::kHostsLeftOutRegardless), 0);
}

TEST(Simulator, CatchesTracesThatAreNotRepeated) {
  EXPECT_GT(SchedulesUntilCaught(Mutation::kTraceNotRepeated), 0);
}

TEST(Simulator, CatchesTracesThatStayOpen) {
  EXPECT_GT(SchedulesUntilCaught(Mutation::kTracesStayOpen), 0);
}

TEST(Simulator, CatchesRequestsForTracesThatAreNotKnownAgain) {
  EXPECT_GT(SchedulesUntilCaught(Mutation::kTraceRequestsNotKnownAgain), 0);
}

TEST(Simulator, CatchesTracesThatAreNotStored) {
  EXPECT_GT(SchedulesUntilCaught(Mutation::kTracesNotStored), 0);
}

TEST(Simulator, CatchesYieldersThatLoseTheirCheckpoint) {
  EXPECT_GT(SchedulesUntilCaught(Mutation::kYieldersLoseTheirCheckpoint), 0);
}

}  // namespace
}  // namespace swinfleet::coordinator
