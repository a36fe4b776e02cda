#include "coordinator/supervisor/record.h"

#include <fcntl.h>
#include <pwd.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <system_error>

namespace swinfleet {
namespace {

using nlohmann::json;

constexpr int kVersion = 1;

bool SystemFailure(const std::string& what, std::string* error) {
  *error = what + ": " + std::strerror(errno);
  return false;
}

json ToJson(const ProcessIdentity& process) {
  return {{"pid", process.pid}, {"start_time", process.start_time}};
}

ProcessIdentity ProcessFromJson(const json& value) {
  return {value.at("pid").get<pid_t>(), value.at("start_time").get<uint64_t>()};
}

std::string ToText(const LaunchRecord& record) {
  json processes = json::array();
  for (const ProcessIdentity& process : record.processes) processes.push_back(ToJson(process));
  const json value = {{"version", kVersion},
                      {"fleet", record.fleet},
                      {"host", record.host},
                      {"boot_id", record.boot_id},
                      {"launch_id", record.launch_id},
                      {"leader", ToJson(record.leader)},
                      {"started_at", record.started_at},
                      {"processes", processes},
                      {"shared_memory", record.shared_memory},
                      {"exit", record.exit},
                      {"acknowledged", record.acknowledged}};
  // A name that isn't UTF-8 must not keep the record from being written.
  return value.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

LaunchRecord FromText(const std::string& text) {
  const json value = json::parse(text);
  if (value.at("version").get<int>() != kVersion) {
    throw std::runtime_error("its version is " + value.at("version").dump() +
                             ", this program's is " + std::to_string(kVersion));
  }
  LaunchRecord record;
  record.fleet = value.at("fleet").get<std::string>();
  record.host = value.at("host").get<std::string>();
  record.boot_id = value.at("boot_id").get<std::string>();
  record.launch_id = value.at("launch_id").get<std::string>();
  record.leader = ProcessFromJson(value.at("leader"));
  record.started_at = value.at("started_at").get<double>();
  for (const json& process : value.at("processes")) {
    record.processes.push_back(ProcessFromJson(process));
  }
  record.shared_memory = value.at("shared_memory").get<std::vector<std::string>>();
  record.exit = value.at("exit").get<std::string>();
  record.acknowledged = value.at("acknowledged").get<bool>();
  return record;
}

bool WriteAll(int file, const std::string& text) {
  for (size_t done = 0; done < text.size();) {
    const ssize_t written = write(file, text.data() + done, text.size() - done);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return false;
    done += static_cast<size_t>(written);
  }
  return true;
}

bool SyncFolder(const std::string& folder, std::string* error) {
  const int descriptor = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return SystemFailure("can't open " + folder, error);
  const bool synced = fsync(descriptor) == 0;
  if (!synced) SystemFailure("can't flush " + folder, error);
  close(descriptor);
  return synced;
}

}  // namespace

RecordFile::~RecordFile() {
  if (lock_ >= 0) close(lock_);
}

bool RecordFile::Open(const std::string& folder, const std::string& fleet, std::string* error,
                      bool anywhere) {
  folder_ = folder;
  fleet_ = fleet;
  path_ = folder + "/" + fleet + ".json";
  std::error_code failure;
  std::filesystem::create_directories(folder, failure);
  if (failure) {
    *error = "can't make the state folder " + folder + ": " + failure.message() +
             "; name another with --state-dir";
    return false;
  }
  return Lock(error) && Read(anywhere, error);
}

bool RecordFile::Lock(std::string* error) {
  const std::string path = folder_ + "/" + fleet_ + ".lock";
  lock_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (lock_ < 0) {
    return SystemFailure("can't open " + path + " (another folder can be named with --state-dir)",
                         error);
  }
  if (flock(lock_, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return SystemFailure("can't lock " + path, error);
    char owner[64] = {};
    if (pread(lock_, owner, sizeof(owner) - 1, 0) < 0) owner[0] = '\0';
    *error = "fleet \"" + fleet_ + "\" has a supervisor already on this machine (process " +
             std::to_string(std::strtol(owner, nullptr, 10)) +
             "); end that one first, or choose another --name";
    return false;
  }
  // Only a help for people; the lock itself is what counts.
  if (ftruncate(lock_, 0) != 0 || !WriteAll(lock_, std::to_string(getpid()) + "\n")) {
    return SystemFailure("can't write " + path, error);
  }
  return true;
}

bool RecordFile::Read(bool anywhere, std::string* error) {
  if (access(path_.c_str(), F_OK) != 0 && errno == ENOENT) return true;
  const std::optional<std::string> text = ReadWhole(path_);
  if (!text) return SystemFailure("can't read " + path_, error);
  const std::string remedy = "; make sure that nothing of fleet \"" + fleet_ +
                             "\" runs any more, fence it (swinfleet fence " + fleet_ +
                             "), and delete the file";
  try {
    found_ = FromText(*text);
  } catch (const std::exception& failure) {
    *error = "the record " + path_ + " is damaged (" + failure.what() + ")" + remedy;
    return false;
  }
  // A home folder can be shared by many hosts, and processes are only seen on their own.
  const bool elsewhere = found_->host != HostName() && found_->boot_id != BootId();
  if (elsewhere && !anywhere && !found_->acknowledged) {
    *error = "the record " + path_ + " is of a launch on host " + found_->host + ", and this is " +
             HostName() + "; start the supervisor there, or" + remedy.substr(1);
    return false;
  }
  return true;
}

bool RecordFile::Save(const LaunchRecord& record, std::string* error) {
  const std::string temporary = path_ + ".new";
  const int file = open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (file < 0) return SystemFailure("can't write " + temporary, error);
  const bool written = WriteAll(file, ToText(record)) && fsync(file) == 0;
  if (!written) SystemFailure("can't write " + temporary, error);
  close(file);
  if (!written) {
    unlink(temporary.c_str());
    return false;
  }
  if (rename(temporary.c_str(), path_.c_str()) != 0) {
    SystemFailure("can't rename " + temporary, error);
    unlink(temporary.c_str());
    return false;
  }
  return SyncFolder(folder_, error);
}

std::string DefaultStateFolder() {
  const char* state = std::getenv("XDG_STATE_HOME");
  if (state != nullptr && state[0] == '/') return std::string(state) + "/swinfleet/fleets";
  const char* home = std::getenv("HOME");
  if (home == nullptr || home[0] == '\0') {
    const passwd* user = getpwuid(geteuid());
    home = user == nullptr ? "/" : user->pw_dir;
  }
  return std::string(home) + "/.local/state/swinfleet/fleets";
}

bool IsValidFleetName(const std::string& name) {
  if (name.empty() || name.size() > 64) return false;
  for (size_t i = 0; i < name.size(); ++i) {
    const char c = name[i];
    const bool alphanumeric =
        (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (!alphanumeric && (i == 0 || (c != '.' && c != '_' && c != '-'))) return false;
  }
  return true;
}

}  // namespace swinfleet
