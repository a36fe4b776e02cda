// The race checker. CUDA sources are compiled with -fsanitize=thread and linked without its
// library: the calls that the compiler puts before each access come here.
//
// A cell for every two bytes of device and of shared memory knows the last write and up to two
// reads that nothing orders: two are enough to meet any later write, if they are of different
// blocks, or warps, where there were such. Two accesses are ordered if their kernels are (by
// streams and events), or, within a block, if one thread made both, or a barrier of the block, or
// of the warp that both are in, lies between. Everything else is a race, also if it came out well.
#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <string>

#include "tests/cuda_emulator/internal.h"

// Of the linker: the first byte of the program, or of the library that this is in, and the one
// after its last.
extern "C" __attribute__((visibility("hidden"))) char __ehdr_start;
extern "C" __attribute__((visibility("hidden"))) char _end;

namespace swinfleet::emulator {
namespace {

struct Access {
  uint32_t run = 0;              // of a block, or a copy: one after the other; 0: none
  uint32_t program_counter = 0;  // from the program's first byte
  uint32_t warp_epoch = 0;
  uint32_t epoch : 21 = 0;
  uint32_t thread : 10 = 0;
  uint32_t atomic : 1 = 0;

  // By one thread, with no barrier between.
  bool IsAlike(const Access& other) const {
    return run == other.run && thread == other.thread && epoch == other.epoch &&
           warp_epoch == other.warp_epoch && atomic == other.atomic;
  }
};

struct Cell {
  Access write;
  Access read[2];
};

// What ran.
struct Run {
  uint32_t operation, block;
};

struct Shadow {
  bool on = false;
  Cell* arena = nullptr;
  Cell* shared = nullptr;
  std::vector<Run> runs;
  // Where memory of these kinds begins.
  const char *arena_begin = nullptr, *shared_begin = nullptr;
};

Shadow shadow;

Cell* MapCells(size_t bytes) {
  return static_cast<Cell*>(Reserve(bytes / 2 * sizeof(Cell), PROT_READ | PROT_WRITE));
}

void Prepare() {
  if (shadow.arena != nullptr) return;
  shadow.arena = MapCells(kArenaBytes);
  shadow.shared = MapCells(kMaxSharedBytes);
  shadow.arena_begin = Arena();
  shadow.shared_begin = SharedBase();
  shadow.runs.push_back({0, 0});
}

bool IsIn(const void* address, const char* begin, size_t bytes) {
  return static_cast<size_t>(static_cast<const char*>(address) - begin) < bytes;
}

// The number of the present run; blocks run to their end, so a change of place is another run.
uint32_t CurrentRun(uint32_t block) {
  const uint32_t operation = CurrentOperation();
  const Run& last = shadow.runs.back();
  if (last.operation != operation || last.block != block || shadow.runs.size() == 1) {
    shadow.runs.push_back({operation, block});
  }
  return static_cast<uint32_t>(shadow.runs.size() - 1);
}

uint32_t OffsetOf(const void* program_counter) {
  return static_cast<uint32_t>(static_cast<const char*>(program_counter) - &__ehdr_start);
}

// Whether `before` is over for the access `now`.
bool IsOrdered(const Access& before, const Access& now, bool shared) {
  if (before.run == now.run) {
    return before.thread == now.thread || before.epoch != now.epoch ||
           (before.thread / 32 == now.thread / 32 && before.warp_epoch != now.warp_epoch);
  }
  // Shared memory is another one in each block.
  if (before.run == 0 || shared) return true;
  // Of another block of the same kernel it never is.
  return IsBeforeCurrent(shadow.runs[before.run].operation);
}

std::string LineOf(uint32_t program_counter) {
  char address[32], line[512] = "";
  std::snprintf(address, sizeof(address), "%#lx", static_cast<unsigned long>(program_counter - 1));
  Dl_info info = {};
  dladdr(&__ehdr_start, &info);
  const std::string library = info.dli_fname == nullptr ? "" : info.dli_fname;
  const std::string file =
      library.ends_with(".so") ? library : "/proc/" + std::to_string(getpid()) + "/exe";
  const std::string command = "addr2line -sp -e '" + file + "' " + address;
  if (FILE* pipe = popen(command.c_str(), "r")) {
    if (std::fgets(line, sizeof(line), pipe) == nullptr) line[0] = 0;
    pclose(pipe);
  }
  // What follows in parentheses tells apart the pieces of one line.
  line[std::strcspn(line, " \n")] = 0;
  return line;
}

std::string Describe(const Access& access, const char* kind) {
  return std::string(access.atomic ? "an atomic" : kind) + " at " + LineOf(access.program_counter) +
         " by thread " + std::to_string(access.thread) + " of block " +
         std::to_string(shadow.runs[access.run].block);
}

[[noreturn]] void FailRace(const Access& before, const char* before_kind, const Access& now,
                           const char* now_kind, bool shared) {
  std::string text = std::string("race in ") + (shared ? "shared" : "global") +
                     " memory: " + Describe(now, now_kind) + " and " +
                     Describe(before, before_kind);
  if (shadow.runs[before.run].operation != shadow.runs[now.run].operation) {
    text += ", of a kernel or copy that nothing orders";
  }
  Fail(text);
}

void KeepRead(Cell* cell, const Access& now, bool shared) {
  for (Access& read : cell->read) {
    if (IsOrdered(read, now, shared)) {
      read = now;
      return;
    }
  }
  const auto alike = [](const Access& a, const Access& b) {
    return a.run == b.run && a.thread / 32 == b.thread / 32;
  };
  if (alike(cell->read[0], cell->read[1])) cell->read[1] = now;
}

void Visit(Cell* cell, const Access& now, AccessKind kind, bool shared) {
  // Nobody came between that would not have been found then.
  if (now.IsAlike(kind == AccessKind::kRead ? cell->read[0] : cell->write)) return;
  const bool both_atomic = kind == AccessKind::kAtomic && cell->write.atomic;
  const char* name = kind == AccessKind::kRead ? "a read" : "a write";
  if (!both_atomic && !IsOrdered(cell->write, now, shared)) {
    FailRace(cell->write, "a write", now, name, shared);
  }
  if (kind == AccessKind::kRead) return KeepRead(cell, now, shared);
  for (const Access& read : cell->read) {
    if (!IsOrdered(read, now, shared)) FailRace(read, "a read", now, name, shared);
  }
  cell->write = now;
}

// Reports of the compiler: of a kernel's thread, at any address.
void Report(const void* address, size_t bytes, AccessKind kind, const void* program_counter) {
  if (!OutOfKernel::InKernel() || OnFiberStack(address)) return;
  const OutOfKernel out;
  Prepare();
  if (IsIn(address, shadow.arena_begin, kArenaBytes)) {
    CheckAllocated(address, bytes, "an access");
  } else if (IsIn(address, shadow.shared_begin, kMaxSharedBytes)) {
    if (static_cast<const char*>(address) + bytes > shadow.shared_begin + SharedBytes()) {
      Fail("an access outside of shared memory at " + LineOf(OffsetOf(program_counter)));
    }
  } else {
    const auto* at = static_cast<const char*>(address);
    if (InArguments(address) || (at >= &__ehdr_start && at < &_end)) return;
    Fail("a kernel touches host memory at " + LineOf(OffsetOf(program_counter)));
  }
  RecordAccess(address, bytes, kind, CurrentPosition(), program_counter);
}

}  // namespace

bool ChecksRaces() { return shadow.on; }

void RecordAccess(const void* address, size_t bytes, AccessKind kind, const Position& position,
                  const void* program_counter) {
  if (!shadow.on || bytes == 0) return;
  Prepare();
  const bool shared = !IsIn(address, shadow.arena_begin, kArenaBytes);
  const auto offset = static_cast<size_t>(static_cast<const char*>(address) -
                                          (shared ? shadow.shared_begin : shadow.arena_begin));
  Cell* cells = shared ? shadow.shared : shadow.arena;
  if (position.epoch >= 1u << 21) Fail("more barriers than the race checker can count");
  Access now{.run = CurrentRun(position.block),
             .program_counter = OffsetOf(program_counter),
             .warp_epoch = position.warp_epoch};
  now.epoch = position.epoch;
  now.thread = position.thread;
  now.atomic = kind == AccessKind::kAtomic;
  for (size_t cell = offset / 2; cell <= (offset + bytes - 1) / 2; ++cell) {
    Visit(&cells[cell], now, kind, shared);
  }
}

void ForgetAccesses(const void* address, size_t bytes) {
  if (!shadow.on || bytes == 0) return;
  Prepare();
  const auto offset = static_cast<size_t>(static_cast<const char*>(address) - Arena());
  for (size_t cell = offset / 2; cell <= (offset + bytes - 1) / 2; ++cell) {
    shadow.arena[cell] = {};
  }
}

}  // namespace swinfleet::emulator

