// What the parts of the emulator know of each other.
#ifndef SWINFLEET_TESTS_CUDA_EMULATOR_INTERNAL_H_
#define SWINFLEET_TESTS_CUDA_EMULATOR_INTERNAL_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "tests/cuda_emulator/device.h"
#include "tests/cuda_emulator/emulator.h"

namespace swinfleet::emulator {

// ---- memory.cc ----

// NaN in float32, bfloat16 and float16: what nobody has written.
inline constexpr uint32_t kUnwritten = 0xFFE5A5A5;
void FillUnwritten(void* memory, size_t bytes);

// Device memory lies in one reserved piece of the address space.
inline constexpr size_t kArenaBytes = size_t{1} << 30;
char* Arena();
inline bool InArena(const void* address) {
  return static_cast<size_t>(static_cast<const char*>(address) - Arena()) < kArenaBytes;
}
// Of all allocations, with their guards.
size_t AllocatedBytes();
// Fails unless these bytes lie in one allocation.
void CheckAllocated(const void* address, size_t bytes, const char* what);
// Address space of this size, for the process's life; left out of core files.
void* Reserve(size_t bytes, int protection);
// Fails if somebody wrote outside of the allocations.
void CheckGuards();

// Lets this thread touch device memory while it lives.
class ArenaAccess {
 public:
  ArenaAccess();
  ~ArenaAccess();
  ArenaAccess(const ArenaAccess&) = delete;
  ArenaAccess& operator=(const ArenaAccess&) = delete;
};

// ---- scheduler.cc ----

inline constexpr size_t kMaxSharedBytes = 227 << 10;
// The block of dynamic shared memory, whatever its present size.
char* SharedBase();
// Its present size.
size_t SharedBytes();

std::mt19937_64& Order();
bool InOrder();  // by numbers

// Where the thread that runs now stands in the order of things; used by the race checker.
struct Position {
  uint32_t block = 0;
  uint32_t thread = 0;
  // Barriers of the block and of the warp that the thread has passed.
  uint32_t epoch = 0;
  uint32_t warp_epoch = 0;
};
Position CurrentPosition();
Position PositionOfLane(unsigned lane);
// Copies that a thread has asked for and that have not arrived.
struct AsyncCopy {
  void* to;
  const void* from;
  int source_bytes;
  int group;
};
struct AsyncCopies {
  std::vector<AsyncCopy> waiting;
  int group = 0;
};
AsyncCopies& CurrentCopies();

bool OnFiberStack(const void* address);
// Memory of the launch's arguments.
bool InArguments(const void* address);

void RunKernel(const KernelLaunch& launch);

// While one lives, the emulator itself works: what it accesses is no kernel's access. Its code may
// run through instrumented copies of the standard library's inline functions.
class OutOfKernel {
 public:
  OutOfKernel() : before_(in_kernel_) { in_kernel_ = false; }
  ~OutOfKernel() { in_kernel_ = before_; }
  OutOfKernel(const OutOfKernel&) = delete;
  OutOfKernel& operator=(const OutOfKernel&) = delete;

  static bool InKernel() { return in_kernel_; }
  // Around the call of a kernel.
  static void Begin() { in_kernel_ = true; }
  static void End() { in_kernel_ = false; }

 private:
  // Kernels run on whichever thread lets streams go on.
  static thread_local bool in_kernel_;
  bool before_;
};

std::string Describe(const Site& site);
// As in emulator.h; also notes that the process has come to this line.
bool Skipped(const Site& site);

// ---- devices.cc ----

// The GPU of the process; -1: none yet.
int CurrentDevice();

// ---- runtime.cc ----

// Held by whoever uses the emulator: one thread computes, but others ask, and give up what it waits
// for. May be taken again by its owner.
class Lock {
 public:
  Lock();
  ~Lock();
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;
};
// Whether the stream takes one more entry.
bool HasRoom(cudaStream_t stream);
// Lets streams go on by one kernel, copy or event; false where all of them wait.
bool RunSome();
// Whether the host has not called anything for a while.
bool HostIsQuiet();

enum class Reserved { kMemory, kHandle };
// Fails where no more of it is to be reserved (SWINFLEET_CUDA_RESERVED).
void CheckMayReserve(Reserved kind, const char* what);

// Priorities go from 0 down to this one, which comes first. Nothing here depends on them.
inline constexpr int kGreatestPriority = -5;
bool HasGreatestPriority(cudaStream_t stream);
// Puts what a library does on a stream.
void EnqueueWork(cudaStream_t stream, std::function<void()> work);
// The same of something that waits for other processes: false as long as it does.
void EnqueueWaiting(cudaStream_t stream, std::function<bool()> try_work);
// Counts for emulator.h.
void NoteLibraryPreparation();
// Number of the kernel or copy that runs now; they count up.
uint32_t CurrentOperation();
// Whether one kernel or copy is over, by streams, events and the host's waiting, before the present
// one begins.
bool IsBeforeCurrent(uint32_t operation);

// ---- nccl.cc ----

// Fails while a group of calls is open: nothing of it has begun.
void CheckNoOpenGroup();

// ---- race.cc ----

enum class AccessKind { kRead, kWrite, kAtomic };
// Looks at an access that the compiler has not reported, by a thread at `position`.
void RecordAccess(const void* address, size_t bytes, AccessKind kind, const Position& position,
                  const void* program_counter);
// Forgets who accessed this piece of device memory.
void ForgetAccesses(const void* address, size_t bytes);

}  // namespace swinfleet::emulator

#endif  // SWINFLEET_TESTS_CUDA_EMULATOR_INTERNAL_H_
