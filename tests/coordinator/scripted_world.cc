#include "tests/coordinator/scripted_world.h"

#include <signal.h>
#include <sys/wait.h>

#include <algorithm>
#include <chrono>
#include <sstream>

namespace swinfleet::coordinator {
namespace {

// For a machine that is busy with other things.
constexpr double kPatience = 60;
// How often a step may fail because of one death of the coordinator.
constexpr int kTries = 3;

std::chrono::steady_clock::time_point After(double seconds) {
  return std::chrono::steady_clock::now() +
         std::chrono::duration_cast<std::chrono::steady_clock::duration>(
             std::chrono::duration<double>(seconds));
}

bool IsEnd(JobState state) { return state == SUCCEEDED || state == FAILED || state == CANCELLED; }

}  // namespace

ScriptedWorld::ScriptedWorld(Nursery* nursery, KillPoint* point, std::string store)
    : nursery_(nursery), point_(point), store_(std::move(store)) {}

ScriptedWorld::~ScriptedWorld() {
  if (alive_) nursery_->Stop(SIGKILL);
}

void ScriptedWorld::Fail(const std::string& what) {
  if (fault_.empty()) fault_ = what;
}

void ScriptedWorld::Insist(const std::string& what, const std::function<bool()>& act) {
  for (int i = 0; i < kTries && fault_.empty(); ++i) {
    if (act()) return;
    if (!Revive()) return Fail(what + ": failed, though the coordinator lives");
  }
  Fail(what + ": failed again and again");
}

bool ScriptedWorld::Begin() {
  const std::optional<std::string> address = nursery_->Begin(store_);
  alive_ = true;
  if (!address) return false;
  address_ = *address;
  user_ = std::make_unique<FakeUser>(address_);
  return true;
}

bool ScriptedWorld::Revive() {
  if (!IsKilled()) return false;
  point_->at = 0;
  const int status = nursery_->Reap();
  alive_ = false;
  if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL) {
    Fail("the coordinator ended by itself, wait status " + std::to_string(status));
    return false;
  }
  if (!Begin()) {
    Fail("the coordinator does not start again");
    return false;
  }
  CheckNothingLost();
  if (!ConnectAll()) Fail("a rank can't come back");
  return fault_.empty();
}

void ScriptedWorld::CheckNothingLost() {
  for (const auto& [name, id] : acknowledged_) {
    JobStatus now;
    const grpc::Status status = user_->TryGet(id, &now);
    if (!status.ok()) return Fail("acknowledged job " + name + " is lost");
    const auto& attempts = assigned_[id];
    if (!attempts.empty() && now.attempt() < attempts.rbegin()->first) {
      return Fail("an attempt of job " + name + " was forgotten");
    }
    const auto seen = seen_.find(name);
    if (seen == seen_.end()) continue;
    const JobStatus& before = seen->second;
    if (now.attempt() < before.attempt() || now.preemptions() < before.preemptions() ||
        now.last_checkpoint_step() < before.last_checkpoint_step() ||
        (IsEnd(before.state()) && now.state() != before.state())) {
      return Fail("job " + name + " was " + before.ShortDebugString() + " and is " +
                  now.ShortDebugString());
    }
  }
}

// ---- Ranks ----

std::vector<ScriptedWorld::Rank*> ScriptedWorld::RanksOf(const std::string& fleet) {
  std::vector<Rank*> found;
  for (const auto& rank : ranks_) {
    if (rank->fleet == fleet) found.push_back(rank.get());
  }
  return found;
}

ScriptedWorld::Rank& ScriptedWorld::RankZero(const std::string& fleet) {
  return *RanksOf(fleet).at(0);
}

bool ScriptedWorld::Connect(Rank* rank) {
  rank->link = std::make_unique<FakeRank>(address_, rank->fleet, rank->launch, rank->number,
                                          rank->world_size);
  rank->link->hello.set_supervised(true);
  rank->link->hello.set_job_id(rank->job);
  rank->link->hello.set_attempt(rank->attempt);
  rank->link->Connect();
  return Hear(rank->link.get()).has_welcome();
}

bool ScriptedWorld::ConnectAll() {
  for (const auto& rank : ranks_) {
    if (!Connect(rank.get())) return false;
  }
  for (const auto& rank : ranks_) {
    for (const auto& message : {rank->progress, rank->checkpoint, rank->trace, rank->ended}) {
      if (message) rank->link->Say(*message);
    }
  }
  return true;
}

