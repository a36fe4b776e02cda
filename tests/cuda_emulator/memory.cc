// Device memory: allocations between guard bytes, out of the host's reach between kernels.
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

#include "tests/cuda_emulator/internal.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace swinfleet::emulator {
namespace {

constexpr size_t kGuardBytes = 256;
constexpr size_t kAlignment = 256;

struct Allocation {
  char* data;
  size_t bytes;
  size_t region_bytes;  // with guards
};

struct Memory {
  char* base = nullptr;
  size_t used = 0;  // nothing lies beyond
  int open = 0;
  std::map<char*, Allocation> allocations;  // by the start of the region
  // The allocation in whose region the n-th piece of kAlignment bytes lies, or null.
  const Allocation** owner = nullptr;
};

void ReportHostAccess(int signal, siginfo_t* info, void*) {
  if (InArena(info->si_addr)) {
    constexpr char kText[] = "cuda emulator: host code touches device memory\n";
    [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, kText, sizeof(kText) - 1);
  }
  // Comes again, and ends the process.
  ::signal(signal, SIG_DFL);
}

Memory& TheMemory() {
  static Memory* memory = [] {
    auto* made = new Memory;
    made->base = static_cast<char*>(Reserve(kArenaBytes, PROT_NONE));
    made->owner = static_cast<const Allocation**>(
        Reserve(kArenaBytes / kAlignment * sizeof(Allocation*), PROT_READ | PROT_WRITE));
    struct sigaction action = {};
    action.sa_sigaction = ReportHostAccess;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGSEGV, &action, nullptr);
    return made;
  }();
  return *memory;
}

size_t RoundUp(size_t bytes, size_t to) { return (bytes + to - 1) / to * to; }

void Protect(int protection) {
  Memory& memory = TheMemory();
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  if (memory.used > 0) mprotect(memory.base, RoundUp(memory.used, page), protection);
}

void Forbid([[maybe_unused]] const char* begin, [[maybe_unused]] const char* end) {
#if defined(__SANITIZE_ADDRESS__)
  __asan_poison_memory_region(begin, end - begin);
#endif
}

void Allow([[maybe_unused]] const char* begin, [[maybe_unused]] const char* end) {
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(begin, end - begin);
#endif
}

// The first place where a region fits.
char* FindPlace(size_t bytes) {
  Memory& memory = TheMemory();
  char* place = memory.base;
  for (const auto& [start, allocation] : memory.allocations) {
    if (start >= place + bytes) break;
    place = start + allocation.region_bytes;
  }
  if (place + bytes > memory.base + kArenaBytes) return nullptr;
  return place;
}

void SetOwner(const char* start, size_t bytes, const Allocation* owner) {
  Memory& memory = TheMemory();
  std::fill_n(memory.owner + (start - memory.base) / kAlignment, bytes / kAlignment, owner);
}

__attribute__((no_sanitize("address"))) bool AllUnwritten(const char* begin, const char* end,
                                                          const char* phase) {
  for (const char* at = begin; at < end; ++at) {
    const auto expected = static_cast<char>(kUnwritten >> 8 * ((at - phase) % 4));
    if (*at != expected) return false;
  }
  return true;
}

}  // namespace

bool ChecksAccesses() {
#if defined(__SANITIZE_ADDRESS__)
  return true;
#else
  return ChecksRaces();
#endif
}

void* Reserve(size_t bytes, int protection) {
  void* base = mmap(nullptr, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) Fail("no address space left");
  madvise(base, bytes, MADV_DONTDUMP);
  return base;
}

void Fail(const std::string& message) {
  const OutOfKernel out;
  std::fflush(nullptr);
  std::fprintf(stderr, "cuda emulator: %s\n", message.c_str());
  std::abort();
}

void FillUnwritten(void* memory, size_t bytes) {
  auto* words = static_cast<char*>(memory);
  for (size_t i = 0; i + 4 <= bytes; i += 4) std::memcpy(words + i, &kUnwritten, 4);
  std::memcpy(words + bytes / 4 * 4, &kUnwritten, bytes % 4);
}

char* Arena() { return TheMemory().base; }

ArenaAccess::ArenaAccess() {
  if (TheMemory().open++ == 0) Protect(PROT_READ | PROT_WRITE);
}

ArenaAccess::~ArenaAccess() {
  if (--TheMemory().open == 0) Protect(PROT_NONE);
}

void* AllocateDevice(size_t bytes, size_t offset) {
  const Lock lock;
  Memory& memory = TheMemory();
  const size_t region = 2 * kGuardBytes + RoundUp(offset + bytes, kAlignment);
  char* start = FindPlace(region);
  if (start == nullptr) return nullptr;
  memory.used = std::max(memory.used, static_cast<size_t>(start + region - memory.base));
  const ArenaAccess access;
  Allow(start, start + region);
  FillUnwritten(start, region);
  char* data = start + kGuardBytes + offset;
  // Starts on a NaN, wherever that is.
  FillUnwritten(data, bytes);
  Forbid(start, data);
  Forbid(data + bytes, start + region);
  ForgetAccesses(data, bytes);
  memory.allocations[start] = {data, bytes, region};
  SetOwner(start, region, &memory.allocations[start]);
  return data;
}

size_t AllocatedBytes() {
  size_t bytes = 0;
  for (const auto& [start, a] : TheMemory().allocations) bytes += a.region_bytes;
  return bytes;
}

void CheckGuards() {
  const ArenaAccess access;
  for (const auto& [start, a] : TheMemory().allocations) {
    if (!AllUnwritten(start, a.data, start) ||
        !AllUnwritten(a.data + a.bytes, start + a.region_bytes, start)) {
      Fail("somebody wrote outside of an allocation of " + std::to_string(a.bytes) + " bytes");
    }
  }
}

void CheckAllocated(const void* address, size_t bytes, const char* what) {
  const auto* at = static_cast<const char*>(address);
  const Allocation* a =
      InArena(at) ? TheMemory().owner[static_cast<size_t>(at - Arena()) / kAlignment] : nullptr;
  if (a != nullptr && at >= a->data && at + bytes <= a->data + a->bytes) return;
  Fail(std::string(what) + " of " + std::to_string(bytes) +
       " bytes that are not in one allocation of device memory");
}

}  // namespace swinfleet::emulator

using swinfleet::emulator::AllocateDevice;

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  using swinfleet::emulator::Reserved;
  swinfleet::emulator::CheckMayReserve(Reserved::kMemory, "device memory");
  *pointer = AllocateDevice(bytes, 0);
  return *pointer == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}

cudaError_t cudaFree(void* pointer) {
  namespace emulator = swinfleet::emulator;
  if (pointer == nullptr) return cudaSuccess;
  const emulator::Lock lock;
  cudaDeviceSynchronize();
  emulator::CheckGuards();
  auto& allocations = emulator::TheMemory().allocations;
  for (auto at = allocations.begin(); at != allocations.end(); ++at) {
    if (at->second.data != pointer) continue;
    emulator::Forbid(at->first, at->first + at->second.region_bytes);
    emulator::SetOwner(at->first, at->second.region_bytes, nullptr);
    allocations.erase(at);
    // Nothing is open now: what lies beyond the last one need not be opened again.
    emulator::TheMemory().used =
        allocations.empty()
            ? 0
            : static_cast<size_t>(allocations.rbegin()->first - emulator::TheMemory().base) +
                  allocations.rbegin()->second.region_bytes;
    return cudaSuccess;
  }
  emulator::Fail("cudaFree of what is no allocation");
}
