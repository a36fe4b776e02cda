#include "coordinator/user_requests.h"

#include <algorithm>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/clock.h"
#include "coordinator/validation.h"

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

// Four hexadecimal digits.
std::string RandomSuffix() {
  std::random_device device;
  char text[8];
  snprintf(text, sizeof(text), "%04x", device() & 0xffffu);
  return text;
}

// Newest first; jobs in one of `states`, or all. Without ranks: a list is for an overview.
ListJobsResponse MakeList(const ControlView& view, const std::set<int>& states, uint32_t limit) {
  ListJobsResponse response;
  size_t bytes = 0;
  const auto& order = view.state.job_order;
  for (auto entry = order.rbegin(); entry != order.rend(); ++entry) {
    const Job* job = view.FindJob(entry->second);
    if (job == nullptr || (!states.empty() && !states.contains(job->state))) continue;
    if (response.jobs_size() >= static_cast<int>(limit)) break;
    JobStatus status = view.View(*job, RankDetail::kWithoutRanks);
    bytes += status.ByteSizeLong();
    if (bytes > kMaxAnswerBytes) break;
    *response.add_jobs() = std::move(status);
  }
  return response;
}

ListFleetsResponse MakeFleets(const ControlView& view) {
  ListFleetsResponse response;
  size_t bytes = 0;
  for (const auto& [name, fleet] : view.state.fleets) {
    FleetStatus status = ViewFleet(fleet, view.uptime);
    // Rather a fleet without its ranks than an answer that is too large to be sent.
    if (bytes + status.ByteSizeLong() > kMaxAnswerBytes) status.clear_ranks();
    bytes += status.ByteSizeLong();
    *response.add_fleets() = std::move(status);
  }
  const double now = UnixTime();
  for (const auto& [name, host] : view.state.hosts) {
    HostStatus status = ViewHost(host, now);
    bytes += status.ByteSizeLong();
    if (bytes <= kMaxAnswerBytes) *response.add_hosts() = std::move(status);
  }
  return response;
}

}  // namespace

template <class Response>
void UserRequests::Query(ControlLoop::QueryFunction query, const Answer<Response>& answer) {
  if (!control_->Query(std::move(query))) answer(Overloaded(), Response());
}

template <class Response>
void UserRequests::Request(Event event, ControlLoop::ReplyFunction reply, AuditEntry audit,
                           const Answer<Response>& answer) {
  if (!control_->Request(std::move(event), std::move(reply), std::move(audit))) {
    answer(Overloaded(), Response());
  }
}

// One SubmitJob on its way through the checks.
struct UserRequests::Submission {
  Answer<SubmitJobResponse> answer;
  Caller caller;
  std::shared_ptr<const JobSpec> spec;
  std::string submission_id;
  std::string user;

  void Fail(const grpc::Status& status) const { answer(status, {}); }
  void Succeed(const ControlView& view, const Job& job) const {
    SubmitJobResponse response;
    response.set_job_id(job.id);
    *response.mutable_status() = view.View(job, RankDetail::kWithRanks);
    answer(grpc::Status::OK, std::move(response));
  }
};

void UserRequests::SubmitJob(const Peer& peer, const SubmitJobRequest& request,
                             const Answer<SubmitJobResponse>& answer) {
  Caller caller;
  const std::string& run_dir = request.spec().run_dir();
  grpc::Status status = gate_->Enter(peer, Action::kSubmit, run_dir, &caller);
  if (!status.ok()) return answer(status, {});
  SubmitJobRequest checked = request;
  checked.set_user(Owner(caller.identity, request.user()));
  if (status = CheckSubmission(&checked, roots_); !status.ok()) {
    return answer(gate_->Refuse(caller, Action::kSubmit, run_dir, status), {});
  }
  const Submission submission{answer, caller, std::make_shared<JobSpec>(checked.spec()),
                              checked.submission_id(), checked.user()};
  // A repeated submission needs no second check.
  const auto look = [this, submission](const ControlView& view) {
    const auto known = view.state.submissions.find(submission.submission_id);
    const Job* job = known == view.state.submissions.end() ? nullptr : view.FindJob(known->second);
    if (job != nullptr) return submission.Succeed(view, *job);
    Admit(submission);
  };
  Query(look, answer);
}

