// `swinfleet up`: a coordinator and a fleet on this machine, for as long as it runs.
#ifndef SWINFLEET_COORDINATOR_CLI_UP_H_
#define SWINFLEET_COORDINATOR_CLI_UP_H_

#include <cstdint>
#include <string>

namespace swinfleet {

struct UpOptions {
  // Of everything: store, records, logs, and the coordinator's address while it can be reached.
  // Empty: DefaultUpFolder().
  std::string folder;
  std::string fleet = "local";
  uint32_t ranks = 1;
  // On loopback; 0: the one of last time, if it is free, or a free one.
  uint32_t port = 7077;
};

// $XDG_STATE_HOME/swinfleet/up, or ~/.local/state/swinfleet/up.
std::string DefaultUpFolder();

// Returns, with the exit code, when both are stopped: by a signal, or because one of them has
// ended. Should this process be killed, both stop as well.
int RunUp(const UpOptions& options);

}  // namespace swinfleet

#endif  // SWINFLEET_COORDINATOR_CLI_UP_H_
