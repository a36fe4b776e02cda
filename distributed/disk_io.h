// Reads and writes of files that run beside computing.
#ifndef SWINFLEET_DISTRIBUTED_DISK_IO_H_
#define SWINFLEET_DISTRIBUTED_DISK_IO_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "core/checkpoint/file_ops.h"

namespace swinfleet {

// One read or write. It belongs to the caller and stays where it is from Start until Wait or Drain
// has returned; so do its memory and its path.
struct DiskRequest {
  bool write = false;
  int fd = -1;
  // For messages.
  const std::string* path = nullptr;
  std::byte* data = nullptr;
  size_t bytes = 0;
  uint64_t offset = 0;

  // The implementation's: how much has been moved, the error (an errno, or kEndOfFile), and whether
  // the request is over.
  static constexpr int kEndOfFile = -1;
  size_t done = 0;
  int error = 0;
  bool over = true;
};

// One thread, the owner's, calls all methods.
class DiskIo {
 public:
  // Waits for what is under way.
  virtual ~DiskIo() = default;

  // Starts `request`, which is over. At most `depth` are under way (CHECK).
  virtual void Start(DiskRequest* request) = 0;
  // Waits until it is over. Throws FileError when it failed, or Error when a file ended before all
  // was read, saying how many bytes of which file.
  void Wait(DiskRequest* request);
  // Waits until everything is over, well or not.
  virtual void Drain() = 0;

  // "io_uring" or "threads".
  virtual const char* name() const = 0;
  // Time in Wait so far.
  double wait_seconds() const { return wait_seconds_; }

 protected:
  virtual void WaitUntilOver(DiskRequest* request) = 0;

 private:
  double wait_seconds_ = 0;
};

// io_uring where the system has it and allows it; else two threads that make the calls, which the
// log says once. Threads too when `ops` are not the system's own, which io_uring knows nothing of.
std::unique_ptr<DiskIo> MakeDiskIo(int depth, FileOps& ops = FileOps::System());
std::unique_ptr<DiskIo> MakeThreadedDiskIo(int depth, FileOps& ops = FileOps::System());

}  // namespace swinfleet

#endif  // SWINFLEET_DISTRIBUTED_DISK_IO_H_
