#include "coordinator/fleet_service.h"

#include "coordinator/validation.h"
#include "coordinator/worker_stream.h"

namespace swinfleet::coordinator {
namespace {

// Tells a worker that it is not let in.
class RefusedStream final : public grpc::ServerBidiReactor<WorkerMessage, WorkerCommand> {
 public:
  explicit RefusedStream(const grpc::Status& status) { Finish(status); }
  void OnDone() override { delete this; }
};

}  // namespace

grpc::ServerBidiReactor<WorkerMessage, WorkerCommand>* WorkerService::ConnectWorker(
    grpc::CallbackServerContext* context) {
  Caller caller;
  const grpc::Status status = gate_->Enter(*context, Action::kServe, "", &caller);
  if (!status.ok()) return new RefusedStream(status);
  return WorkerStream::Start(control_, gate_, caller.identity, next_stream_.fetch_add(1));
}

grpc::ServerUnaryReactor* WorkerService::ReportLaunch(grpc::CallbackServerContext* context,
                                                      const LaunchReport* request,
                                                      LaunchDirective* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  LaunchReport report = *request;
  Caller caller;
  grpc::Status status = gate_->Enter(*context, Action::kServe, report.fleet(), &caller);
  if (status.ok()) status = CheckLaunchReport(&report);
  if (!status.ok()) {
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
