// The gRPC side of WatchJob: the newest status of a job, as fast as the client reads.
#ifndef SWINFLEET_COORDINATOR_WATCH_STREAM_H_
#define SWINFLEET_COORDINATOR_WATCH_STREAM_H_

#include <grpcpp/grpcpp.h>

#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "coordinator/access.h"
#include "coordinator/control_loop.h"
#include "coordinator/gate.h"
#include "coordinator/links.h"
#include "proto/coordinator.pb.h"

namespace swinfleet::coordinator {

class WatchStream final : public grpc::ServerWriteReactor<JobStatus>, public JobWatcher {
 public:
  // `identity` is who `gate` has let in; the stream ends when it lapses.
  static WatchStream* Start(ControlLoop* control, Gate* gate, const Identity& identity,
                            const std::string& job_id);

  void Offer(const JobStatus& status, bool last) override;
  void Close(const grpc::Status& status) override;

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  WatchStream(ControlLoop* control, Gate* gate, const Identity& identity, std::string job_id)
      : control_(control), gate_(gate), identity_(identity), job_id_(std::move(job_id)) {}
  // As WorkerStream's.
  void Proceed(std::unique_lock<std::mutex> lock);

  ControlLoop* const control_;
  Gate* const gate_;
  const Identity identity_;
  const std::string job_id_;
  std::shared_ptr<WatchStream> self_;

  std::mutex mutex_;
  std::optional<JobStatus> next_;
  JobStatus outgoing_;
  bool writing_ = false;
  std::optional<grpc::Status> closing_;
  bool finished_ = false;
};

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_COORDINATOR_WATCH_STREAM_H_
