#include "distributed/offload_files.h"

#include <fcntl.h>
#include <glog/logging.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <sstream>
#include <utility>
#include <vector>

#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/manifest.h"
#include "core/checkpoint/run_checkpoints.h"
#include "kernels/error.h"

namespace swinfleet {
namespace {

namespace fs = std::filesystem;

constexpr char kLockName[] = "/lock";

// "/rank-00000".
std::string RankName(int rank) {
  char text[40];
  std::snprintf(text, sizeof(text), "/rank-%05d", rank);
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
  const std::string of_attempt = run_folder + "/" + AttemptName(attempt);
  RemoveLeftovers(run_folder, of_attempt, ops);
  path_ = of_attempt + RankName(rank);
  try {
    MakeFolders(path_);
    lock_ = TakeLock(path_, ops);
    if (lock_ < 0 && lock_ != -EWOULDBLOCK) throw FileError(-lock_, "lock", path_ + kLockName);
  } catch (const FileError& error) {
    throw Error("parallel.offload_dir " + fs::path(run_folder).parent_path().string() +
                " can't be used on the host of rank " + std::to_string(rank) + ": " + error.what() +
                ". It has to be a folder on a disk of each host's own that this user may write to,"
                " or one that can be made");
  }
  if (lock_ == -EWOULDBLOCK) {
    throw Error("another process keeps its offloaded state in " + path_ +
                ": wait for its end, or use another run_dir or parallel.offload_dir");
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

namespace {

// What a rank asks for, and of which filesystem.
struct Claim {
  std::string filesystem;
  uint64_t state = 0;
  uint64_t checkpoints = 0;

  std::string ToText() const {
    return filesystem + " " + std::to_string(state) + " " + std::to_string(checkpoints);
  }
  // Nothing where the text has none.
  static Claim FromText(const std::string& text) {
    Claim claim;
    std::istringstream words(text);
    words >> claim.filesystem >> claim.state >> claim.checkpoints;
    return claim;
  }
};

// The first folder on the way up that is there.
std::string Existing(const std::string& folder) {
  fs::path path = fs::absolute(folder);
  std::error_code code;
  while (!fs::exists(path, code) && path.has_relative_path()) path = path.parent_path();
  return path;
}

Claim ClaimOf(const std::string& folder, const DiskUse& use, const CheckpointPlace& place,
              FileOps& ops) {
  Claim claim = {.filesystem = FilesystemOf(folder, ops), .state = use.state};
  if (place.run_dir.empty() || FilesystemOf(Existing(place.run_dir), ops) != claim.filesystem) {
    return claim;
  }
  // Of those that are there as many stay, or are deleted when others are made.
  const std::vector<CheckpointInfo> there = ListCheckpoints(place.run_dir);
  const int64_t complete = std::ranges::count_if(there, &CheckpointInfo::complete);
  claim.checkpoints = use.Checkpoints(place.kept - std::min(complete, place.kept));
  return claim;
}

}  // namespace

void CheckOffloadSpace(const std::string& folder, const DiskUse& use, const CheckpointPlace& place,
                       const std::string& problem, Communicator* communicator, FileOps& ops) {
  // Before anybody measures, what crashes left is gone.
  communicator->Barrier("folders of offloaded state");
  std::string failure = problem;
  Claim own;
  int64_t free = 0;
  try {
    if (failure.empty()) {
      own = ClaimOf(folder, use, place, ops);
      free = ops.FreeBytes(folder);
      if (free < 0) throw FileError(static_cast<int>(-free), "measure the room in", folder);
    }
  } catch (const Error& error) {
    failure = error.what();
  }
  const std::vector<std::string> all =
      communicator->AllGatherText(failure.empty() ? own.ToText() : "", "room for offloaded state");
  if (!failure.empty()) throw Error(failure);
  uint64_t state = 0, checkpoints = 0;
  int ranks = 0;
  for (const std::string& text : all) {
    const Claim claim = Claim::FromText(text);
    if (claim.filesystem != own.filesystem) continue;
    state += claim.state;
    checkpoints += claim.checkpoints;
    ++ranks;
  }
  const auto needed = static_cast<double>(state + checkpoints);
  if (needed <= static_cast<double>(free)) return;
  std::string text = "the filesystem of " + folder + " has " + InGb(static_cast<double>(free)) +
                     " free, and " + std::to_string(ranks) + (ranks == 1 ? " rank" : " ranks") +
                     " of this host " + (ranks == 1 ? "needs " : "need ") + InGb(needed) +
                     " there: " + InGb(static_cast<double>(state)) +
                     " for offloaded state (two sets, and a third of the moments while a save runs"
                     " beside the training)";
  if (checkpoints > 0) {
    text += ", and " + InGb(static_cast<double>(checkpoints)) +
            " for checkpoints that are still to be made (checkpoint.keep_last " +
            std::to_string(place.kept) + ", and one more until it is complete)";
  }
  throw Error(text + ". Free " + InGb(needed - static_cast<double>(free)) +
              ", or choose another parallel.offload_dir" +
              (checkpoints > 0 ? ", a smaller checkpoint.keep_last or, with which one set fewer is"
                                 " needed, checkpoint.asynchronous false"
                               : ""));
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
  const std::string path = stem_ + std::to_string(++made_) + ".safetensors";
  try {
    return std::make_shared<ScratchFile>(path, header_, bytes_, ops_);
  } catch (const FileError& error) {
    if (error.code() != ENOENT) throw;
    throw Error("cannot create " + path +
                ": the folder of offloaded state is gone: somebody removed it, or its disk is not"
                " mounted any more. Bring parallel.offload_dir back; the job goes on from its last"
                " checkpoint");
  }
}

ScratchFile& AlternatingFile::next() {
  if (next_ == nullptr) next_ = Make();
  return *next_;
}

void AlternatingFile::FlushNext() { next().Sync(); }

void AlternatingFile::Swap() {
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
