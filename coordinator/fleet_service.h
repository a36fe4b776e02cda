// The service for workers and supervisors.
#ifndef SWINFLEET_COORDINATOR_FLEET_SERVICE_H_
#define SWINFLEET_COORDINATOR_FLEET_SERVICE_H_

#include <grpcpp/grpcpp.h>

#include <atomic>

#include "coordinator/control_loop.h"
#include "coordinator/gate.h"
#include "proto/coordinator.grpc.pb.h"

namespace swinfleet::coordinator {

class WorkerService final : public FleetService::CallbackService {
 public:
  // Both must outlive the service.
  WorkerService(ControlLoop* control, Gate* gate) : control_(control), gate_(gate) {}

  grpc::ServerBidiReactor<WorkerMessage, WorkerCommand>* ConnectWorker(
      grpc::CallbackServerContext* context) override;
  grpc::ServerUnaryReactor* ReportLaunch(grpc::CallbackServerContext* context,
                                         const LaunchReport* request,
                                         LaunchDirective* response) override;

 private:
  ControlLoop* const control_;
  Gate* const gate_;
  std::atomic<uint64_t> next_stream_{1};
};

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_COORDINATOR_FLEET_SERVICE_H_
