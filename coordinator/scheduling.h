// Which waiting job goes to which fleet: first in, first out.
#ifndef SWINFLEET_COORDINATOR_SCHEDULING_H_
#define SWINFLEET_COORDINATOR_SCHEDULING_H_

#include <optional>
#include <string>

#include "coordinator/control_state.h"

namespace swinfleet::coordinator {

struct Placement {
  std::string job_id;
  std::string fleet;
};

// The next attempt to start, or none. Jobs are taken in the order of their submission; a job that
// fits no fleet that is free does not hold back later ones, because those can only take fleets that
// it could not use. Of several fleets a job that wants N ranks takes the smallest that has them,
// and a job that wants all takes the largest.
std::optional<Placement> NextPlacement(const ControlState& state);

// 1 for the job that is next among those that wait, 0 for a job that doesn't wait.
uint32_t QueuePosition(const ControlState& state, const Job& job);

// For people: what a waiting job waits for.
std::string WaitingReason(const ControlState& state, const Job& job);

// The largest world size among registered fleets; 0 when there are none.
uint32_t LargestFleet(const ControlState& state);

// Why the fleet can't take a job now: "is busy with job j1-ab12"; "is idle" if it can.
std::string FleetCondition(const Fleet& fleet);

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_COORDINATOR_SCHEDULING_H_
