// The durable part of the control state: jobs, fleets and their closed launches, in SQLite; the
// audit log, whose lines are written with what they are about; and what jobs have reported, for
// curves.
#ifndef SWINFLEET_COORDINATOR_JOB_STORE_H_
#define SWINFLEET_COORDINATOR_JOB_STORE_H_

#include <grpcpp/support/status.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/audit.h"
#include "coordinator/control_state.h"
#include "coordinator/job_history.h"
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
    std::vector<const AuditEntry*> audit{};
    const HistoryChanges* history = nullptr;
    bool empty() const {
      return jobs.empty() && fleets.empty() && dropped_fleets.empty() && hosts.empty() &&
             dropped_hosts.empty() && progress.empty() && audit.empty() && history == nullptr;
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
  // The database itself, brought to the newest schema if `migrate`; otherwise a file of another
  // schema is refused.
  static grpc::Status OpenDatabase(const std::string& folder, bool migrate,
                                   std::unique_ptr<Database>* out);

  // Makes `file`, which is there and empty, a copy of the jobs in `folder` as they are now, whether
  // or not a coordinator is at work on them: one file from which a coordinator can go on, checked
  // as a coordinator checks it. What happens later is not in it, so it numbers attempts that follow
  // far beyond those that it knows. Not yet durable.
  static grpc::Status BackUp(const std::string& folder, const std::string& file);

  // Everything that was written, checked against itself.
  grpc::Status Load(Contents* out);
  // What jobs have reported, into histories that are empty: those last that reported last.
  grpc::Status LoadHistories(JobHistories* out);

  // All of the batch or nothing. When it returns OK the batch survives a loss of power. A full disk
  // is RESOURCE_EXHAUSTED, every other failure UNAVAILABLE.
  grpc::Status Write(const Batch& batch);

 private:
  JobStore() = default;
  static grpc::Status OpenFile(const std::string& path, std::unique_ptr<JobStore>* out);
  grpc::Status PrepareStatements();
  grpc::Status WriteJob(const Job& job);
  grpc::Status WriteFleet(const Fleet& fleet);
  grpc::Status DropFleet(const std::string& name);
  grpc::Status WriteHost(const Host& host);
  grpc::Status WriteHistory(const HistoryChanges& changes);
  grpc::Status LoadHosts(Contents* out);
  grpc::Status LoadJobs(Contents* out);
  grpc::Status LoadFleets(Contents* out);

  std::unique_ptr<Database> database_;
  std::unique_ptr<Statement> put_job_, put_progress_, put_fleet_, put_closed_;
  std::unique_ptr<Statement> drop_fleet_, drop_closed_, put_host_, drop_host_, put_audit_;
  std::unique_ptr<Statement> forget_history_, drop_record_, put_record_;
};

// Adds a line to the audit log with a statement of kPutAudit. Its texts are tidied.
extern const char kPutAudit[];
grpc::Status PutAudit(Statement* put_audit, AuditEntry entry);

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_COORDINATOR_JOB_STORE_H_
