// A worker's side of the coordinator protocol (FleetService.ConnectWorker in coordinator.proto).
#ifndef SWINFLEET_WORKER_COORDINATOR_CLIENT_H_
#define SWINFLEET_WORKER_COORDINATOR_CLIENT_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "distributed/communicator.h"
#include "proto/connection.h"
#include "proto/coordinator.pb.h"
#include "worker/attempt.h"
#include "worker/reporter.h"
#include "worker/watchdog.h"

namespace swinfleet {

// Who this rank is. The same in every Hello.
struct WorkerIdentity {
  std::string fleet;
  std::string launch_id;
  uint32_t rank = 0;
  uint32_t world_size = 1;
  bool supervised = false;
};

struct ClientOptions {
  // "HOST:PORT".
  std::string coordinator;
  // Read anew for each connection, so that certificates and tokens can be replaced meanwhile.
  ConnectionOptions connection;
  WorkerIdentity identity;
  // Pauses between two tries to connect: doubled from the first to the second, with jitter.
  double min_backoff_seconds = 0.2;
  double max_backoff_seconds = 5;
  // A connection that is not answered with Welcome for so long is given up.
  double hello_timeout_seconds = 10;
  // Time between two repetitions of AttemptEnded.
  double resend_seconds = 2;
  // Time between two log lines about a coordinator that is away.
  double absent_log_seconds = 10;
};

// What an idle worker is to do next.
struct WorkerEvent {
  enum class Kind { kAssignment, kShutdown, kStop };
  Kind kind = Kind::kStop;
  // Of kAssignment.
  Assignment assignment;
  // Of kShutdown.
  std::string reason;
};

// Keeps one stream to the coordinator open, from threads of its own: heartbeats, reports and log
// lines go out while another thread trains. A coordinator that is away changes nothing for the
// training; the client connects again for ever, and then says again what may have been lost (the
// attempt in Hello, its newest progress and checkpoint, and its end until that is acknowledged).
//
// glog lines of this process are forwarded while an attempt is under way. One instance a process.
class CoordinatorClient : public Reporter {
 public:
  // Starts to connect. `on_rejected` is called on a thread of the client when the coordinator
  // refuses this worker for good; nothing is sent or received afterwards. A token that is refused
  // before any connection was made is such a refusal; one that has worked and does so no longer (it
  // expired, was revoked) leaves this worker without a coordinator until it is replaced.
  CoordinatorClient(const ClientOptions& options,
                    std::function<void(const std::string& reason)> on_rejected);
  // Closes.
  ~CoordinatorClient() override;

  // Blocks until there is something to do. kStop comes before all else, once Stop was called.
  // An assignment that came already (after a reconnection) or is older than one of the same job
  // that came is not repeated.
  WorkerEvent WaitForEvent();
  // This process is to leave; from any thread.
  void Stop();

  // The attempt that this rank works on from now on. An end of an earlier one that is not yet
  // acknowledged is dropped: a new assignment says that the coordinator knows.
  void BeginAttempt(const std::string& job_id, uint32_t attempt);
  // This rank is idle again. Rank 0 gives the result, which is sent until acknowledged; others
  // null.
  void EndAttempt(const AttemptResult* result);

  // This rank has waited past the deadline, and is about to leave. From any thread.
  void ReportStuck(const StuckNews& news);

  // Waits until everything has been written to the stream and an attempt's end is acknowledged, at
  // most `seconds`; gives up at once while the coordinator is away. True when all is out.
  bool Flush(double seconds);
  // Ends the connection and the threads. Later calls of the functions above do nothing.
  void Close();

  // Reporter. The communicator, for heartbeats, may also live until EndAttempt alone.
  void SetCommunicator(Communicator* communicator) override;
  void SetPhase(Phase phase) override;
  void SetStep(int64_t step) override;
  void SetOwnWork(double seconds, int64_t steps) override;
  void ReportProgress(const TrainingProgress& progress) override;
  void ReportCheckpoint(const std::string& path, int64_t step) override;
  bool CancelRequested() override;
  bool StopRequested() override;
  std::optional<TraceRequest> TakeTraceRequest() override;
  void ReportTrace(const TraceResult& result) override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace swinfleet

#endif  // SWINFLEET_WORKER_COORDINATOR_CLIENT_H_
