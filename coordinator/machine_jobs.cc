// Transitions that users and attempts cause.
#include <glog/logging.h>

#include <algorithm>

#include "coordinator/machine.h"
#include "coordinator/scheduling.h"

namespace swinfleet::coordinator {
namespace {

std::string AttemptName(const Job& job) {
  return "attempt " + std::to_string(job.attempt) + " of job " + job.id;
}

std::string RanksTooMany(uint32_t wanted, uint32_t largest) {
  return "parallel.ranks is " + std::to_string(wanted) +
         ", but the largest fleet that is registered has " + std::to_string(largest) +
         (largest == 1 ? " rank" : " ranks") +
         "; ask for fewer ranks (0 takes all of a fleet) or start a larger fleet first";
}

}  // namespace

void Machine::On(const SubmitEvent& event) {
  if (const auto known = state_.submissions.find(event.submission_id);
      known != state_.submissions.end()) {
    return AnswerJob(known->second);
  }
  if (state_.open_jobs.size() >= kMaxOpenJobs) {
    return Answer(
        grpc::StatusCode::RESOURCE_EXHAUSTED,
        std::to_string(kMaxOpenJobs) + " jobs are waiting or running, which is the limit");
  }
  Job job;
  job.run_dir = event.spec->run_dir();
  const auto owner = state_.run_dirs.find(job.run_dir);
  if (owner != state_.run_dirs.end() && HoldsRunFolder(state_.jobs.at(owner->second))) {
    const Job& other = state_.jobs.at(owner->second);
    return Answer(grpc::StatusCode::FAILED_PRECONDITION,
                  "run_dir " + job.run_dir + " belongs to job " + other.id + " (" +
                      JobState_Name(other.state) + "); choose another folder");
  }
  job.wanted_ranks = event.spec->parallel().ranks();
  const uint32_t largest = LargestFleet(state_);
  if (largest > 0 && job.wanted_ranks > largest) {
    return Answer(grpc::StatusCode::FAILED_PRECONDITION, RanksTooMany(job.wanted_ranks, largest));
  }
  job.number = state_.next_number++;
  job.id = "j" + std::to_string(job.number) + "-" + event.id_suffix;
  job.submission_id = event.submission_id;
  job.spec = event.spec;
  job.submitted_at = now_.unix_time;
  state_.job_order[job.number] = job.id;
  state_.open_jobs[job.number] = job.id;
  state_.submissions[job.submission_id] = job.id;
  state_.run_dirs[job.run_dir] = job.id;
  effects_.store_jobs.insert(job.id);
  AnswerJob(job.id);
  state_.jobs.emplace(job.id, job);
}

void Machine::On(const StoredEvent& event) {
  Job& job = state_.jobs.at(event.job_id);
  CHECK(!job.durable) << job.id;
  job.durable = true;
  effects_.queue_changed = true;
  Changed(job);
  Say("job " + job.id + " is queued, run_dir " + job.run_dir);
  Schedule();
}

void Machine::On(const NotStoredEvent& event) {
  const Job& job = state_.jobs.at(event.job_id);
  CHECK(!job.durable && job.attempt == 0) << job.id;
  state_.job_order.erase(job.number);
  state_.open_jobs.erase(job.number);
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
  job.state = CANCELLING;
  job.reason = "cancellation was asked for; waits until its ranks have stopped";
  Store(job);
  for (const Rank& rank : state_.fleets.at(job.fleet).launch.ranks) {
    if (rank.stream != 0) SendCancel(job, rank.stream);
  }
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
  if (report.step() > job.last_checkpoint_step) job.deaths = 0;
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
}

void Machine::TakeOutcome(Job& job, const AttemptEnded& ended) {
  const std::string& message = ended.message();
  switch (ended.outcome()) {
    case ATTEMPT_SUCCEEDED:
      return End(job, SUCCEEDED, message.empty() ? "finished" : message);
    case ATTEMPT_CANCELLED:
      if (job.state == CANCELLING) return End(job, CANCELLED, "cancelled");
      return AttemptDied(job, message.empty() ? "its ranks stopped without being asked" : message);
    default:
      return End(job, FAILED, message.empty() ? "failed without a message" : message);
  }
}

void Machine::Schedule() {
  while (const auto placement = NextPlacement(state_)) {
    StartAttempt(state_.jobs.at(placement->job_id), state_.fleets.at(placement->fleet));
  }
}

namespace {

// The ranks that an attempt takes of a launch: those that the job names, or all that have a
// micro-batch to work on.
uint32_t RanksFor(const Job& job, uint32_t world_size) {
  if (job.wanted_ranks != 0) return job.wanted_ranks;
  const TrainSpec& train = job.spec->train();
  if (!train.has_global_batch() || train.micro_batch() == 0) return world_size;
  return std::clamp(train.global_batch() / train.micro_batch(), uint32_t{1}, world_size);
}

}  // namespace

void Machine::StartAttempt(Job& job, Fleet& fleet) {
  CHECK(IsWaiting(job)) << job.id;
  CHECK(IsAssignable(fleet.launch)) << fleet.name;
  ++job.attempt;
  job.attempt_open = true;
  job.state = RUNNING;
  job.fleet = fleet.name;
  job.launch_id = fleet.launch.id;
  job.attempt_ranks = RanksFor(job, fleet.launch.world_size);
  job.reason = "attempt " + std::to_string(job.attempt) + " on " +
               std::to_string(job.attempt_ranks) + (job.attempt_ranks == 1 ? " rank" : " ranks") +
               " of fleet " + fleet.name;
  if (!job.last_checkpoint.empty()) job.reason += ", from " + job.last_checkpoint;
  if (job.started_at == 0) job.started_at = now_.unix_time;
  fleet.launch.job_id = job.id;
  for (Rank& rank : fleet.launch.ranks) rank.own = OwnWork{};
  Store(job);
  effects_.queue_changed = true;
  Say(AttemptName(job) + " starts: " + job.reason);
  for (const Rank& rank : fleet.launch.ranks) SendAssignment(job, rank.stream);
}

void Machine::SendAssignment(const Job& job, uint64_t stream) {
  Send send{stream, {}};
  Assignment* assignment = send.command.mutable_assignment();
  assignment->set_job_id(job.id);
  assignment->set_attempt(job.attempt);
  *assignment->mutable_spec() = *job.spec;
  assignment->set_ranks(job.attempt_ranks);
  assignment->set_resume_from(job.last_checkpoint);
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
  job.attempt_open = false;
  Launch& launch = state_.fleets.at(job.fleet).launch;
  CHECK_EQ(launch.job_id, job.id);
  launch.job_id.clear();
}

void Machine::AttemptDied(Job& job, const std::string& why) {
  if (job.state == CANCELLING) return End(job, CANCELLED, "cancelled; " + why);
  CloseAttempt(job);
  ++job.deaths;
  const std::string died = "attempt " + std::to_string(job.attempt) + " died: " + why;
  Warn("job " + job.id + ": " + died);
  effects_.job_lines.push_back({job.id, job.attempt, 0, died});
  if (job.deaths >= kMaxDeaths) {
    return End(job, FAILED,
               std::to_string(job.deaths) +
                   " attempts died without a new checkpoint between them; the last: " + died);
  }
  job.state = RECOVERING;
  job.reason = died;
  effects_.queue_changed = true;
  Store(job);
}

void Machine::End(Job& job, JobState state, const std::string& reason) {
  CHECK(IsEnded(state) && !IsEnded(job.state)) << job.id << " " << job.state << " " << state;
  if (job.attempt_open) CloseAttempt(job);
  job.state = state;
  job.reason = reason;
  job.ended_at = now_.unix_time;
  state_.open_jobs.erase(job.number);
  effects_.queue_changed = true;
  Store(job);
  Say("job " + job.id + " ended: " + JobState_Name(state) + ": " + reason);
}

void Machine::UpdateVisibility(Job& job) {
  if (!job.attempt_open || job.state == CANCELLING) return;
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
