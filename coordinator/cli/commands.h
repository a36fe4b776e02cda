// What `swinfleet COMMAND` does, each returning its exit code (exit_codes.h).
#ifndef SWINFLEET_COORDINATOR_CLI_COMMANDS_H_
#define SWINFLEET_COORDINATOR_CLI_COMMANDS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "coordinator/supervisor/supervisor.h"
#include "proto/connection.h"

namespace swinfleet {

struct CommonOptions {
  // HOST:PORT
  std::string coordinator;
  ConnectionOptions connection;
  // What the files of `connection` hold.
  Credentials credentials;
  bool json = false;
};

struct SubmitOptions {
  std::string job_file;
  bool watch = false;
  // How long a coordinator that is away is waited for.
  double wait_seconds = 0;
};
int Submit(const CommonOptions& common, const SubmitOptions& options);

int ShowStatus(const CommonOptions& common, const std::string& job_id);
int Watch(const CommonOptions& common, const std::string& job_id);
// `states` by name ("RUNNING"); empty: all. `limit` 0: the coordinator's default.
int ListJobs(const CommonOptions& common, const std::vector<std::string>& states, uint32_t limit);
int Logs(const CommonOptions& common, const std::string& job_id, bool follow);
int Cancel(const CommonOptions& common, const std::string& job_id);
int ListFleets(const CommonOptions& common);
int Fence(const CommonOptions& common, const std::string& fleet);
int RunFleet(const CommonOptions& common, const SupervisorOptions& options);

}  // namespace swinfleet

#endif  // SWINFLEET_COORDINATOR_CLI_COMMANDS_H_
