#include "coordinator/supervisor/output_log.h"

#include <fcntl.h>
#include <glog/logging.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

namespace swinfleet {
namespace {

constexpr uint64_t kMaxBytes = uint64_t{16} << 20;
// A pipe that is ready takes this much at once.
constexpr size_t kChunk = 4096;

}  // namespace

OutputLog::~OutputLog() {
  if (file_ >= 0) close(file_);
}

bool OutputLog::Open(const std::string& path, std::string* error) {
  path_ = path;
  file_ = open(path.c_str(), O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  struct stat status;
  if (file_ < 0 || fstat(file_, &status) != 0) {
    *error = "can't open the log " + path + ": " + std::strerror(errno);
    return false;
  }
  copied_ = static_cast<uint64_t>(status.st_size);
  return true;
}

void OutputLog::Forward() {
  struct stat status;
  if (fstat(file_, &status) != 0) return;
  const auto size = static_cast<uint64_t>(status.st_size);
  if (size < copied_) copied_ = 0;
  char buffer[kChunk];
  // Bounded, so that a command that never stops printing doesn't keep the supervisor here.
  for (size_t total = 0; copied_ < size && total < (size_t{4} << 20);) {
    pollfd output = {STDOUT_FILENO, POLLOUT, 0};
    if (poll(&output, 1, 0) <= 0 || (output.revents & POLLOUT) == 0) break;
    const ssize_t got = pread(file_, buffer, sizeof(buffer), static_cast<off_t>(copied_));
    if (got <= 0) break;
    const ssize_t written = write(STDOUT_FILENO, buffer, static_cast<size_t>(got));
    if (written <= 0) break;
    copied_ += static_cast<uint64_t>(written);
    total += static_cast<size_t>(written);
  }
  if (size > kMaxBytes) Rotate();
}

void OutputLog::Rotate() {
  std::error_code failure;
  std::filesystem::copy_file(path_, path_ + ".1", std::filesystem::copy_options::overwrite_existing,
                             failure);
  if (failure) LOG(WARNING) << "can't copy " << path_ << ": " << failure.message();
  // The bound holds even when the copy failed: a full disk would be worse than lost output.
  if (ftruncate(file_, 0) == 0) copied_ = 0;
}

}  // namespace swinfleet
