#include "worker/outbox.h"

#include <algorithm>
#include <cmath>

#include "core/memory/memory_classes.h"
#include "worker/utf8.h"

namespace swinfleet {
namespace {

constexpr size_t kLinesInReport = 200;
constexpr size_t kPathBytes = 4096;

}  // namespace

bool Outbox::BeginAttempt(const std::string& job_id, uint32_t attempt) {
  const std::lock_guard lock(mutex_);
  const bool dropped = ended_.has_value();
  ended_.reset();
  progress_.reset();
  checkpoint_.reset();
  trace_.reset();
  progress_due_ = checkpoint_due_ = trace_due_ = false;
  job_id_ = job_id;
  attempt_ = attempt;
  under_way_ = true;
  phase_ = Phase::kLoad;
  step_ = 0;
  own_seconds_ = 0;
  own_steps_ = 0;
  heartbeat_due_ = Clock::time_point::min();
  logs_.BeginAttempt(job_id, attempt);
  return !dropped;
}

void Outbox::SetCommunicator(const Communicator* communicator) {
  const std::lock_guard lock(communicator_mutex_);
  communicator_ = communicator;
}

void Outbox::EndAttempt(const std::optional<AttemptEnded>& ended) {
  SetCommunicator(nullptr);
  logs_.EndAttempt();
  const std::lock_guard lock(mutex_);
  under_way_ = false;
  phase_ = Phase::kIdle;
  ended_ = ended;
  ended_due_ = Clock::time_point::min();
  heartbeat_due_ = Clock::time_point::min();
  if (ended) return;
  job_id_.clear();
  attempt_ = 0;
}

void Outbox::SetPhase(Phase phase) {
  const std::lock_guard lock(mutex_);
  if (phase == phase_) return;
  phase_ = phase;
  heartbeat_due_ = Clock::time_point::min();
}

void Outbox::SetStep(int64_t step) {
  const std::lock_guard lock(mutex_);
  step_ = step;
}

void Outbox::SetOwnWork(double seconds, int64_t steps) {
  const std::lock_guard lock(mutex_);
  own_seconds_ = seconds;
  own_steps_ = steps;
}

void Outbox::SetTrace(const TraceReport& report) {
  const std::lock_guard lock(mutex_);
  trace_ = report;
  trace_->set_job_id(job_id_);
  trace_->set_attempt(attempt_);
  trace_due_ = true;
}

void Outbox::SetStuck(const StuckReport& report) {
  const std::lock_guard lock(mutex_);
  stuck_ = report;
  stuck_->set_job_id(job_id_);
  stuck_->set_attempt(attempt_);
  stuck_due_ = true;
}

void Outbox::SetProgress(const Progress& progress) {
  const std::lock_guard lock(mutex_);
  progress_ = progress;
  progress_due_ = true;
}

void Outbox::SetCheckpoint(const std::string& path, uint64_t step) {
  const std::lock_guard lock(mutex_);
  checkpoint_.emplace();
  checkpoint_->set_path(ToUtf8(path, kPathBytes));
  checkpoint_->set_step(step);
  checkpoint_due_ = true;
}

std::string Outbox::job_id() const {
  const std::lock_guard lock(mutex_);
  return under_way_ ? job_id_ : "";
}

uint32_t Outbox::attempt() const {
  const std::lock_guard lock(mutex_);
  return attempt_;
}

Hello Outbox::MakeHello() const {
  const std::lock_guard lock(mutex_);
  Hello hello = identity_;
  hello.set_job_id(job_id_);
  hello.set_attempt(attempt_);
  return hello;
}

void Outbox::OnWelcome(double heartbeat_seconds) {
  const std::lock_guard lock(mutex_);
  // A coordinator that asks for nonsense is asked for a sane number of heartbeats instead.
  const double seconds =
      std::isfinite(heartbeat_seconds) ? std::clamp(heartbeat_seconds, 0.05, 60.0) : 2.0;
  heartbeat_period_ =
      std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  heartbeat_due_ = Clock::time_point::min();
  progress_due_ = progress_.has_value();
  checkpoint_due_ = checkpoint_.has_value();
  trace_due_ = trace_.has_value();
  stuck_due_ = stuck_.has_value();
  ended_due_ = Clock::time_point::min();
}

void Outbox::OnDisconnected() {
  const std::lock_guard lock(mutex_);
  if (in_hand_ && in_hand_->has_log()) unsent_logs_ = in_hand_->log();
  in_hand_.reset();
}

void Outbox::FillHeartbeat(Heartbeat* heartbeat) const {
  heartbeat->set_job_id(job_id_);
  heartbeat->set_attempt(attempt_);
  heartbeat->set_phase(PhaseName(phase_));
  heartbeat->set_step(static_cast<uint64_t>(step_));
  heartbeat->set_memory_bytes(ProcessResidentBytes());
  heartbeat->set_own_seconds(own_seconds_);
  heartbeat->set_own_steps(static_cast<uint64_t>(own_steps_));
  const std::lock_guard lock(communicator_mutex_);
  if (communicator_ == nullptr) return;
  const CollectivePosition position = communicator_->position();
  heartbeat->set_collective_sequence(position.sequence);
  heartbeat->set_collective(ToUtf8(position.name, 256));
  heartbeat->set_in_collective(position.in_progress);
}

bool Outbox::Next(Clock::time_point now, WorkerMessage* message) {
  const std::lock_guard lock(mutex_);
  in_hand_.reset();
  message->Clear();
  if (stuck_due_) {
    stuck_due_ = false;
    *message->mutable_stuck() = *stuck_;
  } else if (checkpoint_due_) {
    checkpoint_due_ = false;
    *message->mutable_checkpoint() = *checkpoint_;
    message->mutable_checkpoint()->set_job_id(job_id_);
    message->mutable_checkpoint()->set_attempt(attempt_);
  } else if (trace_due_) {
    trace_due_ = false;
    *message->mutable_trace() = *trace_;
  } else if (unsent_logs_) {
    *message->mutable_log() = *unsent_logs_;
    unsent_logs_.reset();
  } else if (!logs_.empty()) {
    logs_.Take(kLinesInReport, message->mutable_log());
  } else if (progress_due_) {
    progress_due_ = false;
    *message->mutable_progress()->mutable_progress() = *progress_;
    message->mutable_progress()->set_job_id(job_id_);
    message->mutable_progress()->set_attempt(attempt_);
  } else if (ended_ && now >= ended_due_) {
    ended_due_ = now + resend_;
    *message->mutable_ended() = *ended_;
  } else if (now >= heartbeat_due_) {
    heartbeat_due_ = now + heartbeat_period_;
    FillHeartbeat(message->mutable_heartbeat());
  } else {
    return false;
  }
  in_hand_ = *message;
  return true;
}

Outbox::Clock::time_point Outbox::NextDue() const {
  const std::lock_guard lock(mutex_);
  return ended_ ? std::min(ended_due_, heartbeat_due_) : heartbeat_due_;
}

bool Outbox::Acknowledge(const std::string& job_id, uint32_t attempt) {
  const std::lock_guard lock(mutex_);
  if (!ended_ || job_id_ != job_id || attempt_ != attempt) return false;
  ended_.reset();
  progress_.reset();
  checkpoint_.reset();
  progress_due_ = checkpoint_due_ = false;
  job_id_.clear();
  attempt_ = 0;
  heartbeat_due_ = Clock::time_point::min();
  return true;
}

bool Outbox::AllOut() const {
  const std::lock_guard lock(mutex_);
  return !in_hand_ && !unsent_logs_ && logs_.empty() && !progress_due_ && !checkpoint_due_ &&
         !trace_due_ && !stuck_due_ && !ended_;
}

}  // namespace swinfleet
