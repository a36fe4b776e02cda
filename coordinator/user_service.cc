#include "coordinator/user_service.h"

#include <algorithm>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/clock.h"
#include "coordinator/validation.h"
#include "coordinator/watch_stream.h"

namespace swinfleet::coordinator {
namespace {

constexpr uint32_t kDefaultListLimit = 100;
constexpr uint32_t kMaxListLimit = 1000;
constexpr uint32_t kDefaultLogLines = 1000;
constexpr uint32_t kMaxLogLines = 5000;

grpc::Status Overloaded() {
  return {grpc::StatusCode::UNAVAILABLE, "the coordinator is overloaded or stopping, try again"};
}

grpc::Status NoJob(const std::string& job_id) {
  return {grpc::StatusCode::NOT_FOUND, "there is no job " + job_id};
}

grpc::ServerUnaryReactor* FinishNow(grpc::CallbackServerContext* context,
                                    const grpc::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(status);
  return reactor;
}

// Tells a watcher that he is not let in.
class RefusedWatch final : public grpc::ServerWriteReactor<JobStatus> {
 public:
  explicit RefusedWatch(const grpc::Status& status) { Finish(status); }
  void OnDone() override { delete this; }
};

// Four hexadecimal digits.
std::string RandomSuffix() {
  std::random_device device;
  char text[8];
  snprintf(text, sizeof(text), "%04x", device() & 0xffffu);
  return text;
}

// Newest first; jobs in one of `states`, or all. Without ranks: a list is for an overview.
void FillList(const ControlView& view, const std::set<int>& states, uint32_t limit,
              ListJobsResponse* response) {
  size_t bytes = 0;
  const auto& order = view.state.job_order;
  for (auto entry = order.rbegin(); entry != order.rend(); ++entry) {
    const Job* job = view.FindJob(entry->second);
    if (job == nullptr || (!states.empty() && !states.contains(job->state))) continue;
    if (response->jobs_size() >= static_cast<int>(limit)) return;
    JobStatus status = view.View(*job, RankDetail::kWithoutRanks);
    bytes += status.ByteSizeLong();
    if (bytes > kMaxAnswerBytes) return;
    *response->add_jobs() = std::move(status);
  }
}

}  // namespace

// One SubmitJob on its way through the checks.
struct UserService::Submission {
  grpc::ServerUnaryReactor* reactor;
  SubmitJobResponse* response;
  Caller caller;
  std::shared_ptr<const JobSpec> spec;
  std::string submission_id;
  std::string user;

