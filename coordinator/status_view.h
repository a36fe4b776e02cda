// What users see of the control state.
#ifndef SWINFLEET_COORDINATOR_STATUS_VIEW_H_
#define SWINFLEET_COORDINATOR_STATUS_VIEW_H_

#include "coordinator/control_state.h"
#include "proto/coordinator.pb.h"

namespace swinfleet::coordinator {

enum class RankDetail { kWithRanks, kWithoutRanks };

// `progress` may be null. `uptime` is now, on the clock of Moment::uptime.
JobStatus ViewJob(const ControlState& state, const Settings& settings, const Job& job,
                  const Progress* progress, double uptime, RankDetail detail);

FleetStatus ViewFleet(const Fleet& fleet, double uptime);

HostStatus ViewHost(const Host& host, double unix_time);

// "connecting", "idle", "busy", "lost", "down" or "fenced", as FleetStatus.state documents them.
// An unsupervised launch that is idle and gone is "down": nobody will report its end, and nothing
// waits for it.
std::string FleetStateName(const Fleet& fleet);

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_COORDINATOR_STATUS_VIEW_H_