void UserRequests::Admit(const Submission& submission) {
  admission_->Check(submission.spec, [this, submission](const grpc::Status& status) {
    if (!status.ok()) {
      return submission.Fail(
          gate_->Refuse(submission.caller, Action::kSubmit, submission.spec->run_dir(), status));
    }
    Enqueue(submission);
  });
}

void UserRequests::Enqueue(const Submission& submission) {
  const auto reply = [submission](const Reply& reply, const ControlView& view) {
    if (!reply.status.ok()) return submission.Fail(reply.status);
    submission.Succeed(view, *view.FindJob(reply.job_id));
  };
  SubmitEvent event{submission.spec, submission.submission_id, submission.user, RandomSuffix()};
  Request(
      std::move(event), reply,
      Gate::Entry(submission.caller, Action::kSubmit, submission.spec->run_dir(), submission.user),
      submission.answer);
}

void UserRequests::GetJob(const Peer& peer, const GetJobRequest& request,
                          const Answer<JobStatus>& answer) {
  Caller caller;
  grpc::Status status = gate_->Enter(peer, Action::kView, request.job_id(), &caller);
  if (status.ok()) status = CheckName("job id", request.job_id());
  if (!status.ok()) return answer(status, {});
  const auto query = [answer, job_id = request.job_id()](const ControlView& view) {
    const Job* job = view.FindJob(job_id);
    if (job == nullptr) return answer(NoJob(job_id), {});
    answer(grpc::Status::OK, view.View(*job, RankDetail::kWithRanks));
  };
  Query(query, answer);
}

void UserRequests::ListJobs(const Peer& peer, const ListJobsRequest& request,
                            const Answer<ListJobsResponse>& answer) {
  Caller caller;
  const grpc::Status status = gate_->Enter(peer, Action::kView, "jobs", &caller);
  if (!status.ok()) return answer(status, {});
  std::set<int> states(request.states().begin(), request.states().end());
  for (const int state : states) {
    if (state == JOB_STATE_UNSPECIFIED || !JobState_IsValid(state)) {
      return answer(
          {grpc::StatusCode::INVALID_ARGUMENT, "there is no job state " + std::to_string(state)},
          {});
    }
  }
  const uint32_t limit =
      request.limit() == 0 ? kDefaultListLimit : std::min(request.limit(), kMaxListLimit);
  const auto query = [answer, states = std::move(states), limit](const ControlView& view) {
    answer(grpc::Status::OK, MakeList(view, states, limit));
  };
  Query(query, answer);
}

void UserRequests::ChangeJob(const Caller& caller, Action action, const std::string& doing,
                             const std::string& job_id, const Event& event,
                             const Answer<JobStatus>& answer) {
  const auto reply = [answer](const Reply& reply, const ControlView& view) {
    if (!reply.status.ok()) return answer(reply.status, {});
    answer(grpc::Status::OK, view.View(*view.FindJob(reply.job_id), RankDetail::kWithRanks));
  };
  // Whose a job is never changes, so that it may be asked beforehand.
  const auto look = [this, answer, reply, caller, action, doing, job_id,
                     event](const ControlView& view) {
    const Job* job = view.FindJob(job_id);
    if (job != nullptr && !MayCancel(caller.identity, job->user)) {
      const std::string forbidden =
          Forbidden(caller.identity, doing + " job " + job_id + " of " + job->user, Role::kAdmin);
      return answer(
          gate_->Refuse(caller, action, job_id, {grpc::StatusCode::PERMISSION_DENIED, forbidden}),
          {});
    }
    Request(event, reply, Gate::Entry(caller, action, job_id), answer);
  };
  Query(look, answer);
}

