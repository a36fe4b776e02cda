// Files as checkpoints need them: durable, atomic, told apart when they fail, and with the system
// calls behind an interface, so that tests can make any of them fail.
#ifndef SWINFLEET_CORE_CHECKPOINT_FILE_OPS_H_
#define SWINFLEET_CORE_CHECKPOINT_FILE_OPS_H_

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "kernels/error.h"

namespace swinfleet {

// The system calls. Each returns what the call returns, or minus errno. Thread-safe.
class FileOps {
 public:
  virtual ~FileOps() = default;
  virtual int Open(const std::string& path, int flags, mode_t mode);
  virtual int64_t PRead(int fd, void* data, size_t size, uint64_t offset);
  virtual int64_t PWrite(int fd, const void* data, size_t size, uint64_t offset);
  virtual int Fsync(int fd);
  virtual int Close(int fd);
  virtual int Rename(const std::string& from, const std::string& to);
  virtual int Unlink(const std::string& path);
  // A second name for a file (a hard link).
  virtual int Link(const std::string& from, const std::string& to);
  // Takes room on the disk for the first `bytes` of an empty file, which is then as long. Where the
  // filesystem can't take room ahead, the file only becomes as long.
  virtual int Allocate(int fd, uint64_t bytes);
  // What was written to the file, without what only times and the like would need.
  virtual int SyncData(int fd);
  // Bytes that this user can still write on the filesystem of a folder.
  virtual int64_t FreeBytes(const std::string& folder);
  virtual void Sleep(std::chrono::milliseconds time);

  // The operating system's own.
  static FileOps& System();
};

// A system call on a file failed. The message says what, where, why and what to do.
class FileError : public Error {
 public:
  // As in "cannot `action` `path`: ...".
  FileError(int code, const std::string& action, const std::string& path);
  // The errno.
  int code() const { return code_; }

 private:
  int code_;
};

// fsync failed: what was written may be lost although a second fsync would say otherwise, so the
// file has to be written anew.
class SyncError : public FileError {
 public:
  using FileError::FileError;
};

// Runs `call` again with back-off (about 0.6 s in all) while it returns -ESTALE, which network
// filesystems do when a file or folder was replaced on the server.
int RetryStale(FileOps& ops, const std::function<int()>& call);

// A file being written. What was at `path` before is removed first (never truncated in place). The
// file is removed again unless Close has returned.
class OutputFile {
 public:
  explicit OutputFile(const std::string& path, FileOps& ops = FileOps::System());
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  // Writes all of `bytes`. Throws FileError.
  void WriteAt(uint64_t offset, std::span<const std::byte> bytes);
  // Makes what was written durable. Throws SyncError, after which the file is of no use.
  void Sync();
  // Closes and keeps the file. Throws FileError.
  void Close();
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  FileOps& ops_;
  int fd_ = -1;
  bool kept_ = false;
};

// A file open for reading. ReadAt may be called from several threads at once.
class InputFile {
 public:
  // Throws FileError.
  explicit InputFile(const std::string& path, FileOps& ops = FileOps::System());
  ~InputFile();
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  uint64_t size() const { return size_; }
  const std::string& path() const { return path_; }
  // Fills all of `bytes`. Throws Error when the file ends before.
  void ReadAt(uint64_t offset, std::span<std::byte> bytes) const;

 private:
  std::string path_;
  FileOps& ops_;
  int fd_ = -1;
  uint64_t size_ = 0;
};

// The whole text of a file of at most `limit` bytes. Throws Error.
std::string ReadTextFile(const std::string& path, uint64_t limit, FileOps& ops = FileOps::System());

// The folder that holds `path`, "." for a bare name.
std::string FolderOf(const std::string& path);

// Makes a folder's entries durable. Throws SyncError.
void SyncFolder(const std::string& path, FileOps& ops = FileOps::System());

// Creates a folder and what is missing above it. Throws FileError.
void MakeFolders(const std::string& path);

// rename(2), again after ESTALE; a rename that the server did although it reported that `from` is
// missing (a request that the network repeated) counts as done. Throws FileError.
void RenameFile(const std::string& from, const std::string& to, FileOps& ops = FileOps::System());

// Writes `text` to `path`, atomically and durably: a temporary file beside it, fsync, rename, fsync
// of the folder. After a failed fsync of the file it is written anew once. On failure what was at
// `path` before is still there, and nothing else. Throws FileError.
void ReplaceFile(const std::string& path, const std::string& text,
                 FileOps& ops = FileOps::System());

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_CHECKPOINT_FILE_OPS_H_