WorkerCommand ScriptedWorld::Hear(FakeRank* link) const {
  const auto deadline = After(kPatience);
  while (std::chrono::steady_clock::now() < deadline) {
    // The stream may never have reached a coordinator that is dead by now.
    WorkerCommand command = link->Next(0.2);
    if (command.command_case() != 0 || IsKilled() || link->AwaitEnd(0)) return command;
  }
  return {};
}

bool ScriptedWorld::Obey(Rank* rank) {
  const WorkerCommand command = Hear(rank->link.get());
  switch (command.command_case()) {
    case WorkerCommand::kAssignment:
      TakeAssignment(rank, command.assignment());
      return true;
    case WorkerCommand::kCancel:
      rank->stopping = rank->stopping || (command.cancel().job_id() == rank->job &&
                                          command.cancel().attempt() == rank->attempt);
      return true;
    case WorkerCommand::kTrace:
      if (command.trace().job_id() == rank->job && command.trace().attempt() == rank->attempt) {
        rank->asked = command.trace().request_id();
      }
      return true;
    case WorkerCommand::kEndAcknowledged:
      rank->ended.reset();
      return true;
    case WorkerCommand::kRejected:
      Fail("a rank of launch " + rank->launch + " is turned away: " + command.rejected().reason());
      return false;
    default:
      return false;
  }
}

void ScriptedWorld::TakeAssignment(Rank* rank, const Assignment& assignment) {
  const std::pair key(assignment.job_id(), assignment.attempt());
  std::ostringstream name;
  name << "attempt " << key.second << " of job " << key.first;
  auto& attempts = assigned_[key.first];
  const auto known = attempts.find(key.second);
  if (known != attempts.end() && known->second != rank->launch) {
    Fail(name.str() + " is on two launches");
  }
  if (known == attempts.end() && !attempts.empty() && attempts.rbegin()->first > key.second) {
    Fail(name.str() + " comes after a later one");
  }
  attempts.emplace(key.second, rank->launch);
  // One that comes again is known.
  if (!rank->taken.insert(key).second) return;
  if (!rank->job.empty()) Fail(name.str() + " comes to a rank that is at work");
  for (const auto& other : ranks_) {
    if (other->job == key.first &&
        (other->launch != rank->launch || other->attempt != key.second)) {
      Fail(name.str() + " starts while an older one is at work");
    }
  }
  rank->job = key.first;
  rank->attempt = key.second;
  rank->stopping = false;
  rank->progress.reset();
  rank->checkpoint.reset();
}

// ---- The script ----

void ScriptedWorld::Start() {
  if (!Begin() && !Revive()) Fail("the coordinator does not start");
}

void ScriptedWorld::Restart() {
  if (!fault_.empty()) return;
  // An idle client would not notice that it is to close its connection, which is waited for.
  user_.reset();
  for (const auto& rank : ranks_) rank->link.reset();
  const int status = nursery_->Stop(SIGTERM);
  alive_ = false;
  const bool killed = IsKilled();
  if (killed) point_->at = 0;
  const bool good = killed ? WIFSIGNALED(status) : WIFEXITED(status) && WEXITSTATUS(status) == 0;
  if (!good) return Fail("the coordinator's end has wait status " + std::to_string(status));
  if (!Begin()) {
    if (!Revive()) Fail("the coordinator does not start again");
    return;
  }
  CheckNothingLost();
  Insist("coming back", [this] { return ConnectAll(); });
}

void ScriptedWorld::Submit(const std::string& name, const std::string& folder,
                           const std::function<void(JobSpec*)>& change) {
  SubmitJobRequest request = FakeUser::Request("/runs/" + folder);
  request.set_submission_id("submission-" + name);
  request.mutable_spec()->set_name(name);
  request.mutable_spec()->mutable_schedule()->set_restart_pause("0s");
  change(request.mutable_spec());
  Insist("submitting " + name, [&] {
    SubmitJobResponse response;
    if (!user_->Submit(request, &response).ok()) return false;
    acknowledged_[name] = response.job_id();
    // Again, as after an answer that got lost.
    SubmitJobResponse again;
    if (!user_->Submit(request, &again).ok()) return false;
    if (again.job_id() != response.job_id()) Fail("job " + name + " was made twice");
    return true;
  });
}

void ScriptedWorld::Cancel(const std::string& name) {
  Insist("cancelling " + name, [&] {
    grpc::ClientContext context;
    CancelJobRequest request;
    request.set_job_id(acknowledged_[name]);
    return user_->coordinator->CancelJob(&context, request, &seen_[name]).ok();
  });
}

