#include "coordinator/user_service.h"

#include <utility>

#include "coordinator/watch_stream.h"

namespace swinfleet::coordinator {
namespace {

// Tells a watcher that he is not let in.
class RefusedWatch final : public grpc::ServerWriteReactor<JobStatus> {
 public:
  explicit RefusedWatch(const grpc::Status& status) { Finish(status); }
  void OnDone() override { delete this; }
};

}  // namespace

template <class Request, class Response>
grpc::ServerUnaryReactor* UserService::Pass(
    void (UserRequests::*method)(const Peer&, const Request&,
                                 const UserRequests::Answer<Response>&),
    grpc::CallbackServerContext* context, const Request* request, Response* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const auto answer = [reactor, response](const grpc::Status& status, Response answered) {
    *response = std::move(answered);
    reactor->Finish(status);
  };
  (requests_->*method)(gate_->PeerOf(*context), *request, answer);
  return reactor;
}

grpc::ServerUnaryReactor* UserService::SubmitJob(grpc::CallbackServerContext* context,
                                                 const SubmitJobRequest* request,
                                                 SubmitJobResponse* response) {
  return Pass(&UserRequests::SubmitJob, context, request, response);
}

grpc::ServerUnaryReactor* UserService::GetJob(grpc::CallbackServerContext* context,
                                              const GetJobRequest* request, JobStatus* response) {
  return Pass(&UserRequests::GetJob, context, request, response);
}

grpc::ServerUnaryReactor* UserService::ListJobs(grpc::CallbackServerContext* context,
                                                const ListJobsRequest* request,
                                                ListJobsResponse* response) {
  return Pass(&UserRequests::ListJobs, context, request, response);
}

grpc::ServerUnaryReactor* UserService::CancelJob(grpc::CallbackServerContext* context,
                                                 const CancelJobRequest* request,
                                                 JobStatus* response) {
  return Pass(&UserRequests::CancelJob, context, request, response);
}

grpc::ServerUnaryReactor* UserService::TraceJob(grpc::CallbackServerContext* context,
                                                const TraceJobRequest* request,
                                                JobStatus* response) {
  return Pass(&UserRequests::TraceJob, context, request, response);
}

grpc::ServerUnaryReactor* UserService::GetLogs(grpc::CallbackServerContext* context,
                                               const GetLogsRequest* request,
                                               GetLogsResponse* response) {
  return Pass(&UserRequests::GetLogs, context, request, response);
}

grpc::ServerUnaryReactor* UserService::GetHistory(grpc::CallbackServerContext* context,
                                                  const GetJobRequest* request,
                                                  JobHistory* response) {
  return Pass(&UserRequests::GetHistory, context, request, response);
}

grpc::ServerUnaryReactor* UserService::ListFleets(grpc::CallbackServerContext* context,
                                                  const ListFleetsRequest* request,
                                                  ListFleetsResponse* response) {
  return Pass(&UserRequests::ListFleets, context, request, response);
}

grpc::ServerUnaryReactor* UserService::FenceFleet(grpc::CallbackServerContext* context,
                                                  const FenceFleetRequest* request,
                                                  FleetStatus* response) {
  return Pass(&UserRequests::FenceFleet, context, request, response);
}

grpc::ServerWriteReactor<JobStatus>* UserService::WatchJob(grpc::CallbackServerContext* context,
                                                           const GetJobRequest* request) {
  Caller caller;
  const grpc::Status status = gate_->Enter(*context, Action::kView, request->job_id(), &caller);
  if (!status.ok()) return new RefusedWatch(status);
  return WatchStream::Start(control_, gate_, caller.identity, request->job_id());
}

}  // namespace swinfleet::coordinator
