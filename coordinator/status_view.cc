#include "coordinator/status_view.h"

#include <algorithm>
#include <string>

#include "coordinator/faults.h"
#include "coordinator/scheduling.h"

namespace swinfleet::coordinator {
namespace {

void ViewRank(const Rank& rank, uint32_t number, double uptime, RankStatus* out) {
  out->set_rank(number);
  out->set_host(rank.host);
  out->set_pid(rank.pid);
  out->set_phase(rank.report.phase());
  out->set_step(rank.report.step());
  out->set_collective_sequence(rank.report.collective_sequence());
  out->set_collective(rank.report.collective());
  out->set_seconds_since_heartbeat(std::max(0.0, uptime - rank.heard_at));
  out->set_memory_bytes(rank.report.memory_bytes());
  out->set_in_collective(rank.report.in_collective());
  out->set_own_seconds(rank.own.mean);
  out->set_straggler(rank.own.straggler);
}

std::string Reason(const ControlState& state, const Settings& settings, const Job& job,
                   double uptime) {
  if (IsEnded(job.state)) return job.reason;
  if (IsWaiting(job)) {
    const std::string waiting = WaitingReason(state, settings, job, uptime);
    return job.reason.empty() ? waiting : job.reason + "; " + waiting;
  }
  if (!job.attempt_open) return job.reason;
  const Launch& launch = state.fleets.at(job.fleet).launch;
  const std::string fault =
      launch.stuck.empty() ? DescribeSilent(launch, job.attempt_ranks, uptime) : launch.stuck;
  return job.reason + (fault.empty() ? "" : "; " + fault);
}

}  // namespace

JobStatus ViewJob(const ControlState& state, const Settings& settings, const Job& job,
                  const Progress* progress, double uptime, RankDetail detail) {
  JobStatus out;
  out.set_job_id(job.id);
  *out.mutable_spec() = *job.spec;
  out.set_state(job.state);
  out.set_reason(Reason(state, settings, job, uptime));
  out.set_attempt(job.attempt);
  out.set_restarts(job.attempt > 0 ? job.attempt - 1 - job.skipped_attempts : 0);
  out.set_fleet(job.fleet);
  out.set_last_checkpoint(job.last_checkpoint);
  out.set_last_checkpoint_step(job.last_checkpoint_step);
  out.set_submitted_at(job.submitted_at);
  out.set_started_at(job.started_at);
  out.set_ended_at(job.ended_at);
  out.set_queue_position(QueuePosition(state, job));
  out.set_user(job.user);
  for (const std::string& id : job.after) out.add_after(id);
  out.set_run_seconds(RunSeconds(job, uptime));
  out.set_preemptions(job.preemptions);
  out.set_attempt_ranks(job.attempt_ranks);
  if (progress != nullptr) *out.mutable_progress() = *progress;
  if (job.trace) {
    *out.mutable_trace() = *job.trace;
    if (detail == RankDetail::kWithoutRanks) out.mutable_trace()->clear_ranks();
  }
  if (detail == RankDetail::kWithRanks && job.attempt_open) {
    const Launch& launch = state.fleets.at(job.fleet).launch;
    for (uint32_t r = 0; r < std::min(job.attempt_ranks, launch.world_size); ++r) {
      ViewRank(launch.ranks[r], r, uptime, out.add_ranks());
      if (!launch.ranks[r].own.straggler) continue;
      out.add_stragglers(DescribeStraggler(launch, job.attempt_ranks, r));
    }
  }
  return out;
}

std::string FleetStateName(const Fleet& fleet) {
  const Launch& launch = fleet.launch;
  if (launch.phase == LaunchPhase::kEnded) return "down";
  if (launch.phase == LaunchPhase::kFenced) return "fenced";
  const uint32_t connected = ConnectedRanks(launch);
  const bool lost = std::any_of(launch.ranks.begin(), launch.ranks.end(), [&](const Rank& rank) {
    return rank.lost && (rank.heard || !launch.job_id.empty());
  });
  if (launch.job_id.empty() && connected == 0 && !launch.supervised && (lost || !fleet.heard)) {
    return "down";
  }
  if (lost) return "lost";
  if (launch.leaving) return "leaving";
  if (launch.world_size == 0 || connected < launch.world_size) return "connecting";
  return IsAssignable(launch) ? "idle" : "busy";
}

HostStatus ViewHost(const Host& host, double unix_time) {
  HostStatus out;
  out.set_name(host.name);
  out.set_failures(HostFailures(host, unix_time));
  out.set_left_out(host.left_out);
  out.set_last(host.last);
  return out;
}

FleetStatus ViewFleet(const Fleet& fleet, double uptime) {
  const Launch& launch = fleet.launch;
  FleetStatus out;
  out.set_name(fleet.name);
  out.set_launch_id(launch.id);
  out.set_state(FleetStateName(fleet));
  out.set_world_size(launch.world_size);
  out.set_connected_ranks(ConnectedRanks(launch));
  out.set_job_id(launch.job_id);
  out.set_supervised(launch.supervised);
  out.set_last_exit(launch.exit);
  if (launch.phase != LaunchPhase::kLive) return out;
  for (uint32_t r = 0; r < launch.world_size; ++r) {
    if (launch.ranks[r].heard) ViewRank(launch.ranks[r], r, uptime, out.add_ranks());
  }
  return out;
}

}  // namespace swinfleet::coordinator
