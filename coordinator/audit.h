// The audit log: who changed or tried what, when, from where, and what came of it. Its lines are
// stored with the change itself, in one transaction (job_store.h), and are never changed
// afterwards.
#ifndef SWINFLEET_COORDINATOR_AUDIT_H_
#define SWINFLEET_COORDINATOR_AUDIT_H_

#include <grpcpp/support/status.h>

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace swinfleet::coordinator {

struct AuditEntry {
  // Seconds since 1970.
  double time = 0;
  // The name of the token. Where nobody was asked for one: what the client says, if it says
  // anything.
  std::string who;
  // "viewer", "submitter", "admin", "fleet"; "open": nobody was asked; "operator": at the command
  // line of the coordinator's program; "unknown": not authenticated.
  std::string role;
  // "10.0.0.7:51312"; "this machine" for the coordinator's own command line.
  std::string from;
  // "view", "submit", "cancel", "fence", "serve", "token add", "token revoke".
  std::string action;
  // The job's id, the fleet's or token's name; of a submission that was refused its run folder.
  std::string subject;
  // "ok", or why not.
  std::string result;
  // Of refusals that are alike, all but the first of which are counted for a while: how many. What
  // is said of them is true of one.
  uint64_t times = 1;
};

// What came of a request, for AuditEntry.result.
std::string AuditResult(const grpc::Status& status);

// Makes every text one line of bounded length, in ASCII.
void TidyAuditEntry(AuditEntry* entry);

// Keeps refusals from filling the disk: of those that are alike (who, host, action, kind of
// refusal) one is written at once, and what follows within a minute as one line with their number.
// It does no input or output; the time is that of the entries.
class RefusalCounter {
 public:
  // `max_kinds` are told apart; all others are of one kind.
  explicit RefusalCounter(size_t max_kinds = 1000) : max_kinds_(max_kinds) {}

  // Takes one refusal; the entries that are to be written now.
  std::vector<AuditEntry> Add(const AuditEntry& refusal, grpc::StatusCode kind);
  // The entries whose minute is over at `time`, or lies in the future.
  std::vector<AuditEntry> Expire(double time);
  // All that are left.
  std::vector<AuditEntry> TakeAll();
  bool empty() const { return kinds_.empty(); }

 private:
  struct Kind {
    // Time of the entry that was written at once.
    double since = 0;
    // The newest of those that followed, with their number; 0: none did.
    AuditEntry newest;
    uint64_t count = 0;
  };
  // The minute that began at a time goes on, or else is over.
  std::vector<AuditEntry> TakeUnless(const std::function<bool(double since)>& goes_on);

  const size_t max_kinds_;
  std::map<std::string, Kind> kinds_;
};

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_COORDINATOR_AUDIT_H_
