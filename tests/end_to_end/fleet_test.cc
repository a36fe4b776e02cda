#include "tests/end_to_end/fleet_test.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <vector>

namespace swinfleet {

using nlohmann::json;

FleetTest::FleetTest() {
  job_.epochs = 75;
  job_.eval_every_epochs = 25;
}

void FleetTest::TrainOnAFleet(int ranks) {
  StartCoordinator();
  supervisor_ = &StartFleet(ranks);
  job_id_ = Submit(job_);
  ASSERT_TRUE(WaitForMidEpoch(job_, 1)) << Status(job_id_).dump(1);
}

void FleetTest::ExpectTheSameEnd(int restarts) {
  const json status = WaitForEnd(job_id_);
  EXPECT_EQ(status.at("state"), "SUCCEEDED") << status.dump(1);
  EXPECT_EQ(status.at("restarts"), restarts);
  EXPECT_EQ(status.at("progress").at("step"), std::to_string(job_.epochs * kStepsPerEpoch));
  EXPECT_EQ(Swinfleet({"watch", job_id_}).Wait(), 0);
  EXPECT_TRUE(Weights(job_) == UndisturbedWeights(job_));
  // Each attempt but the first has gone on from a checkpoint.
  for (int attempt = 1; attempt <= restarts + 1; ++attempt) {
    const std::vector<json> lines = Metrics(job_, attempt);
    ASSERT_FALSE(lines.empty()) << "attempt " << attempt;
    EXPECT_EQ(lines.front().at("step") == 1, attempt == 1) << lines.front();
  }
  EXPECT_THAT(Metrics(job_, restarts + 2), testing::IsEmpty());
}

pid_t FleetTest::PidOfRank(size_t rank) {
  const json status = Status(job_id_);
  return status.at("ranks").at(rank).at("pid").get<pid_t>();
}

std::string FleetTest::Named(int rank, pid_t pid) {
  char host[256] = "";
  gethostname(host, sizeof(host) - 1);
  return "rank " + std::to_string(rank) + " (" + host + ", process " + std::to_string(pid) + ")";
}

}  // namespace swinfleet
