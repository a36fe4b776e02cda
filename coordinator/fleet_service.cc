#include "coordinator/fleet_service.h"

#include "coordinator/validation.h"
#include "coordinator/worker_stream.h"

namespace swinfleet::coordinator {

grpc::ServerBidiReactor<WorkerMessage, WorkerCommand>* WorkerService::ConnectWorker(
    grpc::CallbackServerContext*) {
  return WorkerStream::Start(control_, next_stream_.fetch_add(1));
}

grpc::ServerUnaryReactor* WorkerService::ReportLaunch(grpc::CallbackServerContext* context,
                                                      const LaunchReport* request,
                                                      LaunchDirective* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  LaunchReport report = *request;
  if (const grpc::Status status = CheckLaunchReport(&report); !status.ok()) {
    reactor->Finish(status);
    return reactor;
  }
  const auto reply = [reactor, response](const Reply& reply, const ControlView&) {
    *response = reply.directive;
    reactor->Finish(reply.status);
  };
  if (!control_->Request(LaunchReportEvent{std::move(report)}, reply)) {
    reactor->Finish({grpc::StatusCode::UNAVAILABLE, "the coordinator is overloaded or stopping"});
  }
  return reactor;
}

}  // namespace swinfleet::coordinator
