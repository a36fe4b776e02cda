#include "coordinator/backup.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "coordinator/job_store.h"

namespace swinfleet::coordinator {
namespace {

grpc::Status Bad(const std::string& text) { return {grpc::StatusCode::FAILED_PRECONDITION, text}; }

grpc::Status AlreadyThere(const std::string& file) {
  return Bad(file + " exists already; choose another name, or replace it with --force");
}

// A new file, only for this user, beside the one that it is to become; removed unless it has.
class NewFile {
 public:
  explicit NewFile(const std::string& final_path)
      : final_path_(final_path), path_(final_path + ".XXXXXX") {
    const int file = mkostemp(path_.data(), O_CLOEXEC);
    if (file < 0) {
      fault_ = "can't make a file beside " + final_path + ": " + strerror(errno);
      path_.clear();
      return;
    }
    close(file);
  }
  ~NewFile() {
    if (path_.empty()) return;
    // With what SQLite may have left beside it.
    for (const char* end : {"", "-journal", "-wal", "-shm"}) unlink((path_ + end).c_str());
  }
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;

  const std::string& path() const { return path_; }
  const std::string& fault() const { return fault_; }

  // Durable and under its name.
  grpc::Status Finish(bool replace) {
    if (grpc::Status status = Sync(path_); !status.ok()) return status;
    int result = renameat2(AT_FDCWD, path_.c_str(), AT_FDCWD, final_path_.c_str(),
                           replace ? 0 : RENAME_NOREPLACE);
    // Some filesystems can't; then it is as it was at the beginning.
    if (result != 0 && errno == EINVAL) result = rename(path_.c_str(), final_path_.c_str());
    if (result != 0 && errno == EEXIST) return AlreadyThere(final_path_);
    if (result != 0) {
      return Bad("can't rename " + path_ + " to " + final_path_ + ": " + strerror(errno));
    }
    path_.clear();
    const std::string folder = std::filesystem::path(final_path_).parent_path().string();
    return Sync(folder.empty() ? "." : folder);
  }

 private:
  static grpc::Status Sync(const std::string& path) {
    const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) return Bad("can't open " + path + ": " + strerror(errno));
    const int result = fsync(file);
    const int error = errno;
    close(file);
    // Some filesystems have nothing to do for a folder and say so with EINVAL.
    if (result == 0 || error == EINVAL) return grpc::Status::OK;
    return Bad("fsync of " + path + ": " + strerror(error));
  }

  const std::string final_path_;
  std::string path_;
  std::string fault_;
};

}  // namespace

grpc::Status BackUp(const BackupOptions& options) {
  std::error_code error;
  if (!std::filesystem::exists(options.store + "/jobs.sqlite", error)) {
    return Bad("there is no store in " + options.store + "; name its folder with --store");
  }
  if (!options.replace && std::filesystem::exists(options.file, error)) {
    return AlreadyThere(options.file);
  }
  NewFile file(options.file);
  if (!file.fault().empty()) return Bad(file.fault());
  const grpc::Status status = JobStore::BackUp(options.store, file.path());
  return status.ok() ? file.Finish(options.replace) : status;
}

}  // namespace swinfleet::coordinator
