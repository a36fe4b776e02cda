#include "coordinator/worker_stream.h"

#include <glog/logging.h>

#include <string>
#include <utility>

#include "coordinator/validation.h"

namespace swinfleet::coordinator {
namespace {

// Commands that may wait for a worker that doesn't read.
constexpr size_t kMaxQueue = 64;

}  // namespace

WorkerStream* WorkerStream::Start(ControlLoop* control, Gate* gate, const Identity& identity,
                                  uint64_t id) {
  std::shared_ptr<WorkerStream> stream(new WorkerStream(control, gate, identity, id));
  stream->self_ = stream;
  control->Opened(stream);
  return stream.get();
}

void WorkerStream::Send(const WorkerCommand& command) {
  std::unique_lock lock(mutex_);
  if (finished_ || closing_) return;
  if (queue_.size() >= kMaxQueue) {
    closing_ = grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "the worker reads too slowly");
    queue_.resize(1);
    return;
  }
  queue_.push_back(command);
  Proceed(std::move(lock));
}

void WorkerStream::ReadNext() {
  std::lock_guard lock(mutex_);
  if (!finished_) StartRead(&incoming_);
}

void WorkerStream::Close(const grpc::Status& status) {
  std::unique_lock lock(mutex_);
  if (!closing_) closing_ = status;
  Proceed(std::move(lock));
}

void WorkerStream::Proceed(std::unique_lock<std::mutex> lock) {
  if (writing_ || finished_) return;
  if (!queue_.empty()) {
    writing_ = true;
    StartWrite(&queue_.front());
    return;
  }
  if (!closing_) return;
  finished_ = true;
  const grpc::Status status = *closing_;
  lock.unlock();
  Finish(status);
}

void WorkerStream::OnReadDone(bool ok) {
  if (!ok) {
    control_->Closed(id_);
    return Close(grpc::Status::OK);
  }
  if (const std::string lapsed = gate_->Lapsed(identity_); !lapsed.empty()) {
    control_->Closed(id_);
    return Close({grpc::StatusCode::UNAUTHENTICATED, lapsed});
  }
  const std::string fault = CheckWorkerMessage(&incoming_);
  if (fault.empty()) return control_->Received(id_, std::exchange(incoming_, {}));
  LOG(WARNING) << "a worker's message was refused: " << fault;
  WorkerCommand rejected;
  rejected.mutable_rejected()->set_reason(fault);
  Send(rejected);
  control_->Closed(id_);
  Close(grpc::Status::OK);
}

void WorkerStream::OnWriteDone(bool ok) {
  std::unique_lock lock(mutex_);
  writing_ = false;
  queue_.pop_front();
  if (!ok) {
    // Nothing more will be written to it; the read that fails as well makes its end known.
    queue_.clear();
    if (!closing_) closing_ = grpc::Status::OK;
  }
  Proceed(std::move(lock));
}

void WorkerStream::OnCancel() {
  std::unique_lock lock(mutex_);
  if (!closing_) closing_ = grpc::Status::CANCELLED;
  if (queue_.size() > 1) queue_.resize(1);
  if (!writing_) queue_.clear();
  Proceed(std::move(lock));
}

void WorkerStream::OnDone() {
  control_->Closed(id_);
  // The control loop may hold the link a little longer; gRPC is done with it.
  std::shared_ptr<WorkerStream> self = std::move(self_);
}

}  // namespace swinfleet::coordinator
