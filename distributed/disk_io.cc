#include "distributed/disk_io.h"

#include <glog/logging.h>
#include <liburing.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "kernels/thread_placement.h"

namespace swinfleet {
namespace {

// What a call, or io_uring's completion, says of a request: bytes moved, or minus errno. Returns
// whether something is left to be moved.
bool Advance(int64_t result, DiskRequest* request) {
  if (result == -EINTR || result == -EAGAIN) return true;
  if (result < 0) {
    request->error = static_cast<int>(-result);
    return false;
  }
  // A write that moves nothing can't make progress: treat it as a full disk.
  if (result == 0) request->error = request->write ? ENOSPC : DiskRequest::kEndOfFile;
  request->done += result;
  return request->error == 0 && request->done < request->bytes;
}

void Begin(DiskRequest* request) {
  CHECK(request->over) << "a request is started again before it is over";
  request->done = 0;
  request->error = 0;
  request->over = false;
}

class UringIo : public DiskIo {
 public:
  // `ring` becomes this object's.
  UringIo(const io_uring& ring, int depth) : ring_(ring), depth_(depth) {}
  ~UringIo() override {
    Drain();
    io_uring_queue_exit(&ring_);
  }

  void Start(DiskRequest* request) override {
    CHECK_LT(under_way_, depth_) << "too many requests at a time";
    Begin(request);
    ++under_way_;
    Submit(request);
  }
  void Drain() override {
    while (under_way_ > 0) TakeOne();
  }
  const char* name() const override { return "io_uring"; }

 protected:
  void WaitUntilOver(DiskRequest* request) override {
    while (!request->over) TakeOne();
  }

 private:
  void Submit(DiskRequest* request) {
    io_uring_sqe* entry = io_uring_get_sqe(&ring_);
    CHECK(entry != nullptr) << "the ring has room for " << depth_ << " requests";
    std::byte* data = request->data + request->done;
    const auto bytes = static_cast<unsigned>(request->bytes - request->done);
    const uint64_t offset = request->offset + request->done;
    if (request->write) {
      io_uring_prep_write(entry, request->fd, data, bytes, offset);
    } else {
      io_uring_prep_read(entry, request->fd, data, bytes, offset);
    }
    io_uring_sqe_set_data(entry, request);
    int submitted = io_uring_submit(&ring_);
    while (submitted == -EINTR || submitted == -EAGAIN || submitted == -EBUSY) {
      std::this_thread::yield();
      submitted = io_uring_submit(&ring_);
    }
    CHECK_EQ(submitted, 1) << "io_uring_submit";
  }

  void TakeOne() {
    io_uring_cqe* entry = nullptr;
    int waited = io_uring_wait_cqe(&ring_, &entry);
    while (waited == -EINTR || waited == -EAGAIN) waited = io_uring_wait_cqe(&ring_, &entry);
    CHECK_EQ(waited, 0) << "io_uring_wait_cqe";
    auto* request = static_cast<DiskRequest*>(io_uring_cqe_get_data(entry));
    const int result = entry->res;
    io_uring_cqe_seen(&ring_, entry);
    if (Advance(result, request)) return Submit(request);
    request->over = true;
    --under_way_;
  }

  io_uring ring_;
  const int depth_;
  int under_way_ = 0;
};

class ThreadedIo : public DiskIo {
 public:
  ThreadedIo(int depth, FileOps& ops) : ops_(ops), depth_(depth) {
    constexpr int kThreads = 2;
    for (int i = 0; i < kThreads; ++i) threads_.emplace_back([this] { Run(); });
  }
  ~ThreadedIo() override {
    Drain();
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    changed_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  void Start(DiskRequest* request) override {
    {
      const std::lock_guard lock(mutex_);
      CHECK_LT(under_way_, depth_) << "too many requests at a time";
      Begin(request);
      ++under_way_;
      queue_.push_back(request);
    }
    changed_.notify_all();
  }
  void Drain() override {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return under_way_ == 0; });
  }
  const char* name() const override { return "threads"; }

