#include "tests/cluster/cluster_fixture.h"

namespace swinfleet {
namespace {

// Of cluster.sh check.
constexpr int kImpossible = 77;

}  // namespace

// The head node's address.
ClusterTest::ClusterTest() { listen_host_ = "198.18.77.254"; }

const Process& ClusterTest::Cluster(const std::vector<std::string>& arguments) {
  std::vector<std::string> command = {kClusterScript};
  command.insert(command.end(), arguments.begin(), arguments.end());
  const Process& process = Start(command);
  // Another test's cluster may have to come down first.
  EXPECT_NE(process.Wait(600), -1) << arguments.front() << " does not end";
  return process;
}

void ClusterTest::SetUp() {
  const Process& check = Cluster({"check"});
  if (check.Wait() == kImpossible) GTEST_SKIP() << check.Out();
  ASSERT_EQ(check.Wait(), 0) << check.Err();
  const Process& up = Cluster({"up", std::to_string(kHosts), "--rate", "1gbit"});
  ASSERT_EQ(up.Wait(), 0) << up.Err();
  up_ = true;
}

void ClusterTest::TearDown() {
  processes_.KillAll();
  if (!up_) return;
  const Process& down = Cluster({"down"});
  EXPECT_EQ(down.Wait(), 0) << down.Err();
}

std::vector<std::string> ClusterTest::FleetMpirun(int ranks) const {
  return {kClusterScript, "run", "--", "mpirun", "-np", std::to_string(ranks)};
}

uint64_t ClusterTest::BytesToHost(int host) {
  return std::stoull(
      ReadFile("/sys/class/net/swf-node" + std::to_string(host) + "/statistics/tx_bytes"));
}

}  // namespace swinfleet
