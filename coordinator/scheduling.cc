#include "coordinator/scheduling.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "proto/text.h"

namespace swinfleet::coordinator {
namespace {

// Nothing but fleets, other jobs and quotas keeps the job from starting.
bool MayStart(const ControlState& state, const Job& job, double uptime) {
  return IsWaiting(job) && uptime >= job.restart_at && AwaitedJob(state, job) == nullptr;
}

double WaitedSeconds(const Job& job, double uptime) {
  return uptime - std::max(job.waits_since, job.restart_at);
}

// The ranks that a job without parallel.ranks takes of `world_size`: all that have a micro-batch to
// work on, and that its user may have at once.
uint32_t UsefulRanks(const Job& job, uint32_t world_size, const Settings& settings) {
  uint32_t ranks = world_size;
  const TrainSpec& train = job.spec->train();
  if (train.has_global_batch() && train.micro_batch() != 0) {
    ranks = std::clamp(train.global_batch() / train.micro_batch(), uint32_t{1}, world_size);
  }
  return settings.max_user_ranks == 0 ? ranks : std::min(ranks, settings.max_user_ranks);
}

// The ranks that an attempt of the job takes of a launch of `world_size`; 0: it needs a larger one.
uint32_t RanksOn(const Job& job, uint32_t world_size, bool fewer, const Settings& settings) {
  const uint32_t least = job.queue.min_ranks;
  if (job.wanted_ranks == 0) {
    const uint32_t ranks = UsefulRanks(job, world_size, settings);
    return ranks < least ? 0 : ranks;
  }
  if (world_size >= job.wanted_ranks) return job.wanted_ranks;
  if (!fewer || least == 0 || world_size < least) return 0;
  // A sum over a power of two of ranks has the same bits as over any other.
  const uint32_t even = std::bit_floor(world_size);
  return std::has_single_bit(job.wanted_ranks) && even >= least ? even : world_size;
}

// The job's user may have `ranks` more, once `leaving` (may be null) has left its own.
bool IsWithinQuota(const ControlState& state, const Settings& settings, const Job& job,
                   uint32_t ranks, const Job* leaving) {
  if (settings.max_user_ranks == 0) return true;
  uint64_t total = state.users.at(job.user).ranks + uint64_t{ranks};
  if (leaving != nullptr && leaving->user == job.user) total -= leaving->attempt_ranks;
  return total <= settings.max_user_ranks;
}

// A fleet that is free or about to be.
struct Opening {
  const Fleet* fleet = nullptr;
  // Runs on it, and leaves it first; null: none.
  const Job* leaving = nullptr;
};

// The opening that the job takes: most ranks, then the smallest fleet. None: the end.
std::vector<Opening>::const_iterator Pick(const std::vector<Opening>& openings,
                                          const ControlState& state, const Settings& settings,
                                          const Job& job, double uptime, uint32_t* ranks) {
  const bool fewer = WaitedSeconds(job, uptime) >= settings.patience;
  auto best = openings.end();
  *ranks = 0;
  for (auto one = openings.begin(); one != openings.end(); ++one) {
    const uint32_t size = one->fleet->launch.world_size;
    const uint32_t found = RanksOn(job, size, fewer, settings);
    if (found == 0 || !IsWithinQuota(state, settings, job, found, one->leaving)) continue;
    if (found < *ranks) continue;
    if (found == *ranks && size >= best->fleet->launch.world_size) continue;
    best = one;
    *ranks = found;
  }
  return best;
}

// Nobody has to say anything more before this launch can take a job: it is only not there yet.
bool IsConnecting(const Launch& launch) {
  return launch.phase == LaunchPhase::kLive && launch.job_id.empty() && !launch.leaving &&
         launch.world_size != 0 &&
         std::any_of(launch.ranks.begin(), launch.ranks.end(),
                     [](const Rank& rank) { return rank.stream == 0 && !rank.lost; });
}

// The launch answers, so a job that is asked to stop will.
bool Answers(const Launch& launch) {
  return launch.stuck.empty() && std::all_of(launch.ranks.begin(), launch.ranks.end(),
                                             [](const Rank& rank) { return !rank.lost; });
}

struct Occupied {
  // About to be free without anybody's doing.
  std::vector<Opening> leaving;
  // With a job that can be asked to make room.
  std::vector<Opening> held;
};

Occupied FindOccupied(const ControlState& state) {
  Occupied found;
  for (const auto& [name, fleet] : state.fleets) {
    if (IsConnecting(fleet.launch)) found.leaving.push_back({&fleet, nullptr});
    if (fleet.launch.job_id.empty() || fleet.launch.leaving || !Answers(fleet.launch)) continue;
    const Job& job = state.jobs.at(fleet.launch.job_id);
    if (job.stop != Stop::kNone) {
      found.leaving.push_back({&fleet, &job});
    } else if (job.queue.preemptible && job.state == RUNNING) {
      found.held.push_back({&fleet, &job});
    }
  }
  // By who makes room first.
  std::sort(found.held.begin(), found.held.end(), [](const Opening& a, const Opening& b) {
    return KeyOf(*b.leaving) < KeyOf(*a.leaving);
  });
  return found;
}

}  // namespace

std::optional<Placement> NextPlacement(const ControlState& state, const Settings& settings,
                                       double uptime) {
  std::vector<Opening> free;
  for (const auto& [name, fleet] : state.fleets) {
    if (IsAssignable(fleet.launch)) free.push_back({&fleet, nullptr});
  }
  if (free.empty()) return std::nullopt;
  for (const auto& [key, id] : state.open_jobs) {
    const Job& job = state.jobs.at(id);
    if (!MayStart(state, job, uptime)) continue;
    uint32_t ranks = 0;
    const auto found = Pick(free, state, settings, job, uptime, &ranks);
    if (found != free.end()) return Placement{id, found->fleet->name, ranks};
  }
  return std::nullopt;
}

std::optional<Preemption> NextPreemption(const ControlState& state, const Settings& settings,
                                         double uptime) {
  Occupied occupied = FindOccupied(state);
  for (const auto& [key, id] : state.open_jobs) {
    // Those that make room come in the order of their priority.
    if (occupied.held.empty() || key.priority <= occupied.held.front().leaving->queue.priority) {
      return std::nullopt;
    }
    const Job& job = state.jobs.at(id);
    if (!MayStart(state, job, uptime)) continue;
    if (WaitedSeconds(job, uptime) < settings.patience) continue;
    uint32_t ranks = 0;
    const auto coming = Pick(occupied.leaving, state, settings, job, uptime, &ranks);
    if (coming != occupied.leaving.end()) {
      occupied.leaving.erase(coming);
      continue;
    }
    for (const Opening& held : occupied.held) {
      if (held.leaving->queue.priority >= key.priority) break;
      const std::vector<Opening> one{held};
      if (Pick(one, state, settings, job, uptime, &ranks) == one.end()) continue;
      return Preemption{held.leaving->id, id};
    }
  }
  return std::nullopt;
}

uint32_t QueuePosition(const ControlState& state, const Job& job) {
  if (!IsWaiting(job)) return 0;
  return 1 + static_cast<uint32_t>(state.waiting.CountBefore(KeyOf(job)));
}

uint32_t LargestFleet(const ControlState& state) {
  uint32_t largest = 0;
  for (const auto& [name, fleet] : state.fleets) {
    if (IsRegistered(fleet)) largest = std::max(largest, fleet.launch.world_size);
  }
  return largest;
}

uint32_t LeastRanks(const Job& job) {
  const uint32_t least = job.queue.min_ranks;
  return least == 0 ? job.wanted_ranks : least;
}

std::vector<std::string> HostsToLeaveOut(const ControlState& state, const Fleet& fleet) {
  std::vector<std::string> hosts;
  for (const auto& [name, host] : state.hosts) {
    if (host.left_out) hosts.push_back(name);
  }
  if (hosts.empty()) return hosts;
  uint32_t remaining = 0;
  for (const Rank& rank : fleet.launch.ranks) {
    const auto host = state.hosts.find(rank.host);
    if (host == state.hosts.end() || !host->second.left_out) ++remaining;
  }
  uint32_t elsewhere = 0;
  for (const auto& [name, other] : state.fleets) {
    if (name == fleet.name || !IsRegistered(other)) continue;
    elsewhere = std::max(elsewhere, other.launch.world_size);
  }
  for (const auto& [key, id] : state.open_jobs) {
    const uint32_t least = std::max(LeastRanks(state.jobs.at(id)), uint32_t{1});
    const bool suffered = least > remaining && least <= fleet.launch.world_size;
    if (suffered && least > elsewhere) return {};
  }
  return hosts;
}

std::string NameJob(const Job& job) {
  const std::string& name = job.spec->name();
  return "job " + job.id + (name.empty() ? "" : " (" + name + ")");
}

std::string FleetCondition(const Fleet& fleet) {
  const Launch& launch = fleet.launch;
  if (launch.phase == LaunchPhase::kEnded) return "is down";
  if (launch.phase == LaunchPhase::kFenced) return "is fenced";
  if (launch.leaving) return "is given back";
  if (!launch.job_id.empty()) return "is busy with job " + launch.job_id;
  const uint32_t connected = ConnectedRanks(launch);
  if (launch.world_size == 0 || connected < launch.world_size) {
    return "has " + std::to_string(connected) + " of " +
           (launch.world_size == 0 ? "its ranks" : Plural(launch.world_size, "rank")) +
           " connected";
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

namespace {

// Why its user's quota lets the job start on none of the fleets that are there; empty if that is
// not so.
std::string QuotaReason(const ControlState& state, const Settings& settings, const Job& job) {
  if (settings.max_user_ranks == 0) return "";
  const uint32_t used = state.users.at(job.user).ranks;
  const uint32_t left = settings.max_user_ranks - std::min(used, settings.max_user_ranks);
  uint32_t needed = 0;
  for (const auto& [name, fleet] : state.fleets) {
    const uint32_t size = fleet.launch.world_size;
    if (!IsRegistered(fleet)) continue;
    const uint32_t ranks = RanksOn(job, size, job.queue.min_ranks != 0, settings);
    if (ranks == 0) continue;
    if (ranks <= left) return "";
    needed = needed == 0 ? ranks : std::min(needed, ranks);
  }
  if (needed == 0) return "";
  return "waits for its user's quota: " + (job.user.empty() ? "they" : job.user) + " may have " +
         Plural(settings.max_user_ranks, "rank") + " at once and has " + std::to_string(used) +
         ", this job takes " + std::to_string(needed);
}

}  // namespace

std::string WaitingReason(const ControlState& state, const Settings& settings, const Job& job,
                          double uptime) {
  if (const Job* before = AwaitedJob(state, job)) {
    return "waits for the success of " + NameJob(*before) + ", which is " +
           JobState_Name(before->state);
  }
  if (uptime < job.restart_at) {
    return "starts again in " +
           std::to_string(static_cast<int64_t>(std::ceil(job.restart_at - uptime))) +
           " s at the earliest";
  }
  const uint32_t largest = LargestFleet(state);
  if (largest == 0) return "waits for a fleet: none is registered";
  const uint32_t least = LeastRanks(job);
  if (least > largest) {
    return "waits for a fleet of " + Plural(least, "rank") +
           ": the largest that is registered has " + Plural(largest, "rank");
  }
  if (const std::string quota = QuotaReason(state, settings, job); !quota.empty()) return quota;
  std::string fleets;
  size_t listed = 0;
  for (const auto& [name, fleet] : state.fleets) {
    if (!IsRegistered(fleet) || fleet.launch.world_size < least) continue;
    if (++listed > 3) {
      fleets += ", and others";
      break;
    }
    fleets += (fleets.empty() ? "fleet " : ", fleet ") + name + " " + FleetCondition(fleet);
  }
  return "waits for its turn: " + fleets;
}

}  // namespace swinfleet::coordinator
