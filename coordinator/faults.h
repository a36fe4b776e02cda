// Which ranks of an attempt are at fault, from what the ranks last said.
#ifndef SWINFLEET_COORDINATOR_FAULTS_H_
#define SWINFLEET_COORDINATOR_FAULTS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "coordinator/control_state.h"

namespace swinfleet::coordinator {

// Of the first `ranks` ranks of the launch throughout: those of the attempt.

// " in collective 41 reduce-scatter head (step 7, train)", or " after ..."; what is known of it.
std::string Position(const Heartbeat& report);

// Some rank has waited past its deadline in a collective: the ranks that it waits for. They are
// those that are silent, or else those that are behind: in an earlier collective, or not yet in
// that one. Empty when all are in the same one.
std::vector<uint32_t> StuckRanks(const Launch& launch, uint32_t ranks);
// Says so: "rank 2 (node2, process 812), silent for 11 s, is stuck after collective 41 ... (step 7,
// train); ranks 0, 1 and 3 waited for it ...".
std::string DescribeStuck(const Launch& launch, uint32_t ranks, double uptime);

// "rank 3 (node7, process 812) silent for 8 s in collective 41 reduce-scatter head (step 7, train);
// ...", of the ranks that are lost; empty when none is.
std::string DescribeSilent(const Launch& launch, uint32_t ranks, double uptime);

// Why the attempt on a launch that has just ended may have died: what DescribeStuck said, or the
// ranks that were silent, or the rank that left first. Empty when nothing points to one.
std::string DescribeDeath(const Launch& launch, uint32_t ranks, double uptime);

// The ranks that DescribeDeath names; empty when nothing points to one.
std::vector<uint32_t> BlamedRanks(const Launch& launch, uint32_t ranks);

// Carries Rank::own on. A rank is a straggler when in two windows of five seconds (and four steps)
// in a row its own work has taken more than 1.3 times the median of all ranks, until that is below
// 1.15. Returns the ranks that became one.
std::vector<uint32_t> UpdateStragglers(Launch* launch, uint32_t ranks, double uptime);
// "rank 2 (node2, process 812): its own work takes 1.31 s a step, the median of the ranks 0.80 s".
std::string DescribeStraggler(const Launch& launch, uint32_t ranks, uint32_t rank);

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_COORDINATOR_FAULTS_H_