void ScriptedWorld::Launch(const std::string& fleet, const std::string& launch, uint32_t ranks) {
  const auto report = [&] {
    LaunchDirective directive;
    return user_->Report(fleet, launch, LAUNCH_RUNNING, &directive).ok();
  };
  Insist("launching " + launch, report);
  for (uint32_t r = 0; r < ranks; ++r) {
    ranks_.push_back(std::make_unique<Rank>());
    Rank* rank = ranks_.back().get();
    rank->fleet = fleet;
    rank->launch = launch;
    rank->number = r;
    rank->world_size = ranks;
    // Where the coordinator dies, this rank comes back with the others.
    Insist("connecting", [&] { return rank->link != nullptr || Connect(rank); });
  }
}

void ScriptedWorld::Die(const std::string& fleet, uint32_t first) {
  if (!fault_.empty()) return;
  const std::string launch = RankZero(fleet).launch;
  const size_t ranks = RanksOf(fleet).size();
  const auto part = std::stable_partition(ranks_.begin(), ranks_.end(), [&](const auto& rank) {
    return rank->fleet != fleet || rank->number != first;
  });
  ranks_.erase(part, ranks_.end());
  Insist("losing a rank of " + launch, [&] {
    ListFleetsResponse fleets;
    for (;;) {
      grpc::ClientContext context;
      if (!user_->coordinator->ListFleets(&context, {}, &fleets).ok()) return false;
      for (const FleetStatus& status : fleets.fleets()) {
        if (status.name() == fleet && status.connected_ranks() + 1 == ranks) return true;
      }
    }
  });
  std::erase_if(ranks_, [&](const auto& rank) { return rank->fleet == fleet; });
  Insist("the end of launch " + launch, [&] {
    LaunchDirective directive;
    return user_->Report(fleet, launch, LAUNCH_ENDED, &directive).ok();
  });
}

void ScriptedWorld::AwaitAttempt(const std::string& name, uint32_t attempt,
                                 const std::string& fleet) {
  const std::string& id = acknowledged_[name];
  Insist("attempt of " + name, [&] {
    for (Rank* rank : RanksOf(fleet)) {
      while (rank->job != id || rank->attempt != attempt) {
        if (!Obey(rank)) return false;
      }
    }
    return true;
  });
}

void ScriptedWorld::AwaitStop(const std::string& fleet) {
  Insist("stopping " + fleet, [&] {
    for (Rank* rank : RanksOf(fleet)) {
      while (!rank->stopping) {
        if (!Obey(rank)) return false;
      }
    }
    return true;
  });
}

void ScriptedWorld::AwaitJob(const std::string& name,
                             const std::function<bool(const JobStatus&)>& wanted) {
  Insist("waiting for " + name, [&] {
    const auto deadline = After(kPatience);
    JobStatus status;
    while (std::chrono::steady_clock::now() < deadline) {
      if (!user_->TryGet(acknowledged_[name], &status).ok()) return false;
      seen_[name] = status;
      if (wanted(status)) return true;
    }
    Fail("waited in vain: " + status.ShortDebugString());
    return false;
  });
}

void ScriptedWorld::AwaitState(const std::string& name, JobState state) {
  AwaitJob(name, [state](const JobStatus& job) { return job.state() == state; });
}

void ScriptedWorld::Progress(const std::string& fleet, uint64_t step) {
  if (!fault_.empty()) return;
  Rank& rank = RankZero(fleet);
  ProgressReport* report = rank.progress.emplace().mutable_progress();
  report->set_job_id(rank.job);
  report->set_attempt(rank.attempt);
  report->mutable_progress()->set_step(step);
  rank.link->Say(*rank.progress);
  AwaitJob(WithNames(rank.job),
           [step](const JobStatus& job) { return job.progress().step() == step; });
}

void ScriptedWorld::Checkpoint(const std::string& fleet, uint64_t step) {
  if (!fault_.empty()) return;
  Rank& rank = RankZero(fleet);
  CheckpointReport* report = rank.checkpoint.emplace().mutable_checkpoint();
  report->set_job_id(rank.job);
  report->set_attempt(rank.attempt);
  report->set_path("/runs/" + WithNames(rank.job) + "/" + std::to_string(step));
  report->set_step(step);
  rank.link->Say(*rank.checkpoint);
  AwaitJob(WithNames(rank.job),
           [step](const JobStatus& job) { return job.last_checkpoint_step() == step; });
}

