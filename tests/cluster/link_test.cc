// A host that can't be reached any more, for a moment or for good.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/cluster/cluster_fixture.h"

namespace swinfleet {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;

// Ranks wait for ten seconds, since steps take milliseconds; whatever follows has to come within
// another thirty.
constexpr double kDeadline = 10 + 30;

class LinkTest : public ClusterTest {
 protected:
  // On a machine that is busy with other things, four ranks on a network take a second a step.
  LinkTest() {
    job_.epochs = 40;
    // The cut is to come in a step that doesn't follow a save or an evaluation: those have 120 s.
    job_.eval_every_epochs = 0;
    job_.checkpoint_every = 60;
  }
  // Cuts the link of node2 in the middle of training, and waits until its rank is named.
  void Cut() {
    TrainOnAFleet(kHosts);
    ASSERT_FALSE(HasFatalFailure());
    named_ = "rank 2 (node2, process " + std::to_string(PidOfRank(2)) + ")";
    ASSERT_TRUE(WaitForStep(job_, 1, job_.checkpoint_every + 5));
    EXPECT_EQ(Cluster({"link", "node2", "down"}).Wait(), 0);
    std::string reason;
    EXPECT_TRUE(WaitUntil(
        [&] {
          reason = Status(job_id_).at("reason");
          return reason.find("; " + named_ + " silent for ") != std::string::npos;
        },
        8, 0.1))
        << reason;
    EXPECT_THAT(reason, HasSubstr(" collective "));
  }
  void Mend() { EXPECT_EQ(Cluster({"link", "node2", "up"}).Wait(), 0); }

  std::string named_;
};

// A rank is named after four to five seconds of silence. The others still wait for it then, and
// whether they go on or leave and start again, nothing is lost.
TEST_F(LinkTest, ALinkIsCutForFiveSeconds) {
  Cut();
  ASSERT_FALSE(HasFatalFailure());
  Mend();
  const json status = WaitForEnd(job_id_);
  const int restarts = status.at("restarts");
  EXPECT_LE(restarts, 1) << Logs(job_id_);
  ExpectTheSameEnd(restarts);
}

// mpirun itself waits for the host, for hours: its supervisor ends it.
TEST_F(LinkTest, ALinkIsCutForGood) {
  Cut();
  ASSERT_FALSE(HasFatalFailure());
  std::string reason;
  EXPECT_TRUE(WaitUntil(
      [&] {
        reason = Status(job_id_).at("reason");
        return reason.starts_with("attempt 1 died: ");
      },
      kDeadline, 0.2))
      << reason;
  EXPECT_THAT(reason,
              AllOf(HasSubstr(named_ + ", silent for "), HasSubstr(" is stuck "),
                    HasSubstr(" waited in collective "), HasSubstr("past the deadline of 10 s")));
  EXPECT_THAT(Swinfleet({"status", job_id_}).Out(), HasSubstr(named_));
  EXPECT_THAT(Logs(job_id_), HasSubstr(named_ + ", silent for "));
  // As long as the host is away the fleet can't start; once it is back, the job goes on.
  EXPECT_TRUE(WaitUntil([&] {
    return ReadFile(Path("fleet/test.log")).find("no route to node2") != std::string::npos;
  }));
  Mend();
  ExpectTheSameEnd(1);
}

}  // namespace
}  // namespace swinfleet
