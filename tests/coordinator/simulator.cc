#include "tests/coordinator/simulator.h"

#include <algorithm>

namespace swinfleet::coordinator {
namespace {

std::string Name(std::string prefix, size_t number) {
  return prefix.append(std::to_string(number));
}

// Made-up seconds.
constexpr double kFaultsEnd = 600;
constexpr double kEnd = 6000;
constexpr int kUsualSteps = 20;
// So many that a limit of run time ends the job long before, whatever happens.
constexpr int kManySteps = 500;
// What faults may delay the end of a job that has run too long by.
constexpr double kRunTimeSlack = 700;
constexpr int kCheckpointSteps = 4;
// Of jobs that somebody wants a trace of, so that there is time for it.
constexpr int kTracedSteps = 150;
// What faults may delay a trace by while nobody's connection breaks.
constexpr double kTraceSlack = 200;

}  // namespace

bool Simulator::Launch::dead() const {
  return std::none_of(ranks.begin(), ranks.end(), [](const auto& rank) { return rank.alive; });
}

Simulator::Simulator(uint64_t seed, Mutation mutation) : mutation_(mutation), random_(seed) {}

bool Simulator::Chance(double probability) { return Uniform(0, 1) < probability; }

double Simulator::Uniform(double low, double high) {
  return low + (high - low) * static_cast<double>(random_() >> 11) * 0x1.0p-53;
}

bool Simulator::Faulty() const { return now_ < kFaultsEnd; }

void Simulator::At(double delay, std::function<void()> action) {
  queue_.push({now_ + delay, order_++, std::move(action)});
}

void Simulator::Every(double period, std::function<void()> action) {
  At(Uniform(0.5, 1.5) * period, [this, period, action] {
    action();
    Every(period, action);
  });
}

void Simulator::Violation(const std::string& what) {
  if (violation_.empty()) violation_ = "at " + std::to_string(now_) + ": " + what;
}

std::string Simulator::Run() {
  death_rate_ = Uniform(0, 0.03);
  StartCoordinator();
  const int fleet_count = 1 + static_cast<int>(random_() % 3);
  for (int f = 0; f < fleet_count; ++f) {
    auto fleet = std::make_unique<FleetWorld>();
    fleet->name = Name("f", static_cast<size_t>(f));
    fleet->supervised = Chance(0.7);
    fleet->world_size = 1 + static_cast<uint32_t>(random_() % 3);
    FleetWorld* raw = fleet.get();
    fleets_.push_back(std::move(fleet));
    Every(10, [this, raw] { Supervise(raw); });
  }
  MakeJobs();
  Every(10, [this] {
    if (up_) Deliver(TickEvent{}, nullptr);
  });
  Every(20, [this] { Operate(); });
  Every(8, [this] { InjectFaults(); });
  while (violation_.empty()) {
    const Scheduled next = queue_.top();
    queue_.pop();
    now_ = next.time;
    next.action();
    if (now_ > kFaultsEnd && Finished()) break;
    if (now_ > kEnd) Violation("the queue does not drain");
  }
  return violation_;
}

void Simulator::MakeJobs() {
  uint32_t largest = 0;
  for (const auto& fleet : fleets_) largest = std::max(largest, fleet->world_size);
  if (Chance(0.4)) settings_.max_user_ranks = largest + static_cast<uint32_t>(random_() % 2);
  if (Chance(0.3)) settings_.max_user_jobs = 2 + static_cast<uint32_t>(random_() % 2);
  for (size_t j = 0; j < 7; ++j) {
    auto job = std::make_unique<UserJob>();
    job->submission_id = Name("s", j);
    job->user = Chance(0.5) ? "ann" : "bob";
    job->steps = kUsualSteps;
    job->spec = std::make_shared<JobSpec>();
    job->spec->set_name(Name("n", j));
    job->spec->set_run_dir(Name("/runs/", j));
    QueueSpec* queue = job->spec->mutable_schedule();
    const uint32_t sizes[] = {0, 1, largest};
    job->spec->mutable_parallel()->set_ranks(sizes[random_() % 3]);
    if (job->spec->parallel().ranks() > 1 && Chance(0.5)) {
      queue->set_min_ranks(1 + static_cast<uint32_t>(random_() % 2));
    }
    queue->set_priority(static_cast<int32_t>(random_() % 4) - 1);
    queue->set_preemptible(Chance(0.6));
    if (j > 0 && Chance(0.3)) {
      job->after = users_[random_() % j].get();
      queue->add_after(job->after->spec->name());
    }
    if (Chance(0.25)) {
      queue->set_max_run_time(Chance(0.5) ? "60s" : "2m");
      if (Chance(0.5)) job->steps = kManySteps;
    }
    if (Chance(0.2)) queue->set_max_restarts(static_cast<uint32_t>(random_() % 3));
    if (Chance(0.3)) queue->set_restart_pause(Chance(0.5) ? "10s" : "1m");
    UserJob* raw = job.get();
    users_.push_back(std::move(job));
    At(Uniform(0, 300), [this, raw] { Use(raw); });
    if (Chance(0.15)) At(Uniform(0, 500), [raw] { raw->wants_cancel = true; });
    if (!Chance(0.3)) continue;
    raw->steps = std::max(raw->steps, kTracedSteps);
    raw->of_first_rank = Chance(0.3);
    At(Uniform(0, 400), [raw] { raw->wants_trace = true; });
  }
}

// What is submitted where the coordinator does not heed a setting.
std::shared_ptr<JobSpec> Simulator::MutatedSpec(const UserJob& user) const {
  auto spec = std::make_shared<JobSpec>(*user.spec);
  QueueSpec* queue = spec->mutable_schedule();
  if (mutation_ == Mutation::kPrioritiesIgnored) queue->clear_priority();
  if (mutation_ == Mutation::kDependenciesIgnored) queue->clear_after();
  if (mutation_ == Mutation::kRunTimeIgnored) queue->clear_max_run_time();
  if (mutation_ == Mutation::kRunTimeCutShort && queue->has_max_run_time()) {
    queue->set_max_run_time("5s");
  }
  if (mutation_ == Mutation::kRestartsUnlimited) queue->clear_max_restarts();
  if (mutation_ == Mutation::kPausesIgnored) queue->set_restart_pause("0s");
  if (mutation_ == Mutation::kMinRanksIgnored) queue->set_min_ranks(1);
  if (mutation_ == Mutation::kUnwillingMakeRoom) queue->set_preemptible(true);
  // Apart by less than one, scaled to whole numbers.
  if (mutation_ == Mutation::kEqualsMakeRoom) {
    queue->set_priority(10 * queue->priority() + static_cast<int>(user.submission_id.back() - '0'));
  }
  return spec;
}

bool Simulator::Finished() {
  for (const auto& user : users_) {
    if (user->gave_up) continue;
    if (user->id.empty()) return false;
    const auto job = durable_jobs_.find(user->id);
    if (job == durable_jobs_.end()) {
      Violation("acknowledged job " + user->id + " is lost");
      return true;
    }
    if (!IsEnded(job->second.state)) return false;
    const std::optional<TraceStatus>& trace = job->second.trace;
    if (user->trace_acknowledged && !trace) {
      Violation("the trace of job " + user->id + " that was asked for is forgotten");
    }
    if (trace && !trace->complete()) return false;
  }
  for (const auto& [id, job] : durable_jobs_) {
    if (job.state == SUCCEEDED && finished_[id] != job.attempt) {
      Violation("job " + id + " counts as finished, but its attempt did not finish it");
    }
    if (job.state == FAILED && !MayHaveFailed(job)) Violation("job " + id + " failed early");
    const QueueSpec& queue = Truth(job).spec->schedule();
    if (queue.has_max_restarts() &&
        assigned_[id].size() > queue.max_restarts() + 1 + job.preemptions + gave_back_[id]) {
      Violation("job " + id + " was started more often than it allows");
    }
    ++counts_[JobState_Name(job.state)];
  }
  return true;
}

// ---- Coordinator ----

void Simulator::StartCoordinator() {
  std::vector<Job> jobs;
  std::vector<Fleet> fleets;
  std::vector<Host> hosts;
  for (const auto& [name, host] : durable_hosts_) hosts.push_back(host);
  for (const auto& [id, job] : durable_jobs_) jobs.push_back(job);
  for (const auto& [name, fleet] : durable_fleets_) fleets.push_back(fleet);
  state_ = Restore(std::move(jobs), std::move(fleets), std::move(hosts), {now_, now_});
  seen_.clear();
  for (const auto& [id, job] : state_.jobs) seen_[id] = {job.attempt, job.attempt_open, job.stop};
  up_ = true;
  ++life_;
}

void Simulator::CrashCoordinator() {
  ++counts_["coordinator crash"];
  up_ = false;
  ++life_;
  for (const auto& [id, link] : std::exchange(links_, {})) Break(link);
  dirty_jobs_.clear();
  dirty_fleets_.clear();
  dirty_hosts_.clear();
  sends_.clear();
  closes_.clear();
  replies_.clear();
  given_back_.clear();
  settle_scheduled_ = false;
  for (const auto& user : users_) {
    if (!user->id.empty() && !durable_jobs_.contains(user->id)) {
      Violation("acknowledged job " + user->id + " is lost");
    }
  }
  At(Uniform(1, 100), [this] { StartCoordinator(); });
}

void Simulator::Deliver(Event event, Answer answer) {
  ApplyMutated(event, answer);
  if (mutation_ == Mutation::kSpeaksBeforeStored) Release();
  if (settle_scheduled_) return;
  settle_scheduled_ = true;
  At(Uniform(0, 2), [this, life = life_] {
    if (up_ && life == life_) Settle();
  });
}

void Simulator::ApplyMutated(const Event& event, const Answer& answer) {
  std::vector<Event> events;
  if (mutation_ == Mutation::kSilenceEndsLaunches && std::holds_alternative<TickEvent>(event)) {
    for (const auto& [name, fleet] : state_.fleets) {
      const auto& ranks = fleet.launch.ranks;
      if (ranks.empty() || fleet.launch.phase != LaunchPhase::kLive) continue;
      if (!std::all_of(ranks.begin(), ranks.end(), [](const Rank& r) { return r.lost; })) continue;
      LaunchReportEvent end;
      end.report.set_fleet(name);
      end.report.set_launch_id(fleet.launch.id);
      end.report.set_state(LAUNCH_ENDED);
      events.push_back(end);
    }
  }
  if (const auto* hello = std::get_if<HelloEvent>(&event);
      hello != nullptr && mutation_ == Mutation::kNewcomerSupersedes) {
    const auto fleet = state_.fleets.find(hello->hello.fleet());
    if (fleet != state_.fleets.end() && fleet->second.launch.id != hello->hello.launch_id()) {
      LaunchReportEvent end;
      end.report.set_fleet(fleet->first);
      end.report.set_launch_id(fleet->second.launch.id);
      end.report.set_state(LAUNCH_ENDED);
      events.push_back(end);
    }
  }
  events.push_back(event);
  if (auto* ended = std::get_if<AttemptEndedEvent>(&events.back());
      ended != nullptr && mutation_ == Mutation::kOldAttemptsAreHeard) {
    const auto job = state_.jobs.find(ended->ended.job_id());
    if (job != state_.jobs.end()) ended->ended.set_attempt(job->second.attempt);
  }
  Settings settings = settings_;
  if (mutation_ == Mutation::kRankQuotaIgnored) settings.max_user_ranks = 0;
  if (mutation_ == Mutation::kJobQuotaIgnored) settings.max_user_jobs = 0;
  if (mutation_ == Mutation::kYieldersLoseTheirCheckpoint) {
    // Of attempts that were asked to stop.
    std::erase_if(events, [this](const Event& one) {
      const auto* checkpoint = std::get_if<CheckpointEvent>(&one);
      if (checkpoint == nullptr) return false;
      const auto job = state_.jobs.find(checkpoint->checkpoint.job_id());
      return job != state_.jobs.end() && job->second.stop == Stop::kPreempted;
    });
  }
  MutateQueue(event);
  if (mutation_ == Mutation::kTracesStayOpen) {
    for (const std::string& id : state_.traced) state_.jobs.at(id).trace_closes_at = 2 * kEnd;
  }
  for (auto& [name, fleet] : state_.fleets) {
    if (mutation_ == Mutation::kLeavingIgnored) fleet.launch.leaving = false;
  }
  for (size_t i = 0; i < events.size(); ++i) {
    Transition transition = Apply(std::move(state_), events[i], settings, {now_, now_});
    state_ = std::move(transition.state);
    ++events_;
    CheckScheduling();
    if (const auto* report = std::get_if<LaunchReportEvent>(&events[i])) {
      CheckLeftOut(report->report.fleet(), &transition.effects.reply->directive);
      if (transition.effects.reply->directive.leaving()) {
        given_back_.insert(report->report.launch_id());
      }
    }
    Collect(&transition.effects, event, i + 1 == events.size() ? answer : nullptr);
    if (mutation_ == Mutation::kNone) CheckInvariants(state_);
  }
}

void Simulator::MutateQueue(const Event& event) {
  const auto* ended = std::get_if<AttemptEndedEvent>(&event);
  if (mutation_ != Mutation::kYieldersJumpTheQueue || ended == nullptr) return;
  const auto found = state_.jobs.find(ended->ended.job_id());
  if (found == state_.jobs.end() || found->second.stop != Stop::kPreempted) return;
  Job& job = found->second;
  state_.open_jobs.erase(KeyOf(job));
  job.queue.priority = 1000;
  state_.open_jobs[KeyOf(job)] = job.id;
}

void Simulator::Collect(Effects* effects, const Event& event, const Answer& answer) {
  dirty_jobs_.merge(effects->store_jobs);
  dirty_fleets_.merge(effects->store_fleets);
  dirty_hosts_.merge(effects->store_hosts);
  for (Send& send : effects->sends) {
    if (mutation_ == Mutation::kAssignmentNotRepeated && send.command.has_assignment() &&
        std::holds_alternative<HelloEvent>(event) && effects->store_jobs.empty() &&
        !dirty_jobs_.contains(send.command.assignment().job_id())) {
      continue;
    }
    if (mutation_ == Mutation::kTraceNotRepeated && send.command.has_trace() &&
        std::holds_alternative<HelloEvent>(event)) {
      continue;
    }
    sends_.push_back(std::move(send));
  }
  closes_.insert(closes_.end(), effects->closes.begin(), effects->closes.end());
  if (answer) replies_.emplace_back(effects->reply.value(), answer);
}

void Simulator::Settle() {
  settle_scheduled_ = false;
  while (!dirty_jobs_.empty() || !dirty_fleets_.empty() || !dirty_hosts_.empty()) {
    std::vector<std::string> stored;
    if (!WriteStore(&stored)) return StoreFailed();
    for (const std::string& id : stored) ApplyMutated(StoredEvent{id}, nullptr);
  }
  CheckDurable();
  Release();
}

bool Simulator::WriteStore(std::vector<std::string>* stored) {
  if (Fault(0.03)) return false;
  for (const std::string& id : dirty_jobs_) {
    const Job& job = state_.jobs.at(id);
    if (!job.durable) stored->push_back(id);
    if (mutation_ == Mutation::kAttemptsNotStored && job.state == RUNNING) continue;
    if (mutation_ == Mutation::kTracesNotStored) state_.jobs.at(id).trace.reset();
    const auto old = durable_jobs_.find(id);
    if (old != durable_jobs_.end() && IsEnded(old->second.state) &&
        old->second.state != job.state) {
      Violation("ended job " + id + " changed its state");
    }
    if (old != durable_jobs_.end() && job.attempt < old->second.attempt) {
      Violation("the attempts of job " + id + " decrease");
    }
    durable_jobs_[id] = job;
  }
  for (const std::string& name : dirty_fleets_) durable_fleets_[name] = state_.fleets.at(name);
  for (const std::string& name : dirty_hosts_) {
    durable_hosts_.erase(name);
    const auto host = state_.hosts.find(name);
    if (host != state_.hosts.end()) durable_hosts_[name] = host->second;
  }
  dirty_jobs_.clear();
  dirty_fleets_.clear();
  dirty_hosts_.clear();
  return true;
}

void Simulator::StoreFailed() {
  ++counts_["full disk"];
  std::set<std::string> taken_back;
  for (const std::string& id : dirty_jobs_) {
    if (!state_.jobs.at(id).durable) taken_back.insert(id);
  }
  for (const std::string& id : taken_back) {
    dirty_jobs_.erase(id);
    ApplyMutated(NotStoredEvent{id}, nullptr);
  }
  for (auto& [reply, answer] : std::exchange(replies_, {})) {
    reply.status = {grpc::StatusCode::UNAVAILABLE, "full"};
    answer(reply);
  }
  settle_scheduled_ = true;
  At(Uniform(1, 10), [this, life = life_] {
    if (up_ && life == life_) Settle();
  });
}

void Simulator::CheckDurable() {
  for (const auto& [id, job] : state_.jobs) {
    if (!job.durable) Violation("job " + id + " was overlooked by the store");
  }
}

void Simulator::Release() {
  for (const Send& send : std::exchange(sends_, {})) {
    const auto link = links_.find(send.stream);
    if (link != links_.end()) ToClient(link->second, send.command);
  }
  for (const uint64_t stream : std::exchange(closes_, {})) {
    const auto found = links_.find(stream);
    if (found == links_.end()) continue;
    const Link link = found->second;
    links_.erase(found);
    At(std::max(0.0, link->to_client_at - now_), [this, link] { Break(link); });
    ApplyMutated(StreamClosedEvent{stream}, nullptr);
  }
  for (auto& [reply, answer] : std::exchange(replies_, {})) answer(reply);
}

void Simulator::Call(const Event& event, const Answer& answer) {
  const int copies = Fault(0.1) ? 0 : (Fault(0.1) ? 2 : 1);
  for (int copy = 0; copy < copies; ++copy) {
    At(Uniform(0.1, Fault(0.1) ? 60 : 2), [this, event, answer] {
      if (!up_) return;
      Deliver(event, [this, answer](const Reply& reply) {
        if (Fault(0.1)) return;
        At(Uniform(0.1, 2), [answer, reply] { answer(reply); });
      });
    });
  }
}

// ---- Scheduling ----

const Simulator::UserJob& Simulator::Truth(const Job& job) const {
  return **std::find_if(users_.begin(), users_.end(), [&job](const auto& user) {
    return user->submission_id == job.submission_id;
  });
}

// As far as users are concerned, the job might start.
bool Simulator::IsEligible(const Job& job) const {
  if (!IsWaiting(job) || now_ < job.restart_at) return false;
  const UserJob* after = Truth(job).after;
  if (after == nullptr) return true;
  const Job* before = JobOf(*after);
  return before != nullptr && before->state == SUCCEEDED;
}

const Job* Simulator::JobOf(const UserJob& user) const {
  const auto found = state_.submissions.find(user.submission_id);
  return found == state_.submissions.end() ? nullptr : &state_.jobs.at(found->second);
}

bool Simulator::Fits(const Job& job, uint32_t world_size, bool fewer, const Job* leaving) const {
  const JobSpec& spec = *Truth(job).spec;
  uint32_t ranks = spec.parallel().ranks();
  if (ranks == 0) {
    ranks =
        settings_.max_user_ranks == 0 ? world_size : std::min(world_size, settings_.max_user_ranks);
  }
  if (ranks > world_size) {
    if (!fewer || !spec.schedule().has_min_ranks()) return false;
    ranks = spec.schedule().min_ranks();
  }
  if (ranks > world_size) return false;
  if (settings_.max_user_ranks == 0) return true;
  uint32_t used = 0;
  for (const auto& [id, other] : state_.jobs) {
    const bool counts = other.attempt_open && other.user == job.user && &other != leaving;
    if (counts) used += other.attempt_ranks;
  }
  return used + ranks <= settings_.max_user_ranks;
}

// A job that has just been given to a fleet.
void Simulator::CheckStart(const Job& job) {
  const UserJob& user = Truth(job);
  const QueueSpec& queue = user.spec->schedule();
  if (given_back_.contains(job.launch_id)) {
    Violation("job " + job.id + " started on a fleet that is given back");
  }
  const Job* before = user.after == nullptr ? nullptr : JobOf(*user.after);
  if (user.after != nullptr && (before == nullptr || !finished_.contains(before->id))) {
    Violation("job " + job.id + " started before the job that it comes after has succeeded");
  }
  const uint32_t wanted = user.spec->parallel().ranks();
  const uint32_t least = queue.has_min_ranks() ? queue.min_ranks() : wanted;
  if (job.attempt_ranks < least) Violation("job " + job.id + " started on too few ranks");
  if (const auto died = died_at_.find(job.id); died != died_at_.end()) {
    double pause = 1;
    if (queue.has_restart_pause()) ParseDuration(queue.restart_pause(), &pause);
    for (uint32_t death = 1; death < job.deaths; ++death) pause *= 2;
    if (now_ - died->second < pause - 1e-6) Violation("job " + job.id + " started in its pause");
    died_at_.erase(died);
  }
  const uint32_t world = state_.fleets.at(job.fleet).launch.world_size;
  for (const auto& [id, other] : state_.jobs) {
    const int32_t priority = Truth(other).spec->schedule().priority();
    const bool first =
        priority > queue.priority() || (priority == queue.priority() && other.number < job.number);
    if (first && IsEligible(other) && Fits(other, world, false, nullptr)) {
      Violation("job " + job.id + " started before job " + id + ", whose turn it is");
    }
  }
}

// A job that has just been asked to make room.
void Simulator::CheckStop(const Job& job) {
  const QueueSpec& queue = Truth(job).spec->schedule();
  ++counts_["preemption"];
  if (!queue.preemptible()) Violation("job " + job.id + " makes room and does not allow it");
  const uint32_t world = state_.fleets.at(job.fleet).launch.world_size;
  const bool found = std::any_of(state_.jobs.begin(), state_.jobs.end(), [&](const auto& entry) {
    return Truth(entry.second).spec->schedule().priority() > queue.priority() &&
           IsEligible(entry.second) && Fits(entry.second, world, true, &job);
  });
  if (!found) Violation("job " + job.id + " makes room for nobody");
}

void Simulator::CheckLoads() {
  std::map<std::string, uint32_t> jobs;
  for (const auto& [id, job] : state_.jobs) {
    if (IsEnded(job.state)) continue;
    if (settings_.max_user_jobs != 0 && ++jobs[job.user] > settings_.max_user_jobs) {
      Violation("user " + job.user + " has more jobs than the quota");
    }
  }
}

// Of processes, not of what the coordinator believes.
void Simulator::CheckWorkingRanks() {
  if (settings_.max_user_ranks == 0) return;
  std::map<std::string, uint32_t> working;
  for (const auto& launch : launches_) {
    for (const RankProcess& process : launch->ranks) {
      if (!process.alive || process.job.empty()) continue;
      const std::string& user = Truth(durable_jobs_.at(process.job)).user;
      if (++working[user] <= settings_.max_user_ranks) continue;
      return Violation("ranks of user " + user + " at work are more than the quota");
    }
  }
}

void Simulator::CheckScheduling() {
  for (const auto& [id, job] : state_.jobs) {
    const Seen before = std::exchange(seen_[id], {job.attempt, job.attempt_open, job.stop});
    if (job.attempt > before.attempt) {
      if (job.attempt_ranks < job.wanted_ranks) ++counts_["fewer ranks"];
      begun_at_.emplace(id, now_);
      CheckStart(job);
    }
    if (job.stop == Stop::kPreempted && before.stop != Stop::kPreempted) CheckStop(job);
    if (job.state == RECOVERING && !job.attempt_open && before.open) died_at_[id] = now_;
    if (before.stop == Stop::kRunTime && job.state == FAILED) {
      ran_too_long_.insert(id);
      ++counts_["run time over"];
      double limit = 0;
      ParseDuration(Truth(job).spec->schedule().max_run_time(), &limit);
      if (now_ - begun_at_.at(id) < limit - 1e-6) {
        Violation("job " + id + " ended before its run time was over");
      }
    }
    if (before.stop == Stop::kGivenBack && job.stop == Stop::kNone) {
      ++counts_["given back"];
      ++gave_back_[id];
      if (job.state == RECOVERING && !job.attempt_open) {
        Violation("job " + id + " counts a death because its fleet was given back");
      }
    }
    // A yielder may be at work again already. A launch that is given back may end before its ranks
    // have said what they saved.
    const bool made_way =
        before.stop == Stop::kPreempted ||
        (before.stop == Stop::kGivenBack && job.reason.find("gave back") != std::string::npos);
    const bool yielded = made_way && (job.state == QUEUED || job.attempt > before.attempt);
    const auto saved = saved_at_stop_.find({id, before.attempt});
    if (yielded && saved != saved_at_stop_.end() && job.last_checkpoint != saved->second) {
      Violation("job " + id + " made room and lost the checkpoint that it saved");
    }
  }
  CheckLoads();
}

// Whoever starts the fleet without these hosts leaves no job behind that nobody else can take.
void Simulator::CheckLeftOut(const std::string& fleet, LaunchDirective* directive) {
  if (mutation_ == Mutation::kHostsLeftOutRegardless) {
    directive->clear_exclude_hosts();
    for (const auto& [name, host] : state_.hosts) {
      if (host.left_out) directive->add_exclude_hosts(name);
    }
  }
  const auto& left_out = directive->exclude_hosts();
  if (left_out.empty()) return;
  ++counts_["hosts left out"];
  const std::vector<Rank>& ranks = state_.fleets.at(fleet).launch.ranks;
  const auto remaining = std::count_if(ranks.begin(), ranks.end(), [&](const Rank& rank) {
    return std::find(left_out.begin(), left_out.end(), rank.host) == left_out.end();
  });
  for (const auto& [id, job] : state_.jobs) {
    if (IsEnded(job.state)) continue;
    const JobSpec& spec = *Truth(job).spec;
    const uint32_t least = spec.schedule().has_min_ranks()
                               ? spec.schedule().min_ranks()
                               : std::max(spec.parallel().ranks(), uint32_t{1});
    const bool elsewhere =
        std::any_of(state_.fleets.begin(), state_.fleets.end(), [&](const auto& entry) {
          return entry.first != fleet && entry.second.launch.world_size >= least;
        });
    if (!elsewhere && least <= ranks.size() && least > remaining) {
      Violation("hosts are left out that job " + id + " needs");
    }
  }
}

bool Simulator::MayHaveFailed(const Job& job) const {
  const UserJob& user = Truth(job);
  const QueueSpec& queue = user.spec->schedule();
  if (job.deaths == kMaxDeaths || ran_too_long_.contains(job.id)) return true;
  if (queue.has_max_restarts() && job.all_deaths > queue.max_restarts()) return true;
  if (user.after == nullptr) return false;
  const auto before = durable_jobs_.find(user.after->id);
  return before != durable_jobs_.end() && IsEnded(before->second.state) &&
         before->second.state != SUCCEEDED;
}

// ---- Workers ----

Simulator::Launch* Simulator::StartLaunch(FleetWorld* fleet, bool supervised) {
  auto launch = std::make_unique<Launch>();
  launch->id = Name(fleet->name + "-l", launches_.size());
  launch->fleet = fleet->name;
  launch->supervised = supervised;
  launch->ranks.resize(fleet->world_size);
  Launch* raw = launch.get();
  launches_.push_back(std::move(launch));
  for (uint32_t r = 0; r < fleet->world_size; ++r) {
    At(Uniform(0, 5), [this, raw, r] { Connect(raw, r); });
    At(Uniform(0, 10), [this, raw, r] { Beat(raw, r); });
  }
  ++counts_["launch"];
  return raw;
}

void Simulator::KillRank(Launch* launch, uint32_t rank) {
  RankProcess& process = launch->ranks[rank];
  if (!process.alive) return;
  process.alive = false;
  if (process.link) Break(process.link);
  if (launch->killed) return;
  // mpirun ends the others, each in its own time; until then they may be at work.
  launch->killed = true;
  ++counts_["death"];
  for (uint32_t r = 0; r < launch->ranks.size(); ++r) {
    At(Uniform(0, 40), [this, launch, r] { KillRank(launch, r); });
  }
}

void Simulator::Connect(Launch* launch, uint32_t rank) {
  RankProcess& process = launch->ranks[rank];
  if (!process.alive || process.link) return;
  if (!up_ || now_ < launch->cut_off_until) {
    At(Uniform(1, 10), [this, launch, rank] { Connect(launch, rank); });
    return;
  }
  auto link = std::make_shared<Connection>();
  link->id = next_stream_++;
  link->life = life_;
  link->launch = launch;
  link->rank = rank;
  link->made_at = now_;
  links_[link->id] = link;
  process.link = link;
  WorkerMessage message;
  Hello* hello = message.mutable_hello();
  hello->set_fleet(launch->fleet);
  hello->set_launch_id(launch->id);
  hello->set_rank(rank);
  hello->set_world_size(static_cast<uint32_t>(launch->ranks.size()));
  hello->set_host(Name("h", rank));
  hello->set_pid(rank + 1);
  hello->set_supervised(launch->supervised);
  hello->set_job_id(process.job);
  hello->set_attempt(process.attempt);
  ToServer(link, message);
}

void Simulator::Break(const Link& link) {
  if (link->broken) return;
  link->broken = true;
  // Each end notices by itself; the server late if nobody says goodbye.
  At(Uniform(0, 60), [this, link] {
    if (link->life != life_ || links_.erase(link->id) == 0) return;
    Deliver(StreamClosedEvent{link->id}, nullptr);
  });
  At(Uniform(0, 20), [this, link] {
    RankProcess& process = link->launch->ranks[link->rank];
    if (process.link != link) return;
    process.link = nullptr;
    At(Uniform(0, 10), [this, link] { Connect(link->launch, link->rank); });
  });
}

void Simulator::ToServer(const Link& link, const WorkerMessage& message) {
  if (!link || link->broken) return;
  link->to_server_at = std::max(link->to_server_at, now_ + Uniform(0.1, Fault(0.05) ? 40 : 2));
  At(link->to_server_at - now_, [this, link, message] {
    if (!link->broken && up_ && link->life == life_ && links_.contains(link->id)) {
      Receive(link, message);
    }
  });
}

void Simulator::Receive(const Link& link, const WorkerMessage& message) {
  switch (message.message_case()) {
    case WorkerMessage::kHello:
      return Deliver(HelloEvent{link->id, message.hello()}, nullptr);
    case WorkerMessage::kHeartbeat:
      return Deliver(HeartbeatEvent{link->id, message.heartbeat()}, nullptr);
    case WorkerMessage::kCheckpoint:
      return Deliver(CheckpointEvent{link->id, message.checkpoint()}, nullptr);
    case WorkerMessage::kEnded:
      return Deliver(AttemptEndedEvent{link->id, message.ended()}, nullptr);
    case WorkerMessage::kTrace:
      return Deliver(TraceReportEvent{link->id, message.trace()}, nullptr);
    case WorkerMessage::kStuck:
      return Deliver(StuckEvent{link->id, message.stuck()}, nullptr);
    default:
      return Deliver(AliveEvent{link->id}, nullptr);
  }
}

void Simulator::ToClient(const Link& link, const WorkerCommand& command) {
  if (link->broken) return;
  link->to_client_at = std::max(link->to_client_at, now_ + Uniform(0.1, Fault(0.05) ? 40 : 2));
  At(link->to_client_at - now_, [this, link, command] {
    const RankProcess& process = link->launch->ranks[link->rank];
    if (!link->broken && process.alive && process.link == link) Obey(link, command);
  });
}

void Simulator::Obey(const Link& link, const WorkerCommand& command) {
  Launch* launch = link->launch;
  RankProcess& process = launch->ranks[link->rank];
  switch (command.command_case()) {
    case WorkerCommand::kWelcome:
      if (process.trace_report.has_trace()) ToServer(link, process.trace_report);
      if (link->rank != 0) return;
      if (launch->checkpoint.has_checkpoint()) ToServer(link, launch->checkpoint);
      if (launch->ended.has_ended()) ToServer(link, launch->ended);
      return;
    case WorkerCommand::kRejected:
      ++counts_["rejected"];
      return KillRank(launch, link->rank);
    case WorkerCommand::kAssignment:
      return TakeAssignment(launch, link->rank, command.assignment());
    case WorkerCommand::kCancel:
      if (process.job == command.cancel().job_id() &&
          process.attempt == command.cancel().attempt()) {
        process.cancelled = true;
      }
      return;
    case WorkerCommand::kTrace:
      return TakeTrace(&process, command.trace());
    case WorkerCommand::kEndAcknowledged:
      if (launch->ended.ended().job_id() == command.end_acknowledged().job_id() &&
          launch->ended.ended().attempt() == command.end_acknowledged().attempt()) {
        launch->ended.Clear();
        launch->checkpoint.Clear();
      }
      return;
    case WorkerCommand::kShutdown:
      if (!process.job.empty()) {
        Violation("a rank of " + launch->id + " that works on job " + process.job +
                  " is told to end");
      }
      return KillRank(launch, link->rank);
    default:
      return Violation("an unknown command");
  }
}

void Simulator::TakeAssignment(Launch* launch, uint32_t rank, const Assignment& assignment) {
  RankProcess& process = launch->ranks[rank];
  uint32_t& taken = process.taken[assignment.job_id()];
  if (assignment.attempt() <= taken) return;  // Told again.
  taken = assignment.attempt();
  if (rank >= assignment.ranks()) return;
  if (!process.job.empty()) {
    return Violation(launch->id + " works on job " + process.job + " and got another one");
  }
  process.job = assignment.job_id();
  process.attempt = assignment.attempt();
  process.cancelled = false;
  process.trace.clear();
  process.trace_report.Clear();
  CheckGangs(process.job, launch, process.attempt);
  for (uint32_t r = 0; r < assignment.ranks(); ++r) {
    const RankProcess& other = launch->ranks[r];
    if (other.job != process.job || other.attempt != process.attempt) return;
  }
  launch->gang_ranks = assignment.ranks();
  launch->training = true;
  launch->step = 0;
  launch->checkpoint.Clear();
  CheckWorkingRanks();
  if (!assignment.resume_from().empty()) {
    const auto found = checkpoints_.find(assignment.resume_from());
    if (found == checkpoints_.end()) return Violation("a checkpoint that never was");
    launch->step = found->second;
  }
  At(Uniform(1, 4), [this, launch] { Train(launch); });
}

void Simulator::CheckGangs(const std::string& job, const Launch* launch, uint32_t attempt) {
  auto& attempts = assigned_[job];
  if (!attempts.empty() && attempts.rbegin()->first > attempt) {
    Violation("attempt " + std::to_string(attempt) + " of job " + job + " came after attempt " +
              std::to_string(attempts.rbegin()->first));
  }
  const auto [entry, is_new] = attempts.emplace(attempt, launch->id);
  if (!is_new && entry->second != launch->id) {
    Violation("attempt " + std::to_string(attempt) + " of job " + job + " is on " + entry->second +
              " and on " + launch->id);
  }
  for (const auto& other : launches_) {
    for (const RankProcess& process : other->ranks) {
      if (!process.alive || process.job != job) continue;
      if (other.get() == launch && process.attempt == attempt) continue;
      Violation("two gangs work on job " + job + ": " + other->id + " and " + launch->id);
    }
  }
}

void Simulator::Beat(Launch* launch, uint32_t rank) {
  RankProcess& process = launch->ranks[rank];
  if (!process.alive) return;
  WorkerMessage message;
  message.mutable_heartbeat()->set_job_id(process.job);
  message.mutable_heartbeat()->set_attempt(process.attempt);
  ToServer(process.link, message);
  if (rank == 0 && launch->ended.has_ended()) {
    if (launch->checkpoint.has_checkpoint()) ToServer(process.link, launch->checkpoint);
    ToServer(process.link, launch->ended);
  }
  At(Uniform(8, 12), [this, launch, rank] { Beat(launch, rank); });
}

void Simulator::Train(Launch* launch) {
  // A rank that is dead blocks the others in their next collective.
  for (uint32_t r = 0; r < launch->gang_ranks; ++r) {
    if (!launch->ranks[r].alive) return GiveUp(launch);
  }
  ++launch->step;
  const RankProcess& first = launch->ranks[0];
  // The job as its user has it; a job that no answer told of is known by its run folder alone.
  const Job& job = durable_jobs_.at(first.job);
  if (Fault(0.005)) return EndAttempt(launch, ATTEMPT_CANCELLED);
  if (first.cancelled) {
    saved_at_stop_[{first.job, first.attempt}] = SaveCheckpoint(launch);
    return EndAttempt(launch, ATTEMPT_CANCELLED);
  }
  if (launch->step >= Truth(job).steps) {
    finished_[first.job] = first.attempt;
    return EndAttempt(launch, ATTEMPT_SUCCEEDED);
  }
  if (launch->step % kCheckpointSteps == 0) SaveCheckpoint(launch);
  RecordTraces(launch);
  CheckTraceIsNotStuck(*launch);
  const double seconds = Uniform(1, 4);
  trained_[first.job] += seconds;
  if (Truth(job).spec->schedule().has_max_run_time() && trained_[first.job] > 120 + kRunTimeSlack) {
    Violation("job " + first.job + " trains on although its run time is over");
  }
  At(seconds, [this, launch] { Train(launch); });
}

void Simulator::TakeTrace(RankProcess* process, const TraceAttempt& asked) {
  if (process->job != asked.job_id() || process->attempt != asked.attempt()) return;
  if (process->trace == asked.request_id()) return;  // Told again.
  process->trace = asked.request_id();
  process->trace_ranks = asked.ranks();
  process->traced = false;
}

void Simulator::RecordTraces(Launch* launch) {
  uint32_t asked = 0;
  for (uint32_t r = 0; r < launch->gang_ranks; ++r) {
    asked += launch->ranks[r].trace.empty() || launch->ranks[r].traced ? 0 : 1;
  }
  for (uint32_t r = 0; r < launch->gang_ranks; ++r) {
    RankProcess& process = launch->ranks[r];
    if (process.trace.empty() || process.traced || process.trace_ranks != asked) continue;
    process.traced = true;
    ++counts_["trace"];
    // A request that was made another one has something behind its name.
    const std::string wish = process.trace.substr(0, process.trace.find('#'));
    if (!traced_.emplace(r, wish).second) Violation("trace " + wish + " is recorded twice");
    TraceReport* report = process.trace_report.mutable_trace();
    report->set_job_id(process.job);
    report->set_attempt(process.attempt);
    report->set_request_id(process.trace);
    report->mutable_trace()->set_path(process.trace);
    ToServer(process.link, process.trace_report);
  }
}

void Simulator::CheckTraceIsNotStuck(const Launch& launch) {
  const RankProcess& first = launch.ranks[0];
  const std::optional<TraceStatus>& trace = durable_jobs_.at(first.job).trace;
  if (!trace || trace->complete() || trace->attempt() != first.attempt) return;
  double since = trace->requested_at();
  for (uint32_t r = 0; r < launch.gang_ranks; ++r) {
    const Link& link = launch.ranks[r].link;
    if (!link || link->broken) return;
    since = std::max(since, link->made_at);
  }
  if (now_ - since > kTraceSlack) Violation("trace " + trace->request_id() + " is stuck");
}

std::string Simulator::SaveCheckpoint(Launch* launch) {
  const RankProcess& first = launch->ranks[0];
  CheckpointReport* report = launch->checkpoint.mutable_checkpoint();
  report->set_job_id(first.job);
  report->set_attempt(first.attempt);
  report->set_path(first.job + "/" + std::to_string(first.attempt) + "/" +
                   std::to_string(launch->step));
  report->set_step(static_cast<uint64_t>(launch->step));
  checkpoints_[report->path()] = launch->step;
  ToServer(first.link, launch->checkpoint);
  return report->path();
}

// The ranks that wait in vain say so and leave.
void Simulator::GiveUp(Launch* launch) {
  for (uint32_t r = 0; r < launch->gang_ranks; ++r) {
    At(Uniform(10, 12), [this, launch, r] {
      const RankProcess& process = launch->ranks[r];
      if (!process.alive) return;
      WorkerMessage message;
      message.mutable_stuck()->set_job_id(process.job);
      message.mutable_stuck()->set_attempt(process.attempt);
      ToServer(process.link, message);
      At(Uniform(1, 5), [this, launch, r] { KillRank(launch, r); });
    });
  }
}

void Simulator::EndAttempt(Launch* launch, AttemptOutcome outcome) {
  AttemptEnded* ended = launch->ended.mutable_ended();
  ended->set_job_id(launch->ranks[0].job);
  ended->set_attempt(launch->ranks[0].attempt);
  ended->set_outcome(outcome);
  launch->training = false;
  for (uint32_t r = 0; r < launch->gang_ranks; ++r) {
    launch->ranks[r].job.clear();
    launch->ranks[r].attempt = 0;
  }
  ToServer(launch->ranks[0].link, launch->ended);
}

// ---- Supervisors, operator, users, faults ----

void Simulator::Supervise(FleetWorld* fleet) {
  if (fleet->starting || (fleet->supervised && !fleet->supervisor_up)) return;
  const auto start = [this, fleet] {
    fleet->starting = true;
    At(Uniform(1, 20), [this, fleet] {
      fleet->starting = false;
      fleet->current = StartLaunch(fleet, fleet->supervised);
    });
  };
  Launch* launch = fleet->current;
  if (launch == nullptr) return start();
  if (!fleet->supervised) {
    // A person who starts mpirun again, whether or not the coordinator will like it.
    if (launch->dead()) start();
    return;
  }
  LaunchReportEvent event;
  event.report.set_fleet(fleet->name);
  event.report.set_launch_id(launch->id);
  const bool dead = launch->dead();
  event.report.set_state(dead ? LAUNCH_ENDED : LAUNCH_RUNNING);
  event.report.set_give_back(!dead && fleet->gives_back);
  Call(event, [this, fleet, launch, dead, start](const Reply& reply) {
    if (!reply.status.ok() || fleet->current != launch || fleet->starting) return;
    if (dead) {
      fleet->gives_back = false;
      return start();
    }
    if (!reply.directive.fenced() && !reply.directive.ending()) return;
    for (uint32_t r = 0; r < launch->ranks.size(); ++r) KillRank(launch, r);
  });
}

void Simulator::Operate() {
  if (!up_) return;
  for (const auto& launch : launches_) {
    const auto fleet = state_.fleets.find(launch->fleet);
    if (fleet == state_.fleets.end() || fleet->second.launch.id != launch->id) continue;
    // Only what truly is gone, and where no supervisor will ever say so.
    if (launch->supervised || !launch->dead() || Chance(0.5)) continue;
    if (fleet->second.launch.phase != LaunchPhase::kLive) continue;
    ++counts_["fence"];
    Deliver(FenceEvent{launch->fleet}, [](const Reply&) {});
  }
}

void Simulator::Use(UserJob* user) {
  const auto again = [this, user] { At(Uniform(5, 30), [this, user] { Use(user); }); };
  if (user->gave_up) return;
  if (user->id.empty()) {
    const UserJob* after = user->after;
    const auto before = after == nullptr ? durable_jobs_.end() : durable_jobs_.find(after->id);
    const bool vain = after != nullptr && (after->gave_up || (before != durable_jobs_.end() &&
                                                              IsEnded(before->second.state) &&
                                                              before->second.state != SUCCEEDED));
    const SubmitEvent event{MutatedSpec(*user), user->submission_id, user->user, "x"};
    Call(event, [this, user, vain](const Reply& reply) {
      const bool refused = reply.status.error_code() == grpc::StatusCode::FAILED_PRECONDITION;
      if (vain && refused && user->id.empty()) user->gave_up = true;
      if (!reply.status.ok()) return;
      if (!user->id.empty() && user->id != reply.job_id) {
        Violation("submission " + user->submission_id + " made two jobs");
      }
      user->id = reply.job_id;
    });
    return again();
  }
  if (user->wants_cancel && !user->cancel_acknowledged) {
    Call(CancelEvent{user->id}, [this, user](const Reply& reply) {
      if (reply.status.error_code() == grpc::StatusCode::NOT_FOUND) {
        Violation("acknowledged job " + user->id + " is unknown");
      }
      user->cancel_acknowledged = reply.status.error_code() != grpc::StatusCode::UNAVAILABLE;
    });
  }
  if (user->wants_trace && !user->trace_acknowledged) AskForTrace(user);
  again();
}

void Simulator::AskForTrace(UserJob* user) {
  // Other wrong rules are to be caught by what is said of them.
  if (mutation_ != Mutation::kNone && mutation_ < Mutation::kTraceNotRepeated) return;
  TraceEvent event{user->id, user->submission_id, {}, 1};
  if (user->of_first_rank) event.ranks = {0};
  if (mutation_ == Mutation::kTraceRequestsNotKnownAgain) {
    event.request_id += "#" + std::to_string(order_);
  }
  Call(event, [this, user](const Reply& reply) {
    if (!reply.status.ok()) return;
    user->trace_acknowledged = true;
    if (!durable_jobs_.at(user->id).trace) {
      Violation("the trace of job " + user->id + " that was asked for is forgotten");
    }
  });
}

void Simulator::InjectFaults() {
  if (!Faulty()) {
    for (const auto& fleet : fleets_) fleet->supervisor_up = true;
    return;
  }
  if (up_ && Chance(0.03)) CrashCoordinator();
  for (const auto& launch : launches_) {
    for (uint32_t r = 0; r < launch->ranks.size(); ++r) {
      RankProcess& process = launch->ranks[r];
      if (!process.alive) continue;
      if (Chance(death_rate_)) KillRank(launch.get(), r);
      if (process.link && Chance(0.03)) Break(process.link);
    }
    if (launch->dead() || !Chance(0.01)) continue;
    ++counts_["cut off"];
    launch->cut_off_until = now_ + Uniform(20, 200);
    for (const RankProcess& process : launch->ranks) {
      if (process.link) Break(process.link);
    }
  }
  for (const auto& fleet : fleets_) {
    if (Chance(0.03)) fleet->supervisor_up = !fleet->supervisor_up;
    if (fleet->supervised && Chance(0.02)) fleet->gives_back = true;
    // Somebody starts a second mpirun under the same name.
    if (Chance(0.01)) {
      ++counts_["second launch"];
      StartLaunch(fleet.get(), false);
    }
  }
}

}  // namespace swinfleet::coordinator
