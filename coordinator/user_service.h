// The service for users: submit, status, list, watch, cancel, logs, fleets, fence.
#ifndef SWINFLEET_COORDINATOR_USER_SERVICE_H_
#define SWINFLEET_COORDINATOR_USER_SERVICE_H_

#include <grpcpp/grpcpp.h>

#include "coordinator/admission.h"
#include "coordinator/control_loop.h"
#include "coordinator/gate.h"
#include "coordinator/log_store.h"
#include "proto/coordinator.grpc.pb.h"
#include "proto/roots.h"

namespace swinfleet::coordinator {

class UserService final : public Coordinator::CallbackService {
 public:
  // All must outlive the service. Jobs are confined to `roots`.
  UserService(ControlLoop* control, Admission* admission, LogStore* logs, Gate* gate,
              const PathRoots& roots)
      : control_(control), admission_(admission), logs_(logs), gate_(gate), roots_(roots) {}

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
  grpc::ServerUnaryReactor* GetLogs(grpc::CallbackServerContext* context,
                                    const GetLogsRequest* request,
                                    GetLogsResponse* response) override;
  grpc::ServerUnaryReactor* ListFleets(grpc::CallbackServerContext* context,
                                       const ListFleetsRequest* request,
                                       ListFleetsResponse* response) override;
  grpc::ServerUnaryReactor* FenceFleet(grpc::CallbackServerContext* context,
                                       const FenceFleetRequest* request,
                                       FleetStatus* response) override;

 private:
  struct Submission;
  void Admit(const Submission& submission);
  void Enqueue(const Submission& submission);

  ControlLoop* const control_;
  Admission* const admission_;
  LogStore* const logs_;
  Gate* const gate_;
  const PathRoots roots_;
};

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_COORDINATOR_USER_SERVICE_H_
