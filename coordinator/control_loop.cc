#include "coordinator/control_loop.h"

#include <glog/logging.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <utility>

#include "coordinator/clock.h"

namespace swinfleet::coordinator {
namespace {

// Requests that may wait; connections are bounded by themselves, each has one message here at most.
constexpr size_t kMaxWaitingRequests = 20000;
// Lines of the audit log that may wait for a store that can't be written.
constexpr size_t kMaxWaitingAudit = 10000;
constexpr double kNever = std::numeric_limits<double>::infinity();
// Seconds in which a new connection has to say Hello.
constexpr double kHelloDeadline = 30;
constexpr double kStoreRetry = 1;
// Seconds of curves that a crash may cost; and how much of them is written at once, so that nobody
// waits long for it. More is written a second later.
constexpr double kHistoryInterval = 10;
constexpr size_t kHistoryRows = 2000;
// Least seconds between two writes of progress, and between two showings of it to a watcher.
constexpr double kProgressInterval = 1;
constexpr double kPublishInterval = 0.25;
// Seconds between two looks for refusals that were counted for long enough.
constexpr double kRefusalInterval = 10;

}  // namespace

const Job* ControlView::FindJob(const std::string& job_id) const {
  const auto found = state.jobs.find(job_id);
  return found == state.jobs.end() || !found->second.durable ? nullptr : &found->second;
}

JobStatus ControlView::View(const Job& job, RankDetail detail) const {
  const auto found = progress.find(job.id);
  return ViewJob(state, settings, job, found == progress.end() ? nullptr : &found->second, uptime,
                 detail);
}

ControlLoop::ControlLoop(JobStore* jobs, LogStore* logs, const Settings& settings)
    : jobs_(jobs), logs_(logs), settings_(settings), histories_(UnixTime()) {}

ControlLoop::~ControlLoop() { Stop(); }

Moment ControlLoop::Now() const { return {UnixTime(), Uptime()}; }

ControlView ControlLoop::View() const {
  return {state_, progress_, histories_, settings_, store_status_, Now().uptime};
}

grpc::Status ControlLoop::Start() {
  JobStore::Contents contents;
  if (grpc::Status status = jobs_->Load(&contents); !status.ok()) return status;
  state_ = Restore(std::move(contents.jobs), std::move(contents.fleets), std::move(contents.hosts),
                   Now());
  progress_ = std::move(contents.progress);
  if (grpc::Status status = jobs_->LoadHistories(&histories_); !status.ok()) return status;
  CheckInvariants(state_);
  LOG(INFO) << "the store holds " << state_.jobs.size() << " jobs, " << state_.open_jobs.size()
            << " of them not ended";
  thread_ = std::thread([this] { Run(); });
  return grpc::Status::OK;
}

void ControlLoop::Stop() {
  if (!thread_.joinable()) return;
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

void ControlLoop::Disconnect() {
  Post(
      [this] {
        disconnecting_ = true;
        const grpc::Status status(grpc::StatusCode::UNAVAILABLE, "the coordinator is stopping");
        for (auto& [stream, connection] : connections_) connection.link->Close(status);
        for (auto& [job_id, watchers] : watchers_) {
          for (const auto& watcher : watchers) watcher->Close(status);
        }
      },
      /*bounded=*/false);
}

// ---- The thread ----

bool ControlLoop::Post(Task task, bool bounded) {
  {
    std::lock_guard lock(mutex_);
    if (stopping_ || (bounded && inbox_.size() >= kMaxWaitingRequests)) return false;
    inbox_.push_back(std::move(task));
    if (inbox_.size() > 1) return true;
  }
  wake_.notify_one();
  return true;
}

double ControlLoop::NextDeadline() const {
  double deadline = kNever;
  if (!connections_.empty() || NeedsTicks(state_)) deadline = std::min(deadline, tick_at_);
  if (Dirty() || AuditWaits()) deadline = std::min(deadline, retry_at_);
  if (!refusals_.empty()) deadline = std::min(deadline, refusals_at_);
  // While the store fails, retry_at_ is what progress waits for as well.
  if (!dirty_progress_.empty() && !Dirty()) deadline = std::min(deadline, progress_at_);
  if (histories_.unstored()) deadline = std::min(deadline, histories_at_);
  if (!publish_soon_.empty() && !Dirty()) deadline = std::min(deadline, publish_at_);
  return deadline;
}

std::vector<ControlLoop::Task> ControlLoop::WaitForTasks() {
  const double deadline = NextDeadline();
  const auto ready = [this] { return stopping_ || !inbox_.empty(); };
  std::unique_lock lock(mutex_);
  if (deadline == kNever) {
    wake_.wait(lock, ready);
  } else {
    const auto until = std::chrono::steady_clock::time_point(
        std::chrono::duration_cast<std::chrono::steady_clock::duration>(
            std::chrono::duration<double>(deadline)));
    wake_.wait_until(lock, until, ready);
  }
  return std::exchange(inbox_, {});
}

void ControlLoop::Run() {
  while (true) {
    const std::vector<Task> tasks = WaitForTasks();
    for (const Task& task : tasks) task();
    RunTimers();
    Settle();
    AnswerQueries();
    PublishDue();
    std::lock_guard lock(mutex_);
    if (stopping_ && inbox_.empty()) break;
  }
  KeepAudit(refusals_.TakeAll());
  Settle();
  WriteProgress();
  while (histories_.unstored() && WriteHistories()) {
  }
}

void ControlLoop::RunTimers() {
  const double uptime = Now().uptime;
  if (uptime >= tick_at_ && (!connections_.empty() || NeedsTicks(state_))) {
    tick_at_ = uptime + std::min(settings_.heartbeat, settings_.lost_after / 4);
    ApplyEvent(TickEvent{});
    std::vector<uint64_t> mute;
    for (const auto& [stream, connection] : connections_) {
      if (!connection.greeted && uptime - connection.opened_at > kHelloDeadline) {
        mute.push_back(stream);
      }
    }
    for (const uint64_t stream : mute) RefuseConnection(stream, "no Hello came");
  }
  if (!dirty_progress_.empty() && uptime >= progress_at_ && !Dirty()) WriteProgress();
  if (histories_.unstored() && uptime >= histories_at_) WriteHistories();
  if (!refusals_.empty() && uptime >= refusals_at_) {
    KeepAudit(refusals_.Expire(Now().unix_time));
    refusals_at_ = uptime + kRefusalInterval;
  }
}

// ---- Events ----

void ControlLoop::ApplyEvent(const Event& event) { ApplyRequest(event, nullptr, std::nullopt); }

void ControlLoop::ApplyRequest(const Event& event, const ReplyFunction& function,
                               std::optional<AuditEntry> audit) {
  Transition transition = Apply(std::move(state_), event, settings_, Now());
  state_ = std::move(transition.state);
  Effects& effects = transition.effects;
  for (const Note& note : effects.notes) {
    LOG_IF(WARNING, note.warning) << note.text;
    LOG_IF(INFO, !note.warning) << note.text;
  }
  for (const JobLine& line : effects.job_lines) AppendLine(line);
  dirty_jobs_.merge(effects.store_jobs);
  dirty_fleets_.merge(effects.store_fleets);
  dirty_hosts_.merge(effects.store_hosts);
  held_changes_.merge(effects.changed_jobs);
  held_queue_changed_ = held_queue_changed_ || effects.queue_changed;
  std::move(effects.sends.begin(), effects.sends.end(), std::back_inserter(held_sends_));
  held_closes_.insert(held_closes_.end(), effects.closes.begin(), effects.closes.end());
  if (!function) return;
  CHECK(effects.reply.has_value()) << "a request without an answer";
  const Reply& reply = *effects.reply;
  if (audit) {
    audit->time = Now().unix_time;
    audit->result = AuditResult(reply.status);
    if (!reply.job_id.empty()) audit->subject = reply.job_id;
    if (!reply.status.ok()) {
      KeepAudit(refusals_.Add(*audit, reply.status.error_code()));
      audit.reset();
    }
  }
  held_replies_.push_back({std::move(*effects.reply), function, std::move(audit)});
}

void ControlLoop::AppendLine(const JobLine& line) {
  LogLine out;
  out.set_time(Now().unix_time);
  out.set_attempt(line.attempt);
  out.set_rank(line.rank);
  out.set_severity("WARNING");
  out.set_text("coordinator] " + line.text);
  logs_->Append(line.job_id, {std::move(out)});
}

bool ControlLoop::Request(Event event, ReplyFunction reply, std::optional<AuditEntry> audit) {
  return Post([this, event = std::move(event), reply = std::move(reply),
               audit = std::move(audit)] { ApplyRequest(event, reply, audit); },
              /*bounded=*/true);
}

void ControlLoop::Record(AuditEntry refusal, grpc::StatusCode kind) {
  const auto record = [this, refusal = std::move(refusal), kind] {
    KeepAudit(refusals_.Add(refusal, kind));
  };
  const bool taken = Post(record, /*bounded=*/true);
  LOG_IF_EVERY_N(ERROR, !taken, 1000) << "overloaded: refusals are missing in the audit log";
}

bool ControlLoop::Query(QueryFunction query) {
  return Post([this, query = std::move(query)] { held_queries_.push_back(query); },
              /*bounded=*/true);
}

void ControlLoop::Opened(std::shared_ptr<WorkerLink> link) {
  const auto open = [this, link] {
    if (disconnecting_) {
      return link->Close({grpc::StatusCode::UNAVAILABLE, "the coordinator is stopping"});
    }
    if (connections_.size() >= settings_.max_workers) {
      return link->Close({grpc::StatusCode::RESOURCE_EXHAUSTED,
                          std::to_string(settings_.max_workers) +
                              " workers are connected, which is this coordinator's limit "
                              "(--max-workers)"});
    }
    connections_[link->id()] = {link, false, Now().uptime};
    link->ReadNext();
  };
  if (Post(open, /*bounded=*/false)) return;
  link->Close({grpc::StatusCode::UNAVAILABLE, "the coordinator is stopping"});
}

void ControlLoop::Received(uint64_t stream, WorkerMessage message) {
  Post([this, stream, message = std::move(message)]() mutable { Handle(stream, message); },
       /*bounded=*/false);
}

void ControlLoop::Closed(uint64_t stream) {
  Post(
      [this, stream] {
        if (connections_.erase(stream) > 0) ApplyEvent(StreamClosedEvent{stream});
      },
      /*bounded=*/false);
}

void ControlLoop::RefuseConnection(uint64_t stream, const std::string& reason) {
  LOG(WARNING) << "a worker's connection was closed: " << reason;
  connections_.at(stream).greeted = true;  // Refused once is enough.
  Send rejected{stream, {}};
  rejected.command.mutable_rejected()->set_reason(reason);
  held_sends_.push_back(std::move(rejected));
  held_closes_.push_back(stream);
}

void ControlLoop::Handle(uint64_t stream, WorkerMessage& message) {
  const auto connection = connections_.find(stream);
  if (connection == connections_.end()) return;
  const bool is_hello = message.message_case() == WorkerMessage::kHello;
  if (is_hello == connection->second.greeted) {
    return RefuseConnection(stream, is_hello ? "a second Hello came on one connection"
                                             : "the first message was not Hello");
  }
  switch (message.message_case()) {
    case WorkerMessage::kHello:
      connection->second.greeted = true;
      ApplyEvent(HelloEvent{stream, std::move(*message.mutable_hello())});
      break;
    case WorkerMessage::kHeartbeat: {
      ApplyEvent(HeartbeatEvent{stream, std::move(*message.mutable_heartbeat())});
      const auto address = state_.streams.find(stream);
      if (address == state_.streams.end()) break;
      PublishSoon(state_.fleets.at(address->second.fleet).launch.job_id);
      break;
    }
    case WorkerMessage::kProgress:
      HandleProgress(stream, message.progress());
      break;
    case WorkerMessage::kCheckpoint:
      HandleCheckpoint(stream, message.mutable_checkpoint());
      break;
    case WorkerMessage::kLog:
      HandleLog(stream, message.mutable_log());
      break;
    case WorkerMessage::kEnded:
      HandleEnded(stream, message.ended());
      break;
    case WorkerMessage::kTrace:
      ApplyEvent(TraceReportEvent{stream, std::move(*message.mutable_trace())});
      break;
    case WorkerMessage::kStuck:
      ApplyEvent(StuckEvent{stream, std::move(*message.mutable_stuck())});
      break;
    case WorkerMessage::MESSAGE_NOT_SET:
      ApplyEvent(AliveEvent{stream});
      break;
  }
  connection->second.link->ReadNext();
}

void ControlLoop::HandleProgress(uint64_t stream, const ProgressReport& report) {
  ApplyEvent(AliveEvent{stream});
  const Job* job = AttemptOfStream(state_, stream, report.job_id(), report.attempt());
  if (job == nullptr || !job->attempt_open || state_.streams.at(stream).rank != 0) return;
  progress_[job->id] = report.progress();
  histories_.AddProgress(job->id, job->attempt, Now().unix_time, report.progress());
  dirty_progress_.insert(job->id);
  PublishSoon(job->id);
}

void ControlLoop::HandleCheckpoint(uint64_t stream, CheckpointReport* report) {
  CheckpointRecord record;
  record.set_time(Now().unix_time);
  record.set_step(report->step());
  record.set_attempt(report->attempt());
  record.set_path(report->path());
  const std::string job_id = report->job_id();
  const auto last = [&] {
    const auto found = state_.jobs.find(job_id);
    return found == state_.jobs.end() ? "" : found->second.last_checkpoint;
  };
  const std::string before = last();
  ApplyEvent(CheckpointEvent{stream, std::move(*report)});
  // Reports are repeated, and those of older attempts ignored.
  if (last() == record.path() && before != record.path()) {
    histories_.AddCheckpoint(job_id, std::move(record));
  }
}

void ControlLoop::HandleLog(uint64_t stream, LogReport* report) {
  ApplyEvent(AliveEvent{stream});
  // Lines that arrive after the attempt's end are its last ones.
  const Job* job = AttemptOfStream(state_, stream, report->job_id(), report->attempt());
  if (job == nullptr) return;
  std::vector<LogLine> lines;
  for (LogLine& line : *report->mutable_lines()) {
    line.set_attempt(report->attempt());
    line.set_rank(state_.streams.at(stream).rank);
    lines.push_back(std::move(line));
  }
  logs_->Append(job->id, std::move(lines));
}

void ControlLoop::HandleEnded(uint64_t stream, const AttemptEnded& ended) {
  const Job* job = AttemptOfStream(state_, stream, ended.job_id(), ended.attempt());
  if (job != nullptr && job->attempt_open && ended.has_progress() &&
      state_.streams.at(stream).rank == 0) {
    progress_[job->id] = ended.progress();
    histories_.AddProgress(job->id, job->attempt, Now().unix_time, ended.progress());
    dirty_progress_.insert(job->id);
  }
  ApplyEvent(AttemptEndedEvent{stream, ended});
}

// ---- Durability ----

bool ControlLoop::AuditWaits() const {
  return !audit_.empty() ||
         std::any_of(held_replies_.begin(), held_replies_.end(),
                     [](const HeldReply& held) { return held.audit.has_value(); });
}

void ControlLoop::KeepAudit(std::vector<AuditEntry> entries) {
  for (AuditEntry& entry : entries) {
    if (audit_.size() >= kMaxWaitingAudit) {
      ++lost_audit_;
      LOG_IF(ERROR, lost_audit_ == 1) << "lines of the audit log are lost, because the store can't "
                                         "be written";
      continue;
    }
    audit_.push_back(std::move(entry));
  }
}

void ControlLoop::CollectAudit(JobStore::Batch* batch) const {
  for (const AuditEntry& entry : audit_) batch->audit.push_back(&entry);
  for (const HeldReply& held : held_replies_) {
    if (held.audit) batch->audit.push_back(&*held.audit);
  }
}

void ControlLoop::Settle() {
  while (Dirty() || AuditWaits()) {
    std::vector<std::string> stored;
    // A store that has just failed is left alone for a moment, however much comes in.
    if (store_status_.ok() || Now().uptime >= retry_at_) store_status_ = WriteDirty(&stored);
    if (!store_status_.ok()) return StoreFailed(store_status_);
    for (const std::string& job_id : stored) ApplyEvent(StoredEvent{job_id});
  }
  Release();
}

grpc::Status ControlLoop::WriteDirty(std::vector<std::string>* stored) {
  JobStore::Batch batch;
  for (const std::string& job_id : dirty_jobs_) {
    const Job& job = state_.jobs.at(job_id);
    batch.jobs.push_back(&job);
    if (!job.durable) stored->push_back(job_id);
  }
  for (const std::string& name : dirty_fleets_) {
    const auto fleet = state_.fleets.find(name);
    if (fleet == state_.fleets.end()) {
      batch.dropped_fleets.push_back(name);
    } else {
      batch.fleets.push_back(&fleet->second);
    }
  }
  for (const std::string& name : dirty_hosts_) {
    const auto host = state_.hosts.find(name);
    if (host == state_.hosts.end()) {
      batch.dropped_hosts.push_back(name);
    } else {
      batch.hosts.push_back(&host->second);
    }
  }
  for (const std::string& job_id : dirty_progress_) {
    batch.progress.emplace_back(job_id, &progress_.at(job_id));
  }
  CollectAudit(&batch);
  AuditEntry lost;
  if (lost_audit_ > 0) {
    lost = {Now().unix_time,
            "",
            "coordinator",
            "this machine",
            "audit",
            "",
            "lines were lost while the store could not be written",
            lost_audit_};
    batch.audit.push_back(&lost);
  }
  const grpc::Status status = jobs_->Write(batch);
  if (!status.ok()) {
    retry_at_ = Now().uptime + kStoreRetry;
    LOG(ERROR) << "the store can't be written: " << status.error_message();
    return status;
  }
  LOG_IF(INFO, !store_status_.ok()) << "the store can be written again";
  dirty_jobs_.clear();
  dirty_fleets_.clear();
  dirty_hosts_.clear();
  dirty_progress_.clear();
  audit_.clear();
  lost_audit_ = 0;
  for (HeldReply& held : held_replies_) held.audit.reset();
  progress_at_ = Now().uptime + kProgressInterval;
  return status;
}

void ControlLoop::StoreFailed(const grpc::Status& status) {
  // Submissions are taken back: nothing of them was said to anybody.
  std::set<std::string> taken_back;
  for (const std::string& job_id : dirty_jobs_) {
    if (!state_.jobs.at(job_id).durable) taken_back.insert(job_id);
  }
  for (const std::string& job_id : taken_back) {
    dirty_jobs_.erase(job_id);
    held_changes_.erase(job_id);
    ApplyEvent(NotStoredEvent{job_id});
  }
  for (HeldReply& held : std::exchange(held_replies_, {})) {
    const bool refused = taken_back.contains(held.reply.job_id);
    if (held.reply.status.ok() && (refused || Dirty() || held.audit)) {
      held.reply.status = {status.error_code(),
                           (refused ? "the job was not accepted, because the coordinator's store "
                                      "can't be written: "
                                    : "the coordinator's store can't be written, it will be tried "
                                      "again: ") +
                               status.error_message()};
    }
    if (held.audit) {
      held.audit->result = AuditResult(held.reply.status);
      KeepAudit({std::move(*held.audit)});
    }
    held.function(held.reply, View());
  }
  if (!Dirty()) return Release();
  // Connections that are gone need no answer, however long the store stays away.
  std::erase_if(held_sends_,
                [this](const Send& send) { return !connections_.contains(send.stream); });
  std::erase_if(held_closes_, [this](uint64_t stream) { return !connections_.contains(stream); });
}

void ControlLoop::Release() {
  for (const Send& send : std::exchange(held_sends_, {})) {
    const auto connection = connections_.find(send.stream);
    if (connection != connections_.end()) connection->second.link->Send(send.command);
  }
  for (const uint64_t stream : std::exchange(held_closes_, {})) {
    const auto connection = connections_.find(stream);
    if (connection == connections_.end()) continue;
    connection->second.link->Close(grpc::Status::OK);
    connections_.erase(connection);
    ApplyEvent(StreamClosedEvent{stream});
  }
  for (const HeldReply& held : std::exchange(held_replies_, {})) held.function(held.reply, View());
  for (const std::string& job_id : std::exchange(held_changes_, {})) Publish(job_id);
  if (std::exchange(held_queue_changed_, false)) PublishWaiting();
}

void ControlLoop::AnswerQueries() {
  for (const QueryFunction& query : std::exchange(held_queries_, {})) query(View());
}

void ControlLoop::WriteProgress() {
  if (dirty_progress_.empty()) return;
  JobStore::Batch batch;
  for (const std::string& job_id : dirty_progress_) {
    batch.progress.emplace_back(job_id, &progress_.at(job_id));
  }
  progress_at_ = Now().uptime + kProgressInterval;
  const grpc::Status status = jobs_->Write(batch);
  LOG_IF_EVERY_N(ERROR, !status.ok(), 30) << "progress is not stored: " << status.error_message();
  if (status.ok()) dirty_progress_.clear();
}

bool ControlLoop::WriteHistories() {
  const HistoryChanges changes = histories_.Unstored(kHistoryRows);
  JobStore::Batch batch;
  batch.history = &changes;
  const grpc::Status status = jobs_->Write(batch);
  LOG_IF_EVERY_N(ERROR, !status.ok(), 30) << "curves are not stored: " << status.error_message();
  if (status.ok()) histories_.Stored(changes);
  const bool more = status.ok() && histories_.unstored();
  histories_at_ = Now().uptime + (more ? kStoreRetry : kHistoryInterval);
  return status.ok();
}

// ---- Watching ----

void ControlLoop::Watch(const std::string& job_id, std::shared_ptr<JobWatcher> watcher) {
  const auto watch = [this, job_id, watcher](const ControlView& view) {
    const Job* job = view.FindJob(job_id);
    if (job == nullptr) {
      return watcher->Close({grpc::StatusCode::NOT_FOUND, "there is no job " + job_id});
    }
    if (disconnecting_) {
      return watcher->Close({grpc::StatusCode::UNAVAILABLE, "the coordinator is stopping"});
    }
    if (watcher_count_ >= settings_.max_watchers) {
      return watcher->Close({grpc::StatusCode::RESOURCE_EXHAUSTED,
                             std::to_string(settings_.max_watchers) +
                                 " watch jobs already, which is this coordinator's limit "
                                 "(--max-watchers); ask for the status instead"});
    }
    watchers_[job_id].push_back(watcher);
    ++watcher_count_;
    Publish(job_id);
  };
  if (Query(watch)) return;
  watcher->Close({grpc::StatusCode::UNAVAILABLE, "the coordinator is overloaded or stopping"});
}

void ControlLoop::Unwatch(const std::string& job_id, const JobWatcher* watcher) {
  const auto unwatch = [this, job_id, watcher](const ControlView&) {
    const auto found = watchers_.find(job_id);
    if (found == watchers_.end()) return;
    watcher_count_ -= std::erase_if(
        found->second, [watcher](const auto& other) { return other.get() == watcher; });
    if (found->second.empty()) watchers_.erase(found);
  };
  // After the Watch that it ends.
  Post([this, unwatch] { held_queries_.emplace_back(unwatch); }, /*bounded=*/false);
}

void ControlLoop::Publish(const std::string& job_id) {
  const auto found = watchers_.find(job_id);
  if (found == watchers_.end()) return;
  const Job& job = state_.jobs.at(job_id);
  const JobStatus status = View().View(job, RankDetail::kWithRanks);
  const bool last = IsEnded(job.state);
  for (const auto& watcher : found->second) watcher->Offer(status, last);
  if (!last) return;
  watcher_count_ -= found->second.size();
  watchers_.erase(found);
}

void ControlLoop::PublishDue() {
  const double uptime = Now().uptime;
  if (publish_soon_.empty() || uptime < publish_at_ || Dirty()) return;
  publish_at_ = uptime + kPublishInterval;
  for (const std::string& job_id : std::exchange(publish_soon_, {})) Publish(job_id);
}

void ControlLoop::PublishSoon(const std::string& job_id) {
  if (watchers_.contains(job_id)) publish_soon_.insert(job_id);
}

void ControlLoop::PublishWaiting() {
  for (const auto& [job_id, watchers] : watchers_) {
    if (IsWaiting(state_.jobs.at(job_id))) publish_soon_.insert(job_id);
  }
}

}  // namespace swinfleet::coordinator
