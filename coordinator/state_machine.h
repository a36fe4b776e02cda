// All transitions of the control state, as one pure function of a state and an event.
//
// It does no input or output: what is to be done to the world is returned as effects. Their order
// is a promise to the outside: `store_*` must be durable before any send, reply or close of the
// same transition is carried out, so nothing that was said is forgotten by a crash. If the store
// refuses, the caller keeps the effects and tries again; a submission is taken back with
// NotStoredEvent.
#ifndef SWINFLEET_COORDINATOR_STATE_MACHINE_H_
#define SWINFLEET_COORDINATOR_STATE_MACHINE_H_

#include <grpcpp/support/status.h>

#include <memory>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "coordinator/control_state.h"
#include "proto/coordinator.pb.h"

namespace swinfleet::coordinator {

// ---- Events. Strings in them are validated and bounded (validation.h). ----

struct SubmitEvent {
  std::shared_ptr<const JobSpec> spec;
  std::string submission_id;
  // See Job::user.
  std::string user;
  // Makes the job's id unique among all stores, so that a worker that comes back to a coordinator
  // with another store is not mistaken for one of its own.
  std::string id_suffix;
};
// The submitted job is durable; it may be scheduled and shown.
struct StoredEvent {
  std::string job_id;
};
// It could not be stored: it never was.
struct NotStoredEvent {
  std::string job_id;
};
struct CancelEvent {
  std::string job_id;
};
// Checked as to its limits (CheckTrace).
struct TraceEvent {
  std::string job_id;
  std::string request_id;
  // None: all of the attempt.
  std::set<uint32_t> ranks;
  uint32_t steps = 1;
};
struct FenceEvent {
  std::string fleet;
};
struct HelloEvent {
  // Connections are numbered in the order in which they were opened, from 1.
  uint64_t stream = 0;
  Hello hello;
};
struct HeartbeatEvent {
  uint64_t stream = 0;
  Heartbeat heartbeat;
};
struct CheckpointEvent {
  uint64_t stream = 0;
  CheckpointReport checkpoint;
};
struct TraceReportEvent {
  uint64_t stream = 0;
  TraceReport report;
};
struct AttemptEndedEvent {
  uint64_t stream = 0;
  AttemptEnded ended;
};
struct StuckEvent {
  uint64_t stream = 0;
  StuckReport report;
};
// Any other message of the rank.
struct AliveEvent {
  uint64_t stream = 0;
};
struct StreamClosedEvent {
  uint64_t stream = 0;
};
struct LaunchReportEvent {
  LaunchReport report;
};
// Time has passed.
struct TickEvent {};

using Event =
    std::variant<SubmitEvent, StoredEvent, NotStoredEvent, CancelEvent, TraceEvent, FenceEvent,
                 HelloEvent, HeartbeatEvent, CheckpointEvent, TraceReportEvent, AttemptEndedEvent,
                 StuckEvent, AliveEvent, StreamClosedEvent, LaunchReportEvent, TickEvent>;

// ---- Effects. ----

struct Send {
  uint64_t stream = 0;
  WorkerCommand command;
};
// The answer to Submit, Cancel, Trace, Fence and LaunchReport.
struct Reply {
  grpc::Status status;
  std::string job_id;
  std::string fleet;
  LaunchDirective directive;
};
// A line for the coordinator's own log.
struct Note {
  bool warning = false;
  std::string text;
};

// A line for a job's log, about one of its ranks.
struct JobLine {
  std::string job_id;
  uint32_t attempt = 0;
  uint32_t rank = 0;
  std::string text;
};

struct Effects {
  std::set<std::string> store_jobs;
  // Also names of fleets that were dropped: they are absent from the state.
  std::set<std::string> store_fleets;
  // Also names of hosts that were forgotten.
  std::set<std::string> store_hosts;
  std::vector<Send> sends;
  // Connections to close once what was sent on them is written.
  std::vector<uint64_t> closes;
  std::optional<Reply> reply;
  // Jobs to show anew to those who watch them.
  std::set<std::string> changed_jobs;
  // Fleets or the queue changed: waiting jobs have another reason or position.
  bool queue_changed = false;
  std::vector<Note> notes;
  std::vector<JobLine> job_lines;
};

struct Transition {
  ControlState state;
  Effects effects;
};

// The state after `event`, which happened at `now`, and what is to be done.
Transition Apply(ControlState state, const Event& event, const Settings& settings, Moment now);

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_COORDINATOR_STATE_MACHINE_H_
