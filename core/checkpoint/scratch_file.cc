#include "core/checkpoint/scratch_file.h"

#include <fcntl.h>
#include <glog/logging.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>

namespace swinfleet {

ScratchFile::ScratchFile(const std::string& path, const std::string& header, uint64_t bytes,
                         FileOps& ops)
    : path_(path), bytes_(bytes), ops_(ops) {
  CHECK_EQ(bytes % kAlignment, 0u) << path;
  CHECK_EQ(header.size() % kAlignment, 0u) << path;
  Open();
  try {
    const int allocated = ops_.Allocate(fd_, bytes);
    if (allocated < 0) {
      throw FileError(-allocated, "take " + std::to_string(bytes) + " bytes for", path);
    }
    WriteHeader(header);
  } catch (const FileError&) {
    Remove();
    throw;
  }
}

ScratchFile::~ScratchFile() { Remove(); }

void ScratchFile::Open() {
  constexpr int kFlags = O_RDWR | O_CREAT | O_EXCL;
  fd_ = ops_.Open(path_, kFlags | O_DIRECT, 0666);
  if (fd_ == -EINVAL) {
    static std::once_flag once;
    std::call_once(once, [this] {
      LOG(WARNING) << "the filesystem of " << path_
                   << " has no direct I/O: offloaded state goes through the system's cache of"
                      " files, which takes memory for a while and is slower";
    });
    direct_ = false;
    // Some filesystems make the file before they refuse.
    ops_.Unlink(path_);
    fd_ = ops_.Open(path_, kFlags, 0666);
  }
  if (fd_ < 0) throw FileError(-fd_, "create", path_);
}

void ScratchFile::WriteHeader(const std::string& header) {
  const auto free = [](std::byte* memory) {
    ::operator delete (memory, std::align_val_t{kAlignment});
  };
  const std::unique_ptr<std::byte, decltype(free)> copy(
      static_cast<std::byte*>(::operator new (header.size(), std::align_val_t{kAlignment})), free);
  std::memcpy(copy.get(), header.data(), header.size());
  for (size_t done = 0; done < header.size();) {
    const int64_t n = ops_.PWrite(fd_, copy.get() + done, header.size() - done, done);
    if (n == -EINTR) continue;
    if (n <= 0) throw FileError(n < 0 ? static_cast<int>(-n) : ENOSPC, "write", path_);
    done += n;
  }
}

void ScratchFile::Sync() {
  int result = ops_.SyncData(fd_);
  while (result == -EINTR) result = ops_.SyncData(fd_);
  if (result < 0) throw SyncError(-result, "flush", path_);
  LeaveCache();
}

void ScratchFile::LeaveCache() {
  // Advice: nothing is lost where it isn't taken.
  if (!direct_) ::posix_fadvise(fd_, 0, 0, POSIX_FADV_DONTNEED);
}

void ScratchFile::Remove() {
  ops_.Close(fd_);
  const int removed = ops_.Unlink(path_);
  if (removed < 0 && removed != -ENOENT) {
    LOG(WARNING) << FileError(-removed, "remove", path_).what();
  }
}

}  // namespace swinfleet
