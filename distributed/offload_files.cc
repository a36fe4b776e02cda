#include "distributed/offload_files.h"

#include <fcntl.h>
#include <glog/logging.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <sstream>
#include <utility>
#include <vector>

#include "core/checkpoint/manifest.h"
#include "kernels/error.h"

namespace swinfleet {
namespace {

namespace fs = std::filesystem;

constexpr char kLockName[] = "/lock";

std::string Numbered(const char* format, long long number) {
  char text[40];
  std::snprintf(text, sizeof(text), format, number);
  return text;
}

// A locked descriptor of the folder's lock file, or minus errno (EWOULDBLOCK: somebody holds it).
int TakeLock(const std::string& folder, FileOps& ops) {
  const int fd = ops.Open(folder + kLockName, O_RDWR | O_CREAT, 0666);
  if (fd < 0 || ::flock(fd, LOCK_EX | LOCK_NB) == 0) return fd;
  const int code = errno;
  ops.Close(fd);
  return -code;
}

// Removes the folders of ranks below `run_folder` whose processes are gone, but for the attempt in
// the folder `present`.
void RemoveLeftovers(const std::string& run_folder, const std::string& present, FileOps& ops) {
  std::error_code code;
  for (const fs::directory_entry& attempt : fs::directory_iterator(run_folder, code)) {
    if (attempt.path() == fs::path(present)) continue;
    for (const fs::directory_entry& rank : fs::directory_iterator(attempt.path(), code)) {
      const int lock = TakeLock(rank.path(), ops);
      if (lock < 0) continue;
      std::error_code problem;
      fs::remove_all(rank.path(), problem);
      LOG_IF(WARNING, problem) << "what a crash left in " << rank.path()
                               << " can't be removed: " << problem.message();
      ops.Close(lock);
    }
    // Only if it is empty.
    fs::remove(attempt.path(), code);
  }
}

// Names this host's filesystem that holds `folder`.
std::string FilesystemOf(const std::string& folder, FileOps& ops) {
  struct stat info;
  if (::stat(folder.c_str(), &info) < 0) throw FileError(errno, "look at", folder);
  const std::string boot = ReadTextFile("/proc/sys/kernel/random/boot_id", 64, ops);
  return boot.substr(0, boot.find('\n')) + "/" + std::to_string(info.st_dev);
}

std::string InGb(double bytes) {
  char text[40];
  std::snprintf(text, sizeof(text), bytes < 1e8 ? "%.3f GB" : "%.1f GB", bytes * 1e-9);
  return text;
}

}  // namespace

std::string OffloadRunFolder(const std::string& offload_dir, const std::string& run_dir) {
  const std::string path = fs::absolute(run_dir).lexically_normal().string();
  fs::path named(path);
  if (!named.has_filename()) named = named.parent_path();
  return offload_dir + "/" + named.filename().string() + "-" +
         HexOf(Checksum(std::as_bytes(std::span(path))));
}

OffloadFolder::OffloadFolder(const std::string& run_folder, int64_t attempt, int rank, FileOps& ops)
    : ops_(ops) {
  const std::string of_attempt = run_folder + Numbered("/attempt-%03lld", attempt);
  RemoveLeftovers(run_folder, of_attempt, ops);
  path_ = of_attempt + Numbered("/rank-%05lld", rank);
  MakeFolders(path_);
  lock_ = TakeLock(path_, ops);
  if (lock_ == -EWOULDBLOCK) {
    throw Error("another process keeps its offloaded state in " + path_ +
                ": wait for its end, or use another run_dir or parallel.offload_dir");
  }
  if (lock_ < 0) {
    throw FileError(-lock_, "lock", path_ + kLockName);
  }
  // Of a process that crashed under the same number.
  std::error_code code;
  for (const fs::directory_entry& file : fs::directory_iterator(path_, code)) {
    if (file.path() != fs::path(path_ + kLockName)) fs::remove(file.path(), code);
  }
}

OffloadFolder::~OffloadFolder() {
  std::error_code code;
  fs::remove_all(path_, code);
  LOG_IF(WARNING, code) << "cannot remove " << path_ << ": " << code.message();
  ops_.Close(lock_);
  // The attempt's folder, and the run's: with the last rank.
  const fs::path attempt = fs::path(path_).parent_path();
  if (fs::remove(attempt, code)) fs::remove(attempt.parent_path(), code);
}

void CheckOffloadSpace(const std::string& folder, uint64_t bytes, const std::string& problem,
                       Communicator* communicator, FileOps& ops) {
  std::string own, failure = problem;
  int64_t free = 0;
  try {
    if (failure.empty()) {
      own = FilesystemOf(folder, ops);
      free = ops.FreeBytes(folder);
      if (free < 0) throw FileError(static_cast<int>(-free), "measure the room in", folder);
    }
  } catch (const Error& error) {
    failure = error.what();
  }
  const std::vector<std::string> all = communicator->AllGatherText(
      failure.empty() ? own + " " + std::to_string(bytes) : "", "room for offloaded state");
  if (!failure.empty()) throw Error(failure);
  uint64_t needed = 0;
  int ranks = 0;
  for (const std::string& text : all) {
    std::istringstream words(text);
    std::string filesystem;
    uint64_t of_rank = 0;
    if (!(words >> filesystem >> of_rank) || filesystem != own) continue;
    needed += of_rank;
    ++ranks;
  }
  if (needed <= static_cast<uint64_t>(free)) return;
  throw Error("the filesystem of " + folder + " has " + InGb(static_cast<double>(free)) +
              " free, and the offloaded state of " + std::to_string(ranks) +
              (ranks == 1 ? " rank" : " ranks") + " needs " + InGb(static_cast<double>(needed)) +
              " there (two sets, and a third of the moments while a checkpoint holds one): free " +
              InGb(static_cast<double>(needed) - static_cast<double>(free)) +
              ", or choose another parallel.offload_dir");
}

AlternatingFile::AlternatingFile(const std::string& folder, const std::string& name,
                                 const std::string& header, uint64_t bytes, FileOps& ops)
    : stem_(folder + "/" + name + "-"),
      header_(header),
      bytes_(bytes),
      ops_(ops),
      current_(Make()),
      next_(Make()) {}

std::shared_ptr<ScratchFile> AlternatingFile::Make() {
  return std::make_shared<ScratchFile>(stem_ + std::to_string(++made_) + ".safetensors", header_,
                                       bytes_, ops_);
}

ScratchFile& AlternatingFile::next() {
  if (next_ == nullptr) next_ = Make();
  return *next_;
}

void AlternatingFile::Swap() {
  next().Sync();
  current_->LeaveCache();
  std::swap(current_, next_);
  if (std::exchange(pinned_, false)) next_.reset();
}

std::shared_ptr<const ScratchFile> AlternatingFile::Pin() {
  pinned_ = true;
  next_.reset();
  return current_;
}

}  // namespace swinfleet
