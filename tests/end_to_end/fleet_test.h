// Tests that disturb a job while it trains on a fleet.
#ifndef SWINFLEET_TESTS_END_TO_END_FLEET_TEST_H_
#define SWINFLEET_TESTS_END_TO_END_FLEET_TEST_H_

#include <sys/types.h>

#include <nlohmann/json.hpp>
#include <string>

#include "tests/end_to_end/harness.h"

namespace swinfleet {

class FleetTest : public EndToEndTest {
 protected:
  FleetTest();

  // job_ in the middle of an epoch on a fleet of so many ranks. Sets job_id_ and supervisor_.
  void TrainOnAFleet(int ranks = 2);
  // The job has succeeded after so many restarts, with the weights of an undisturbed run.
  void ExpectTheSameEnd(int restarts);
  pid_t PidOfRank(size_t rank);
  // How the coordinator names a rank of this machine: "rank 1 (HOST, process 812)".
  static std::string Named(int rank, pid_t pid);

  TestJob job_;
  std::string job_id_;
  const Process* supervisor_ = nullptr;
};

}  // namespace swinfleet

#endif  // SWINFLEET_TESTS_END_TO_END_FLEET_TEST_H_
