// A device with memory of its own, beside the host that calls it, and the library that knows such
// devices (docs/cuda.md).
#ifndef SWINFLEET_KERNELS_ACCELERATOR_H_
#define SWINFLEET_KERNELS_ACCELERATOR_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/device_clock.h"

namespace swinfleet {

struct OpTable;

// What one process makes and gives to others, so that their GPUs find each other.
using CollectivesId = std::array<char, 128>;

// What two processes send each other at once. Either may be nothing; memory is the GPU's.
struct DeviceExchange {
  int peer = 0;
  const void* send = nullptr;
  size_t send_bytes = 0;
  void* receive = nullptr;
  size_t receive_bytes = 0;
};

// What is copied out at once: from the GPU's memory to the host's.
struct DeviceRead {
  const void* from = nullptr;
  void* to = nullptr;
  size_t bytes = 0;
};

// Collectives between the GPUs of several processes, a GPU each (NCCL). They have a stream of their
// own beside the accelerator's, and every call that starts one returns before it is done. All
// processes start the same ones in the same order. Calls come from the accelerator's thread, but
// for those that say otherwise; they throw Error when NCCL fails, or after Abort.
class DeviceCollectives {
 public:
  virtual ~DeviceCollectives() = default;

  // The number of a collective, from 1, to which all belongs that is called until End. It begins
  // when all that was put on the accelerator's stream before is done, and the collectives before.
  virtual uint64_t Begin() = 0;
  virtual void End() = 0;
  // What is put on the accelerator's stream from here on begins when the collective has ended.
  virtual void ComputeAfter(uint64_t number) = 0;

  // Within a collective. Operations on this stream take their turn there.
  virtual void* stream() const = 0;
  virtual void Exchange(std::span<const DeviceExchange> exchanges) = 0;
  // To all goes each one's shard of `data`, of equal size, in order of places; it is only read.
  virtual void AllGather(void* data, size_t shard_bytes) = 0;
  // Sums in an order of the library's own: afterwards this process's shard holds the sum.
  virtual void ReduceScatter(float* data, size_t shard) = 0;
  virtual void AllReduce(float* data, size_t n) = 0;

  // From any thread: the last collective that has begun, or that a call still waits for the other
  // processes to start, and the last one that has ended.
  struct Progress {
    uint64_t begun = 0;
    uint64_t ended = 0;
  };
  virtual Progress progress() = 0;
  // From any thread: what has gone wrong beside the calls; empty when nothing is known.
  virtual std::string failure() = 0;
  // From any thread: ends what waits for other processes, for good. From then on the accelerator's
  // Wait, WaitForCopies and CopyOut, and its lanes' Wait, throw Error, since what collectives leave
  // behind means nothing.
  virtual void Abort() = 0;
  // From any thread: seconds that the accelerator's stream has waited for collectives.
  virtual double waited_seconds() = 0;
};

// A stream of copies and operations beside the accelerator's, for state that is in pinned memory of
// the host. What is called is done in the order in which it is called. One thread calls at a time,
// whichever it is, but for calls that are the accelerator's thread's alone, which may come at any
// time. What goes wrong on the device throws Error, in whatever call comes next. The accelerator
// outlives it; it waits at its end until all is done, and never throws there.
class DeviceLane {
 public:
  virtual ~DeviceLane() = default;

  // Context::stream of operations that are put here, by the thread that called CopyIn.
  virtual void* stream() const = 0;
  // From pinned memory of the host to the device's, and back.
  virtual void CopyIn(const void* from, void* to, size_t bytes) = 0;
  virtual void CopyOut(const void* from, void* to, size_t bytes) = 0;
  // Sets one of the marks behind what was called so far.
  virtual void SetMark(int mark) = 0;
  // Returns when all that was called is done: what was copied out is there.
  virtual void Wait() = 0;

  // The accelerator's thread's. What is called here from now on begins when all that was called
  // there is done.
  virtual void StartAfterComputing() = 0;
  // The accelerator's thread's. What is called there from now on begins when all is done that is
  // before the mark where it was set last. The host does not wait.
  virtual void ComputeAfter(int mark) = 0;
};

// One device, opened. All calls come from the thread that opened it, but for the one that says
// otherwise. What goes wrong on the device throws Error, in whatever call comes next.
class Accelerator {
 public:
  virtual ~Accelerator() = default;

  // "NVIDIA H100 80GB HBM3".
  virtual const std::string& name() const = 0;
  virtual const OpTable& ops() const = 0;
  // Context::stream: operations and copies are done in the order in which they are called.
  virtual void* stream() const = 0;

