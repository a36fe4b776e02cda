#include "core/checkpoint/run_folder.h"

#include <fcntl.h>
#include <glog/logging.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <system_error>

#include "core/checkpoint/run_checkpoints.h"

namespace swinfleet {
namespace {

using nlohmann::json;

constexpr char kFormat[] = "swinfleet-run";
constexpr int kVersion = 1;
constexpr uint64_t kMaxRunBytes = uint64_t{16} << 20;

struct Owner {
  std::string job_id;
  std::string spec;
};

std::string RecordPath(const std::string& run_dir) { return run_dir + "/run.json"; }

// Jobs of a coordinator are told apart by their ids.
bool IsOtherSpec(const Owner& owner, const std::string& job_id, const std::string& spec) {
  return job_id == kLocalJobId && owner.spec != spec;
}

// A name that no other process uses, on this machine or another.
std::string PrivateName(const std::string& path) {
  char host[256] = "host";
  ::gethostname(host, sizeof(host) - 1);
  return path + "." + host + "-" + std::to_string(::getpid());
}

// Who owns the folder; nothing if nobody does yet.
std::optional<Owner> ReadOwner(const std::string& path, FileOps& ops) {
  try {
    const json record = json::parse(ReadTextFile(path, kMaxRunBytes, ops));
    if (record.at("format") != kFormat) throw Error("it is not Swinfleet's");
    if (record.at("version") != kVersion) throw Error("it is of another version");
    return Owner{record.at("job_id").get<std::string>(), record.at("spec").get<std::string>()};
  } catch (const FileError& error) {
    if (error.code() == ENOENT) return std::nullopt;
    throw;
  } catch (const std::exception& error) {
    throw Error("cannot tell whose folder this is: " + path + " is damaged (" + error.what() +
                "); choose another run folder, or restore the file");
  }
}

// Gives `temporary` the name `path` unless that exists; true when the name is ours. link(2) is the
// one call that is exclusive on NFS too, and the number of links tells the truth when a repeated
// request reported a failure.
bool LinkExclusively(const std::string& temporary, const std::string& path) {
  const int result = ::link(temporary.c_str(), path.c_str()) == 0 ? 0 : errno;
  struct stat info;
  if (result == 0 || (::stat(temporary.c_str(), &info) == 0 && info.st_nlink == 2)) return true;
  if (result == EEXIST) return false;
  if (result != EPERM && result != ENOTSUP && result != ENOSYS) {
    throw FileError(result, "create", path);
  }
  // A filesystem without hard links.
  if (::renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, path.c_str(), RENAME_NOREPLACE) == 0) {
    return true;
  }
  if (errno == EEXIST) return false;
  throw FileError(errno, "create (exclusively)", path);
}

// Writes the claim in full under a private name and then tries to give it the common one. Writing
// it is also the proof that the folder can be written.
bool TryClaim(const std::string& path, const std::string& text, FileOps& ops) {
  const std::string temporary = PrivateName(path);
  {
    OutputFile file(temporary, ops);
    file.WriteAt(0, std::as_bytes(std::span(text)));
    file.Sync();
    file.Close();
  }
  bool ours = false;
  try {
    ours = LinkExclusively(temporary, path);
  } catch (const FileError&) {
    ops.Unlink(temporary);
    throw;
  }
  ops.Unlink(temporary);
  SyncFolder(FolderOf(path), ops);
  return ours;
}

}  // namespace

RunFolderState ClaimRunFolder(const std::string& run_dir, const std::string& job_id,
                              const std::string& spec, FileOps& ops) {
  CHECK(!job_id.empty());
  if (run_dir.empty()) throw Error("the job has no run folder; set run_dir");
  MakeFolders(run_dir);
  const std::string path = RecordPath(run_dir);
  std::string text;
  try {
    text =
        json{{"format", kFormat}, {"version", kVersion}, {"job_id", job_id}, {"spec", spec}}.dump(
            1);
  } catch (const json::exception& error) {
    throw Error(std::string("the job specification is not valid UTF-8: ") + error.what());
  }
  if (TryClaim(path, text + "\n", ops)) {
    SyncFolder(FolderOf(run_dir), ops);
    return RunFolderState::kNew;
  }
  const std::optional<Owner> owner = ReadOwner(path, ops);
  if (!owner) throw Error(path + " vanished while it was being read: choose another run folder");
  if (owner->job_id != job_id) {
    throw Error("the run folder " + run_dir + " belongs to job \"" + owner->job_id +
                "\", not to job \"" + job_id + "\": choose another run_dir");
  }
  if (IsOtherSpec(*owner, job_id, spec)) {
    throw Error("the run folder " + run_dir + " was made for another job specification (it is in " +
                path + "): choose another run_dir, or go on with the specification as it was");
  }
  return RunFolderState::kClaimedBefore;
}

bool OwnsRunFolder(const std::string& run_dir, const std::string& job_id, const std::string& spec,
                   FileOps& ops) {
  CHECK(!job_id.empty());
  if (run_dir.empty()) return false;
  const std::optional<Owner> owner = ReadOwner(RecordPath(run_dir), ops);
  return owner && owner->job_id == job_id && !IsOtherSpec(*owner, job_id, spec);
}

bool HoldsRun(const std::string& run_dir) {
  std::error_code code;
  return std::filesystem::exists(RecordPath(run_dir), code) ||
         std::filesystem::exists(CheckpointsFolder(run_dir), code);
}

RunFolderLock::RunFolderLock(const std::string& run_dir, FileOps& ops) : ops_(ops) {
  const std::string path = run_dir + "/run.lock";
  fd_ = RetryStale(ops_, [&] { return ops_.Open(path, O_RDWR | O_CREAT, 0666); });
  if (fd_ < 0) throw FileError(-fd_, "create", path);
  if (::flock(fd_, LOCK_EX | LOCK_NB) == 0) return;
  const int code = errno;
  if (code == EWOULDBLOCK) {
    ops_.Close(fd_);
    throw Error("another process is training in the run folder " + run_dir +
                ": wait for its end, or choose another run_dir");
  }
  LOG(WARNING) << FileError(code, "lock", path).what()
               << "; make sure that no second process trains in this folder";
}

RunFolderLock::~RunFolderLock() { ops_.Close(fd_); }

}  // namespace swinfleet
