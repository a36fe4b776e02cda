// How swinfleet-coordinator ends.
#ifndef SWINFLEET_COORDINATOR_PROGRAM_EXIT_H_
#define SWINFLEET_COORDINATOR_PROGRAM_EXIT_H_

#include <cstdio>
#include <string>

namespace swinfleet::coordinator {

// Of a command: it was refused, or could not be done.
inline constexpr int kExitRuntime = 1;
inline constexpr int kExitUsage = 2;
// The store can't be used.
inline constexpr int kExitStore = 3;

// Says what is wrong and returns the code.
inline int Fail(const std::string& what, int code) {
  std::fprintf(stderr, "swinfleet-coordinator: %s\n", what.c_str());
  return code;
}

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_COORDINATOR_PROGRAM_EXIT_H_
