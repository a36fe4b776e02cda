// Tokens and the audit log in the store, for the coordinator and, while it runs or not, for the
// commands of its program.
#ifndef SWINFLEET_COORDINATOR_ACCESS_STORE_H_
#define SWINFLEET_COORDINATOR_ACCESS_STORE_H_

#include <grpcpp/support/status.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "coordinator/access.h"
#include "coordinator/audit.h"
#include "coordinator/sqlite.h"

namespace swinfleet::coordinator {

class AccessStore {
 public:
  // A connection of its own to `folder`/jobs.sqlite. `migrate`: the caller holds the folder's lock,
  // and the file may be made or brought to the newest schema.
  static grpc::Status Open(const std::string& folder, bool migrate,
                           std::unique_ptr<AccessStore>* out);

  // All tokens, revoked ones too, in the order in which they were made.
  grpc::Status LoadTokens(std::vector<Token>* out);
  // A number that is another one once a connection other than this has changed the file.
  grpc::Status Generation(int64_t* generation);

  // Each with a line of the audit log, in one transaction, durable when it returns OK. The time of
  // both is the entry's.
  // ALREADY_EXISTS: there is a token of that name that is neither revoked nor expired.
  grpc::Status AddToken(const Token& token, const AuditEntry& entry);
  // NOT_FOUND: there is no token of that name that is not revoked.
  grpc::Status RevokeToken(const std::string& name, const AuditEntry& entry);

  // The newest `limit` lines of the audit log, oldest first; 0: all.
  grpc::Status ReadAudit(uint64_t limit, const std::function<void(const AuditEntry&)>& take);

 private:
  AccessStore() = default;
  grpc::Status Revoke(const std::string& name, double time);
  grpc::Status WriteAudit(const AuditEntry& entry);

  std::unique_ptr<Database> database_;
};

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_COORDINATOR_ACCESS_STORE_H_
