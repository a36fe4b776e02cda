// The supervisor of one fleet: starts its mpirun, reports the launch and its end to the
// coordinator, and starts it again with back-off.
//
// The contract with the command: it must end in the worker's arguments
// (mpirun ... swinfleet-worker ...), because `--fleet NAME --launch-id UUID --supervised` is
// appended to it; workers end with 0 only when they were told to shut down.
//
// A new launch is only started when the coordinator has acknowledged the end of the one before, and
// an end is only reported when no process of the launch is left on this host: neither mpirun, nor
// orphans of it, which are found by the launch's id. Workers on other hosts are ended by their
// orted, when its connection to mpirun is lost.
//
// A fleet that is to end is first given back: the coordinator has its job save a checkpoint and
// wait for its turn again, and its workers end. Only where that is not to be had do signals end it.
//
// mpirun leads a session of its own and writes into a file, so it survives the supervisor's death:
// the next supervisor adopts it.
#ifndef SWINFLEET_COORDINATOR_SUPERVISOR_SUPERVISOR_H_
#define SWINFLEET_COORDINATOR_SUPERVISOR_SUPERVISOR_H_

#include <grpcpp/channel.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/supervisor/launch.h"
#include "coordinator/supervisor/output_log.h"
#include "coordinator/supervisor/record.h"
#include "coordinator/supervisor/reporter.h"

namespace swinfleet {

struct SupervisorOptions {
  std::string fleet;
  std::string state_folder;
  // mpirun and its arguments.
  std::vector<std::string> command;
  // Options with their values that are appended to it too, but for those that it has: how workers
  // reach the coordinator.
  std::vector<std::pair<std::string, std::string>> worker_options;
  // Restarts in all, after which the supervisor gives up; negative means no limit.
  int64_t max_restarts = -1;
  // The first pause before a restart. It doubles with each, up to 60 s (or this, if larger), and
  // begins anew after a launch that has lasted 60 s.
  double backoff_seconds = 1;
  // What a fleet that is to end, or to be given back, may take to save its job's checkpoint.
  double save_seconds = 120;
  // From SIGTERM to SIGKILL.
  double grace_seconds = 10;
  // Seconds without a job after which the fleet is given back; 0: never.
  double max_idle_seconds = 0;
  // Somebody else knows that no earlier launch runs any more, on whichever host it ran: a batch
  // system that has started this supervisor again.
  bool earlier_is_gone = false;
};

enum class SupervisorResult {
  // The command ended with 0, or the supervisor was told to stop (or had nothing to do for
  // max_idle_seconds) and nothing runs any more.
  kStopped,
  // As kStopped, by SIGINT.
  kInterrupted,
  // --max-restarts is used up.
  kGaveUp,
  // Nothing was started: bad state folder, a second supervisor, no such program.
  kRefused,
};

// Blocks the signals that end a supervisor, so that it can take them in its own time. To be called
// while the process has one thread: threads inherit the mask.
void BlockStopSignals();

class Supervisor {
 public:
  Supervisor(const SupervisorOptions& options, std::shared_ptr<grpc::Channel> channel);
  Supervisor(const Supervisor&) = delete;
  Supervisor& operator=(const Supervisor&) = delete;
  ~Supervisor();

  // Returns when the fleet is to stay down. What happens is logged.
  SupervisorResult Run();

 private:
  using Clock = std::chrono::steady_clock;

  bool Prepare();
  void SettlePrevious();
  bool StartLaunch();
  void Supervise();
  bool IsIdle() const;
  void GiveBack();
  void Observe();
  void FinishLaunch(const std::string& exit, bool gently, bool fault);
  bool EndProcesses(bool gently);
  bool WaitForAcknowledgement();
  void PauseUntil(Clock::time_point when);
  Clock::duration NextPause(double lasted_seconds);
  // Waits for an event for at most `milliseconds`, and takes in signals and output.
  void Pump(int milliseconds);
  void SaveRecord();

  const SupervisorOptions options_;
  const std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<LaunchReporter> reporter_;
  RecordFile file_;
  OutputLog output_;
  LaunchRecord record_;
  std::unique_ptr<Launch> launch_;
  int signals_ = -1;
  // The signal that asked the supervisor to end, 0 while none did; and how many did.
  int stop_signal_ = 0;
  int stop_count_ = 0;
  bool ended_cleanly_ = false;
  int64_t restarts_ = 0;
  double pause_seconds_;
};

}  // namespace swinfleet

#endif  // SWINFLEET_COORDINATOR_SUPERVISOR_SUPERVISOR_H_
