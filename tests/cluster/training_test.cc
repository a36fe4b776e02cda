// Training over a network, and the cluster that it is tested on.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>
#include <set>
#include <string>

#include "tests/cluster/cluster_fixture.h"

namespace swinfleet {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;

TEST_F(ClusterTest, AJobOnFourHostsHasTheBitsOfLocalRanks) {
  StartCoordinator();
  StartFleet(kHosts);
  ASSERT_TRUE(WaitUntil([this] { return Fleet().at("state") == "idle"; })) << Fleet().dump(1);
  std::set<std::string> hosts;
  const json fleet = Fleet();
  for (const json& rank : fleet.at("ranks")) hosts.insert(rank.at("host"));
  EXPECT_EQ(hosts, (std::set<std::string>{"node0", "node1", "node2", "node3"}));

  const TestJob job;
  uint64_t before[kHosts];
  for (int host = 0; host < kHosts; ++host) before[host] = BytesToHost(host);
  const json status = WaitForEnd(Submit(job));
  ASSERT_EQ(status.at("state"), "SUCCEEDED") << status.dump(1);
  const std::string weights = Weights(job);
  // Each host has sent and received at least its part of all gradients, and of all weights, in
  // each step.
  const uint64_t least = weights.size() / kHosts * 2 * job.epochs * kStepsPerEpoch;
  for (int host = 0; host < kHosts; ++host) EXPECT_GT(BytesToHost(host) - before[host], least);

  TestJob local = job;
  local.name = "local";
  TrainLocally(local, kHosts);
  ASSERT_FALSE(HasFatalFailure());
  EXPECT_TRUE(weights == Weights(local));
  EXPECT_EQ(MetricsText(job, 1), MetricsText(local, 1));
}

TEST_F(ClusterTest, HostsAreAloneAndTheirLinksCanBeCut) {
  const auto reach = [this](const std::string& from, const std::string& address) {
    // Whatever answers, if only that nothing listens there.
    return Cluster({"exec", from, "--", "bash", "-c",
                    "timeout 1 bash -c '</dev/tcp/" + address + "/9'"})
        .Wait();
  };
  const int refused = 1, silent = 124;
  EXPECT_EQ(reach("node0", "198.18.77.2"), refused);
  EXPECT_EQ(Cluster({"link", "node1", "down"}).Wait(), 0);
  EXPECT_EQ(reach("node0", "198.18.77.2"), silent);
  EXPECT_EQ(Cluster({"link", "node1", "up"}).Wait(), 0);
  EXPECT_EQ(reach("node0", "198.18.77.2"), refused);
  // Not even Open MPI's own shared memory joins them: they have different names.
  EXPECT_EQ(Cluster({"exec", "node2", "--", "hostname"}).Out(), "node2\n");
  EXPECT_EQ(Cluster({"link", "node7", "down"}).Wait(), 1);
  EXPECT_EQ(Cluster({"link", "node1", "1parsec"}).Wait(), 1);
}

// However its owner or its keeper ends, nothing of a cluster stays in anybody's way.
TEST_F(ClusterTest, NothingIsLeftOfIt) {
  const auto exists = [] {
    return fs::exists("/run/netns/swinfleet-node0") || fs::exists("/sys/class/net/swf-bridge");
  };
  const auto up_for = [this](const Process& owner) {
    EXPECT_EQ(Cluster({"up", "1", "--owner", std::to_string(owner.pid())}).Wait(), 0);
    const Process& guest = Start(
        {kClusterScript, "exec", "node0", "--", "sh", "-c", "echo is in >&2; exec sleep 1000"});
    EXPECT_TRUE(guest.WaitForErr("is in"));
    return &guest;
  };
  // One that is up keeps another from coming up, as long as it is.
  const Process& next = Start({kClusterScript, "up", "1"});
  EXPECT_EQ(Cluster({"down"}).Wait(), 0);
  EXPECT_EQ(next.Wait(), 0) << next.Err();
  EXPECT_EQ(Cluster({"down"}).Wait(), 0);
  EXPECT_FALSE(exists());

  const Process& owner = Start({"sleep", "1000"});
  const Process* guest = up_for(owner);
  owner.Signal(SIGKILL);
  EXPECT_EQ(guest->Wait(), 128 + SIGKILL);
  EXPECT_TRUE(WaitUntil([&] { return !exists(); }));

  guest = up_for(Start({"sleep", "1000"}));
  kill(std::stoi(ReadFile("/run/swinfleet-cluster/keeper")), SIGKILL);
  EXPECT_EQ(Cluster({"up", "2"}).Wait(), 0);
  EXPECT_EQ(guest->Wait(), 128 + SIGKILL);
  EXPECT_EQ(Cluster({"down"}).Wait(), 0);
  EXPECT_FALSE(exists());
}

}  // namespace
}  // namespace swinfleet
