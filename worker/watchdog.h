// Ends a rank that waits for the others in vain, instead of leaving it to wait for ever.
#ifndef SWINFLEET_WORKER_WATCHDOG_H_
#define SWINFLEET_WORKER_WATCHDOG_H_

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "distributed/communicator.h"
#include "worker/reporter.h"
#include "worker/stuck_detector.h"

namespace swinfleet {

// What a rank has to say that has waited past the deadline, or whose communicator has failed.
struct StuckNews {
  CollectivePosition position;
  Phase phase = Phase::kLoad;
  int64_t step = 0;
  double waited_seconds = 0;
  double deadline_seconds = 0;
  // The file with this rank's last collectives; empty when it could not be written.
  std::string flight_recorder;
  // All of this for people.
  std::string text;
  // To be called last, before the process ends: ends what a GPU still waits for other ranks in.
  // Returns soon, in any case.
  std::function<void()> give_up = [] {};
};

struct WatchdogOptions {
  std::string run_dir;
  int64_t attempt = 1;
  int rank = 0;
  Deadlines deadlines;
  // Called once, on the watchdog's thread, after the flight recorder was saved. Is expected to end
  // the process.
  std::function<void(const StuckNews&)> on_stuck;
};

// The file that keeps a rank's last collectives: RUN/flight/attempt-001/rank-00003.json.
std::string FlightPath(const std::string& run_dir, int64_t attempt, int rank);

// Lives as long as this rank works on an attempt, and stands between the attempt and its reporter,
// to know phases and steps. All calls come from the attempt's thread. A thread of its own watches
// the communicator's position, and never waits for what that thread waits for. Before a
// communicator is set, the rank waits for the others to form the group, which counts as a
// collective of its own. A communicator that says that it has failed is not waited for any longer.
//
// The flight recorder is also saved when the process is told to leave while nothing moves: then
// another rank may have been the first to give up.
class Watchdog : public Reporter {
 public:
  Watchdog(const WatchdogOptions& options, Reporter* reporter);
  ~Watchdog() override;
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  // Reporter.
  void SetCommunicator(Communicator* communicator) override;
  void SetPhase(Phase phase) override;
  void SetStep(int64_t step) override;
  void SetStateBytes(uint64_t bytes) override;
  void ReportProgress(const TrainingProgress& progress) override;
  void ReportCheckpoint(const std::string& path, int64_t step) override;
  bool CancelRequested() override { return reporter_->CancelRequested(); }
  bool StopRequested() override { return reporter_->StopRequested(); }
  std::optional<TraceRequest> TakeTraceRequest() override { return reporter_->TakeTraceRequest(); }
  void ReportTrace(const TraceResult& result) override { reporter_->ReportTrace(result); }

 private:
  void Watch();
  CollectivePosition Position() const;
  double WaitSeconds() const;
  // Called with mutex_ held.
  StuckNews MakeNews(const CollectivePosition& position, const std::string& failure) const;
  void GiveUpCommunicator();
  // Returns the file's path, or an empty text if it can't be written soon.
  std::string SaveFlightRecorder(const StuckNews& news, const std::string& why) const;

  const WatchdogOptions options_;
  Reporter* const reporter_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool stop_ = false;
  bool joined_ = false;
  Communicator* communicator_ = nullptr;
  StuckDetector detector_;
  std::thread thread_;
};

}  // namespace swinfleet

#endif  // SWINFLEET_WORKER_WATCHDOG_H_
