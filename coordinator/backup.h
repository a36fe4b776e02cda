// Backups of a coordinator's store, also of one that is at work.
#ifndef SWINFLEET_COORDINATOR_BACKUP_H_
#define SWINFLEET_COORDINATOR_BACKUP_H_

#include <grpcpp/support/status.h>

#include <string>

namespace swinfleet::coordinator {

struct BackupOptions {
  // The folder of the store.
  std::string store;
  std::string file;
  // A file of that name is replaced; otherwise it is refused.
  bool replace = false;
};

// Writes the jobs of the store as they are at one moment to the file (JobStore::BackUp): checked,
// durable, and under its name only when it is whole. Whatever goes wrong, there is no file, or the
// one of before.
grpc::Status BackUp(const BackupOptions& options);

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_COORDINATOR_BACKUP_H_