void ScriptedWorld::Trace(const std::string& name, const std::string& fleet) {
  TraceJobRequest request;
  request.set_job_id(acknowledged_[name]);
  request.set_request_id("trace-" + name);
  Insist("asking for a trace", [&] {
    grpc::ClientContext context;
    return user_->coordinator->TraceJob(&context, request, &seen_[name]).ok();
  });
  Insist("being asked for a trace", [&] {
    for (Rank* rank : RanksOf(fleet)) {
      while (rank->asked != request.request_id()) {
        if (!Obey(rank)) return false;
      }
    }
    return true;
  });
  for (Rank* rank : RanksOf(fleet)) {
    TraceReport* report = rank->trace.emplace().mutable_trace();
    report->set_job_id(rank->job);
    report->set_attempt(rank->attempt);
    report->set_request_id(rank->asked);
    report->mutable_trace()->set_path("/runs/trace-" + std::to_string(rank->number));
    rank->link->Say(*rank->trace);
  }
  AwaitJob(name, [&](const JobStatus& job) {
    if (!job.trace().complete()) return false;
    for (const RankTrace& rank : job.trace().ranks()) {
      if (rank.path() != "/runs/trace-" + std::to_string(rank.rank())) Fail("a trace is lost");
    }
    return job.trace().request_id() == request.request_id();
  });
}

void ScriptedWorld::End(const std::string& fleet, AttemptOutcome outcome) {
  if (!fault_.empty()) return;
  Rank& zero = RankZero(fleet);
  AttemptEnded* ended = zero.ended.emplace().mutable_ended();
  ended->set_job_id(zero.job);
  ended->set_attempt(zero.attempt);
  ended->set_outcome(outcome);
  for (Rank* rank : RanksOf(fleet)) {
    rank->job.clear();
    rank->attempt = 0;
    if (rank != &zero) rank->link->Beat("", 0, 0);
  }
  zero.link->Say(*zero.ended);
  Insist("the end of an attempt", [&] {
    while (zero.ended) {
      if (!Obey(&zero)) return false;
    }
    return true;
  });
}

void ScriptedWorld::ExpectTurnedAway(const std::string& fleet, const std::string& launch) {
  Insist("an old rank", [&] {
    FakeRank rank(address_, fleet, launch, 0, 1);
    rank.Connect();
    const WorkerCommand command = Hear(&rank);
    if (command.has_welcome()) Fail("launch " + launch + " is back from the dead");
    return command.has_rejected();
  });
}

// ---- The end ----

std::string ScriptedWorld::WithNames(std::string text) const {
  for (const auto& [name, id] : acknowledged_) {
    for (size_t at; (at = text.find(id)) != std::string::npos;) text.replace(at, id.size(), name);
  }
  return text;
}

std::string ScriptedWorld::Summary() {
  std::ostringstream text;
  Insist("the summary", [&] {
    text.str("");
    grpc::ClientContext jobs_context, fleets_context;
    ListJobsResponse jobs;
    ListFleetsResponse fleets;
    if (!user_->coordinator->ListJobs(&jobs_context, {}, &jobs).ok()) return false;
    if (!user_->coordinator->ListFleets(&fleets_context, {}, &fleets).ok()) return false;
    for (const JobStatus& job : jobs.jobs()) {
      std::string reason = WithNames(job.reason());
      // Which rank left first is not kept.
      reason = reason.substr(0, reason.find("; the first to leave"));
      text << job.spec().name() << ": " << JobState_Name(job.state()) << " (" << reason
           << "), attempt " << job.attempt() << " on " << job.attempt_ranks() << " of "
           << job.fleet() << ", preemptions " << job.preemptions() << ", checkpoint "
           << job.last_checkpoint() << " of step " << job.last_checkpoint_step() << ", progress "
           << job.progress().step() << ", queue " << job.queue_position() << ", trace "
           << job.trace().request_id() << "\n";
    }
    for (const FleetStatus& fleet : fleets.fleets()) {
      text << fleet.name() << ": " << fleet.launch_id() << " " << fleet.state() << " "
           << fleet.connected_ranks() << " of " << fleet.world_size() << ", "
           << WithNames(fleet.job_id()) << ", " << fleet.last_exit() << "\n";
    }
    return true;
  });
  return text.str();
}

}  // namespace swinfleet::coordinator
