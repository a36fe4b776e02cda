// A file that a process keeps state in while it runs, and that a checkpoint may take over.
#ifndef SWINFLEET_CORE_CHECKPOINT_SCRATCH_FILE_H_
#define SWINFLEET_CORE_CHECKPOINT_SCRATCH_FILE_H_

#include <cstdint>
#include <string>

#include "core/checkpoint/file_ops.h"

namespace swinfleet {

// Open for reading and writing past the system's cache of files (O_DIRECT), so that offsets, sizes
// and addresses are multiples of kAlignment. Where the filesystem can't do that the cache is used,
// and emptied by Sync; the log says so once. The file goes with the object: its name is removed,
// and with it its bytes, unless a checkpoint has a name of its own for them (a hard link).
class ScratchFile {
 public:
  static constexpr uint64_t kAlignment = 4096;

  // A new file of `bytes`, a multiple of kAlignment, for which room is taken on the disk. Begins
  // with `header`, whose size is one too. Throws FileError, with nothing left behind.
  ScratchFile(const std::string& path, const std::string& header, uint64_t bytes,
              FileOps& ops = FileOps::System());
  ~ScratchFile();
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;

  int fd() const { return fd_; }
  const std::string& path() const { return path_; }
  uint64_t bytes() const { return bytes_; }
  bool direct() const { return direct_; }

  // Makes what was written durable. Throws SyncError, after which the file is of no use.
  void Sync();
  // Of what was read or written through the cache nothing stays there.
  void LeaveCache();

 private:
  void Open();
  void WriteHeader(const std::string& header);
  void Remove();

  const std::string path_;
  const uint64_t bytes_;
  FileOps& ops_;
  int fd_ = -1;
  bool direct_ = true;
};

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_CHECKPOINT_SCRATCH_FILE_H_
