#include "coordinator/supervisor/leftovers.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <set>
#include <sstream>
#include <system_error>

namespace swinfleet {
namespace {

constexpr char kSharedMemoryFolder[] = "/dev/shm/";

bool IsCommunicationFile(const std::string& path) {
  for (const char* prefix : {"vader_segment.", "osc_rdma.", "osc_sm.", "sm_segment.", "nccl-",
                             "ucx_", "psm2_shm.", "ompi_", "pmix_"}) {
    if (path.rfind(std::string(kSharedMemoryFolder) + prefix, 0) == 0) return true;
  }
  return false;
}

// Files under /dev/shm that the process maps.
std::set<std::string> MappedBy(pid_t pid) {
  std::set<std::string> files;
  const auto maps = ReadWhole("/proc/" + std::to_string(pid) + "/maps");
  if (!maps) return files;
  std::istringstream lines(*maps);
  for (std::string line; std::getline(lines, line);) {
    const size_t start = line.find(kSharedMemoryFolder);
    if (start != std::string::npos) files.insert(line.substr(start));
  }
  return files;
}

bool IsOwn(const std::string& path, mode_t type) {
  struct stat status;
  return lstat(path.c_str(), &status) == 0 && status.st_uid == geteuid() &&
         (status.st_mode & S_IFMT) == type;
}

std::vector<std::string> SessionFolders(pid_t pid) {
  std::set<std::string> bases = {"/tmp"};
  if (const char* base = std::getenv("TMPDIR"); base != nullptr && base[0] == '/') {
    bases.insert(base);
  }
  const std::string host = HostName();
  const std::set<std::string> hosts = {host, host.substr(0, host.find('.'))};
  std::vector<std::string> folders;
  for (const std::string& base : bases) {
    for (const std::string& name : hosts) {
      const std::string parent = base + "/ompi." + name + "." + std::to_string(geteuid());
      // The parent is checked too: in a folder that all can write, somebody else could have put a
      // link there.
      const std::string folder = parent + "/pid." + std::to_string(pid);
      if (IsOwn(parent, S_IFDIR) && IsOwn(folder, S_IFDIR)) folders.push_back(folder);
    }
  }
  return folders;
}

}  // namespace

std::vector<std::string> SharedMemoryOf(const std::vector<ProcessIdentity>& processes) {
  std::set<std::string> files;
  for (const ProcessIdentity& process : processes) {
    for (const std::string& file : MappedBy(process.pid)) {
      const bool deleted = file.size() > 10 && file.ends_with(" (deleted)");
      if (!deleted && IsCommunicationFile(file)) files.insert(file);
    }
  }
  return {files.begin(), files.end()};
}

std::vector<std::string> RemoveLeftovers(const LaunchRecord& record) {
  std::vector<std::string> removed;
  std::set<std::string> in_use;
  if (!record.shared_memory.empty()) {
    for (const pid_t pid : AllProcesses()) in_use.merge(MappedBy(pid));
  }
  for (const std::string& file : record.shared_memory) {
    // The record is a file too: only what this program would have written into it is believed.
    const bool believable = IsCommunicationFile(file) && file.find('/', 9) == std::string::npos;
    if (!believable || in_use.count(file) > 0 || !IsOwn(file, S_IFREG)) continue;
    if (unlink(file.c_str()) == 0) removed.push_back(file);
  }
  std::set<pid_t> numbers = {record.leader.pid};
  for (const ProcessIdentity& process : record.processes) numbers.insert(process.pid);
  for (const pid_t pid : numbers) {
    if (pid <= 0 || StartTimeOf(pid)) continue;
    for (const std::string& folder : SessionFolders(pid)) {
      std::error_code failure;
      std::filesystem::remove_all(folder, failure);
      if (!failure) removed.push_back(folder);
    }
  }
  return removed;
}

}  // namespace swinfleet
