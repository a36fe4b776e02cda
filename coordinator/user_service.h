// The gRPC service for users: submit, status, list, watch, cancel, trace, logs, history, fleets,
// fence.
#ifndef SWINFLEET_COORDINATOR_USER_SERVICE_H_
#define SWINFLEET_COORDINATOR_USER_SERVICE_H_

#include <grpcpp/grpcpp.h>

#include "coordinator/control_loop.h"
#include "coordinator/gate.h"
#include "coordinator/user_requests.h"
#include "proto/coordinator.grpc.pb.h"

namespace swinfleet::coordinator {

class UserService final : public Coordinator::CallbackService {
 public:
  // All must outlive the service.
  UserService(UserRequests* requests, ControlLoop* control, Gate* gate)
      : requests_(requests), control_(control), gate_(gate) {}

  grpc::ServerUnaryReactor* SubmitJob(grpc::CallbackServerContext* context,
                                      const SubmitJobRequest* request,
                                      SubmitJobResponse* response) override;
  grpc::ServerUnaryReactor* GetJob(grpc::CallbackServerContext* context,
                                   const GetJobRequest* request, JobStatus* response) override;
  grpc::ServerUnaryReactor* ListJobs(grpc::CallbackServerContext* context,
                                     const ListJobsRequest* request,
                                     ListJobsResponse* response) override;
  grpc::ServerWriteReactor<JobStatus>* WatchJob(grpc::CallbackServerContext* context,
                                                const GetJobRequest* request) override;
  grpc::ServerUnaryReactor* CancelJob(grpc::CallbackServerContext* context,
                                      const CancelJobRequest* request,
                                      JobStatus* response) override;
  grpc::ServerUnaryReactor* TraceJob(grpc::CallbackServerContext* context,
                                     const TraceJobRequest* request, JobStatus* response) override;
  grpc::ServerUnaryReactor* GetLogs(grpc::CallbackServerContext* context,
                                    const GetLogsRequest* request,
                                    GetLogsResponse* response) override;
  grpc::ServerUnaryReactor* GetHistory(grpc::CallbackServerContext* context,
                                       const GetJobRequest* request, JobHistory* response) override;
  grpc::ServerUnaryReactor* ListFleets(grpc::CallbackServerContext* context,
                                       const ListFleetsRequest* request,
                                       ListFleetsResponse* response) override;
  grpc::ServerUnaryReactor* FenceFleet(grpc::CallbackServerContext* context,
                                       const FenceFleetRequest* request,
                                       FleetStatus* response) override;

 private:
  template <class Request, class Response>
  grpc::ServerUnaryReactor* Pass(
      void (UserRequests::*method)(const Peer&, const Request&,
                                   const UserRequests::Answer<Response>&),
      grpc::CallbackServerContext* context, const Request* request, Response* response);

  UserRequests* const requests_;
  ControlLoop* const control_;
  Gate* const gate_;
};

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_COORDINATOR_USER_SERVICE_H_