 protected:
  void WaitUntilOver(DiskRequest* request) override {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [request] { return request->over; });
  }

 private:
  void Move(DiskRequest* request) {
    int64_t result = 0;
    do {
      std::byte* data = request->data + request->done;
      const size_t bytes = request->bytes - request->done;
      const uint64_t offset = request->offset + request->done;
      result = request->write ? ops_.PWrite(request->fd, data, bytes, offset)
                              : ops_.PRead(request->fd, data, bytes, offset);
    } while (Advance(result, request));
  }

  void Run() {
    LeaveComputeCpus();
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return stop_ || !queue_.empty(); });
      if (queue_.empty()) return;
      DiskRequest* request = queue_.front();
      queue_.pop_front();
      lock.unlock();
      Move(request);
      lock.lock();
      request->over = true;
      --under_way_;
      changed_.notify_all();
    }
  }

  FileOps& ops_;
  const int depth_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<DiskRequest*> queue_;
  int under_way_ = 0;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

// Minus the errno with which a request that does nothing fails: a system may let a ring be made and
// then refuse to enter it, or not know reads and writes of plain buffers (before Linux 5.6). 0: all
// is well.
int TryRing(io_uring* ring) {
  io_uring_probe* probe = io_uring_get_probe_ring(ring);
  const bool known = probe != nullptr && io_uring_opcode_supported(probe, IORING_OP_READ) != 0 &&
                     io_uring_opcode_supported(probe, IORING_OP_WRITE) != 0;
  io_uring_free_probe(probe);
  if (!known) return -EOPNOTSUPP;
  io_uring_prep_nop(io_uring_get_sqe(ring));
  const int submitted = io_uring_submit_and_wait(ring, 1);
  if (submitted < 0) return submitted;
  io_uring_cqe* entry = nullptr;
  const int waited = io_uring_wait_cqe(ring, &entry);
  if (waited < 0) return waited;
  const int result = entry->res;
  io_uring_cqe_seen(ring, entry);
  return result;
}

// 0, or minus errno, with nothing left behind.
int MakeRing(int depth, io_uring* ring) {
  const int made = io_uring_queue_init(static_cast<unsigned>(depth), ring, 0);
  if (made < 0) return made;
  const int tried = TryRing(ring);
  if (tried < 0) io_uring_queue_exit(ring);
  return tried;
}

}  // namespace

void DiskIo::Wait(DiskRequest* request) {
  const auto begin = std::chrono::steady_clock::now();
  WaitUntilOver(request);
  wait_seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  if (request->error == 0) return;
  const std::string what =
      std::to_string(request->bytes) + " bytes at byte " + std::to_string(request->offset) + " of";
  if (request->error == DiskRequest::kEndOfFile) {
    throw Error("cannot read " + what + " " + *request->path + ": the file ends after " +
                std::to_string(request->offset + request->done) +
                ": somebody cut it off, or its disk is failing; look at who else uses that folder");
  }
  throw FileError(request->error, (request->write ? "write " : "read ") + what, *request->path);
}

std::unique_ptr<DiskIo> MakeDiskIo(int depth, FileOps& ops) {
  if (&ops != &FileOps::System()) return MakeThreadedDiskIo(depth, ops);
  io_uring ring;
  const int made = MakeRing(depth, &ring);
  if (made == 0) return std::make_unique<UringIo>(ring, depth);
  static std::once_flag once;
  std::call_once(once, [made] {
    LOG(WARNING) << "io_uring is not to be had here (" << std::strerror(-made)
                 << "; a container's seccomp profile or kernel.io_uring_disabled may block it):"
                 << " threads read and write the offloaded state";
  });
  return MakeThreadedDiskIo(depth, ops);
}

std::unique_ptr<DiskIo> MakeThreadedDiskIo(int depth, FileOps& ops) {
  return std::make_unique<ThreadedIo>(depth, ops);
}

}  // namespace swinfleet
