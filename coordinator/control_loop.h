// The one thread that owns the control state. Everything that happens is posted to it; it applies
// the pure state machine to all that waits, makes the outcome durable in one transaction, and only
// then lets anything be said to the outside. If the store can't be written, submissions are
// refused, and everything else is held back and tried again each second; only who asks meanwhile is
// shown what is known, stored or not.
#ifndef SWINFLEET_COORDINATOR_CONTROL_LOOP_H_
#define SWINFLEET_COORDINATOR_CONTROL_LOOP_H_

#include <grpcpp/support/status.h>

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "coordinator/audit.h"
#include "coordinator/control_state.h"
#include "coordinator/job_history.h"
#include "coordinator/job_store.h"
#include "coordinator/links.h"
#include "coordinator/log_store.h"
#include "coordinator/state_machine.h"
#include "coordinator/status_view.h"

namespace swinfleet::coordinator {

// What a query may look at, on the control thread.
struct ControlView {
  const ControlState& state;
  const std::map<std::string, Progress>& progress;
  const JobHistories& histories;
  const Settings& settings;
  // What the last attempt to write to the store came to.
  const grpc::Status& store;
  double uptime;

  // The job, unless nobody may know of it yet.
  const Job* FindJob(const std::string& job_id) const;
  JobStatus View(const Job& job, RankDetail detail) const;
};

class ControlLoop {
 public:
  using ReplyFunction = std::function<void(const Reply& reply, const ControlView& view)>;
  using QueryFunction = std::function<void(const ControlView& view)>;

  // The stores must outlive the loop.
  ControlLoop(JobStore* jobs, LogStore* logs, const Settings& settings);
  ~ControlLoop();

  // Takes the state from the store and starts the thread.
  grpc::Status Start();
  // Ends all connections; new ones are refused from now on. Requests are still answered.
  void Disconnect();
  // Deals with what was posted, writes it and ends the thread.
  void Stop();

  // These may be called from any thread; the functions are called on the control thread, once.
  // False: too much waits already, or the loop has stopped; the function will not be called.

  // An event that is answered: Submit, Cancel, Trace, Fence, LaunchReport. With `audit` it is a
  // change by somebody, which goes into the audit log: with the time, with what came of it, and
  // with the job that it made.
  [[nodiscard]] bool Request(Event event, ReplyFunction reply,
                             std::optional<AuditEntry> audit = std::nullopt);
  [[nodiscard]] bool Query(QueryFunction query);

  // A refusal for the audit log, of a kind that is told apart from others (RefusalCounter).
  void Record(AuditEntry refusal, grpc::StatusCode kind);

  void Opened(std::shared_ptr<WorkerLink> link);
  void Received(uint64_t stream, WorkerMessage message);
  void Closed(uint64_t stream);

  void Watch(const std::string& job_id, std::shared_ptr<JobWatcher> watcher);
  void Unwatch(const std::string& job_id, const JobWatcher* watcher);

 private:
  struct Connection {
    std::shared_ptr<WorkerLink> link;
    bool greeted = false;
    double opened_at = 0;
  };
  struct HeldReply {
    Reply reply;
    ReplyFunction function;
    // Of a change that was made, until it is stored with it.
    std::optional<AuditEntry> audit;
  };
  using Task = std::function<void()>;

  // ---- The thread ----
  bool Post(Task task, bool bounded);
  void Run();
  std::vector<Task> WaitForTasks();
  double NextDeadline() const;
  void RunTimers();

  // ---- Events ----
  void ApplyEvent(const Event& event);
  void ApplyRequest(const Event& event, const ReplyFunction& function,
                    std::optional<AuditEntry> audit);
  void Handle(uint64_t stream, WorkerMessage& message);
  void HandleProgress(uint64_t stream, const ProgressReport& report);
  void HandleCheckpoint(uint64_t stream, CheckpointReport* report);
  void HandleLog(uint64_t stream, LogReport* report);
  void HandleEnded(uint64_t stream, const AttemptEnded& ended);
  void AppendLine(const JobLine& line);
  void RefuseConnection(uint64_t stream, const std::string& reason);

  // ---- Durability ----
  void Settle();
  bool Dirty() const {
    return !dirty_jobs_.empty() || !dirty_fleets_.empty() || !dirty_hosts_.empty();
  }
  // A line of the audit log is still to be written.
  bool AuditWaits() const;
  void KeepAudit(std::vector<AuditEntry> entries);
  void CollectAudit(JobStore::Batch* batch) const;
  grpc::Status WriteDirty(std::vector<std::string>* stored);
  void StoreFailed(const grpc::Status& status);
  void Release();
  void AnswerQueries();
  void WriteProgress();
  bool WriteHistories();

  // ---- Watching ----
  void Publish(const std::string& job_id);
  void PublishDue();
  void PublishSoon(const std::string& job_id);
  void PublishWaiting();

  ControlView View() const;
  Moment Now() const;

  JobStore* const jobs_;
  LogStore* const logs_;
  const Settings settings_;

  // Guards the inbox alone.
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<Task> inbox_;
  bool stopping_ = false;
  std::thread thread_;

  // All below belongs to the control thread.
  ControlState state_;
  std::map<std::string, Progress> progress_;  // by job
  JobHistories histories_;
  std::map<uint64_t, Connection> connections_;
  std::map<std::string, std::vector<std::shared_ptr<JobWatcher>>> watchers_;  // by job
  size_t watcher_count_ = 0;
  bool disconnecting_ = false;

  std::set<std::string> dirty_jobs_;
  std::set<std::string> dirty_fleets_;
  std::set<std::string> dirty_hosts_;
  std::set<std::string> dirty_progress_;
  // Held back until what is dirty is durable.
  std::vector<Send> held_sends_;
  std::vector<uint64_t> held_closes_;
  std::vector<HeldReply> held_replies_;
  // Lines of the audit log that no reply waits for, how many there was no room for, and refusals
  // that are being counted.
  std::vector<AuditEntry> audit_;
  uint64_t lost_audit_ = 0;
  RefusalCounter refusals_;
  // Answered once an attempt to write was made.
  std::vector<QueryFunction> held_queries_;
  std::set<std::string> held_changes_;
  bool held_queue_changed_ = false;

  std::set<std::string> publish_soon_;
  grpc::Status store_status_;
  // Uptimes at which something is due.
  double retry_at_ = 0;
  double tick_at_ = 0;
  double progress_at_ = 0;
  double histories_at_ = 0;
  double publish_at_ = 0;
  double refusals_at_ = 0;
};

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_COORDINATOR_CONTROL_LOOP_H_
