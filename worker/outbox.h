// What a worker has to tell the coordinator, in the order in which it is to be told.
#ifndef SWINFLEET_WORKER_OUTBOX_H_
#define SWINFLEET_WORKER_OUTBOX_H_

#include <chrono>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>

#include "distributed/communicator.h"
#include "proto/coordinator.pb.h"
#include "worker/log_queue.h"
#include "worker/reporter.h"

namespace swinfleet {

// Bounded: of progress, checkpoints and traces only the newest is kept, of log lines what LogQueue
// keeps. Time is an argument, so tests need none. Thread-safe.
class Outbox {
 public:
  using Clock = std::chrono::steady_clock;

  Outbox(const Hello& identity, Clock::duration resend)
      : identity_(identity), resend_(resend), logs_(identity.rank(), LogQueue::Limits{}) {}

  // ---- What the training says. ----

  // Returns false when it had to drop an earlier attempt's end, which nobody has acknowledged.
  bool BeginAttempt(const std::string& job_id, uint32_t attempt);
  void SetCommunicator(const Communicator* communicator);
  void EndAttempt(const std::optional<AttemptEnded>& ended);
  void SetPhase(Phase phase);
  void SetStep(int64_t step);
  void SetOwnWork(double seconds, int64_t steps);
  void SetProgress(const Progress& progress);
  void SetCheckpoint(const std::string& path, uint64_t step);
  // What became of a trace; the one before was acknowledged by the request for this one.
  void SetTrace(const TraceReport& report);
  // The last thing that a rank says. Job and attempt are filled in.
  void SetStuck(const StuckReport& report);
  LogQueue& logs() { return logs_; }
  // The attempt under way; empty job_id: none.
  std::string job_id() const;
  uint32_t attempt() const;

  // ---- What the connection does. ----

  // The first message of a connection.
  Hello MakeHello() const;
  // What an earlier connection may have lost is due again.
  void OnWelcome(double heartbeat_seconds);
  // What Next returned last did not go out.
  void OnDisconnected();
  // The next message that is due; calling it again means that the one before was written.
  bool Next(Clock::time_point now, WorkerMessage* message);
  // When Next will have something although nobody says anything.
  Clock::time_point NextDue() const;
  // Returns whether it was this attempt's end that waited.
  bool Acknowledge(const std::string& job_id, uint32_t attempt);
  // Nothing waits to be written or acknowledged.
  bool AllOut() const;

 private:
  void FillHeartbeat(Heartbeat* heartbeat) const;

  const Hello identity_;
  const Clock::duration resend_;
  LogQueue logs_;

  mutable std::mutex mutex_;
  // The attempt under way, or whose end waits for acknowledgement.
  std::string job_id_;
  uint32_t attempt_ = 0;
  bool under_way_ = false;
  Phase phase_ = Phase::kIdle;
  int64_t step_ = 0;
  double own_seconds_ = 0;
  int64_t own_steps_ = 0;
  std::optional<Progress> progress_;
  std::optional<CheckpointReport> checkpoint_;
  std::optional<TraceReport> trace_;
  std::optional<StuckReport> stuck_;
  std::optional<AttemptEnded> ended_;
  bool stuck_due_ = false;
  bool progress_due_ = false;
  bool checkpoint_due_ = false;
  bool trace_due_ = false;
  Clock::time_point ended_due_{};
  Clock::duration heartbeat_period_ = std::chrono::seconds(2);
  Clock::time_point heartbeat_due_{};
  // What Next returned last.
  std::optional<WorkerMessage> in_hand_;
  // Log lines that did not go out, ahead of the queue.
  std::optional<LogReport> unsent_logs_;

  // Apart from the rest, because asking the communicator for its position takes its locks.
  mutable std::mutex communicator_mutex_;
  const Communicator* communicator_ = nullptr;
};

}  // namespace swinfleet

#endif  // SWINFLEET_WORKER_OUTBOX_H_
