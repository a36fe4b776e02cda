// Transitions that fleets, their launches and their ranks cause.
#include <glog/logging.h>

#include <algorithm>
#include <set>

#include "coordinator/faults.h"
#include "coordinator/machine.h"
#include "coordinator/scheduling.h"

namespace swinfleet::coordinator {
namespace {

const ClosedLaunch* FindClosed(const Fleet& fleet, const std::string& launch_id) {
  const auto found =
      std::find_if(fleet.closed.begin(), fleet.closed.end(),
                   [&launch_id](const ClosedLaunch& closed) { return closed.id == launch_id; });
  return found == fleet.closed.end() ? nullptr : &*found;
}

// Nothing is at stake on such a launch: no attempt is open on it and nobody of it is heard. Another
// one may take its place even if its end was never reported.
bool IsAbandoned(const Launch& launch) {
  if (launch.phase != LaunchPhase::kLive) return true;
  if (!launch.job_id.empty()) return false;
  return std::none_of(launch.ranks.begin(), launch.ranks.end(),
                      [](const Rank& rank) { return rank.stream != 0 && !rank.lost; });
}

std::string Seconds(double seconds) {
  char text[32];
  snprintf(text, sizeof(text), "%.1f s", seconds);
  return text;
}

}  // namespace

Rank* Machine::Sender(uint64_t stream) {
  const auto address = state_.streams.find(stream);
  if (address == state_.streams.end()) return nullptr;
  return &state_.fleets.at(address->second.fleet).launch.ranks.at(address->second.rank);
}

Fleet& Machine::FleetOfStream(uint64_t stream) {
  return state_.fleets.at(state_.streams.at(stream).fleet);
}

void Machine::Heard(uint64_t stream, Rank& rank) {
  rank.heard_at = now_.uptime;
  rank.heard = true;
  if (!rank.lost) return;
  rank.lost = false;
  const Fleet& fleet = FleetOfStream(stream);
  const uint32_t number = state_.streams.at(stream).rank;
  WarnOf(fleet.launch, number,
         "rank " + std::to_string(number) + " of fleet " + fleet.name + " is heard of again");
  effects_.queue_changed = true;
  if (!fleet.launch.job_id.empty()) return UpdateVisibility(state_.jobs.at(fleet.launch.job_id));
  Schedule();
}

Fleet* Machine::FindOrMakeFleet(const std::string& name) {
  if (const auto found = state_.fleets.find(name); found != state_.fleets.end()) {
    return &found->second;
  }
  if (state_.fleets.size() >= kMaxFleets) {
    const auto victim =
        std::find_if(state_.fleets.begin(), state_.fleets.end(), [](const auto& entry) {
          return !IsRegistered(entry.second) && IsAbandoned(entry.second.launch) &&
                 ConnectedRanks(entry.second.launch) == 0;
        });
    if (victim == state_.fleets.end()) return nullptr;
    Store(victim->second);
    state_.fleets.erase(victim);
  }
  Fleet fleet;
  fleet.name = name;
  // No launch of it is known yet: the same as one that has ended.
  fleet.launch.phase = LaunchPhase::kEnded;
  return &state_.fleets.emplace(name, std::move(fleet)).first->second;
}

std::string Machine::AdoptLaunch(Fleet& fleet, const std::string& launch_id) {
  if (fleet.launch.id == launch_id && fleet.launch.phase == LaunchPhase::kLive) return "";
  if (const ClosedLaunch* closed = FindClosed(fleet, launch_id)) {
    return "launch " + launch_id + " of fleet " + fleet.name +
           (closed->phase == LaunchPhase::kFenced ? " was fenced" : " was reported to have ended");
  }
  if (!IsAbandoned(fleet.launch)) {
    return "launch " + fleet.launch.id + " of fleet " + fleet.name + " is not known to have ended" +
           (fleet.launch.job_id.empty() ? ""
                                        : " and job " + fleet.launch.job_id + " may run on it") +
           "; its supervisor must report its end, or, if nothing of it runs any more, use "
           "`swinfleet fence " +
           fleet.name + "`";
  }
  for (const Rank& rank : fleet.launch.ranks) {
    if (rank.stream == 0) continue;
    effects_.closes.push_back(rank.stream);
    state_.streams.erase(rank.stream);
  }
  fleet.launch = Launch{};
  fleet.launch.id = launch_id;
  fleet.launch.idle_since = now_.uptime;
  fleet.heard = true;
  Store(fleet);
  Say("fleet " + fleet.name + " has a new launch, " + launch_id);
  return "";
}

void Machine::Reject(uint64_t stream, const std::string& reason) {
  Send send{stream, {}};
  send.command.mutable_rejected()->set_reason(reason);
  effects_.sends.push_back(std::move(send));
  effects_.closes.push_back(stream);
  Warn("a worker was turned away: " + reason);
}

std::string Machine::CheckHello(const Fleet& fleet, const Hello& hello) const {
  const Launch& launch = fleet.launch;
  if (launch.world_size != 0 && launch.world_size != hello.world_size()) {
    return "launch " + launch.id + " has " + std::to_string(launch.world_size) +
           " ranks, but this rank says " + std::to_string(hello.world_size());
  }
  if (launch.world_size == 0) return "";
  const Rank& rank = launch.ranks.at(hello.rank());
  const bool other = rank.heard && (rank.host != hello.host() || rank.pid != hello.pid());
  if (!other) return "";
  return "rank " + std::to_string(hello.rank()) + " of launch " + launch.id +
         " is already registered as process " + std::to_string(rank.pid) + " on " + rank.host;
}

void Machine::On(const HelloEvent& event) {
  const Hello& hello = event.hello;
  CHECK_LT(hello.rank(), hello.world_size());
  Fleet* fleet = FindOrMakeFleet(hello.fleet());
  if (fleet == nullptr) {
    return Reject(event.stream, "there are " + std::to_string(kMaxFleets) +
                                    " fleets already, which is the limit");
  }
  std::string refusal = AdoptLaunch(*fleet, hello.launch_id());
  if (refusal.empty()) refusal = CheckHello(*fleet, hello);
  if (!refusal.empty()) return Reject(event.stream, refusal);
  Launch& launch = fleet->launch;
  if (launch.world_size == 0 || (hello.supervised() && !launch.supervised)) {
    launch.supervised = launch.supervised || hello.supervised();
    launch.world_size = hello.world_size();
    launch.ranks.resize(launch.world_size);
    for (Rank& rank : launch.ranks) {
      if (!rank.heard) rank.heard_at = now_.uptime;
    }
    Store(*fleet);
  }
  const uint64_t older = launch.ranks[hello.rank()].stream;
  if (older > event.stream) {
    // The rank itself has opened a newer connection meanwhile.
    effects_.closes.push_back(event.stream);
    return;
  }
  if (older != 0) {
    effects_.closes.push_back(older);
    state_.streams.erase(older);
  }
  Connect(*fleet, event);
}

void Machine::Connect(Fleet& fleet, const HelloEvent& event) {
  const Hello& hello = event.hello;
  Launch& launch = fleet.launch;
  Rank& rank = launch.ranks[hello.rank()];
  rank.stream = event.stream;
  rank.host = hello.host();
  rank.pid = hello.pid();
  rank.report.set_job_id(hello.job_id());
  rank.report.set_attempt(hello.attempt());
  fleet.heard = true;
  state_.streams[event.stream] = {fleet.name, hello.rank()};
  effects_.queue_changed = true;

  Send welcome{event.stream, {}};
  welcome.command.mutable_welcome()->set_heartbeat_seconds(settings_.heartbeat);
  effects_.sends.push_back(std::move(welcome));
  Heard(event.stream, rank);
  if (launch.job_id.empty()) {
    if (!hello.job_id().empty()) {
      // It ended while the acknowledgement was under way, or belongs to another coordinator. It is
      // left in peace; the launch gets no job as long as its ranks work on something.
      Warn("rank " + std::to_string(hello.rank()) + " of fleet " + fleet.name +
           " works on attempt " + std::to_string(hello.attempt()) + " of job " + hello.job_id() +
           ", which is not under way here");
    }
    return Schedule();
  }
  Job& job = state_.jobs.at(launch.job_id);
  UpdateVisibility(job);
  Changed(job);
  if (hello.job_id().empty()) SendAssignment(job, event.stream);
  if (job.stop != Stop::kNone) SendCancel(job, event.stream);
  SendTrace(job, hello.rank(), event.stream);
}

void Machine::On(const HeartbeatEvent& event) {
  Rank* rank = Sender(event.stream);
  if (rank == nullptr) return;
  const Heartbeat before = rank->report;
  rank->report = event.heartbeat;
  Heard(event.stream, *rank);
  if (before.job_id().empty() || !rank->report.job_id().empty()) return;
  // It has become idle.
  effects_.queue_changed = true;
  const Launch& launch = FleetOfStream(event.stream).launch;
  if (launch.job_id.empty()) return Schedule();
  const Job& job = state_.jobs.at(launch.job_id);
  // From the present attempt: rank 0 is about to say how it ended. From an older one, which a
  // delayed Hello named: the present one's assignment went to a connection that is gone.
  if (before.job_id() == job.id && before.attempt() == job.attempt) return;
  SendAssignment(job, event.stream);
  if (job.stop != Stop::kNone) SendCancel(job, event.stream);
  SendTrace(job, state_.streams.at(event.stream).rank, event.stream);
}

void Machine::On(const StuckEvent& event) {
  Rank* rank = Sender(event.stream);
  if (rank == nullptr) return;
  Heard(event.stream, *rank);
  const StuckReport& report = event.report;
  const Job* job = AttemptOfStream(state_, event.stream, report.job_id(), report.attempt());
  if (job == nullptr || !job->attempt_open) return;
  Launch& launch = FleetOfStream(event.stream).launch;
  rank->stuck = report;
  const std::string before = launch.stuck;
  launch.stuck = DescribeStuck(launch, job->attempt_ranks, now_.uptime);
  if (launch.stuck == before) return;
  const std::vector<uint32_t> stuck = StuckRanks(launch, job->attempt_ranks);
  const uint32_t about = stuck.empty() ? state_.streams.at(event.stream).rank : stuck.front();
  WarnOf(launch, about, launch.stuck);
  Changed(*job);
}

void Machine::On(const AliveEvent& event) {
  if (Rank* rank = Sender(event.stream)) Heard(event.stream, *rank);
}

void Machine::Disconnect(uint64_t stream) {
  Rank* rank = Sender(stream);
  if (rank == nullptr) return;
  rank->stream = 0;
  rank->gone_at = now_.uptime;
  effects_.queue_changed = true;
  const Launch& launch = FleetOfStream(stream).launch;
  if (!launch.job_id.empty()) Changed(state_.jobs.at(launch.job_id));
  state_.streams.erase(stream);
}

void Machine::On(const StreamClosedEvent& event) { Disconnect(event.stream); }

void Machine::RememberClosed(Fleet& fleet, const std::string& launch_id, LaunchPhase phase) {
  if (FindClosed(fleet, launch_id) != nullptr) return;
  if (fleet.closed.size() >= kMaxClosedLaunches) fleet.closed.pop_front();
  fleet.closed.push_back({launch_id, phase});
  Store(fleet);
}

void Machine::CloseLaunch(Fleet& fleet, LaunchPhase phase, const std::string& exit, bool faulty) {
  Launch& launch = fleet.launch;
  CHECK(launch.phase == LaunchPhase::kLive) << fleet.name;
  // Before the connections are closed here, since it goes by those that broke before.
  std::string fault;
  if (!launch.job_id.empty()) {
    Job& job = state_.jobs.at(launch.job_id);
    fault = DescribeDeath(launch, job.attempt_ranks, now_.uptime);
    if (faulty) BlameHosts(launch, job);
  }
  launch.phase = phase;
  launch.exit = exit;
  RememberClosed(fleet, launch.id, phase);
  Store(fleet);
  Say("launch " + launch.id + " of fleet " + fleet.name + " is closed: " + exit);
  for (Rank& rank : launch.ranks) {
    if (rank.stream == 0) continue;
    Reject(rank.stream, "launch " + launch.id + " of fleet " + fleet.name + " is closed: " + exit);
    state_.streams.erase(rank.stream);
    rank.stream = 0;
  }
  if (!launch.job_id.empty()) {
    AttemptDied(state_.jobs.at(launch.job_id), "its launch on fleet " + fleet.name + " ended (" +
                                                   exit + ")" +
                                                   (fault.empty() ? "" : "; " + fault));
  }
  Schedule();
}

void Machine::On(const FenceEvent& event) {
  const auto found = state_.fleets.find(event.fleet);
  if (found == state_.fleets.end()) {
    return Answer(grpc::StatusCode::NOT_FOUND, "there is no fleet " + event.fleet);
  }
  Fleet& fleet = found->second;
  effects_.reply = Reply{grpc::Status::OK, "", fleet.name, {}};
  if (fleet.launch.phase != LaunchPhase::kLive) return;
  for (uint32_t r = 0; r < fleet.launch.world_size; ++r) {
    const Rank& rank = fleet.launch.ranks[r];
    // A rank without a connection may be about to make one again: only silence counts.
    if (rank.lost) continue;
    return Answer(grpc::StatusCode::FAILED_PRECONDITION,
                  "rank " + std::to_string(r) + " of fleet " + fleet.name + " may run: process " +
                      std::to_string(rank.pid) + " on " + rank.host + " was heard " +
                      Seconds(now_.uptime - rank.heard_at) +
                      " ago; stop its mpirun first, fencing is for fleets that are gone and have "
                      "been silent for " +
                      Seconds(settings_.lost_after));
  }
  CloseLaunch(fleet, LaunchPhase::kFenced, "fenced by an operator", /*faulty=*/false);
}

void Machine::On(const LaunchReportEvent& event) {
  const LaunchReport& report = event.report;
  Fleet* fleet = FindOrMakeFleet(report.fleet());
  if (fleet == nullptr) {
    return Answer(grpc::StatusCode::RESOURCE_EXHAUSTED,
                  "there are " + std::to_string(kMaxFleets) + " fleets already, the limit");
  }
  fleet->heard = true;
  if (report.state() == LAUNCH_ENDED) {
    ReportEnded(*fleet, report);
  } else {
    ReportRunning(*fleet, report);
  }
  Reply reply{grpc::Status::OK, "", fleet->name, {}};
  const ClosedLaunch* closed = FindClosed(*fleet, report.launch_id());
  reply.directive.set_fenced(closed != nullptr && closed->phase == LaunchPhase::kFenced);
  reply.directive.set_ending(fleet->launch.id == report.launch_id() &&
                             !fleet->launch.stuck.empty());
  if (fleet->launch.id == report.launch_id() && fleet->launch.phase == LaunchPhase::kLive) {
    reply.directive.set_leaving(fleet->launch.leaving);
    if (fleet->launch.job_id.empty()) {
      reply.directive.set_idle_seconds(now_.uptime - fleet->launch.idle_since);
    }
  }
  for (const std::string& host : HostsToLeaveOut(state_, *fleet)) {
    reply.directive.add_exclude_hosts(host);
  }
  effects_.reply = std::move(reply);
}

void Machine::CountFailure(const std::string& name, double failures, const std::string& what) {
  Host& host = state_.hosts[name];
  host.name = name;
  host.failures = std::max(0.0, HostFailures(host, now_.unix_time) + failures);
  host.counted_at = now_.unix_time;
  if (!what.empty()) host.last = what;
  // Failures within some minutes count as many as they are.
  const bool many = settings_.host_failures != 0 && host.failures > settings_.host_failures - 0.5;
  if (many && !host.left_out) Warn("host " + name + " is left out of the next starts: " + what);
  host.left_out = many || (host.left_out && host.failures >= 1);
  effects_.store_hosts.insert(name);
}

void Machine::BlameHosts(const Launch& launch, Job& job) {
  std::set<std::string> all, blamed;
  for (const Rank& rank : launch.ranks) all.insert(rank.host);
  for (const uint32_t r : BlamedRanks(launch, job.attempt_ranks)) {
    if (!launch.ranks[r].host.empty()) blamed.insert(launch.ranks[r].host);
  }
  // What is wrong with all of them is not wrong with one; and a fleet of one host has no other.
  if (blamed.size() == all.size()) return;
  for (const std::string& host : blamed) {
    if (!state_.hosts.contains(host) && state_.hosts.size() >= kMaxHosts) continue;
    CountFailure(host, 1, "attempt " + std::to_string(job.attempt) + " of job " + job.id);
    job.blamed.push_back(host);
  }
}

void Machine::AcquitHosts(Job& job) {
  for (const std::string& host : job.blamed) {
    if (state_.hosts.contains(host)) CountFailure(host, -1, "");
  }
  job.blamed.clear();
}

void Machine::ForgiveHosts() {
  constexpr double kForgotten = 0.05;
  for (auto host = state_.hosts.begin(); host != state_.hosts.end();) {
    if (host->second.counted_at > now_.unix_time) {
      // The clock was put back. Without this nothing would be forgotten before that time comes
      // again.
      host->second.counted_at = now_.unix_time;
      effects_.store_hosts.insert(host->first);
    }
    const double failures = HostFailures(host->second, now_.unix_time);
    if (host->second.left_out && failures < 1) {
      host->second.left_out = false;
      effects_.store_hosts.insert(host->first);
      Say("host " + host->first + " takes part in starts again");
    }
    if (failures >= kForgotten) {
      ++host;
      continue;
    }
    effects_.store_hosts.insert(host->first);
    host = state_.hosts.erase(host);
  }
}

void Machine::ReportEnded(Fleet& fleet, const LaunchReport& report) {
  Launch& launch = fleet.launch;
  const std::string exit = report.exit().empty() ? "no reason was given" : report.exit();
  if (launch.id == report.launch_id() && launch.phase == LaunchPhase::kLive) {
    launch.supervised = true;
    return CloseLaunch(fleet, LaunchPhase::kEnded, exit, /*faulty=*/!report.no_fault());
  }
  if (launch.id.empty()) {
    launch.id = report.launch_id();
    launch.exit = exit;
    launch.supervised = true;
  }
  RememberClosed(fleet, report.launch_id(), LaunchPhase::kEnded);
}

void Machine::ReportRunning(Fleet& fleet, const LaunchReport& report) {
  if (!AdoptLaunch(fleet, report.launch_id()).empty()) return;
  if (!fleet.launch.supervised) {
    fleet.launch.supervised = true;
    Store(fleet);
  }
  if (report.give_back()) Leave(fleet);
}

void Machine::Leave(Fleet& fleet) {
  Launch& launch = fleet.launch;
  if (!launch.leaving) {
    launch.leaving = true;
    effects_.queue_changed = true;
    Say("fleet " + fleet.name + " is given back");
  }
  if (launch.job_id.empty()) return Dismiss(launch);
  Job& job = state_.jobs.at(launch.job_id);
  // One that is asked to stop already leaves the launch too.
  if (job.stop != Stop::kNone) return;
  const std::string reason = "its fleet " + fleet.name +
                             " is given back; waits until its ranks have saved a checkpoint and "
                             "stopped";
  effects_.job_lines.push_back({job.id, job.attempt, 0, reason});
  StopAttempt(job, Stop::kGivenBack, reason);
}

void Machine::Dismiss(const Launch& launch) {
  for (const Rank& rank : launch.ranks) {
    // One that works for another coordinator is left in peace.
    if (rank.stream == 0 || !rank.report.job_id().empty()) continue;
    Send send{rank.stream, {}};
    send.command.mutable_shutdown()->set_reason("its fleet is given back");
    effects_.sends.push_back(std::move(send));
  }
}

void Machine::On(const TickEvent&) {
  for (auto& [name, fleet] : state_.fleets) {
    if (fleet.launch.phase != LaunchPhase::kLive) continue;
    CheckSilence(fleet);
    CheckStragglers(fleet.launch);
    if (!fleet.launch.job_id.empty()) CheckRunTime(state_.jobs.at(fleet.launch.job_id));
  }
  ForgiveHosts();
  GiveUpTraces();
  // Pauses and patience come to their end.
  Schedule();
}

void Machine::CheckSilence(Fleet& fleet) {
  Launch& launch = fleet.launch;
  bool found = false;
  for (uint32_t r = 0; r < launch.world_size; ++r) {
    Rank& rank = launch.ranks[r];
    const double silence = now_.uptime - rank.heard_at;
    if (rank.lost || silence <= settings_.lost_after) continue;
    rank.lost = true;
    found = true;
    WarnOf(launch, r,
           "rank " + std::to_string(r) + " of fleet " + fleet.name +
               (rank.host.empty() ? "" : " on " + rank.host) + " has been silent for " +
               Seconds(silence) + Position(rank.report));
  }
  if (!found) return;
  effects_.queue_changed = true;
  if (!launch.job_id.empty()) UpdateVisibility(state_.jobs.at(launch.job_id));
}

void Machine::CheckStragglers(Launch& launch) {
  if (launch.job_id.empty()) return;
  const Job& job = state_.jobs.at(launch.job_id);
  for (const uint32_t r : UpdateStragglers(&launch, job.attempt_ranks, now_.uptime)) {
    WarnOf(launch, r, DescribeStraggler(launch, job.attempt_ranks, r));
  }
}

void Machine::WarnOf(const Launch& launch, uint32_t rank, const std::string& text) {
  Warn(text);
  if (launch.job_id.empty()) return;
  const Job& job = state_.jobs.at(launch.job_id);
  if (rank >= job.attempt_ranks) return;
  effects_.job_lines.push_back({job.id, job.attempt, rank, text});
}

}  // namespace swinfleet::coordinator
