// What a CUDA source sees of the emulator: included before everything else when kernels/cuda/*.cu
// is compiled as C++ (the compiler's -include). CUDA's own headers give the types, the conversions
// of bfloat16 and float16 and the run time's signatures; this gives what only nvcc knows: indices,
// barriers, warp operations, atomics and intrinsics. The PTX instructions that kernels/cuda/gpu.h
// wraps are here under the names that it calls.
//
// Operations that wait for other threads know the line that they stand on: errors name it, and
// tests take single ones out (emulator.h).
#ifndef SWINFLEET_TESTS_CUDA_EMULATOR_DEVICE_H_
#define SWINFLEET_TESTS_CUDA_EMULATOR_DEVICE_H_

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <source_location>
#include <string>
#include <tuple>
#include <utility>

namespace swinfleet::emulator {

using Site = std::source_location;

// ---- The calling thread ----

uint3 ThreadIndex();
uint3 BlockIndex();
dim3 BlockSize();
dim3 GridSize();
unsigned Lane();
// The block's dynamic shared memory: NaN when the block begins.
unsigned char* SharedMemory();

[[noreturn]] void Fail(const std::string& message);

// ---- Launches ----

// Puts a kernel on a stream. Arguments are copied now, as a real launch does.
struct KernelLaunch {
  dim3 grid, block;
  size_t shared_bytes = 0;
  std::shared_ptr<void> arguments;
  size_t argument_bytes = 0;
  // Runs one thread.
  void (*run)(void (*kernel)(), void* arguments) = nullptr;
  void (*kernel)() = nullptr;
};
cudaError_t Enqueue(KernelLaunch launch, cudaStream_t stream);

template <typename... Parameters, typename... Args>
cudaError_t Launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                   cudaStream_t stream, const Args&... args) {
  using Tuple = std::tuple<Parameters...>;
  return Enqueue({.grid = grid,
                  .block = block,
                  .shared_bytes = shared_bytes,
                  .arguments = std::make_shared<Tuple>(args...),
                  .argument_bytes = sizeof(Tuple),
                  .run =
                      [](void (*erased)(), void* arguments) {
                        const auto typed = reinterpret_cast<void (*)(Parameters...)>(erased);
                        std::apply(typed, *static_cast<Tuple*>(arguments));
                      },
                  .kernel = reinterpret_cast<void (*)()>(kernel)},
                 stream);
}

// cudaStreamWaitEvent, called at this line.
cudaError_t WaitForEvent(cudaStream_t stream, cudaEvent_t event, Site site);
// cudaEventSynchronize.
cudaError_t WaitOnHost(cudaEvent_t event, Site site);

// ---- Barriers and warp operations ----

void SyncThreads(Site site);

// Waits until all lanes of the mask have come to this line with this mask; then `execute` is called
// once with the lanes' arguments. `orders_memory`: what lanes wrote before is seen by the others
// after it, which holds for __syncwarp and not for shuffles.
using Execute = void (*)(void* const lanes[32], unsigned mask);
void MeetWarp(const char* what, unsigned mask, void* arguments, Execute execute, bool orders_memory,
              Site site);

template <typename T>
struct ShuffleArguments {
  T value;
  unsigned source;
  T result;
};

template <typename T>
T Shuffle(const char* what, unsigned mask, T value, unsigned source, Site site) {
  ShuffleArguments<T> arguments{value, source, value};
  MeetWarp(
      what, mask, &arguments,
      [](void* const lanes[32], unsigned among) {
        for (unsigned lane = 0; lane < 32; ++lane) {
          if ((among >> lane & 1) == 0) continue;
          auto* mine = static_cast<ShuffleArguments<T>*>(lanes[lane]);
          if ((among >> mine->source & 1) == 0) {
            Fail("a shuffle reads from lane " + std::to_string(mine->source) +
                 ", which is not in its mask");
          }
          mine->result = static_cast<ShuffleArguments<T>*>(lanes[mine->source])->value;
        }
      },
      false, site);
  return arguments.result;
}

// Lanes of the mask for which the predicate holds.
unsigned Ballot(const char* what, unsigned mask, bool predicate, Site site);

// ---- PTX instructions ----

