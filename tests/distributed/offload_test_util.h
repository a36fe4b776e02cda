// What tests of offloaded state share.
#ifndef SWINFLEET_TESTS_DISTRIBUTED_OFFLOAD_TEST_UTIL_H_
#define SWINFLEET_TESTS_DISTRIBUTED_OFFLOAD_TEST_UTIL_H_

#include <fcntl.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <functional>
#include <string>
#include <vector>

#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/file_ops.h"
#include "kernels/error.h"
#include "tests/distributed/fake_training.h"

namespace swinfleet {

// The message of the Error that `work` throws.
inline std::string MessageOf(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

// The system's calls, of which some fail.
class FailingFileOps : public FileOps {
 public:
  int Open(const std::string& path, int flags, mode_t mode) override {
    if ((flags & O_DIRECT) != 0 && no_direct) return -EINVAL;
    return FileOps::Open(path, flags, mode);
  }
  int64_t PRead(int fd, void* data, size_t size, uint64_t offset) override {
    if (reads_left-- == 0) return -read_error;
    // Less than was asked for, as the system may.
    return FileOps::PRead(fd, data, halve && size > 4096 ? 4096 : size, offset);
  }
  int64_t PWrite(int fd, const void* data, size_t size, uint64_t offset) override {
    bytes_written += static_cast<int64_t>(size);
    if (writes_left-- == 0) {
      if (kill) raise(SIGKILL);
      return -write_error;
    }
    return FileOps::PWrite(fd, data, halve && size > 4096 ? 4096 : size, offset);
  }
  int SyncData(int fd) override { return syncs_left-- == 0 ? -sync_error : FileOps::SyncData(fd); }
  int Link(const std::string& from, const std::string& to) override {
    return link_error != 0 ? -link_error : FileOps::Link(from, to);
  }
  int Allocate(int fd, uint64_t bytes) override {
    return allocate_error != 0 ? -allocate_error : FileOps::Allocate(fd, bytes);
  }
  int64_t FreeBytes(const std::string& folder) override {
    return free_bytes >= 0 ? free_bytes.load() : FileOps::FreeBytes(folder);
  }

  std::atomic<bool> no_direct = false, halve = false;
  // Calls that still succeed; below 0: all.
  std::atomic<int64_t> reads_left = -1, writes_left = -1, syncs_left = -1;
  // The write that fails ends the process instead.
  std::atomic<bool> kill = false;
  std::atomic<int> read_error = EIO, write_error = ENOSPC, sync_error = EIO;
  std::atomic<int> link_error = 0, allocate_error = 0;
  std::atomic<int64_t> free_bytes = -1;
  std::atomic<int64_t> bytes_written = 0;
};

// Small pieces, so that the units of FakeTable are cut into several.
inline OffloadOptions OffloadTo(const std::string& folder, FileOps& ops = FileOps::System()) {
  OffloadOptions options;
  options.kind = Offload::kDisk;
  options.run_folder = folder;
  options.piece_elements = 8192;
  options.ops = &ops;
  return options;
}

// A rank's part of a checkpoint, with what is offloaded.
inline std::vector<ShardRecord> SavePart(FakeTraining& training, const std::string& dir, int rank,
                                         int ranks, FileOps& ops = FileOps::System()) {
  return WritePart(dir, rank, ranks, training.engine().OwnedState(), training.engine().PinState(),
                   ops);
}

}  // namespace swinfleet

#endif  // SWINFLEET_TESTS_DISTRIBUTED_OFFLOAD_TEST_UTIL_H_
