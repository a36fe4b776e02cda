// What a supervisor knows of its launch, on disk: after a crash of the supervisor, or of the whole
// machine, the next supervisor can tell whether that mpirun is gone, and report it.
#ifndef SWINFLEET_COORDINATOR_SUPERVISOR_RECORD_H_
#define SWINFLEET_COORDINATOR_SUPERVISOR_RECORD_H_

#include <optional>
#include <string>
#include <vector>

#include "coordinator/supervisor/process.h"

namespace swinfleet {

struct LaunchRecord {
  std::string fleet;
  std::string host;
  std::string boot_id;
  std::string launch_id;
  // The started command (mpirun).
  ProcessIdentity leader;
  // Seconds since 1970.
  double started_at = 0;
  // Processes of the launch that were seen on this host, the leader included.
  std::vector<ProcessIdentity> processes;
  // Files under /dev/shm that they were seen to share.
  std::vector<std::string> shared_memory;
  // How the launch ended, for people; empty while nobody knows of an end.
  std::string exit;
  // The coordinator has acknowledged the end: nothing is left to be done about this launch.
  bool acknowledged = false;
};

// The record of one fleet. While it is open, its lock keeps every other supervisor of the same
// fleet (and state folder) out; the kernel drops the lock when the process ends in any way.
class RecordFile {
 public:
  RecordFile() = default;
  RecordFile(const RecordFile&) = delete;
  RecordFile& operator=(const RecordFile&) = delete;
  ~RecordFile();

  // Makes the folder if need be, takes the lock and reads the record, if there is one. On failure
  // (in use, damaged, another host's unless `anywhere`, no access) the result is false, and `error`
  // says what to do.
  bool Open(const std::string& folder, const std::string& fleet, std::string* error,
            bool anywhere = false);

  // What Open found on disk.
  const std::optional<LaunchRecord>& found() const { return found_; }

  // Replaces the record: after true it is durable, after false the old one stands.
  bool Save(const LaunchRecord& record, std::string* error);

  // FOLDER/FLEET.json
  const std::string& path() const { return path_; }

 private:
  bool Lock(std::string* error);
  bool Read(bool anywhere, std::string* error);

  std::string folder_;
  std::string fleet_;
  std::string path_;
  int lock_ = -1;
  std::optional<LaunchRecord> found_;
};

// $XDG_STATE_HOME/swinfleet/fleets, or ~/.local/state/swinfleet/fleets.
std::string DefaultStateFolder();

// Fleet names are file names and command-line arguments: letters, digits, and ._- after the first;
// at most 64.
bool IsValidFleetName(const std::string& name);

}  // namespace swinfleet

#endif  // SWINFLEET_COORDINATOR_SUPERVISOR_RECORD_H_
