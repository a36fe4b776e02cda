// Other programs of the project: `swinfleet NAME` runs swinfleet-NAME, and `submit` asks
// swinfleet-plan whether a job can work.
#ifndef SWINFLEET_COORDINATOR_CLI_PROGRAMS_H_
#define SWINFLEET_COORDINATOR_CLI_PROGRAMS_H_

#include <string>
#include <vector>

namespace swinfleet {

// The file of `program` beside this program's own, or in PATH; "" when it is in neither.
std::string FindSibling(const std::string& program);

// Names NAME of the programs swinfleet-NAME beside this program's own, sorted.
std::vector<std::string> SiblingCommands();

struct ProgramResult {
  enum class Kind { kExited, kSignalled, kTimedOut, kNotStarted };
  Kind kind = Kind::kNotStarted;
  // The exit code or the signal.
  int code = 0;
  // Standard output and error, at most 64 KiB.
  std::string output;
};

// Runs a program to its end, or kills it (and its children) after `seconds`. Its address space is
// bounded by `memory_bytes`. To be called while this process has one thread.
ProgramResult RunBounded(const std::vector<std::string>& arguments, double seconds,
                         unsigned long long memory_bytes);

}  // namespace swinfleet

#endif  // SWINFLEET_COORDINATOR_CLI_PROGRAMS_H_
