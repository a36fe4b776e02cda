// One run of the supervised command.
#ifndef SWINFLEET_COORDINATOR_SUPERVISOR_LAUNCH_H_
#define SWINFLEET_COORDINATOR_SUPERVISOR_LAUNCH_H_

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/supervisor/process.h"

namespace swinfleet {

struct LaunchCommand {
  std::vector<std::string> arguments;
  // Added to (or replaced in) the environment.
  std::vector<std::pair<std::string, std::string>> variables;
  // Receives standard output and error.
  int output = -1;
  // It gets SIGTERM when this process ends, however that ends.
  bool ends_with_parent = false;
};

class Launch {
 public:
  // Forks a process that leads a session and a process group of its own and waits; calls `record`
  // with its identity; and only when that has returned true lets it execute the command. If this
  // process dies before, the child ends without having done anything. nullptr on failure, with
  // `error`; then nothing runs.
  static std::unique_ptr<Launch> Start(
      const LaunchCommand& command,
      const std::function<bool(const ProcessIdentity&, std::string*)>& record, std::string* error);

  // A living command that another supervisor, now dead, has started. Its exit code can't be known.
  static std::unique_ptr<Launch> Adopt(const ProcessIdentity& leader);

  Launch(const Launch&) = delete;
  Launch& operator=(const Launch&) = delete;
  // Frees the process number of an own child that has ended.
  ~Launch();

  const ProcessIdentity& leader() const { return leader_; }
  // Readable when the command has ended; -1 on kernels that have no such descriptors.
  int descriptor() const { return descriptor_; }

  bool HasEnded();
  // After HasEnded(): "exit code 3", "killed by signal 9 (Killed)", "ended, exit code unknown".
  const std::string& exit() const { return exit_; }
  bool exited_with_zero() const { return exited_with_zero_; }

  // Signals the command's process group.
  void Signal(int signal);

 private:
  Launch(const ProcessIdentity& leader, bool is_child);

  const ProcessIdentity leader_;
  const bool is_child_;
  int descriptor_ = -1;
  bool ended_ = false;
  bool exited_with_zero_ = false;
  std::string exit_;
};

// The file that the shell would execute for `name`; empty when there is none.
std::string FindProgram(const std::string& name);

}  // namespace swinfleet

#endif  // SWINFLEET_COORDINATOR_SUPERVISOR_LAUNCH_H_