  void Fail(const grpc::Status& status) const { reactor->Finish(status); }
  void Succeed(const ControlView& view, const Job& job) const {
    response->set_job_id(job.id);
    *response->mutable_status() = view.View(job, RankDetail::kWithRanks);
    reactor->Finish(grpc::Status::OK);
  }
};

grpc::ServerUnaryReactor* UserService::SubmitJob(grpc::CallbackServerContext* context,
                                                 const SubmitJobRequest* request,
                                                 SubmitJobResponse* response) {
  Caller caller;
  const std::string& run_dir = request->spec().run_dir();
  grpc::Status status = gate_->Enter(*context, Action::kSubmit, run_dir, &caller);
  if (!status.ok()) return FinishNow(context, status);
  SubmitJobRequest checked = *request;
  checked.set_user(Owner(caller.identity, request->user()));
  if (status = CheckSubmission(&checked, roots_); !status.ok()) {
    return FinishNow(context, gate_->Refuse(caller, Action::kSubmit, run_dir, status));
  }
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const Submission submission{reactor,
                              response,
                              caller,
                              std::make_shared<JobSpec>(checked.spec()),
                              checked.submission_id(),
                              checked.user()};
  // A repeated submission needs no second check.
  const auto look = [this, submission](const ControlView& view) {
    const auto known = view.state.submissions.find(submission.submission_id);
    const Job* job = known == view.state.submissions.end() ? nullptr : view.FindJob(known->second);
    if (job != nullptr) return submission.Succeed(view, *job);
    Admit(submission);
  };
  if (!control_->Query(look)) submission.Fail(Overloaded());
  return reactor;
}

void UserService::Admit(const Submission& submission) {
  admission_->Check(submission.spec, [this, submission](const grpc::Status& status) {
    if (!status.ok()) {
      return submission.Fail(
          gate_->Refuse(submission.caller, Action::kSubmit, submission.spec->run_dir(), status));
    }
    Enqueue(submission);
  });
}

void UserService::Enqueue(const Submission& submission) {
  const auto reply = [submission](const Reply& reply, const ControlView& view) {
    if (!reply.status.ok()) return submission.Fail(reply.status);
    submission.Succeed(view, *view.FindJob(reply.job_id));
  };
  SubmitEvent event{submission.spec, submission.submission_id, submission.user, RandomSuffix()};
  AuditEntry audit =
      Gate::Entry(submission.caller, Action::kSubmit, submission.spec->run_dir(), submission.user);
  if (!control_->Request(std::move(event), reply, std::move(audit))) {
    submission.Fail(Overloaded());
  }
}

grpc::ServerUnaryReactor* UserService::GetJob(grpc::CallbackServerContext* context,
                                              const GetJobRequest* request, JobStatus* response) {
  Caller caller;
  grpc::Status status = gate_->Enter(*context, Action::kView, request->job_id(), &caller);
  if (status.ok()) status = CheckName("job id", request->job_id());
  if (!status.ok()) return FinishNow(context, status);
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const auto query = [reactor, response, job_id = request->job_id()](const ControlView& view) {
    const Job* job = view.FindJob(job_id);
    if (job == nullptr) return reactor->Finish(NoJob(job_id));
    *response = view.View(*job, RankDetail::kWithRanks);
    reactor->Finish(grpc::Status::OK);
  };
  if (!control_->Query(query)) reactor->Finish(Overloaded());
  return reactor;
}

grpc::ServerUnaryReactor* UserService::ListJobs(grpc::CallbackServerContext* context,
                                                const ListJobsRequest* request,
                                                ListJobsResponse* response) {
  Caller caller;
  const grpc::Status status = gate_->Enter(*context, Action::kView, "jobs", &caller);
  if (!status.ok()) return FinishNow(context, status);
  std::set<int> states(request->states().begin(), request->states().end());
  for (const int state : states) {
    if (state == JOB_STATE_UNSPECIFIED || !JobState_IsValid(state)) {
      return FinishNow(context, {grpc::StatusCode::INVALID_ARGUMENT,
                                 "there is no job state " + std::to_string(state)});
    }
  }
  const uint32_t limit =
      request->limit() == 0 ? kDefaultListLimit : std::min(request->limit(), kMaxListLimit);
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const auto query = [reactor, response, states = std::move(states),
                      limit](const ControlView& view) {
    FillList(view, states, limit, response);
    reactor->Finish(grpc::Status::OK);
  };
  if (!control_->Query(query)) reactor->Finish(Overloaded());
  return reactor;
}

grpc::ServerWriteReactor<JobStatus>* UserService::WatchJob(grpc::CallbackServerContext* context,
                                                           const GetJobRequest* request) {
  Caller caller;
  const grpc::Status status = gate_->Enter(*context, Action::kView, request->job_id(), &caller);
  if (!status.ok()) return new RefusedWatch(status);
  return WatchStream::Start(control_, gate_, caller.identity, request->job_id());
}

grpc::ServerUnaryReactor* UserService::CancelJob(grpc::CallbackServerContext* context,
                                                 const CancelJobRequest* request,
                                                 JobStatus* response) {
  Caller caller;
  grpc::Status status = gate_->Enter(*context, Action::kCancel, request->job_id(), &caller);
  if (status.ok()) status = CheckName("job id", request->job_id());
  if (!status.ok()) return FinishNow(context, status);
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const auto reply = [reactor, response](const Reply& reply, const ControlView& view) {
    if (reply.status.ok()) {
      *response = view.View(*view.FindJob(reply.job_id), RankDetail::kWithRanks);
    }
    reactor->Finish(reply.status);
  };
  // Whose a job is never changes, so that it may be asked beforehand.
  const auto look = [this, reactor, reply, caller,
                     job_id = request->job_id()](const ControlView& view) {
    const Job* job = view.FindJob(job_id);
    if (job != nullptr && !MayCancel(caller.identity, job->user)) {
      return reactor->Finish(gate_->Refuse(
          caller, Action::kCancel, job_id,
          {grpc::StatusCode::PERMISSION_DENIED,
           Forbidden(caller.identity, "cancel job " + job_id + " of " + job->user, Role::kAdmin)}));
    }
    if (!control_->Request(CancelEvent{job_id}, reply,
                           Gate::Entry(caller, Action::kCancel, job_id))) {
      reactor->Finish(Overloaded());
    }
  };
  if (!control_->Query(look)) reactor->Finish(Overloaded());
  return reactor;
}

grpc::ServerUnaryReactor* UserService::GetLogs(grpc::CallbackServerContext* context,
                                               const GetLogsRequest* request,
                                               GetLogsResponse* response) {
  Caller caller;
  grpc::Status status = gate_->Enter(*context, Action::kView, request->job_id(), &caller);
  if (status.ok()) status = CheckName("job id", request->job_id());
  if (!status.ok()) return FinishNow(context, status);
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  // Whether the job has ended is asked before the lines are read, so that none is missed.
  const auto query = [reactor, response, logs = logs_, wanted = *request](const ControlView& view) {
    const Job* job = view.FindJob(wanted.job_id());
    if (job == nullptr) return reactor->Finish(NoJob(wanted.job_id()));
    const bool ended = IsEnded(job->state);
    const uint32_t limit =
        wanted.limit() == 0 ? kDefaultLogLines : std::min(wanted.limit(), kMaxLogLines);
    logs->Read(job->id, wanted.after(), limit,
               [reactor, response, ended](const grpc::Status& status, std::vector<LogLine> lines,
                                          bool more) {
                 for (LogLine& line : lines) *response->add_lines() = std::move(line);
                 response->set_complete(ended && !more);
                 reactor->Finish(status);
               });
  };
  if (!control_->Query(query)) reactor->Finish(Overloaded());
  return reactor;
}

grpc::ServerUnaryReactor* UserService::ListFleets(grpc::CallbackServerContext* context,
                                                  const ListFleetsRequest*,
                                                  ListFleetsResponse* response) {
  Caller caller;
  const grpc::Status status = gate_->Enter(*context, Action::kView, "fleets", &caller);
  if (!status.ok()) return FinishNow(context, status);
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const auto query = [reactor, response](const ControlView& view) {
    size_t bytes = 0;
    for (const auto& [name, fleet] : view.state.fleets) {
      FleetStatus status = ViewFleet(fleet, view.uptime);
      // Rather a fleet without its ranks than an answer that is too large to be sent.
      if (bytes + status.ByteSizeLong() > kMaxAnswerBytes) status.clear_ranks();
      bytes += status.ByteSizeLong();
      *response->add_fleets() = std::move(status);
    }
    const double now = UnixTime();
    for (const auto& [name, host] : view.state.hosts) {
      HostStatus status = ViewHost(host, now);
      bytes += status.ByteSizeLong();
      if (bytes <= kMaxAnswerBytes) *response->add_hosts() = std::move(status);
    }
    reactor->Finish(grpc::Status::OK);
  };
  if (!control_->Query(query)) reactor->Finish(Overloaded());
  return reactor;
}

grpc::ServerUnaryReactor* UserService::FenceFleet(grpc::CallbackServerContext* context,
                                                  const FenceFleetRequest* request,
                                                  FleetStatus* response) {
  Caller caller;
  grpc::Status status = gate_->Enter(*context, Action::kFence, request->name(), &caller);
  if (status.ok()) status = CheckName("fleet's name", request->name());
  if (!status.ok()) return FinishNow(context, status);
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const auto reply = [reactor, response](const Reply& reply, const ControlView& view) {
    if (reply.status.ok()) {
      *response = ViewFleet(view.state.fleets.at(reply.fleet), view.uptime);
    }
    reactor->Finish(reply.status);
  };
  if (!control_->Request(FenceEvent{request->name()}, reply,
                         Gate::Entry(caller, Action::kFence, request->name()))) {
    reactor->Finish(Overloaded());
  }
  return reactor;
}

}  // namespace swinfleet::coordinator
