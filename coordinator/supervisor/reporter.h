// Tells the coordinator about the supervisor's launch, from a thread of its own, for as long as it
// takes: a coordinator that is away is no reason to disturb a launch.
#ifndef SWINFLEET_COORDINATOR_SUPERVISOR_REPORTER_H_
#define SWINFLEET_COORDINATOR_SUPERVISOR_REPORTER_H_

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "proto/coordinator.grpc.pb.h"

namespace swinfleet {

class LaunchReporter {
 public:
  LaunchReporter(std::shared_ptr<grpc::Channel> channel, std::string fleet, std::string host);
  LaunchReporter(const LaunchReporter&) = delete;
  LaunchReporter& operator=(const LaunchReporter&) = delete;
  // Breaks off a report that is under way.
  ~LaunchReporter();

  // From now on: the launch runs. Reported every 2 seconds.
  void Running(const std::string& launch_id);
  // From now on: the launch has ended, by a fault or because it was stopped (or nobody knows why).
  // Reported every second until acknowledged.
  void Ended(const std::string& launch_id, const std::string& exit, bool fault);

  // From now on: the running launch is to be given back.
  void GiveBack();
  // The coordinator's answer to that; none: it has not answered yet. An older one's is a no.
  std::optional<bool> IsLeaving() const;

  // The coordinator has acknowledged the end of the launch.
  bool IsAcknowledged() const;
  // An operator has fenced the launch that Running() named.
  bool IsFenced() const;
  // Ranks of that launch have left it, so that it has to end.
  bool IsEnding() const;
  // For how long the launch has had no job, by the newest answer.
  double idle_seconds() const;
  // Hosts to leave out of the next start, by the newest answer.
  std::vector<std::string> excluded_hosts() const;

  // Becomes readable with every change of the above; the owner reads it empty.
  int event() const { return event_; }

 private:
  void Set(const LaunchReport& report);
  void Work();
  void Apply(uint64_t generation, const grpc::Status& status, const LaunchDirective& directive);
  void LogChange(const grpc::Status& status);

  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<FleetService::Stub> stub_;
  const std::string fleet_;
  const std::string host_;
  const int event_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ = false;
  // Raised by every new report, so that an answer to an older one changes nothing.
  uint64_t generation_ = 0;
  LaunchReport report_;
  bool acknowledged_ = false;
  bool fenced_ = false;
  bool ending_ = false;
  std::optional<bool> leaving_;
  double idle_seconds_ = 0;
  std::vector<std::string> excluded_hosts_;
  std::string last_failure_;
  grpc::ClientContext* call_ = nullptr;

  std::thread thread_;
};

}  // namespace swinfleet

#endif  // SWINFLEET_COORDINATOR_SUPERVISOR_REPORTER_H_
