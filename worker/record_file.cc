#include "worker/record_file.h"

#include <fcntl.h>
#include <glog/logging.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

namespace swinfleet {
namespace {

// More than this is written without waiting for the next line of progress.
constexpr size_t kPendingBytes = 64 << 10;
// Records that wait for room on the disk; beyond that they are lost.
constexpr size_t kMaxPendingBytes = 4 << 20;

}  // namespace

RecordFile::RecordFile(std::string what, std::string path)
    : what_(std::move(what)), path_(std::move(path)) {
  Flush();
}

RecordFile::~RecordFile() {
  Flush();
  if (fd_ >= 0) close(fd_);
}

void RecordFile::Add(std::string_view record) {
  pending_ += record;
  if (pending_.size() > kPendingBytes) Flush();
}

bool RecordFile::Open() {
  if (fd_ >= 0) return true;
  std::error_code ignored;
  std::filesystem::create_directories(std::filesystem::path(path_).parent_path(), ignored);
  fd_ = open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  return fd_ >= 0;
}

void RecordFile::Flush() {
  if (!Open()) return Fail(errno);
  size_t done = 0;
  while (done < pending_.size()) {
    const ssize_t size = pwrite(fd_, pending_.data() + done, pending_.size() - done,
                                written_ + static_cast<int64_t>(done));
    if (size < 0 && errno == EINTR) continue;
    if (size <= 0) return Fail(size < 0 ? errno : ENOSPC);
    done += static_cast<size_t>(size);
  }
  written_ += static_cast<int64_t>(done);
  LOG_IF(INFO, failing_ && done > 0) << what_ << " " << path_ << " can be written again";
  failing_ = failing_ && done == 0;
  pending_.clear();
}

void RecordFile::Fail(int code) {
  // Half a record would make the file unreadable; where it stays, the rest of it is written later.
  const bool cut = fd_ < 0 || ftruncate(fd_, written_) == 0;
  LOG_IF(WARNING, !failing_) << what_ << " " << path_
                             << " can't be written: " << std::strerror(code)
                             << (cut ? "" : ", and ends in half a record")
                             << ". Training goes on, and what is missing is written later";
  failing_ = true;
  if (pending_.size() <= kMaxPendingBytes) return;
  LOG(WARNING) << pending_.size() << " bytes of records are lost: " << what_ << " " << path_
               << " could not be written for too long";
  pending_.clear();
}

}  // namespace swinfleet