void UserRequests::CancelJob(const Peer& peer, const CancelJobRequest& request,
                             const Answer<JobStatus>& answer) {
  Caller caller;
  grpc::Status status = gate_->Enter(peer, Action::kCancel, request.job_id(), &caller);
  if (status.ok()) status = CheckName("job id", request.job_id());
  if (!status.ok()) return answer(status, {});
  ChangeJob(caller, Action::kCancel, "cancel", request.job_id(), CancelEvent{request.job_id()},
            answer);
}

void UserRequests::TraceJob(const Peer& peer, const TraceJobRequest& request,
                            const Answer<JobStatus>& answer) {
  Caller caller;
  TraceJobRequest checked = request;
  grpc::Status status = gate_->Enter(peer, Action::kTrace, request.job_id(), &caller);
  if (status.ok()) status = CheckTrace(&checked);
  if (!status.ok()) return answer(status, {});
  const TraceEvent event{checked.job_id(),
                         checked.request_id(),
                         {checked.ranks().begin(), checked.ranks().end()},
                         checked.steps()};
  ChangeJob(caller, Action::kTrace, "trace", checked.job_id(), event, answer);
}

void UserRequests::GetLogs(const Peer& peer, const GetLogsRequest& request,
                           const Answer<GetLogsResponse>& answer) {
  Caller caller;
  grpc::Status status = gate_->Enter(peer, Action::kView, request.job_id(), &caller);
  if (status.ok()) status = CheckName("job id", request.job_id());
  if (!status.ok()) return answer(status, {});
  // Whether the job has ended is asked before the lines are read, so that none is missed.
  const auto query = [answer, logs = logs_, wanted = request](const ControlView& view) {
    const Job* job = view.FindJob(wanted.job_id());
    if (job == nullptr) return answer(NoJob(wanted.job_id()), {});
    const bool ended = IsEnded(job->state);
    const uint32_t limit =
        wanted.limit() == 0 ? kDefaultLogLines : std::min(wanted.limit(), kMaxLogLines);
    logs->Read(job->id, wanted.after(), limit,
               [answer, ended](const grpc::Status& status, std::vector<LogLine> lines, bool more) {
                 GetLogsResponse response;
                 for (LogLine& line : lines) *response.add_lines() = std::move(line);
                 response.set_complete(ended && !more);
                 answer(status, std::move(response));
               });
  };
  Query(query, answer);
}

void UserRequests::GetHistory(const Peer& peer, const GetJobRequest& request,
                              const Answer<JobHistory>& answer) {
  Caller caller;
  grpc::Status status = gate_->Enter(peer, Action::kView, request.job_id(), &caller);
  if (status.ok()) status = CheckName("job id", request.job_id());
  if (!status.ok()) return answer(status, {});
  const auto query = [answer, job_id = request.job_id()](const ControlView& view) {
    if (view.FindJob(job_id) == nullptr) return answer(NoJob(job_id), {});
    const JobHistory* history = view.histories.Find(job_id);
    answer(grpc::Status::OK, history == nullptr ? JobHistory() : *history);
  };
  Query(query, answer);
}

void UserRequests::ListFleets(const Peer& peer, const ListFleetsRequest&,
                              const Answer<ListFleetsResponse>& answer) {
  Caller caller;
  const grpc::Status status = gate_->Enter(peer, Action::kView, "fleets", &caller);
  if (!status.ok()) return answer(status, {});
  Query([answer](const ControlView& view) { answer(grpc::Status::OK, MakeFleets(view)); }, answer);
}

void UserRequests::FenceFleet(const Peer& peer, const FenceFleetRequest& request,
                              const Answer<FleetStatus>& answer) {
  Caller caller;
  grpc::Status status = gate_->Enter(peer, Action::kFence, request.name(), &caller);
  if (status.ok()) status = CheckName("fleet's name", request.name());
  if (!status.ok()) return answer(status, {});
  const auto reply = [answer](const Reply& reply, const ControlView& view) {
    if (!reply.status.ok()) return answer(reply.status, {});
    answer(grpc::Status::OK, ViewFleet(view.state.fleets.at(reply.fleet), view.uptime));
  };
  Request(FenceEvent{request.name()}, reply, Gate::Entry(caller, Action::kFence, request.name()),
          answer);
}

}  // namespace swinfleet::coordinator
