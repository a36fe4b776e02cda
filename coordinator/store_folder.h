// The folder of the store: made if it is missing, on a local disk, of one coordinator at a time.
#ifndef SWINFLEET_COORDINATOR_STORE_FOLDER_H_
#define SWINFLEET_COORDINATOR_STORE_FOLDER_H_

#include <grpcpp/support/status.h>

#include <functional>
#include <memory>
#include <string>

namespace swinfleet::coordinator {

// The statfs f_type of the filesystem that holds `path`, or -1 with errno set.
using FilesystemType = std::function<int64_t(const std::string& path)>;
int64_t SystemFilesystemType(const std::string& path);

// The name of a filesystem that other machines or programs serve ("NFS", "FUSE", ...), whose locks
// and fsync a database can't rely on; empty for local ones.
std::string NetworkFilesystemName(int64_t type);

class StoreFolder {
 public:
  ~StoreFolder();
  StoreFolder(const StoreFolder&) = delete;
  StoreFolder& operator=(const StoreFolder&) = delete;

  // Makes the folder (mode 0700) and holds its lock until destroyed. The lock ends with the
  // process, however that ends. ALREADY_EXISTS: another process holds it.
  static grpc::Status Open(const std::string& path, const FilesystemType& filesystem_type,
                           std::unique_ptr<StoreFolder>* out);

  const std::string& path() const { return path_; }
  // Makes the folder's entries durable.
  grpc::Status Sync() const;

 private:
  explicit StoreFolder(std::string path) : path_(std::move(path)) {}
  grpc::Status Lock();

  std::string path_;
  int lock_ = -1;
};

// $XDG_STATE_HOME/swinfleet, or ~/.local/state/swinfleet.
std::string DefaultStoreFolder();

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_COORDINATOR_STORE_FOLDER_H_
