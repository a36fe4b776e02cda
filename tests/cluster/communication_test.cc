// What `swinfleet plan` says of steps over slow links, beside steps over slow links.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/cluster/cluster_fixture.h"

namespace swinfleet {
namespace {

using nlohmann::json;

// Of the bits that a link carries one way those of messages: TCP over Ethernet has 1448 bytes in a
// frame of 1514, and acknowledgements go beside it. Both ways at once are the plan's own default.
constexpr double kPayload = 0.94;
// How far off a step may be. The model knows neither TCP's slow starts nor what else the machine
// does; ranks that are slower than rank 0 make it wait, and links let 128 kB pass at once.
constexpr double kTolerance = 0.25;
// Mbit/s.
constexpr int kSlowest = 20;

// A step that exchanges for seconds and computes for a few hundredths of one: 2.1 million
// parameters, on one picture a rank. So what else a machine does counts little.
std::string JobText(const std::string& parallel) {
  return "run_dir: /nowhere\n"
         "data: {path: /nowhere}\n"
         "model:\n"
         "  {arch: swin_v2, image_size: 32, in_chans: 1, num_classes: 4, patch_size: 4,\n"
         "   embed_dim: 128, depths: [2, 2], num_heads: [4, 8], window_size: 4}\n"
         "train: {epochs: 1, global_batch: 4, micro_batch: 1}\n"
         "parallel: {threads_per_rank: 1, " +
         parallel + "}\n";
}

class CommunicationTest : public ClusterTest {
 protected:
  void SetRate(int mbit_per_s) {
    for (int host = 0; host < kHosts; ++host) {
      const Process& link =
          Cluster({"link", "node" + std::to_string(host), std::to_string(mbit_per_s) + "mbit"});
      ASSERT_EQ(link.Wait(), 0) << link.Err();
    }
  }
  json LastLine(const Process& process) {
    EXPECT_EQ(process.Wait(300), 0) << process.Err();
    const std::string out = process.Out();
    return json::parse(out.substr(out.rfind("\n{") + 1));
  }
  // The fastest of a few steps on the hosts.
  json Measure(const std::string& job_file) {
    std::vector<std::string> command = FleetMpirun(kHosts);
    command.insert(command.end(), {Program("swinfleet-bench"), "ranks", "--job", job_file,
                                   "--steps", "2", "--json"});
    return LastLine(Start(command)).at("rows").at(0);
  }
  json Plan(const std::string& job_file, int mbit_per_s, double compute_seconds) {
    const Process& plan =
        Start({Program("swinfleet-plan"), job_file, "--json", "--ranks", std::to_string(kHosts),
               "--link-gbit-per-s", std::to_string(kPayload * mbit_per_s / 1000),
               "--link-latency-us", "100", "--step-seconds", std::to_string(compute_seconds)});
    EXPECT_EQ(plan.Wait(), 0) << plan.Err();
    return json::parse(plan.Out());
  }
  // A measured step takes as long as is planned for one of which rank 0 computes as long as it did.
  void ExpectAsPlanned(const std::string& parallel, int mbit_per_s) {
    SCOPED_TRACE(parallel + ", " + std::to_string(mbit_per_s) + " Mbit/s");
    SetRate(mbit_per_s);
    ASSERT_FALSE(HasFatalFailure());
    const std::string job_file = Write("job.yaml", JobText(parallel));
    const json measured = Measure(job_file);
    ASSERT_FALSE(HasFailure());
    const double seconds = measured.at("step_s"), waited = measured.at("exposed_communication_s");
    const json plan = Plan(job_file, mbit_per_s, seconds - waited);
    ASSERT_FALSE(HasFailure());
    const json& planned = plan.at("communication");
    const double step = planned.at("step_seconds");
    EXPECT_NEAR(seconds, step, kTolerance * step) << measured << planned;
    // Communication it is that was measured, at least where links are slowest.
    if (mbit_per_s == kSlowest) {
      EXPECT_GT(waited, 0.5 * seconds) << measured;
    }
  }
};

TEST_F(CommunicationTest, StepsTakeWhatIsPlanned) {
  for (const int mbit_per_s : {kSlowest, 50, 100}) {
    ExpectAsPlanned("zero_stage: 1", mbit_per_s);
    ExpectAsPlanned("zero_stage: 3", mbit_per_s);
    if (HasFatalFailure()) return;
  }
}

TEST_F(CommunicationTest, SoDoStepsWithoutOverlapAndWithTheLibrarysSums) {
  ExpectAsPlanned("zero_stage: 2, overlap: false", 50);
  ExpectAsPlanned("zero_stage: 1, reduction: library", 50);
}

// What a host's link has carried is what is planned for it, but for headers.
TEST_F(CommunicationTest, LinksCarryWhatIsPlanned) {
  const std::string job_file = Write("job.yaml", JobText("zero_stage: 3"));
  const json planned = Plan(job_file, 1000, 1).at("communication").at("host_bytes");
  const uint64_t before = BytesToHost(0);
  Measure(job_file);
  // One step that isn't timed and two that are.
  const double received = 3 * planned.at("received").get<double>();
  const auto carried = static_cast<double>(BytesToHost(0) - before);
  EXPECT_GT(carried, received);
  EXPECT_LT(carried, received / kPayload * (1 + kTolerance));
}

}  // namespace
}  // namespace swinfleet
