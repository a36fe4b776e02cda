#include "coordinator/control_state.h"

#include <glog/logging.h>

#include <algorithm>
#include <cmath>
#include <utility>

namespace swinfleet::coordinator {
namespace {

constexpr double kLongestPause = 600;
constexpr double kHalfLife = 3600;

// What users have, counted anew.
std::map<std::string, UserLoad> CountLoads(const std::map<std::string, Job>& jobs) {
  std::map<std::string, UserLoad> loads;
  for (const auto& [id, job] : jobs) {
    if (IsEnded(job.state)) continue;
    UserLoad& load = loads[job.user];
    ++load.jobs;
    if (job.attempt_open) load.ranks += job.attempt_ranks;
  }
  return loads;
}

}  // namespace

bool IsEnded(JobState state) { return state == SUCCEEDED || state == FAILED || state == CANCELLED; }

bool IsWaiting(const Job& job) {
  if (!job.durable || job.attempt_open) return false;
  return job.state == QUEUED || job.state == RECOVERING;
}

void UpdateWaiting(ControlState* state, const Job& job) {
  if (IsWaiting(job)) {
    state->waiting.Insert(KeyOf(job));
  } else {
    state->waiting.Erase(KeyOf(job));
  }
}

const Job* AwaitedJob(const ControlState& state, const Job& job) {
  for (const std::string& id : job.after) {
    const Job& before = state.jobs.at(id);
    if (before.state != SUCCEEDED) return &before;
  }
  return nullptr;
}

double RunSeconds(const Job& job, double uptime) {
  return job.run_seconds + (job.attempt_open ? uptime - job.clocked_uptime : 0);
}

double RestartPause(const Job& job) {
  if (job.deaths == 0) return 0;
  const double pause = std::ldexp(job.queue.restart_pause, static_cast<int>(job.deaths) - 1);
  return std::min(pause, std::max(kLongestPause, job.queue.restart_pause));
}

double HostFailures(const Host& host, double unix_time) {
  // A clock that is put back forgets nothing.
  return host.failures * std::exp2(-std::max(0.0, unix_time - host.counted_at) / kHalfLife);
}

void ChangeLoad(ControlState* state, const std::string& user, int64_t jobs, int64_t ranks) {
  UserLoad& load = state->users[user];
  load.jobs = static_cast<uint32_t>(load.jobs + jobs);
  load.ranks = static_cast<uint32_t>(load.ranks + ranks);
  if (load.jobs == 0) state->users.erase(user);
}

bool IsAssignable(const Launch& launch) {
  if (launch.phase != LaunchPhase::kLive || launch.leaving) return false;
  if (launch.world_size == 0 || !launch.job_id.empty()) return false;
  return std::all_of(launch.ranks.begin(), launch.ranks.end(), [](const Rank& rank) {
    return rank.stream != 0 && !rank.lost && rank.report.job_id().empty();
  });
}

bool IsRegistered(const Fleet& fleet) {
  if (!fleet.heard || fleet.launch.world_size == 0) return false;
  return fleet.launch.supervised || !fleet.launch.job_id.empty() ||
         ConnectedRanks(fleet.launch) > 0;
}

uint32_t ConnectedRanks(const Launch& launch) {
  return static_cast<uint32_t>(std::count_if(launch.ranks.begin(), launch.ranks.end(),
                                             [](const Rank& rank) { return rank.stream != 0; }));
}

bool WorksOn(const Rank& rank, const std::string& job_id, uint32_t attempt) {
  return !job_id.empty() && rank.report.job_id() == job_id && rank.report.attempt() == attempt;
}

const Job* AttemptOfStream(const ControlState& state, uint64_t stream, const std::string& job_id,
                           uint32_t attempt) {
  const auto address = state.streams.find(stream);
  const auto job = state.jobs.find(job_id);
  if (address == state.streams.end() || job == state.jobs.end()) return nullptr;
  const Job& found = job->second;
  const Launch& launch = state.fleets.at(address->second.fleet).launch;
  const bool same = found.attempt == attempt && attempt != 0 &&
                    found.fleet == address->second.fleet && found.launch_id == launch.id;
  return same ? &found : nullptr;
}

bool NeedsTicks(const ControlState& state) {
  if (!state.traced.empty()) return true;
  for (const auto& [name, fleet] : state.fleets) {
    if (fleet.launch.phase != LaunchPhase::kLive) continue;
    for (const Rank& rank : fleet.launch.ranks) {
      if (!rank.lost) return true;
    }
  }
  return false;
}

const RankTrace* AwaitedTrace(const Job& job, uint32_t rank) {
  if (!job.trace || job.trace->complete() || !job.attempt_open) return nullptr;
  if (job.trace->attempt() != job.attempt) return nullptr;
  for (const RankTrace& one : job.trace->ranks()) {
    if (one.rank() == rank && one.path().empty() && one.error().empty()) return &one;
  }
  return nullptr;
}

bool HoldsRunFolder(const Job& job) {
  return !IsEnded(job.state) || job.state == SUCCEEDED || !job.last_checkpoint.empty();
}

ControlState Restore(std::vector<Job> jobs, std::vector<Fleet> fleets, std::vector<Host> hosts,
                     Moment now) {
  ControlState state;
  for (Host& host : hosts) {
    std::string name = host.name;
    state.hosts.emplace(std::move(name), std::move(host));
  }
  for (Fleet& fleet : fleets) {
    fleet.heard = false;
    fleet.launch.job_id.clear();
    fleet.launch.idle_since = now.uptime;
    fleet.launch.leaving = false;
    fleet.launch.ranks.assign(fleet.launch.world_size, Rank{});
    for (Rank& rank : fleet.launch.ranks) rank.heard_at = now.uptime;
    std::string name = fleet.name;
    state.fleets.emplace(std::move(name), std::move(fleet));
  }
  for (Job& job : jobs) {
    job.durable = true;
    if (job.attempt_open) {
      job.run_seconds += std::max(0.0, now.unix_time - job.clocked);
      job.clocked = now.unix_time;
    }
    job.clocked_uptime = job.waits_since = now.uptime;
    if (job.state == RECOVERING) job.restart_at = now.uptime + RestartPause(job);
    state.next_number = std::max(state.next_number, job.number + 1);
    state.job_order[job.number] = job.id;
    if (!IsEnded(job.state)) state.open_jobs[KeyOf(job)] = job.id;
    UpdateWaiting(&state, job);
    state.submissions[job.submission_id] = job.id;
    if (HoldsRunFolder(job)) state.run_dirs[job.run_dir] = job.id;
    if (job.attempt_open) state.fleets.at(job.fleet).launch.job_id = job.id;
    if (job.trace && !job.trace->complete()) state.traced.insert(job.id);
    job.trace_closes_at = now.uptime + kTraceGrace;
    std::string id = job.id;
    state.jobs.emplace(std::move(id), std::move(job));
  }
  state.users = CountLoads(state.jobs);
  return state;
}

namespace {

void CheckJob(const ControlState& state, const Job& job) {
  CHECK_EQ(!IsEnded(job.state), state.open_jobs.contains(KeyOf(job))) << job.id;
  CHECK_EQ(state.submissions.at(job.submission_id), job.id);
  if (HoldsRunFolder(job)) CHECK_EQ(state.run_dirs.at(job.run_dir), job.id);
  if (job.state == RUNNING) CHECK(job.attempt_open) << job.id;
  CHECK_EQ(job.stop == Stop::kCancelled, job.state == CANCELLING) << job.id;
  const bool stopping = job.stop != Stop::kNone && job.stop != Stop::kCancelled;
  CHECK_EQ(stopping, job.state == STOPPING) << job.id;
  if (job.stop != Stop::kNone) CHECK(job.attempt_open) << job.id;
  if (job.attempt > 0) CHECK(AwaitedJob(state, job) == nullptr) << job.id;
  if (job.state == QUEUED || IsEnded(job.state)) CHECK(!job.attempt_open) << job.id;
  CHECK_LT(job.deaths, kMaxDeaths + (job.state == FAILED ? 1 : 0)) << job.id;
  CHECK_EQ(job.trace && !job.trace->complete(), state.traced.contains(job.id)) << job.id;
  if (!job.attempt_open) return;
  const Launch& launch = state.fleets.at(job.fleet).launch;
  CHECK_EQ(launch.id, job.launch_id) << job.id;
  CHECK_EQ(launch.job_id, job.id);
  CHECK(launch.phase == LaunchPhase::kLive) << job.id;
}

void CheckFleet(const ControlState& state, const Fleet& fleet) {
  const Launch& launch = fleet.launch;
  CHECK_EQ(launch.ranks.size(), launch.world_size) << fleet.name;
  if (!launch.job_id.empty()) CHECK(state.jobs.at(launch.job_id).attempt_open) << fleet.name;
  for (uint32_t r = 0; r < launch.world_size; ++r) {
    const uint64_t stream = launch.ranks[r].stream;
    if (stream == 0) continue;
    CHECK(launch.phase == LaunchPhase::kLive) << fleet.name;
    const RankAddress& address = state.streams.at(stream);
    CHECK_EQ(address.fleet, fleet.name);
    CHECK_EQ(address.rank, r);
  }
}

}  // namespace

void CheckInvariants(const ControlState& state) {
  for (const auto& [id, job] : state.jobs) CheckJob(state, job);
  for (const auto& [name, fleet] : state.fleets) CheckFleet(state, fleet);
  for (const auto& [stream, address] : state.streams) {
    CHECK_EQ(state.fleets.at(address.fleet).launch.ranks.at(address.rank).stream, stream);
  }
  CHECK_EQ(state.jobs.size(), state.job_order.size());
  size_t waiting = 0;
  for (const auto& [key, id] : state.open_jobs) {
    if (!IsWaiting(state.jobs.at(id))) continue;
    CHECK_EQ(state.waiting.CountBefore(key), waiting) << id;
    ++waiting;
  }
  CHECK_EQ(state.waiting.size(), waiting);
  const std::map<std::string, UserLoad> loads = CountLoads(state.jobs);
  CHECK_EQ(loads.size(), state.users.size());
  for (const auto& [user, load] : loads) {
    CHECK_EQ(load.jobs, state.users.at(user).jobs) << user;
    CHECK_EQ(load.ranks, state.users.at(user).ranks) << user;
  }
}

}  // namespace swinfleet::coordinator
