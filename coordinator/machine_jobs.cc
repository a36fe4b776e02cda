// Transitions that users and attempts cause.
#include <glog/logging.h>

#include <algorithm>
#include <utility>

#include "coordinator/machine.h"
#include "coordinator/scheduling.h"
#include "proto/text.h"

namespace swinfleet::coordinator {
namespace {

std::string AttemptName(const Job& job) {
  return "attempt " + std::to_string(job.attempt) + " of job " + job.id;
}

std::string RanksTooMany(const std::string& key, uint32_t wanted, uint32_t largest) {
  return key + " is " + std::to_string(wanted) + ", but the largest fleet that is registered has " +
         Plural(largest, "rank") +
         "; ask for fewer ranks (without parallel.ranks a job takes all of a fleet) or start a "
         "larger fleet first";
}

// The jobs that come after this one and have not ended.
std::vector<std::string> Followers(const ControlState& state, const std::string& job_id) {
  std::vector<std::string> found;
  for (const auto& [key, id] : state.open_jobs) {
    const std::vector<std::string>& after = state.jobs.at(id).after;
    if (std::find(after.begin(), after.end(), job_id) != after.end()) found.push_back(id);
  }
  return found;
}

std::string RunTimeIsOver(const Job& job) {
  return "its attempts have taken the " + job.spec->schedule().max_run_time() +
         " that schedule.max_run_time allows";
}

}  // namespace

grpc::Status Machine::CheckRunFolder(const JobSpec& spec) const {
  const auto owner = state_.run_dirs.find(spec.run_dir());
  if (owner == state_.run_dirs.end()) return grpc::Status::OK;
  const Job& other = state_.jobs.at(owner->second);
  if (!HoldsRunFolder(other)) return grpc::Status::OK;
  return {grpc::StatusCode::FAILED_PRECONDITION, "run_dir " + spec.run_dir() + " belongs to job " +
                                                     other.id + " (" + JobState_Name(other.state) +
                                                     "); choose another folder"};
}

grpc::Status Machine::CheckQuota(const Job& job) const {
  if (settings_.max_user_jobs == 0 && settings_.max_user_ranks == 0) return grpc::Status::OK;
  if (job.user.empty()) {
    return {grpc::StatusCode::INVALID_ARGUMENT,
            "this coordinator has quotas for users, and the request names none "
            "(SubmitJobRequest.user)"};
  }
  const auto load = state_.users.find(job.user);
  const uint32_t jobs = load == state_.users.end() ? 0 : load->second.jobs;
  if (settings_.max_user_jobs != 0 && jobs >= settings_.max_user_jobs) {
    return {grpc::StatusCode::RESOURCE_EXHAUSTED,
            "user " + job.user + " has " + std::to_string(jobs) +
                " jobs that wait or run, as many as this coordinator allows (--max-user-jobs); "
                "submit again when one has ended, or cancel one"};
  }
  const uint32_t least = LeastRanks(job);
  if (settings_.max_user_ranks == 0 || least <= settings_.max_user_ranks) return grpc::Status::OK;
  return {grpc::StatusCode::INVALID_ARGUMENT,
          "the job needs " + std::to_string(least) + " ranks, and a user may have " +
              std::to_string(settings_.max_user_ranks) +
              " at once on this coordinator (--max-user-ranks); ask for fewer in parallel.ranks"};
}

grpc::Status Machine::CheckRanks(const Job& job) const {
  const uint32_t largest = LargestFleet(state_);
  const uint32_t least = LeastRanks(job);
  if (largest == 0 || least <= largest) return grpc::Status::OK;
  return {grpc::StatusCode::FAILED_PRECONDITION,
          RanksTooMany(job.queue.min_ranks == 0 ? "parallel.ranks" : "schedule.min_ranks", least,
                       largest)};
}

grpc::Status Machine::FindAfter(const JobSpec& spec, std::vector<std::string>* after) const {
  for (const std::string& name : spec.schedule().after()) {
    const Job* found = nullptr;
    if (const auto job = state_.jobs.find(name); job != state_.jobs.end()) found = &job->second;
    for (auto one = state_.job_order.rbegin(); found == nullptr && one != state_.job_order.rend();
         ++one) {
      const Job& job = state_.jobs.at(one->second);
      if (job.durable && job.spec->name() == name) found = &job;
    }
    if (found == nullptr || !found->durable) {
      return {grpc::StatusCode::FAILED_PRECONDITION,
              "schedule.after names " + name +
                  ", but there is no job of that id or name; submit that one first"};
    }
    if (IsEnded(found->state) && found->state != SUCCEEDED) {
      return {grpc::StatusCode::FAILED_PRECONDITION,
              "schedule.after names " + NameJob(*found) + ", which is " +
                  JobState_Name(found->state) +
                  " and will not succeed; submit it anew and name the new one"};
    }
    after->push_back(found->id);
  }
  return grpc::Status::OK;
}

void Machine::On(const SubmitEvent& event) {
  if (const auto known = state_.submissions.find(event.submission_id);
      known != state_.submissions.end()) {
    return AnswerJob(known->second);
  }
  if (state_.open_jobs.size() >= settings_.max_open_jobs) {
    return Answer(grpc::StatusCode::RESOURCE_EXHAUSTED,
                  std::to_string(settings_.max_open_jobs) +
                      " jobs wait or run already, which is this coordinator's limit "
                      "(--max-open-jobs); submit again when some have ended");
  }
  Job job;
  job.spec = event.spec;
  job.user = event.user;
  job.run_dir = event.spec->run_dir();
  job.wanted_ranks = event.spec->parallel().ranks();
  // What is wrong with it was said before the submission came here.
  ReadQueueSettings(*event.spec, &job.queue);
  grpc::Status status = CheckRunFolder(*event.spec);
  if (status.ok()) status = CheckQuota(job);
  if (status.ok()) status = CheckRanks(job);
  if (status.ok()) status = FindAfter(*event.spec, &job.after);
  if (!status.ok()) return Answer(status.error_code(), status.error_message());
  job.number = state_.next_number++;
  job.id = "j" + std::to_string(job.number) + "-" + event.id_suffix;
  job.submission_id = event.submission_id;
  job.submitted_at = now_.unix_time;
  state_.job_order[job.number] = job.id;
  state_.open_jobs[KeyOf(job)] = job.id;
  state_.submissions[job.submission_id] = job.id;
  state_.run_dirs[job.run_dir] = job.id;
  ChangeLoad(&state_, job.user, 1, 0);
  effects_.store_jobs.insert(job.id);
  AnswerJob(job.id);
  state_.jobs.emplace(job.id, job);
}

void Machine::On(const StoredEvent& event) {
  Job& job = state_.jobs.at(event.job_id);
  CHECK(!job.durable) << job.id;
  job.durable = true;
  job.waits_since = now_.uptime;
  UpdateWaiting(&state_, job);
  effects_.queue_changed = true;
  Changed(job);
  Say("job " + job.id + " is queued, run_dir " + job.run_dir);
  Schedule();
}

void Machine::On(const NotStoredEvent& event) {
  const Job& job = state_.jobs.at(event.job_id);
  CHECK(!job.durable && job.attempt == 0) << job.id;
  state_.job_order.erase(job.number);
  // The one that it comes after may have failed meanwhile, and it with it.
  if (!IsEnded(job.state)) {
    state_.open_jobs.erase(KeyOf(job));
    ChangeLoad(&state_, job.user, -1, 0);
  }
  state_.submissions.erase(job.submission_id);
  state_.run_dirs.erase(job.run_dir);
  state_.jobs.erase(event.job_id);
}

void Machine::On(const CancelEvent& event) {
  const auto found = state_.jobs.find(event.job_id);
  if (found == state_.jobs.end() || !found->second.durable) {
    return Answer(grpc::StatusCode::NOT_FOUND, "there is no job " + event.job_id);
  }
  Job& job = found->second;
  if (job.state == SUCCEEDED || job.state == FAILED) {
    return Answer(grpc::StatusCode::FAILED_PRECONDITION,
                  "job " + job.id + " has ended already: " + JobState_Name(job.state));
  }
  AnswerJob(job.id);
  if (job.state == CANCELLED || job.state == CANCELLING) return;
  if (!job.attempt_open) return End(job, CANCELLED, "cancelled before it was running again");
  StopAttempt(job, Stop::kCancelled,
              "cancellation was asked for; waits until its ranks have stopped");
}

void Machine::On(const CheckpointEvent& event) {
  Rank* sender = Sender(event.stream);
  if (sender == nullptr) return;
  Heard(event.stream, *sender);
  const CheckpointReport& report = event.checkpoint;
  const Job* known = AttemptOfStream(state_, event.stream, report.job_id(), report.attempt());
  if (known == nullptr || !known->attempt_open) return;
  Job& job = state_.jobs.at(known->id);
  // A report that comes again, or that an earlier one of the same attempt overtook, says nothing
  // new. A new attempt may have had to start from an older checkpoint than the newest one (because
  // that was damaged), so its first one counts whatever its step.
  if (report.path() == job.last_checkpoint) return;
  if (job.last_checkpoint_attempt == job.attempt && report.step() < job.last_checkpoint_step)
    return;
  if (report.step() > job.last_checkpoint_step) {
    job.deaths = 0;
    job.blamed.clear();
  }
  job.last_checkpoint = report.path();
  job.last_checkpoint_step = report.step();
  job.last_checkpoint_attempt = job.attempt;
  Store(job);
}

void Machine::On(const AttemptEndedEvent& event) {
  Rank* sender = Sender(event.stream);
  if (sender == nullptr) return;
  Heard(event.stream, *sender);
  const AttemptEnded& ended = event.ended;
  // Always acknowledged: the sender repeats itself until it is, and what concerns no open attempt
  // concerns nobody.
  Send acknowledgement{event.stream, {}};
  acknowledgement.command.mutable_end_acknowledged()->set_job_id(ended.job_id());
  acknowledgement.command.mutable_end_acknowledged()->set_attempt(ended.attempt());
  effects_.sends.push_back(acknowledgement);

  if (state_.streams.at(event.stream).rank != 0) return;
  // All its ranks are idle again, whether or not their own heartbeats said so yet.
  for (Rank& rank : FleetOfStream(event.stream).launch.ranks) {
    if (!WorksOn(rank, ended.job_id(), ended.attempt())) continue;
    rank.report.clear_job_id();
    rank.report.clear_attempt();
  }
  const Job* job = AttemptOfStream(state_, event.stream, ended.job_id(), ended.attempt());
  if (job != nullptr && job->attempt_open) TakeOutcome(state_.jobs.at(job->id), ended);
  effects_.queue_changed = true;
  Schedule();
  const Launch& launch = FleetOfStream(event.stream).launch;
  if (launch.leaving && launch.job_id.empty()) Dismiss(launch);
}

void Machine::TakeOutcome(Job& job, const AttemptEnded& ended) {
  const std::string& message = ended.message();
  switch (ended.outcome()) {
    case ATTEMPT_SUCCEEDED:
      return End(job, SUCCEEDED, message.empty() ? "finished" : message);
    case ATTEMPT_CANCELLED:
      switch (job.stop) {
        case Stop::kCancelled:
          return End(job, CANCELLED, "cancelled");
        case Stop::kPreempted:
          ++job.preemptions;
          return Yield(job, "made room for a job of higher priority");
        case Stop::kGivenBack:
          return Yield(job, "gave back its fleet");
        case Stop::kRunTime:
          return End(job, FAILED, RunTimeIsOver(job));
        case Stop::kNone:
          break;
      }
      return AttemptDied(job, message.empty() ? "its ranks stopped without being asked" : message);
    default:
      return End(job, FAILED, message.empty() ? "failed without a message" : message);
  }
}

void Machine::Schedule() {
  while (const auto placement = NextPlacement(state_, settings_, now_.uptime)) {
    StartAttempt(state_.jobs.at(placement->job_id), state_.fleets.at(placement->fleet),
                 placement->ranks);
  }
  while (const auto preemption = NextPreemption(state_, settings_, now_.uptime)) {
    const Job& other = state_.jobs.at(preemption->job_id);
    const std::string reason = "makes room for " + NameJob(other) + " of priority " +
                               std::to_string(other.queue.priority) +
                               "; waits until its ranks have saved a checkpoint and stopped";
    Job& victim = state_.jobs.at(preemption->victim);
    effects_.job_lines.push_back({victim.id, victim.attempt, 0, reason});
    StopAttempt(victim, Stop::kPreempted, reason);
  }
}

void Machine::StartAttempt(Job& job, Fleet& fleet, uint32_t ranks) {
  CHECK(IsWaiting(job)) << job.id;
  CHECK(IsAssignable(fleet.launch)) << fleet.name;
  job.attempt += 1 + job.attempt_gap;
  job.skipped_attempts += std::exchange(job.attempt_gap, 0);
  job.attempt_open = true;
  job.state = RUNNING;
  job.fleet = fleet.name;
  job.launch_id = fleet.launch.id;
  job.attempt_ranks = ranks;
  job.reason = "attempt " + std::to_string(job.attempt) + " on " + Plural(ranks, "rank") +
               " of fleet " + fleet.name;
  if (ranks < job.wanted_ranks) {
    job.reason += ", fewer than the " + std::to_string(job.wanted_ranks) + " it asks for";
  }
  if (!job.last_checkpoint.empty()) job.reason += ", from " + job.last_checkpoint;
  if (job.started_at == 0) job.started_at = now_.unix_time;
  job.clocked = now_.unix_time;
  job.clocked_uptime = now_.uptime;
  ChangeLoad(&state_, job.user, 0, ranks);
  fleet.launch.job_id = job.id;
  for (Rank& rank : fleet.launch.ranks) rank.own = OwnWork{};
  Store(job);
  effects_.queue_changed = true;
  Say(AttemptName(job) + " starts: " + job.reason);
  for (const Rank& rank : fleet.launch.ranks) SendAssignment(job, rank.stream);
}

void Machine::StopAttempt(Job& job, Stop stop, const std::string& reason) {
  CHECK(job.attempt_open && stop != Stop::kNone) << job.id;
  job.stop = stop;
  job.state = stop == Stop::kCancelled ? CANCELLING : STOPPING;
  job.reason = reason;
  Store(job);
  Say("job " + job.id + ": " + reason);
  for (const Rank& rank : state_.fleets.at(job.fleet).launch.ranks) {
    if (rank.stream != 0) SendCancel(job, rank.stream);
  }
}

void Machine::Yield(Job& job, const std::string& what) {
  CloseAttempt(job);
  job.state = QUEUED;
  job.reason = "attempt " + std::to_string(job.attempt) + " " + what + "; goes on from " +
               (job.last_checkpoint.empty() ? "the beginning" : job.last_checkpoint);
  effects_.queue_changed = true;
  Store(job);
  Say("job " + job.id + ": " + job.reason);
}

void Machine::CheckRunTime(Job& job) {
  if (job.stop == Stop::kCancelled || job.stop == Stop::kRunTime) return;
  const double limit = job.queue.max_run_seconds;
  if (limit == 0 || RunSeconds(job, now_.uptime) < limit) return;
  const std::string reason =
      RunTimeIsOver(job) + "; waits until its ranks have saved a checkpoint and stopped";
  effects_.job_lines.push_back({job.id, job.attempt, 0, reason});
  StopAttempt(job, Stop::kRunTime, reason);
}

void Machine::SendAssignment(const Job& job, uint64_t stream) {
  Send send{stream, {}};
  Assignment* assignment = send.command.mutable_assignment();
  assignment->set_job_id(job.id);
  assignment->set_attempt(job.attempt);
  *assignment->mutable_spec() = *job.spec;
  assignment->set_ranks(job.attempt_ranks);
  assignment->set_resume_from(job.last_checkpoint);
  assignment->mutable_run_roots()->Assign(settings_.roots.run.begin(), settings_.roots.run.end());
  assignment->mutable_data_roots()->Assign(settings_.roots.data.begin(),
                                           settings_.roots.data.end());
  effects_.sends.push_back(std::move(send));
}

void Machine::SendCancel(const Job& job, uint64_t stream) {
  Send send{stream, {}};
  send.command.mutable_cancel()->set_job_id(job.id);
  send.command.mutable_cancel()->set_attempt(job.attempt);
  effects_.sends.push_back(std::move(send));
}

void Machine::CloseAttempt(Job& job) {
  CHECK(job.attempt_open) << job.id;
  job.run_seconds = RunSeconds(job, now_.uptime);
  job.clocked = now_.unix_time;
  job.clocked_uptime = job.waits_since = now_.uptime;
  job.attempt_open = false;
  job.stop = Stop::kNone;
  job.trace_closes_at = now_.uptime + kTraceGrace;
  ChangeLoad(&state_, job.user, 0, -int64_t{job.attempt_ranks});
  Launch& launch = state_.fleets.at(job.fleet).launch;
  CHECK_EQ(launch.job_id, job.id);
  launch.job_id.clear();
  launch.idle_since = now_.uptime;
}

void Machine::AttemptDied(Job& job, const std::string& why) {
  if (job.stop == Stop::kCancelled) return End(job, CANCELLED, "cancelled; " + why);
  if (job.stop == Stop::kRunTime) return End(job, FAILED, RunTimeIsOver(job) + "; " + why);
  // Somebody ended it on purpose.
  if (job.stop == Stop::kGivenBack) return Yield(job, "ended before it had stopped: " + why);
  CloseAttempt(job);
  ++job.deaths;
  ++job.all_deaths;
  const std::string died = "attempt " + std::to_string(job.attempt) + " died: " + why;
  Warn("job " + job.id + ": " + died);
  effects_.job_lines.push_back({job.id, job.attempt, 0, died});
  if (job.deaths >= kMaxDeaths) {
    AcquitHosts(job);
    return End(job, FAILED,
               std::to_string(job.deaths) +
                   " attempts died without a new checkpoint between them; the last: " + died);
  }
  if (job.queue.max_restarts && job.all_deaths > *job.queue.max_restarts) {
    return End(job, FAILED,
               "schedule.max_restarts allows " + std::to_string(*job.queue.max_restarts) +
                   " restarts after deaths; " + died);
  }
  job.state = RECOVERING;
  job.reason = died;
  job.restart_at = now_.uptime + RestartPause(job);
  effects_.queue_changed = true;
  Store(job);
}

void Machine::EndAlone(Job& job, JobState state, const std::string& reason) {
  CHECK(IsEnded(state) && !IsEnded(job.state)) << job.id << " " << job.state << " " << state;
  if (job.attempt_open) CloseAttempt(job);
  job.state = state;
  job.reason = reason;
  job.ended_at = now_.unix_time;
  state_.open_jobs.erase(KeyOf(job));
  ChangeLoad(&state_, job.user, -1, 0);
  effects_.queue_changed = true;
  Store(job);
  Say("job " + job.id + " ended: " + JobState_Name(state) + ": " + reason);
}

void Machine::End(Job& job, JobState state, const std::string& reason) {
  EndAlone(job, state, reason);
  // Those that wait for it, those that wait for them, and so on.
  std::vector<std::string> ended{job.id};
  while (!ended.empty()) {
    const Job& before = state_.jobs.at(ended.back());
    ended.pop_back();
    for (const std::string& id : Followers(state_, before.id)) {
      Job& follower = state_.jobs.at(id);
      if (state == SUCCEEDED) {
        follower.waits_since = now_.uptime;
        Changed(follower);
        continue;
      }
      EndAlone(follower, FAILED,
               "it comes after " + NameJob(before) + ", which is " + JobState_Name(before.state) +
                   (before.id == job.id ? ": " + reason : ""));
      ended.push_back(id);
    }
  }
}

void Machine::UpdateVisibility(Job& job) {
  if (!job.attempt_open || job.stop != Stop::kNone) return;
  const Launch& launch = state_.fleets.at(job.fleet).launch;
  bool heard = false;
  for (uint32_t r = 0; r < job.attempt_ranks; ++r) heard = heard || !launch.ranks.at(r).lost;
  const JobState state = heard ? RUNNING : RECOVERING;
  Changed(job);
  if (state == job.state) return;
  job.state = state;
  job.reason =
      heard ? "attempt " + std::to_string(job.attempt) + " is heard of again on fleet " + job.fleet
            : "no rank of attempt " + std::to_string(job.attempt) +
                  " is heard of any more; waits for them, for the word that launch " + launch.id +
                  " has ended, or for `swinfleet fence " + job.fleet + "`";
  Warn("job " + job.id + ": " + job.reason);
  Store(job);
}

}  // namespace swinfleet::coordinator