// d = a b + d for a tile of 16 x 16 times 16 x 8, fragments as PTX lays them out (mma.m16n8k16).
void MmaBf16(float d[4], const uint32_t a[4], const uint32_t b[2], Site site);
void MmaF16(float d[4], const uint32_t a[4], const uint32_t b[2], Site site);
// Four 8 x 8 matrices of 16-bit elements; lane l gives the address of row l mod 8 of matrix l / 8.
void LoadMatrix4(uint32_t r[4], const void* row, bool transposed, Site site);
// Copies 16 bytes into shared memory, but not before they are waited for; `source_bytes` of them
// are read, zeros are written for the rest.
void CopyAsync16(void* to, const void* from, int source_bytes, Site site);
void CopyAsyncCommit();
// All but the newest `pending` groups of this thread have arrived.
void CopyAsyncWait(int pending, Site site);

// ---- Atomics ----

float AtomicAdd(float* address, float value);
double AtomicAdd(double* address, double value);
int AtomicAdd(int* address, int value);
unsigned AtomicAdd(unsigned* address, unsigned value);
int AtomicMax(int* address, int value);
unsigned AtomicCas(unsigned* address, unsigned expected, unsigned value);

}  // namespace swinfleet::emulator

#define threadIdx (::swinfleet::emulator::ThreadIndex())
#define blockIdx (::swinfleet::emulator::BlockIndex())
#define blockDim (::swinfleet::emulator::BlockSize())
#define gridDim (::swinfleet::emulator::GridSize())

inline void __syncthreads(swinfleet::emulator::Site site = swinfleet::emulator::Site::current()) {
  swinfleet::emulator::SyncThreads(site);
}

inline void __syncwarp(unsigned mask = 0xffffffffu,
                       swinfleet::emulator::Site site = swinfleet::emulator::Site::current()) {
  swinfleet::emulator::MeetWarp("__syncwarp", mask, nullptr, nullptr, true, site);
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int source,
              swinfleet::emulator::Site site = swinfleet::emulator::Site::current()) {
  return swinfleet::emulator::Shuffle("__shfl_sync", mask, value,
                                      static_cast<unsigned>(source) & 31, site);
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits,
                  swinfleet::emulator::Site site = swinfleet::emulator::Site::current()) {
  return swinfleet::emulator::Shuffle("__shfl_xor_sync", mask, value,
                                      (swinfleet::emulator::Lane() ^ bits) & 31, site);
}

template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta,
                   swinfleet::emulator::Site site = swinfleet::emulator::Site::current()) {
  const unsigned lane = swinfleet::emulator::Lane();
  return swinfleet::emulator::Shuffle("__shfl_down_sync", mask, value,
                                      lane + delta < 32 ? lane + delta : lane, site);
}

template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta,
                 swinfleet::emulator::Site site = swinfleet::emulator::Site::current()) {
  const unsigned lane = swinfleet::emulator::Lane();
  return swinfleet::emulator::Shuffle("__shfl_up_sync", mask, value,
                                      lane >= delta ? lane - delta : lane, site);
}

inline unsigned __ballot_sync(
    unsigned mask, bool predicate,
    swinfleet::emulator::Site site = swinfleet::emulator::Site::current()) {
  return swinfleet::emulator::Ballot("__ballot_sync", mask, predicate, site);
}

inline int __any_sync(unsigned mask, bool predicate,
                      swinfleet::emulator::Site site = swinfleet::emulator::Site::current()) {
  return swinfleet::emulator::Ballot("__any_sync", mask, predicate, site) != 0;
}

inline int __all_sync(unsigned mask, bool predicate,
                      swinfleet::emulator::Site site = swinfleet::emulator::Site::current()) {
  return swinfleet::emulator::Ballot("__all_sync", mask, predicate, site) == mask;
}

template <typename T>
T atomicAdd(T* address, T value) {
  return swinfleet::emulator::AtomicAdd(address, value);
}
inline int atomicMax(int* address, int value) {
  return swinfleet::emulator::AtomicMax(address, value);
}
inline unsigned atomicCAS(unsigned* address, unsigned expected, unsigned value) {
  return swinfleet::emulator::AtomicCas(address, expected, value);
}

// Memory is sequential here: fences have nothing to do, and the race checker orders by barriers.
inline void __threadfence() {}
inline void __threadfence_block() {}

template <typename T>
T __ldg(const T* address) {
  return *address;
}

inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fdividef(float x, float y) { return x / y; }
inline float __int_as_float(int bits) { return __builtin_bit_cast(float, bits); }
inline int __float_as_int(float x) { return __builtin_bit_cast(int, x); }
inline float __uint_as_float(unsigned bits) { return __builtin_bit_cast(float, bits); }
inline unsigned __float_as_uint(float x) { return __builtin_bit_cast(unsigned, x); }
using std::max;
using std::min;

#endif  // SWINFLEET_TESTS_CUDA_EMULATOR_DEVICE_H_
