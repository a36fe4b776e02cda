#include "coordinator/watch_stream.h"

#include <utility>

namespace swinfleet::coordinator {

WatchStream* WatchStream::Start(ControlLoop* control, Gate* gate, const Identity& identity,
                                const std::string& job_id) {
  std::shared_ptr<WatchStream> stream(new WatchStream(control, gate, identity, job_id));
  stream->self_ = stream;
  control->Watch(job_id, stream);
  return stream.get();
}

void WatchStream::Offer(const JobStatus& status, bool last) {
  if (const std::string lapsed = gate_->Lapsed(identity_); !lapsed.empty()) {
    return Close({grpc::StatusCode::UNAUTHENTICATED, lapsed});
  }
  std::unique_lock lock(mutex_);
  if (finished_ || closing_) return;
  next_ = status;
  if (last) closing_ = grpc::Status::OK;
  Proceed(std::move(lock));
}

void WatchStream::Close(const grpc::Status& status) {
  std::unique_lock lock(mutex_);
  if (!closing_) closing_ = status;
  Proceed(std::move(lock));
}

void WatchStream::Proceed(std::unique_lock<std::mutex> lock) {
  if (writing_ || finished_) return;
  if (next_) {
    outgoing_ = std::move(*next_);
    next_.reset();
    writing_ = true;
    StartWrite(&outgoing_);
    return;
  }
  if (!closing_) return;
  finished_ = true;
  const grpc::Status status = *closing_;
  lock.unlock();
  Finish(status);
}

void WatchStream::OnWriteDone(bool ok) {
  std::unique_lock lock(mutex_);
  writing_ = false;
  if (!ok) {
    next_.reset();
    if (!closing_) closing_ = grpc::Status::CANCELLED;
  }
  Proceed(std::move(lock));
}

void WatchStream::OnCancel() {
  std::unique_lock lock(mutex_);
  next_.reset();
  if (!closing_) closing_ = grpc::Status::CANCELLED;
  Proceed(std::move(lock));
}

void WatchStream::OnDone() {
  control_->Unwatch(job_id_, this);
  std::shared_ptr<WatchStream> self = std::move(self_);
}

}  // namespace swinfleet::coordinator
