// The service for workers and supervisors.
#ifndef SWINFLEET_COORDINATOR_FLEET_SERVICE_H_
#define SWINFLEET_COORDINATOR_FLEET_SERVICE_H_

#include <grpcpp/grpcpp.h>

#include <atomic>

#include "coordinator/control_loop.h"
#include "proto/coordinator.grpc.pb.h"

namespace swinfleet::coordinator {

class WorkerService final : public FleetService::CallbackService {
 public:
  // `control` must outlive the service.
  explicit WorkerService(ControlLoop* control) : control_(control) {}

  grpc::ServerBidiReactor<WorkerMessage, WorkerCommand>* ConnectWorker(
      grpc::CallbackServerContext* context) override;
  grpc::ServerUnaryReactor* ReportLaunch(grpc::CallbackServerContext* context,
                                         const LaunchReport* request,
                                         LaunchDirective* response) override;

 private:
  ControlLoop* const control_;
  std::atomic<uint64_t> next_stream_{1};
};

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_COORDINATOR_FLEET_SERVICE_H_