  // Memory at a multiple of 256 bytes. Throws Error that says how much there is when there is too
  // little. Free waits until nothing uses it, and never throws.
  virtual void* Allocate(size_t bytes) = 0;
  virtual void Free(void* memory) = 0;
  // From the host's memory to the device's. The host's may be used for something else at once.
  virtual void CopyIn(const void* from, void* to, size_t bytes) = 0;
  // From the device's memory to the host's: there after the next Wait, and nobody looks at it
  // before.
  virtual void CopyOutLater(const void* from, void* to, size_t bytes) = 0;
  // The same, there when it returns.
  void CopyOut(const void* from, void* to, size_t bytes) {
    CopyOutLater(from, to, bytes);
    Wait();
  }
  // Returns when all that was called is done.
  virtual void Wait() = 0;

  // For memory that takes turns in bringing in what is computed on: as CopyIn, but beside all that
  // was called since the last NoteUse of the same turn. What is called from here on finds the copy.
  static constexpr int kTurns = 2;
  virtual void CopyInBeside(int turn, const void* from, void* to, size_t bytes) = 0;
  // Nothing that was called so far uses the turn's memory any more once it is done; the next
  // CopyInBeside of the turn waits for that.
  virtual void NoteUse(int turn) = 0;

  // For memory that is copied out while computing goes on: of the host's memory these bytes, which
  // are pinned until Unpin. Throws Error when the system refuses to.
  virtual void Pin(void* memory, size_t bytes) = 0;
  // Waits until no copy uses it, and never throws.
  virtual void Unpin(void* memory) = 0;
  // From the device's memory to pinned memory of the host, as CopyOutLater, but beside all that is
  // called from here on: nothing waits for it by itself. Whoever reads the host's memory calls
  // WaitForCopies before, and whoever writes the device's, ComputeAfterCopies. One CopyOutBeside at
  // a time: the next one comes when nobody waits for this one any more. Where it throws, some of it
  // may be under way, as if it had not.
  virtual void CopyOutBeside(std::span<const DeviceRead> reads) = 0;
  // What is called from here on begins when the last CopyOutBeside is done. The host does not wait.
  virtual void ComputeAfterCopies() = 0;
  // From any thread: returns when the last CopyOutBeside is there. Throws Error when it failed.
  virtual void WaitForCopies() = 0;

  // For a profile; with room for so many moments at once, of which more take room when they come.
  // Throws Error.
  virtual std::unique_ptr<DeviceClock> MakeClock(size_t moments) = 0;
  // With so many marks.
  virtual std::unique_ptr<DeviceLane> NewLane(int marks) = 0;

  // Of one process, for all that Join with it. Throws Error.
  virtual CollectivesId NewCollectivesId() = 0;
  // Returns when `processes` of them have come, each with a place of its own, from 0. One group at
  // a time; the accelerator outlives it. Throws Error.
  virtual std::unique_ptr<DeviceCollectives> Join(const CollectivesId& id, int place,
                                                  int processes) = 0;
};

// A GPU that can compute for us.
struct Gpu {
  // "NVIDIA H100 80GB HBM3".
  std::string name;
  // Tells it from all others, also those of other machines.
  std::string uuid;
  size_t memory_bytes = 0;
  // As this process counts.
  int number = 0;
};

// The most dimensions of an attention head that the CUDA backend computes.
inline constexpr int64_t kMostCudaHeadDim = 64;

// The CUDA backend, as a program opens it at run time.
class CudaBackend {
 public:
  virtual ~CudaBackend() = default;
  // The GPUs that this process may use, in the order of their numbers. Throws Error that says why
  // there are none (no driver, an old one, no GPU, none that is new enough).
  virtual std::vector<Gpu> Gpus() const = 0;
  virtual std::unique_ptr<Accelerator> Open(const Gpu& gpu) const = 0;
  // Throws Error that says why GPUs of several processes can't exchange anything: there is no NCCL,
  // or it is too old.
  virtual void RequireCollectives() const = 0;
};

// The backend of libswinfleet_cuda.so, which is looked for beside the program and in lib/ beside
// its folder. Opened once, for the process's life. Throws Error that says why there is none: no
// library (of a build without the CUDA toolkit), no driver, a library of another build, or one that
// lacks a library of CUDA's.
const CudaBackend& OpenCudaBackend();
// The same of a file.
const CudaBackend& OpenCudaBackend(const std::string& path);

// What the library shows. It and the program that opens it exchange structures of C++, so both have
// to be of one state of the headers that define these: both are built with a name of that state.
inline constexpr char kCudaBackendSymbol[] = "SwinfleetCudaBackend";
inline constexpr char kCudaInterfaceSymbol[] = "SwinfleetCudaInterface";
using CudaBackendFunction = const CudaBackend* (*)();
using CudaInterfaceFunction = const char* (*)();

}  // namespace swinfleet

#endif  // SWINFLEET_KERNELS_ACCELERATOR_H_
