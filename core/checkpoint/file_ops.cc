#include "core/checkpoint/file_ops.h"

#include <fcntl.h>
#include <glog/logging.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <thread>

namespace swinfleet {
namespace {

// Linux moves at most 0x7ffff000 bytes a call; smaller pieces also keep a slow disk interruptible.
constexpr size_t kMaxBytesPerCall = size_t{64} << 20;

std::string WhatToDo(int code) {
  switch (code) {
    case ENOSPC:
      return "the filesystem is full (ENOSPC); free space on it or keep fewer checkpoints";
    case EDQUOT:
      return "the disk quota of this user or project is used up (EDQUOT), though the filesystem "
             "may have room; delete files or ask for a larger quota";
    case EROFS:
      return "the filesystem is mounted read-only (EROFS); choose another folder or remount it";
    case EACCES:
    case EPERM:
      return "this user lacks the permission; change the owner or mode, or choose another folder";
    case EFBIG:
      return "the file is larger than the filesystem or `ulimit -f` allows (EFBIG)";
    case ENOTDIR:
      return "a part of the path is a file, not a folder; choose another path";
    case ENOENT:
      return "it does not exist; check the path";
    case EIO:
      return "the device reports an I/O error (EIO); look at the kernel log of this machine and of "
             "the file server";
    case ESTALE:
      return "the network filesystem lost the file (ESTALE), also after retries; look at the mount";
    case EMFILE:
    case ENFILE:
      return "too many files are open; raise `ulimit -n`";
    default:
      return "";
  }
}

std::string DescribeCode(int code, const std::string& action, const std::string& path) {
  std::string text = "cannot " + action + " " + path + ": " + std::strerror(code);
  const std::string advice = WhatToDo(code);
  return advice.empty() ? text : text + ": " + advice;
}

// Device and inode of what is at `path`; false when nothing is.
bool Identify(const std::string& path, std::pair<dev_t, ino_t>* id) {
  struct stat info;
  if (::stat(path.c_str(), &info) != 0) return false;
  *id = {info.st_dev, info.st_ino};
  return true;
}

}  // namespace

int FileOps::Open(const std::string& path, int flags, mode_t mode) {
  const int fd = ::open(path.c_str(), flags | O_CLOEXEC, mode);
  return fd < 0 ? -errno : fd;
}

int64_t FileOps::PRead(int fd, void* data, size_t size, uint64_t offset) {
  const ssize_t n = ::pread(fd, data, size, static_cast<off_t>(offset));
  return n < 0 ? -errno : n;
}

int64_t FileOps::PWrite(int fd, const void* data, size_t size, uint64_t offset) {
  const ssize_t n = ::pwrite(fd, data, size, static_cast<off_t>(offset));
  return n < 0 ? -errno : n;
}

int FileOps::Fsync(int fd) { return ::fsync(fd) < 0 ? -errno : 0; }

int FileOps::Close(int fd) { return ::close(fd) < 0 ? -errno : 0; }

int FileOps::Rename(const std::string& from, const std::string& to) {
  return std::rename(from.c_str(), to.c_str()) < 0 ? -errno : 0;
}

int FileOps::Unlink(const std::string& path) { return ::unlink(path.c_str()) < 0 ? -errno : 0; }

int FileOps::Link(const std::string& from, const std::string& to) {
  return ::link(from.c_str(), to.c_str()) < 0 ? -errno : 0;
}

int FileOps::Allocate(int fd, uint64_t bytes) {
  const auto size = static_cast<off_t>(bytes);
  if (::fallocate(fd, 0, 0, size) == 0) return 0;
  if (errno != EOPNOTSUPP && errno != ENOSYS) return -errno;
  return ::ftruncate(fd, size) < 0 ? -errno : 0;
}

int FileOps::SyncData(int fd) { return ::fdatasync(fd) < 0 ? -errno : 0; }

int64_t FileOps::FreeBytes(const std::string& folder) {
  struct statvfs info;
  if (::statvfs(folder.c_str(), &info) < 0) return -errno;
  return static_cast<int64_t>(info.f_bavail) * static_cast<int64_t>(info.f_frsize);
}

void FileOps::Sleep(std::chrono::milliseconds time) { std::this_thread::sleep_for(time); }

FileOps& FileOps::System() {
  static FileOps ops;
  return ops;
}

FileError::FileError(int code, const std::string& action, const std::string& path)
    : Error(DescribeCode(code, action, path)), code_(code) {}

int RetryStale(FileOps& ops, const std::function<int()>& call) {
  constexpr int kRetries = 6;
  std::chrono::milliseconds pause(10);
  int result = call();
  for (int i = 0; i < kRetries && result == -ESTALE; ++i) {
    ops.Sleep(pause);
    pause *= 2;
    result = call();
  }
  return result;
}

OutputFile::OutputFile(const std::string& path, FileOps& ops) : path_(path), ops_(ops) {
  // A name that exists may be a file whose fsync failed: its pages must not be reused.
  const int removed = ops_.Unlink(path_);
  if (removed < 0 && removed != -ENOENT) throw FileError(-removed, "replace", path_);
  fd_ = RetryStale(ops_, [&] { return ops_.Open(path_, O_WRONLY | O_CREAT | O_TRUNC, 0666); });
  if (fd_ < 0) throw FileError(-fd_, "create", path_);
}

OutputFile::~OutputFile() {
  if (fd_ >= 0) ops_.Close(fd_);
  if (kept_) return;
  const int removed = ops_.Unlink(path_);
  if (removed < 0 && removed != -ENOENT) {
    LOG(WARNING) << FileError(-removed, "remove the unfinished", path_).what();
  }
}

void OutputFile::WriteAt(uint64_t offset, std::span<const std::byte> bytes) {
  CHECK_GE(fd_, 0) << path_ << " is closed";
  while (!bytes.empty()) {
    const size_t want = std::min(bytes.size(), kMaxBytesPerCall);
    const int64_t n = ops_.PWrite(fd_, bytes.data(), want, offset);
    if (n == -EINTR) continue;
    if (n < 0) throw FileError(static_cast<int>(-n), "write", path_);
    // A write of some bytes that moves none cannot make progress: treat it as a full disk.
    if (n == 0) throw FileError(ENOSPC, "write", path_);
    offset += n;
    bytes = bytes.subspan(n);
  }
}

void OutputFile::Sync() {
  CHECK_GE(fd_, 0) << path_ << " is closed";
  int result = ops_.Fsync(fd_);
  while (result == -EINTR) result = ops_.Fsync(fd_);
  if (result < 0) throw SyncError(-result, "make durable (fsync)", path_);
}

void OutputFile::Close() {
  CHECK_GE(fd_, 0) << path_ << " is closed";
  const int result = ops_.Close(fd_);
  fd_ = -1;
  // After EINTR the descriptor is closed all the same on Linux.
  if (result < 0 && result != -EINTR) throw FileError(-result, "close", path_);
  kept_ = true;
}

InputFile::InputFile(const std::string& path, FileOps& ops) : path_(path), ops_(ops) {
  fd_ = RetryStale(ops_, [&] { return ops_.Open(path_, O_RDONLY, 0); });
  if (fd_ < 0) throw FileError(-fd_, "open", path_);
  struct stat info;
  const int code = ::fstat(fd_, &info) == 0 ? 0 : errno;
  if (code != 0 || !S_ISREG(info.st_mode)) {
    ops_.Close(fd_);
    if (code != 0) throw FileError(code, "read the size of", path_);
    throw Error("cannot read " + path_ + ": it is not a regular file");
  }
  size_ = static_cast<uint64_t>(info.st_size);
}

InputFile::~InputFile() { ops_.Close(fd_); }

void InputFile::ReadAt(uint64_t offset, std::span<std::byte> bytes) const {
  while (!bytes.empty()) {
    const size_t want = std::min(bytes.size(), kMaxBytesPerCall);
    const int64_t n = ops_.PRead(fd_, bytes.data(), want, offset);
    if (n == -EINTR) continue;
    if (n < 0) throw FileError(static_cast<int>(-n), "read", path_);
    if (n == 0) {
      throw Error("cannot read " + path_ + ": it ends at byte " + std::to_string(offset) + ", " +
                  std::to_string(bytes.size()) + " bytes too early");
    }
    offset += n;
    bytes = bytes.subspan(n);
  }
}

std::string FolderOf(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  return folder.empty() ? "." : folder;
}

std::string ReadTextFile(const std::string& path, uint64_t limit, FileOps& ops) {
  InputFile file(path, ops);
  if (file.size() > limit) {
    throw Error("cannot read " + path + ": it has " + std::to_string(file.size()) +
                " bytes, more than the " + std::to_string(limit) + " that such a file may have");
  }
  std::string text(file.size(), '\0');
  file.ReadAt(0, std::as_writable_bytes(std::span(text)));
  return text;
}

void SyncFolder(const std::string& path, FileOps& ops) {
  const int fd = RetryStale(ops, [&] { return ops.Open(path, O_RDONLY | O_DIRECTORY, 0); });
  if (fd < 0) throw FileError(-fd, "open the folder", path);
  const int result = ops.Fsync(fd);
  ops.Close(fd);
  // Some network filesystems keep entries durable by themselves and know no fsync of folders.
  if (result < 0 && result != -EINVAL && result != -ENOTSUP) {
    throw SyncError(-result, "make durable (fsync) the folder", path);
  }
}

void MakeFolders(const std::string& path) {
  std::error_code code;
  std::filesystem::create_directories(path, code);
  if (code) throw FileError(code.value(), "create the folder", path);
}

void RenameFile(const std::string& from, const std::string& to, FileOps& ops) {
  std::pair<dev_t, ino_t> before;
  const bool known = Identify(from, &before);
  const int result = RetryStale(ops, [&] { return ops.Rename(from, to); });
  if (result == 0) return;
  std::pair<dev_t, ino_t> after;
  if (result == -ENOENT && known && Identify(to, &after) && after == before) return;
  throw FileError(-result, "rename " + from + " to", to);
}

void ReplaceFile(const std::string& path, const std::string& text, FileOps& ops) {
  const auto write = [&](const std::string& temporary) {
    OutputFile file(temporary, ops);
    file.WriteAt(0, std::as_bytes(std::span(text)));
    file.Sync();
    file.Close();
  };
  std::string temporary = path + ".tmp";
  try {
    write(temporary);
  } catch (const SyncError& error) {
    LOG(WARNING) << error.what() << "; writing it anew";
    temporary = path + ".tmp2";
    write(temporary);
  }
  try {
    RenameFile(temporary, path, ops);
  } catch (const FileError&) {
    ops.Unlink(temporary);
    throw;
  }
  SyncFolder(FolderOf(path), ops);
}

}  // namespace swinfleet
