// Processes of this host as the kernel knows them: identities that survive the reuse of process
// numbers, and the processes that belong to a launch.
#ifndef SWINFLEET_COORDINATOR_SUPERVISOR_PROCESS_H_
#define SWINFLEET_COORDINATOR_SUPERVISOR_PROCESS_H_

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace swinfleet {

// A process number alone says nothing: numbers are reused. The start time (field 22 of
// /proc/PID/stat, clock ticks since boot) tells two users of a number apart, within one boot.
struct ProcessIdentity {
  pid_t pid = 0;
  uint64_t start_time = 0;
  bool operator==(const ProcessIdentity&) const = default;
  auto operator<=>(const ProcessIdentity&) const = default;
};

// The environment variable that every process of a launch on this host inherits.
inline constexpr char kLaunchIdVariable[] = "SWINFLEET_LAUNCH_ID";

// Identifies one boot of this machine.
std::string BootId();

// This machine's name, as the workers give it too.
std::string HostName();

// The whole content of a small file (of /proc), nullopt when it can't be read.
std::optional<std::string> ReadWhole(const std::string& path);

// When the process began; nullopt when there is none, or only a zombie of it.
std::optional<uint64_t> StartTimeOf(pid_t pid);

bool IsAlive(const ProcessIdentity& process);

// A file descriptor that becomes readable when the process ends, or -1 (no such process, or a
// kernel before 5.3).
int OpenProcess(pid_t pid);

// Process numbers of this host.
std::vector<pid_t> AllProcesses();

// The living processes of this host, but for this one, that belong to the launch: they carry
// `--launch-id ID` in their command line, or have inherited it in their environment, or descend
// from such a process. Sorted.
std::vector<ProcessIdentity> FindLaunchProcesses(const std::string& launch_id);

// Sends the signal, unless the number belongs to another process by now.
void SignalProcess(const ProcessIdentity& process, int signal);

}  // namespace swinfleet

#endif  // SWINFLEET_COORDINATOR_SUPERVISOR_PROCESS_H_
