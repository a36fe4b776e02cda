// Runs a short-lived program with limits and takes what it prints.
#ifndef SWINFLEET_COORDINATOR_CHILD_PROCESS_H_
#define SWINFLEET_COORDINATOR_CHILD_PROCESS_H_

#include <cstdint>
#include <string>
#include <vector>

namespace swinfleet::coordinator {

struct ChildLimits {
  double seconds = 10;
  // Bytes of address space; 0: no limit.
  uint64_t memory = 0;
  // Bytes kept of its output; the rest is read and dropped.
  size_t output = 64 << 10;
};

struct ChildResult {
  enum class End { kExited, kSignalled, kTimedOut, kStopped, kNotStarted };
  End end = End::kNotStarted;
  // The exit code, the signal, or errno of kNotStarted.
  int code = 0;
  // Its standard error and output together.
  std::string output;
};

// Runs `arguments` (the first is the program's path) in a process group of its own, without
// standard input, and waits for its end. The group is killed when the time is over or `stop_event`
// becomes readable.
ChildResult RunChild(const std::vector<std::string>& arguments, const ChildLimits& limits,
                     int stop_event);

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_COORDINATOR_CHILD_PROCESS_H_
