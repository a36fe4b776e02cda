// What is planned of a step's exchanges, beside what the parts of the plan add up to.
#include "worker/communication_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "tests/worker/small_jobs.h"
#include "worker/memory_plan.h"

namespace swinfleet {
namespace {

constexpr int kRanks = 4;
// Of a rank; the small model's step then computes for about as long as it exchanges.
constexpr double kFlopsPerSecond = 1e7;

Links SlowLinks() {
  return {.ranks_per_host = 1,
          .host_bytes_per_second = 1e9,
          .host_latency_seconds = 1e-6,
          .link_bytes_per_second = 1e6,
          .link_latency_seconds = 1e-4,
          .link_duplex = 1};
}

JobConfig JobOfStage(int stage, int64_t leaves) {
  JobConfig job = SmallJob(Architecture::kSwinV2);
  job.train.micro_batch = 1;
  job.train.global_batch = kRanks * leaves;
  job.parallel.zero_stage = stage;
  job.train.accumulation = DefaultAccumulation(stage);
  return job;
}

class CommunicationPlanTest : public testing::TestWithParam<int> {
 protected:
  static CommunicationPlan Plan(const JobConfig& job, double flops_per_second = kFlopsPerSecond,
                                const Links& links = SlowLinks()) {
    return PlanCommunication(job, 0, kRanks, links, flops_per_second);
  }
};

INSTANTIATE_TEST_SUITE_P(Stages, CommunicationPlanTest, testing::Values(0, 1, 2, 3));

// Every byte that the plan of memory counts crosses a link of hosts of one rank, both ways.
TEST_P(CommunicationPlanTest, CountsTheBytesOfAStep) {
  for (const int64_t leaves : {1, 2, 7}) {
    const JobConfig job = JobOfStage(GetParam(), leaves);
    const LinkTraffic traffic = Plan(job).traffic;
    const Traffic sent = PlanMemory(job, 0, kRanks).traffic;
    const auto bytes =
        static_cast<double>(sent.reduce_scatter + sent.all_gather + sent.all_reduce + sent.small);
    EXPECT_DOUBLE_EQ(traffic.sent_over_link, bytes) << leaves;
    EXPECT_DOUBLE_EQ(traffic.received_over_link, bytes) << leaves;
    EXPECT_DOUBLE_EQ(traffic.host_sent, bytes) << leaves;
    EXPECT_EQ(traffic.sent_within_host, 0) << leaves;
  }
}

// On one host nothing crosses a link, and on two hosts the larger half stays within.
TEST_P(CommunicationPlanTest, KnowsWhoIsOnWhichHost) {
  const JobConfig job = JobOfStage(GetParam(), 2);
  const LinkTraffic apart = Plan(job).traffic;
  Links links = SlowLinks();
  links.ranks_per_host = 4;
  const LinkTraffic together = Plan(job, kFlopsPerSecond, links).traffic;
  EXPECT_EQ(together.sent_over_link, 0);
  EXPECT_EQ(together.host_sent, 0);
  EXPECT_DOUBLE_EQ(together.sent_within_host, apart.sent_over_link);
  links.ranks_per_host = 2;
  const LinkTraffic pairs = Plan(job, kFlopsPerSecond, links).traffic;
  EXPECT_DOUBLE_EQ(pairs.sent_within_host + pairs.sent_over_link, apart.sent_over_link);
  EXPECT_GT(pairs.sent_within_host, 1.9 * pairs.sent_over_link);
  EXPECT_NEAR(pairs.host_sent, 2 * pairs.sent_over_link, 1e-6 * pairs.host_sent);
}

TEST_P(CommunicationPlanTest, HidesExchangesUnderComputing) {
  const JobConfig job = JobOfStage(GetParam(), 2);
  const CommunicationPlan plan = Plan(job);
  ASSERT_TRUE(plan.time.has_value());
  const PlannedTime& time = *plan.time;
  EXPECT_DOUBLE_EQ(time.step_seconds, time.compute_seconds + time.exposed_seconds);
  EXPECT_DOUBLE_EQ(time.compute_seconds,
                   PlanMemory(job, 0, kRanks).step.matrix_flops / kFlopsPerSecond);
  EXPECT_GT(time.exposed_seconds, 0);
  EXPECT_LT(time.exposed_seconds, 0.9 * plan.communication_seconds);
  EXPECT_GE(time.step_seconds, plan.communication_seconds);
}

TEST_P(CommunicationPlanTest, ExposesEverythingWithoutOverlap) {
  JobConfig job = JobOfStage(GetParam(), 2);
  job.parallel.overlap = false;
  const CommunicationPlan plan = Plan(job);
  EXPECT_NEAR(plan.time->exposed_seconds, plan.communication_seconds, 1e-9);
}

// Where computing takes next to nothing, a step is its exchanges, and where links are fast enough,
// it is its computing.
TEST_P(CommunicationPlanTest, IsBoundByWhatIsSlower) {
  const JobConfig job = JobOfStage(GetParam(), 2);
  const CommunicationPlan bound = Plan(job, 1e18);
  EXPECT_NEAR(bound.time->step_seconds, bound.communication_seconds, 1e-9);
  Links fast = SlowLinks();
  fast.link_bytes_per_second = 1e18;
  fast.link_latency_seconds = 0;
  const CommunicationPlan free = Plan(job, kFlopsPerSecond, fast);
  EXPECT_NEAR(free.time->step_seconds, free.time->compute_seconds, 1e-9);
}

// Longer steps are not run dry: each micro-batch more adds what the fourth did.
TEST_P(CommunicationPlanTest, GrowsByMicroBatches) {
  const auto seconds = [&](int64_t leaves) {
    return Plan(JobOfStage(GetParam(), leaves)).time->step_seconds;
  };
  const double four = seconds(4), five = seconds(5);
  EXPECT_NEAR(five - four, four - seconds(3), 1e-9);
  EXPECT_NEAR(seconds(16) - four, 12 * (five - four), 1e-9);
  // And that is nearly what the third did, so that what is not run differs little either.
  EXPECT_NEAR(four - seconds(3), seconds(3) - seconds(2), 0.02 * four);
}

TEST(CommunicationPlan, TellsNoTimeIfNobodySaysHowFastARankIs) {
  const CommunicationPlan plan = PlanCommunication(JobOfStage(1, 2), 0, kRanks, SlowLinks(), 0);
  EXPECT_FALSE(plan.time.has_value());
  EXPECT_GT(plan.communication_seconds, 0);
  EXPECT_GT(plan.traffic.sent_over_link, 0);
}

TEST(CommunicationPlan, OneRankOnlyComputes) {
  JobConfig job = JobOfStage(3, 1);
  const CommunicationPlan plan = PlanCommunication(job, 0, 1, SlowLinks(), kFlopsPerSecond);
  EXPECT_EQ(plan.communication_seconds, 0);
  EXPECT_EQ(plan.time->exposed_seconds, 0);
  EXPECT_GT(plan.time->step_seconds, 0);
}

// The library has the sums go through one rank: much slower, of more bytes, and worst for the
// first.
TEST(CommunicationPlan, KnowsWhoSums) {
  JobConfig job = JobOfStage(1, 2);
  const CommunicationPlan own = PlanCommunication(job, 0, kRanks, SlowLinks(), kFlopsPerSecond);
  job.parallel.reduction = Reduction::kLibrary;
  const CommunicationPlan library = PlanCommunication(job, 0, kRanks, SlowLinks(), kFlopsPerSecond);
  EXPECT_GT(library.communication_seconds, 2 * own.communication_seconds);
  EXPECT_GT(library.traffic.host_received, 1.8 * own.traffic.host_received);
}

}  // namespace
}  // namespace swinfleet
