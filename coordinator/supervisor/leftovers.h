// What a killed launch leaves on this host: Open MPI's session folders and shared memory.
#ifndef SWINFLEET_COORDINATOR_SUPERVISOR_LEFTOVERS_H_
#define SWINFLEET_COORDINATOR_SUPERVISOR_LEFTOVERS_H_

#include <string>
#include <vector>

#include "coordinator/supervisor/process.h"
#include "coordinator/supervisor/record.h"

namespace swinfleet {

// Files under /dev/shm that these processes map at this moment and that MPI, NCCL or UCX made for
// them (by their names), sorted. Other files there may be somebody's data.
std::vector<std::string> SharedMemoryOf(const std::vector<ProcessIdentity>& processes);

// Deletes what is left of a launch all of whose processes have ended, and returns what was deleted:
// * files of `record.shared_memory` that belong to this user and that no process maps;
// * Open MPI's session folders (TMP/ompi.HOST.UID/pid.PID) of `record.processes` that belong to
// this
//   user, unless the number belongs to a living process by now.
std::vector<std::string> RemoveLeftovers(const LaunchRecord& record);

}  // namespace swinfleet

#endif  // SWINFLEET_COORDINATOR_SUPERVISOR_LEFTOVERS_H_
