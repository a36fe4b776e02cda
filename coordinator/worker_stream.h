// The gRPC side of one rank's connection.
#ifndef SWINFLEET_COORDINATOR_WORKER_STREAM_H_
#define SWINFLEET_COORDINATOR_WORKER_STREAM_H_

#include <grpcpp/grpcpp.h>

#include <deque>
#include <memory>
#include <mutex>
#include <optional>

#include "coordinator/access.h"
#include "coordinator/control_loop.h"
#include "coordinator/gate.h"
#include "coordinator/links.h"
#include "proto/coordinator.pb.h"

namespace swinfleet::coordinator {

class WorkerStream final : public grpc::ServerBidiReactor<WorkerMessage, WorkerCommand>,
                           public WorkerLink {
 public:
  // Makes the stream's end known to `control`. It keeps itself alive until gRPC is done with it.
  // `identity` is who `gate` has let in; the stream ends when it lapses.
  static WorkerStream* Start(ControlLoop* control, Gate* gate, const Identity& identity,
                             uint64_t id);

  uint64_t id() const override { return id_; }
  void Send(const WorkerCommand& command) override;
  void ReadNext() override;
  void Close(const grpc::Status& status) override;

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  WorkerStream(ControlLoop* control, Gate* gate, const Identity& identity, uint64_t id)
      : control_(control), gate_(gate), identity_(identity), id_(id) {}
  // Writes the next command, or finishes if nothing is left to be written and the end was asked
  // for. Call it with the lock held; it lets go of it, because Finish may call OnDone at once.
  void Proceed(std::unique_lock<std::mutex> lock);

  ControlLoop* const control_;
  Gate* const gate_;
  const Identity identity_;
  const uint64_t id_;
  std::shared_ptr<WorkerStream> self_;
  WorkerMessage incoming_;

  std::mutex mutex_;
  std::deque<WorkerCommand> queue_;  // The front one is being written when writing_.
  bool writing_ = false;
  std::optional<grpc::Status> closing_;
  bool finished_ = false;
};

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_COORDINATOR_WORKER_STREAM_H_
