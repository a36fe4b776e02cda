// The durable part of the control state: jobs, fleets and their closed launches, in SQLite.
#ifndef SWINFLEET_COORDINATOR_JOB_STORE_H_
#define SWINFLEET_COORDINATOR_JOB_STORE_H_

#include <grpcpp/support/status.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/control_state.h"
#include "coordinator/sqlite.h"
#include "proto/coordinator.pb.h"

namespace swinfleet::coordinator {

class JobStore {
 public:
  // What one transaction writes. The pointers are only used during Write.
  struct Batch {
    std::vector<const Job*> jobs{};
    std::vector<const Fleet*> fleets{};
    std::vector<std::string> dropped_fleets{};
    std::vector<const Host*> hosts{};
    std::vector<std::string> dropped_hosts{};
    // Job id and what its rank 0 last reported.
    std::vector<std::pair<std::string, const Progress*>> progress{};
    bool empty() const {
      return jobs.empty() && fleets.empty() && dropped_fleets.empty() && hosts.empty() &&
             dropped_hosts.empty() && progress.empty();
    }
  };
  struct Contents {
    std::vector<Job> jobs;
    std::vector<Fleet> fleets;
    std::vector<Host> hosts;
    std::map<std::string, Progress> progress;
  };

  // Opens `folder`/jobs.sqlite, made if it is missing. The caller holds the folder's lock.
  static grpc::Status Open(const std::string& folder, std::unique_ptr<JobStore>* out);

  // Everything that was written, checked against itself.
  grpc::Status Load(Contents* out);

  // All of the batch or nothing. When it returns OK the batch survives a loss of power. A full disk
  // is RESOURCE_EXHAUSTED, every other failure UNAVAILABLE.
  grpc::Status Write(const Batch& batch);

 private:
  JobStore() = default;
  grpc::Status PrepareStatements();
  grpc::Status WriteJob(const Job& job);
  grpc::Status WriteFleet(const Fleet& fleet);
  grpc::Status DropFleet(const std::string& name);
  grpc::Status WriteHost(const Host& host);
  grpc::Status LoadHosts(Contents* out);
  grpc::Status LoadJobs(Contents* out);
  grpc::Status LoadFleets(Contents* out);

  std::unique_ptr<Database> database_;
  std::unique_ptr<Statement> put_job_, put_progress_, put_fleet_, put_closed_;
  std::unique_ptr<Statement> drop_fleet_, drop_closed_, put_host_, drop_host_;
};

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_COORDINATOR_JOB_STORE_H_