using swinfleet::emulator::AccessKind;
using swinfleet::emulator::Report;

// What GCC and Clang call. The address that they return to is the access's.
#define SWINFLEET_TSAN_HOOK(name, bytes, kind)                             \
  extern "C" void __tsan_##name(void* address) {                           \
    Report(address, bytes, AccessKind::kind, __builtin_return_address(0)); \
  }
SWINFLEET_TSAN_HOOK(read1, 1, kRead)
SWINFLEET_TSAN_HOOK(read2, 2, kRead)
SWINFLEET_TSAN_HOOK(read4, 4, kRead)
SWINFLEET_TSAN_HOOK(read8, 8, kRead)
SWINFLEET_TSAN_HOOK(read16, 16, kRead)
SWINFLEET_TSAN_HOOK(write1, 1, kWrite)
SWINFLEET_TSAN_HOOK(write2, 2, kWrite)
SWINFLEET_TSAN_HOOK(write4, 4, kWrite)
SWINFLEET_TSAN_HOOK(write8, 8, kWrite)
SWINFLEET_TSAN_HOOK(write16, 16, kWrite)
SWINFLEET_TSAN_HOOK(unaligned_read2, 2, kRead)
SWINFLEET_TSAN_HOOK(unaligned_read4, 4, kRead)
SWINFLEET_TSAN_HOOK(unaligned_read8, 8, kRead)
SWINFLEET_TSAN_HOOK(unaligned_read16, 16, kRead)
SWINFLEET_TSAN_HOOK(unaligned_write2, 2, kWrite)
SWINFLEET_TSAN_HOOK(unaligned_write4, 4, kWrite)
SWINFLEET_TSAN_HOOK(unaligned_write8, 8, kWrite)
SWINFLEET_TSAN_HOOK(unaligned_write16, 16, kWrite)
#undef SWINFLEET_TSAN_HOOK

extern "C" void __tsan_read_range(void* address, long bytes) {
  Report(address, static_cast<size_t>(bytes), AccessKind::kRead, __builtin_return_address(0));
}
extern "C" void __tsan_write_range(void* address, long bytes) {
  Report(address, static_cast<size_t>(bytes), AccessKind::kWrite, __builtin_return_address(0));
}
// Each instrumented file calls it before main.
extern "C" void __tsan_init() { swinfleet::emulator::shadow.on = true; }
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit() {}
// Of host code in the same files: exceptions, counts of references, variables that are made once.
extern "C" void __tsan_vptr_update(void**, void*) {}
extern "C" void __tsan_vptr_read(void**) {}
extern "C" int __tsan_atomic32_fetch_add(volatile int* address, int value, int) {
  return __atomic_fetch_add(address, value, __ATOMIC_SEQ_CST);
}
extern "C" unsigned char __tsan_atomic8_load(const volatile unsigned char* address, int) {
  return __atomic_load_n(address, __ATOMIC_SEQ_CST);
}
extern "C" void __tsan_atomic8_store(volatile unsigned char* address, unsigned char value, int) {
  __atomic_store_n(address, value, __ATOMIC_SEQ_CST);
}
