// Following a job to its end.
#ifndef SWINFLEET_COORDINATOR_CLI_WATCH_H_
#define SWINFLEET_COORDINATOR_CLI_WATCH_H_

#include <string>

#include "coordinator/cli/client.h"

namespace swinfleet {

// Shows the job until it ends: on a terminal as one block that is painted again and again,
// elsewhere a line a change, with `json` a JSON document a status. Rides out a coordinator that
// goes away. Returns the exit code (see exit_codes.h). Takes over SIGINT and SIGWINCH.
int WatchJob(const Client& client, const std::string& job_id, bool json);

// Prints the log lines of the job that there are; with `follow` also those that come, until the job
// has ended.
int ShowLogs(const Client& client, const std::string& job_id, bool follow, bool json);

}  // namespace swinfleet

#endif  // SWINFLEET_COORDINATOR_CLI_WATCH_H_
