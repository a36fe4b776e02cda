// Tests on a cluster of cluster.sh: a fleet whose ranks are on hosts of their own.
#ifndef SWINFLEET_TESTS_CLUSTER_CLUSTER_FIXTURE_H_
#define SWINFLEET_TESTS_CLUSTER_CLUSTER_FIXTURE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "tests/end_to_end/fleet_test.h"

namespace swinfleet {

inline constexpr int kHosts = 4;
inline constexpr char kClusterScript[] = SWINFLEET_SOURCE_DIR "/tests/cluster/cluster.sh";

class ClusterTest : public FleetTest {
 protected:
  ClusterTest();

  // Four hosts with links of 1 Gbit/s; skips the test where this machine can't have them.
  void SetUp() override;
  void TearDown() override;

  std::vector<std::string> FleetMpirun(int ranks) const override;
  // cluster.sh with these arguments, run to its end.
  const Process& Cluster(const std::vector<std::string>& arguments);
  // What the host has received over its link so far.
  static uint64_t BytesToHost(int host);

 private:
  bool up_ = false;
};

}  // namespace swinfleet

#endif  // SWINFLEET_TESTS_CLUSTER_CLUSTER_FIXTURE_H_
