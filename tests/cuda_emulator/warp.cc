// PTX instructions of warps, asynchronous copies, and atomics.
#include <bit>
#include <cstring>

#include "tests/cuda_emulator/internal.h"

namespace swinfleet::emulator {
namespace {

float OfBf16(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }
float OfF16(uint16_t bits) { return __half2float(std::bit_cast<__half>(bits)); }

struct MmaArguments {
  float* d;
  const uint32_t* a;
  const uint32_t* b;
};

// The fragments of mma.m16n8k16 for 16-bit elements, by the PTX instruction set's tables: lane l is
// in group l / 4 at place l % 4.
template <float (*kToFloat)(uint16_t)>
void Mma(void* const lanes[32], unsigned) {
  float a[16][16], b[16][8];
  const auto half = [](uint32_t word, int i) {
    return kToFloat(static_cast<uint16_t>(word >> 16 * i));
  };
  for (int lane = 0; lane < 32; ++lane) {
    const auto& mine = *static_cast<MmaArguments*>(lanes[lane]);
    const int group = lane / 4, place = lane % 4;
    for (int i = 0; i < 2; ++i) {
      for (int reg = 0; reg < 4; ++reg) {
        a[group + reg % 2 * 8][2 * place + i + reg / 2 * 8] = half(mine.a[reg], i);
      }
      for (int reg = 0; reg < 2; ++reg) {
        b[2 * place + i + reg * 8][group] = half(mine.b[reg], i);
      }
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    const auto& mine = *static_cast<MmaArguments*>(lanes[lane]);
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + i / 2 * 8, column = 2 * (lane % 4) + i % 2;
      float sum = 0;
      for (int k = 0; k < 16; ++k) sum += a[row][k] * b[k][column];
      mine.d[i] += sum;
    }
  }
}

struct LoadMatrixArguments {
  uint32_t* r;
  const void* row;
  bool transposed;
  const void* program_counter;
};

void LoadMatrices(void* const lanes[32], unsigned) {
  const auto address = [&](int matrix, int row) {
    const void* at = static_cast<LoadMatrixArguments*>(lanes[matrix * 8 + row])->row;
    if (reinterpret_cast<uintptr_t>(at) % 16 != 0) Fail("ldmatrix of a row that is not aligned");
    const auto offset = static_cast<size_t>(static_cast<const char*>(at) - SharedBase());
    if (offset + 16 > SharedBytes()) Fail("ldmatrix of a row outside of shared memory");
    return static_cast<const uint16_t*>(at);
  };
  for (int lane = 0; lane < 32; ++lane) {
    const auto& mine = *static_cast<LoadMatrixArguments*>(lanes[lane]);
    for (int matrix = 0; matrix < 4; ++matrix) {
      uint16_t halves[2];
      for (int i = 0; i < 2; ++i) {
        const int row = mine.transposed ? 2 * (lane % 4) + i : lane / 4;
        const int column = mine.transposed ? lane / 4 : 2 * (lane % 4) + i;
        const uint16_t* from = address(matrix, row) + column;
        // The lane that gets an element is the one that reads it.
        RecordAccess(from, 2, AccessKind::kRead, PositionOfLane(lane), mine.program_counter);
        halves[i] = *from;
      }
      mine.r[matrix] = halves[0] | uint32_t{halves[1]} << 16;
    }
  }
}

constexpr unsigned kAllLanes = 0xffffffffu;

template <typename T, typename Change>
T Atomic(T* address, const Change& change, const void* program_counter) {
  const OutOfKernel out;
  RecordAccess(address, sizeof(T), AccessKind::kAtomic, CurrentPosition(), program_counter);
  const T before = *address;
  *address = change(before);
  return before;
}

}  // namespace

void MmaBf16(float d[4], const uint32_t a[4], const uint32_t b[2], Site site) {
  MmaArguments arguments{d, a, b};
  MeetWarp("mma", kAllLanes, &arguments, Mma<OfBf16>, false, site);
}

void MmaF16(float d[4], const uint32_t a[4], const uint32_t b[2], Site site) {
  MmaArguments arguments{d, a, b};
  MeetWarp("mma", kAllLanes, &arguments, Mma<OfF16>, false, site);
}

void LoadMatrix4(uint32_t r[4], const void* row, bool transposed, Site site) {
  LoadMatrixArguments arguments{r, row, transposed, __builtin_return_address(0)};
  MeetWarp("ldmatrix", kAllLanes, &arguments, LoadMatrices, false, site);
}

void CopyAsync16(void* to, const void* from, int source_bytes, Site site) {
  const OutOfKernel out;
  if (reinterpret_cast<uintptr_t>(to) % 16 != 0 || reinterpret_cast<uintptr_t>(from) % 16 != 0) {
    Fail("cp.async at " + Describe(site) + " between addresses that are not aligned");
  }
  const auto offset = static_cast<size_t>(static_cast<char*>(to) - SharedBase());
  if (offset + 16 > SharedBytes()) {
    Fail("cp.async at " + Describe(site) + " to a place outside of shared memory");
  }
  if (source_bytes > 0) {
    CheckAllocated(from, static_cast<size_t>(source_bytes), "cp.async from a place");
  }
  // It may come to be at any time from here on.
  RecordAccess(to, 16, AccessKind::kWrite, CurrentPosition(), __builtin_return_address(0));
  AsyncCopies& copies = CurrentCopies();
  copies.waiting.push_back({to, from, source_bytes, copies.group});
}

void CopyAsyncCommit() { ++CurrentCopies().group; }

void CopyAsyncWait(int pending, Site site) {
  const OutOfKernel out;
  AsyncCopies& copies = CurrentCopies();
  const bool skipped = Skipped(site);
  const int newest = copies.group - pending;
  std::erase_if(copies.waiting, [&](const AsyncCopy& copy) {
    if (copy.group >= newest) return false;
    // Without its wait a copy comes too late for everybody.
    if (skipped) return true;
    const Position position = CurrentPosition();
    const void* here = __builtin_return_address(0);
    RecordAccess(copy.from, static_cast<size_t>(copy.source_bytes), AccessKind::kRead, position,
                 here);
    RecordAccess(copy.to, 16, AccessKind::kWrite, position, here);
    std::memset(copy.to, 0, 16);
    std::memcpy(copy.to, copy.from, static_cast<size_t>(copy.source_bytes));
    return true;
  });
}

float AtomicAdd(float* address, float value) {
  return Atomic(
      address, [&](float x) { return x + value; }, __builtin_return_address(0));
}
double AtomicAdd(double* address, double value) {
  return Atomic(
      address, [&](double x) { return x + value; }, __builtin_return_address(0));
}
int AtomicAdd(int* address, int value) {
  return Atomic(
      address, [&](int x) { return x + value; }, __builtin_return_address(0));
}
unsigned AtomicAdd(unsigned* address, unsigned value) {
  return Atomic(
      address, [&](unsigned x) { return x + value; }, __builtin_return_address(0));
}
int AtomicMax(int* address, int value) {
  return Atomic(
      address, [&](int x) { return x > value ? x : value; }, __builtin_return_address(0));
}
unsigned AtomicCas(unsigned* address, unsigned expected, unsigned value) {
  return Atomic(
      address, [&](unsigned x) { return x == expected ? value : x; }, __builtin_return_address(0));
}

}  // namespace swinfleet::emulator
