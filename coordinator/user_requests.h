// What users can ask for, whichever way they come: who may, what is wrong with a request, and the
// answer. The servers (gRPC in user_service.h, HTTP in http_api.h) only bring requests here.
#ifndef SWINFLEET_COORDINATOR_USER_REQUESTS_H_
#define SWINFLEET_COORDINATOR_USER_REQUESTS_H_

#include <grpcpp/support/status.h>

#include <functional>
#include <string>

#include "coordinator/admission.h"
#include "coordinator/control_loop.h"
#include "coordinator/gate.h"
#include "coordinator/log_store.h"
#include "proto/coordinator.pb.h"
#include "proto/roots.h"

namespace swinfleet::coordinator {

// Each function calls `answer` once, at once or from another thread, which it must not hold up. The
// response counts with OK only.
class UserRequests {
 public:
  template <class Response>
  using Answer = std::function<void(const grpc::Status& status, Response response)>;

  // All must outlive the object. Jobs are confined to `roots`.
  UserRequests(ControlLoop* control, Admission* admission, LogStore* logs, Gate* gate,
               const PathRoots& roots)
      : control_(control), admission_(admission), logs_(logs), gate_(gate), roots_(roots) {}

  void SubmitJob(const Peer& peer, const SubmitJobRequest& request,
                 const Answer<SubmitJobResponse>& answer);
  void GetJob(const Peer& peer, const GetJobRequest& request, const Answer<JobStatus>& answer);
  void ListJobs(const Peer& peer, const ListJobsRequest& request,
                const Answer<ListJobsResponse>& answer);
  void CancelJob(const Peer& peer, const CancelJobRequest& request,
                 const Answer<JobStatus>& answer);
  void TraceJob(const Peer& peer, const TraceJobRequest& request, const Answer<JobStatus>& answer);
  void GetLogs(const Peer& peer, const GetLogsRequest& request,
               const Answer<GetLogsResponse>& answer);
  void GetHistory(const Peer& peer, const GetJobRequest& request, const Answer<JobHistory>& answer);
  void ListFleets(const Peer& peer, const ListFleetsRequest& request,
                  const Answer<ListFleetsResponse>& answer);
  void FenceFleet(const Peer& peer, const FenceFleetRequest& request,
                  const Answer<FleetStatus>& answer);

 private:
  struct Submission;
  void Admit(const Submission& submission);
  void Enqueue(const Submission& submission);
  // Does what only a job's owner and admins may: `doing` is "cancel". Answers with the job's
  // status.
  void ChangeJob(const Caller& caller, Action action, const std::string& doing,
                 const std::string& job_id, const Event& event, const Answer<JobStatus>& answer);
  // The control thread calls `query`, or `answer` hears that it is overloaded.
  template <class Response>
  void Query(ControlLoop::QueryFunction query, const Answer<Response>& answer);
  template <class Response>
  void Request(Event event, ControlLoop::ReplyFunction reply, AuditEntry audit,
               const Answer<Response>& answer);

  ControlLoop* const control_;
  Admission* const admission_;
  LogStore* const logs_;
  Gate* const gate_;
  const PathRoots roots_;
};

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_COORDINATOR_USER_REQUESTS_H_
