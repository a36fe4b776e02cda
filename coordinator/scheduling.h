// Which waiting job goes to which fleet, and for which of them another one makes room.
#ifndef SWINFLEET_COORDINATOR_SCHEDULING_H_
#define SWINFLEET_COORDINATOR_SCHEDULING_H_

#include <optional>
#include <string>
#include <vector>

#include "coordinator/control_state.h"

namespace swinfleet::coordinator {

struct Placement {
  std::string job_id;
  std::string fleet;
  uint32_t ranks = 0;
};

// The next attempt to start, or none. Jobs are taken by priority, and of equal priority in the
// order of their submission. One that fits no fleet that is free does not hold back those behind
// it, because they can only take fleets that it could not use. A job takes the fleet that gives it
// the most ranks, the smallest of such fleets; one with fewer ranks than it wants only if it allows
// that and has waited for settings.patience.
std::optional<Placement> NextPlacement(const ControlState& state, const Settings& settings,
                                       double uptime);

struct Preemption {
  // Makes room.
  std::string victim;
  // For this one.
  std::string job_id;
};

// The next job that is to make room for another one, or none. The other one has a higher priority,
// and has waited for settings.patience while no fleet that it could use was free or about to be:
// of a job that was asked to stop already, or with ranks that have yet to connect. Of several jobs
// that allow it and would leave such a fleet the one of the lowest priority makes room, of equal
// ones the one that was submitted last. It is the caller's part to have it stopped.
std::optional<Preemption> NextPreemption(const ControlState& state, const Settings& settings,
                                         double uptime);

// 1 for the job that is next among those that wait, 0 for a job that doesn't wait.
uint32_t QueuePosition(const ControlState& state, const Job& job);

// For people: what a waiting job waits for.
std::string WaitingReason(const ControlState& state, const Settings& settings, const Job& job,
                          double uptime);

// The largest world size among registered fleets; 0 when there are none.
uint32_t LargestFleet(const ControlState& state);

// The fewest ranks that the job starts with.
uint32_t LeastRanks(const Job& job);

// The hosts that the fleet is to be started without: those that are left out, unless the ranks that
// ran elsewhere in its last launch would be too few for a job that no other fleet can take.
std::vector<std::string> HostsToLeaveOut(const ControlState& state, const Fleet& fleet);

// "job j1-ab12 (pretrain)".
std::string NameJob(const Job& job);

// Why the fleet can't take a job now: "is busy with job j1-ab12"; "is idle" if it can.
std::string FleetCondition(const Fleet& fleet);

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_COORDINATOR_SCHEDULING_H_
