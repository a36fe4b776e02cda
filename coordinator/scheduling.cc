#include "coordinator/scheduling.h"

#include <algorithm>
#include <vector>

namespace swinfleet::coordinator {
namespace {

const Fleet* PickFleet(const std::vector<const Fleet*>& free, const Job& job) {
  const Fleet* best = nullptr;
  for (const Fleet* fleet : free) {
    const uint32_t size = fleet->launch.world_size;
    if (size < job.wanted_ranks) continue;
    const bool better = best == nullptr || (job.wanted_ranks == 0 ? size > best->launch.world_size
                                                                  : size < best->launch.world_size);
    if (better) best = fleet;
  }
  return best;
}

std::string Ranks(uint32_t count) {
  return std::to_string(count) + (count == 1 ? " rank" : " ranks");
}

}  // namespace

std::optional<Placement> NextPlacement(const ControlState& state) {
  std::vector<const Fleet*> free;
  for (const auto& [name, fleet] : state.fleets) {
    if (IsAssignable(fleet.launch)) free.push_back(&fleet);
  }
  if (free.empty()) return std::nullopt;
  for (const auto& [number, id] : state.open_jobs) {
    const Job& job = state.jobs.at(id);
    if (!IsWaiting(job)) continue;
    if (const Fleet* fleet = PickFleet(free, job)) return Placement{id, fleet->name};
  }
  return std::nullopt;
}

uint32_t QueuePosition(const ControlState& state, const Job& job) {
  if (!IsWaiting(job)) return 0;
  uint32_t position = 1;
  for (const auto& [number, id] : state.open_jobs) {
    if (number >= job.number) break;
    if (IsWaiting(state.jobs.at(id))) ++position;
  }
  return position;
}

uint32_t LargestFleet(const ControlState& state) {
  uint32_t largest = 0;
  for (const auto& [name, fleet] : state.fleets) {
    if (IsRegistered(fleet)) largest = std::max(largest, fleet.launch.world_size);
  }
  return largest;
}

std::string FleetCondition(const Fleet& fleet) {
  const Launch& launch = fleet.launch;
  if (launch.phase == LaunchPhase::kEnded) return "is down";
  if (launch.phase == LaunchPhase::kFenced) return "is fenced";
  if (!launch.job_id.empty()) return "is busy with job " + launch.job_id;
  const uint32_t connected = ConnectedRanks(launch);
  if (launch.world_size == 0 || connected < launch.world_size) {
    return "has " + std::to_string(connected) + " of " +
           (launch.world_size == 0 ? "its ranks" : Ranks(launch.world_size)) + " connected";
  }
  for (uint32_t r = 0; r < launch.world_size; ++r) {
    const Rank& rank = launch.ranks[r];
    if (rank.lost) return "has a silent rank " + std::to_string(r) + " on " + rank.host;
    if (!rank.report.job_id().empty()) {
      return "still works on attempt " + std::to_string(rank.report.attempt()) + " of job " +
             rank.report.job_id();
    }
  }
  return "is idle";
}

std::string WaitingReason(const ControlState& state, const Job& job) {
  const uint32_t largest = LargestFleet(state);
  if (largest == 0) return "waits for a fleet: none is registered";
  if (job.wanted_ranks > largest) {
    return "waits for a fleet of " + Ranks(job.wanted_ranks) +
           ": the largest that is registered has " + Ranks(largest);
  }
  std::string fleets;
  size_t listed = 0;
  for (const auto& [name, fleet] : state.fleets) {
    if (!IsRegistered(fleet) || fleet.launch.world_size < job.wanted_ranks) continue;
    if (++listed > 3) {
      fleets += ", and others";
      break;
    }
    fleets += (fleets.empty() ? "fleet " : ", fleet ") + name + " " + FleetCondition(fleet);
  }
  return "waits for its turn: " + fleets;
}

}  // namespace swinfleet::coordinator
