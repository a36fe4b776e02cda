#include "coordinator/supervisor/process.h"

#include <dirent.h>
#include <fcntl.h>
#include <glog/logging.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <map>
#include <memory>
#include <set>
#include <sstream>

namespace swinfleet {
namespace {

// Elements of a file in which each ends with a zero byte (cmdline, environ).
std::vector<std::string> SplitAtZeros(const std::string& text) {
  std::vector<std::string> parts;
  for (size_t start = 0; start < text.size();) {
    const size_t end = std::min(text.find('\0', start), text.size());
    parts.push_back(text.substr(start, end - start));
    start = end + 1;
  }
  return parts;
}

// Only the option itself counts: a user's `grep ID` isn't part of the launch.
bool CommandLineNames(const std::string& launch_id, pid_t pid) {
  const auto text = ReadWhole("/proc/" + std::to_string(pid) + "/cmdline");
  if (!text || text->find(launch_id) == std::string::npos) return false;
  const std::vector<std::string> arguments = SplitAtZeros(*text);
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i] == "--launch-id=" + launch_id) return true;
    if (arguments[i] == "--launch-id" && i + 1 < arguments.size() &&
        arguments[i + 1] == launch_id) {
      return true;
    }
  }
  return false;
}

bool EnvironmentNames(const std::string& launch_id, pid_t pid) {
  const auto text = ReadWhole("/proc/" + std::to_string(pid) + "/environ");
  if (!text || text->find(launch_id) == std::string::npos) return false;
  const std::vector<std::string> variables = SplitAtZeros(*text);
  return std::find(variables.begin(), variables.end(),
                   std::string(kLaunchIdVariable) + "=" + launch_id) != variables.end();
}

struct ProcessStat {
  pid_t parent = 0;
  uint64_t start_time = 0;
};

// nullopt when there is no such process, or only a zombie of it.
std::optional<ProcessStat> ReadStat(pid_t pid) {
  const auto text = ReadWhole("/proc/" + std::to_string(pid) + "/stat");
  if (!text) return std::nullopt;
  // The name (field 2) is in parentheses and can hold any character, parentheses included.
  const size_t name_end = text->rfind(')');
  if (name_end == std::string::npos) return std::nullopt;
  std::istringstream fields(text->substr(name_end + 1));
  ProcessStat stat;
  std::string field;
  for (int number = 3; fields >> field; ++number) {
    if (number == 3 && (field == "Z" || field == "X")) return std::nullopt;
    if (number == 4) stat.parent = static_cast<pid_t>(std::strtol(field.c_str(), nullptr, 10));
    if (number == 22) {
      stat.start_time = std::strtoull(field.c_str(), nullptr, 10);
      return stat;
    }
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::string> ReadWhole(const std::string& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return std::nullopt;
  std::string text;
  char buffer[8192];
  for (;;) {
    const ssize_t got = read(file, buffer, sizeof(buffer));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      close(file);
      if (got < 0) return std::nullopt;
      return text;
    }
    text.append(buffer, static_cast<size_t>(got));
  }
}

std::string BootId() {
  std::string text = ReadWhole("/proc/sys/kernel/random/boot_id").value_or("");
  while (!text.empty() && text.back() == '\n') text.pop_back();
  // Without it a reused process number could pass for a living mpirun after a reboot.
  CHECK(!text.empty()) << "/proc/sys/kernel/random/boot_id can't be read; is /proc mounted?";
  return text;
}

std::string HostName() {
  char name[256] = {};
  CHECK_EQ(gethostname(name, sizeof(name) - 1), 0);
  return name;
}

std::optional<uint64_t> StartTimeOf(pid_t pid) {
  const std::optional<ProcessStat> stat = ReadStat(pid);
  if (!stat) return std::nullopt;
  return stat->start_time;
}

bool IsAlive(const ProcessIdentity& process) {
  return process.pid > 0 && StartTimeOf(process.pid) == process.start_time;
}

int OpenProcess(pid_t pid) { return static_cast<int>(syscall(SYS_pidfd_open, pid, 0)); }

std::vector<pid_t> AllProcesses() {
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(opendir("/proc"), &closedir);
  CHECK(folder != nullptr) << "/proc can't be read; is it mounted?";
  std::vector<pid_t> processes;
  while (const dirent* entry = readdir(folder.get())) {
    char* end = nullptr;
    const long number = std::strtol(entry->d_name, &end, 10);
    if (number > 0 && *end == '\0') processes.push_back(static_cast<pid_t>(number));
  }
  return processes;
}

std::vector<ProcessIdentity> FindLaunchProcesses(const std::string& launch_id) {
  if (launch_id.empty()) return {};
  // The start times are read first: if a number changes hands after that, the pair is of a dead
  // process, and a signal to it does nothing.
  std::map<pid_t, ProcessStat> processes;
  for (const pid_t pid : AllProcesses()) {
    const std::optional<ProcessStat> stat = ReadStat(pid);
    if (stat && pid != getpid()) processes[pid] = *stat;
  }
  std::set<pid_t> found;
  for (const auto& [pid, stat] : processes) {
    if (CommandLineNames(launch_id, pid) || EnvironmentNames(launch_id, pid)) found.insert(pid);
  }
  // Children whose environment was cleared belong to their parents.
  for (size_t before = 0; before != found.size();) {
    before = found.size();
    for (const auto& [pid, stat] : processes) {
      if (found.count(stat.parent) > 0) found.insert(pid);
    }
  }
  std::vector<ProcessIdentity> identities;
  for (const pid_t pid : found) identities.push_back({pid, processes[pid].start_time});
  return identities;
}

void SignalProcess(const ProcessIdentity& process, int signal) {
  // The descriptor pins the process, so that the number can't change hands after the check.
  const int descriptor = OpenProcess(process.pid);
  if (!IsAlive(process)) {
    if (descriptor >= 0) close(descriptor);
    return;
  }
  if (descriptor >= 0) {
    syscall(SYS_pidfd_send_signal, descriptor, signal, nullptr, 0);
    close(descriptor);
  } else {
    kill(process.pid, signal);
  }
}

}  // namespace swinfleet
