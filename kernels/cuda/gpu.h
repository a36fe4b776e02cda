// The one header that a CUDA source includes for what belongs to the device. It is compiled by
// nvcc, and by a C++ compiler for the emulator in tests/, which puts its own header before this
// one; only here the two differ. What kernels keep to so that both can be: they are started by
// GpuLaunch; they have dynamic shared memory alone, carved up by SharedCarver; PTX stands here, one
// function an instruction.
#ifndef SWINFLEET_KERNELS_CUDA_GPU_H_
#define SWINFLEET_KERNELS_CUDA_GPU_H_

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "kernels/error.h"

namespace swinfleet::cuda {

inline constexpr unsigned kAllLanes = 0xffffffffu;
inline constexpr int kWarp = 32;

// Throws Error where a call of CUDA has failed.
inline void CheckCuda(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  throw Error(std::string("CUDA: ") + what + " failed: " + cudaGetErrorString(error));
}

// Puts a kernel on a stream; arguments are converted to the kernel's parameters and copied.
template <typename... Parameters, typename... Args>
void GpuLaunch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
               cudaStream_t stream, const Args&... args) {
  // More has to be asked for.
  constexpr size_t kFree = 48 << 10;
  if (shared_bytes > kFree) {
    CheckCuda(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                   cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   static_cast<int>(shared_bytes)),
              "asking for shared memory");
  }
#ifdef __CUDACC__
  kernel<<<grid, block, shared_bytes, stream>>>(static_cast<Parameters>(args)...);
  CheckCuda(cudaGetLastError(), "a launch");
#else
  CheckCuda(emulator::Launch(kernel, grid, block, shared_bytes, stream, args...), "a launch");
#endif
}

#ifdef __CUDACC__
#define SWINFLEET_SITE_PARAMETER
#define SWINFLEET_SITE
#else
// The line that calls a function of this header.
#define SWINFLEET_SITE_PARAMETER , emulator::Site site = emulator::Site::current()
#define SWINFLEET_SITE , site
#endif

// What is put on the stream from here on begins when the event's last recording has come.
inline void WaitForEvent(cudaStream_t stream, cudaEvent_t event SWINFLEET_SITE_PARAMETER) {
#ifdef __CUDACC__
  CheckCuda(cudaStreamWaitEvent(stream, event, 0), "waiting for an event");
#else
  CheckCuda(emulator::WaitForEvent(stream, event SWINFLEET_SITE), "waiting for an event");
#endif
}

// The host waits for it.
inline void WaitOnHost(cudaEvent_t event SWINFLEET_SITE_PARAMETER) {
#ifdef __CUDACC__
  CheckCuda(cudaEventSynchronize(event), "waiting for a copy");
#else
  CheckCuda(emulator::WaitOnHost(event SWINFLEET_SITE), "waiting for a copy");
#endif
}

// Cuts the block's dynamic shared memory into arrays, one after the other; every thread cuts alike.
class SharedCarver {
 public:
  __device__ SharedCarver() {
#ifdef __CUDACC__
    extern __shared__ __align__(16) unsigned char storage[];
    at_ = storage;
#else
    at_ = emulator::SharedMemory();
#endif
  }
  template <typename T>
  __device__ T* Take(int64_t n) {
    T* taken = reinterpret_cast<T*>(at_);
    at_ += (n * static_cast<int64_t>(sizeof(T)) + 15) / 16 * 16;
    return taken;
  }

 private:
  unsigned char* at_;
};

// d += a b of a tile, 16 x 16 times 16 x 8: mma.sync.m16n8k16 with float32 sums.
__device__ inline void MmaBf16(float (&d)[4], const uint32_t (&a)[4],
                               const uint32_t (&b)[2] SWINFLEET_SITE_PARAMETER) {
#ifdef __CUDACC__
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  emulator::MmaBf16(d, a, b SWINFLEET_SITE);
#endif
}

__device__ inline void MmaF16(float (&d)[4], const uint32_t (&a)[4],
                              const uint32_t (&b)[2] SWINFLEET_SITE_PARAMETER) {
#ifdef __CUDACC__
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  emulator::MmaF16(d, a, b SWINFLEET_SITE);
#endif
}

// Four 8 x 8 matrices of 16-bit elements from shared memory: ldmatrix.x4. Lane l gives the address
// of row l mod 8 of matrix l / 8.
__device__ inline void LoadMatrix4(uint32_t (&r)[4], const void* row SWINFLEET_SITE_PARAMETER) {
#ifdef __CUDACC__
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row)))
               : "memory");
#else
  emulator::LoadMatrix4(r, row, false SWINFLEET_SITE);
#endif
}

// The same, each matrix transposed.
__device__ inline void LoadMatrix4Transposed(uint32_t (&r)[4],
                                             const void* row SWINFLEET_SITE_PARAMETER) {
#ifdef __CUDACC__
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row)))
               : "memory");
#else
  emulator::LoadMatrix4(r, row, true SWINFLEET_SITE);
#endif
}

// Begins to copy 16 bytes from global to shared memory: cp.async. Of them `source_bytes` are read,
// the rest becomes zero.
__device__ inline void CopyAsync16(void* to, const void* from,
                                   int source_bytes SWINFLEET_SITE_PARAMETER) {
#ifdef __CUDACC__
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(to))), "l"(from),
                 "r"(source_bytes)
               : "memory");
#else
  emulator::CopyAsync16(to, from, source_bytes SWINFLEET_SITE);
#endif
}

// What this thread has begun to copy since the last commit is one group.
__device__ inline void CopyAsyncCommit() {
#ifdef __CUDACC__
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  emulator::CopyAsyncCommit();
#endif
}

// Waits until all but the newest kPending groups of this thread have arrived; other threads see
// them after a barrier.
template <int kPending>
__device__ inline void CopyAsyncWait(
#ifdef __CUDACC__
) {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#else
    emulator::Site site = emulator::Site::current()) {
  emulator::CopyAsyncWait(kPending, site);
#endif
}

#undef SWINFLEET_SITE_PARAMETER
#undef SWINFLEET_SITE

// ---- Elements ----

__device__ inline float ToFloat(float x) { return x; }
__device__ inline float ToFloat(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline float ToFloat(__half x) { return __half2float(x); }

// The nearest T, to even in the middle.
template <typename T>
__device__ T FromFloat(float x);
template <>
__device__ inline float FromFloat<float>(float x) {
  return x;
}
template <>
__device__ inline __nv_bfloat16 FromFloat<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}
template <>
__device__ inline __half FromFloat<__half>(float x) {
  return __float2half_rn(x);
}

// kWidth neighbours, moved by one instruction for each 16 bytes.
template <typename T, int kWidth>
struct alignas(kWidth * sizeof(T) < 16 ? kWidth * sizeof(T) : 16) Pack {
  T value[kWidth];
};

template <int kWidth, typename T>
__device__ void LoadFloats(const T* from, float (&to)[kWidth]) {
  const auto pack = *reinterpret_cast<const Pack<T, kWidth>*>(from);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) to[i] = ToFloat(pack.value[i]);
}

template <int kWidth, typename T>
__device__ void StoreFloats(const float (&from)[kWidth], T* to) {
  Pack<T, kWidth> pack;
#pragma unroll
  for (int i = 0; i < kWidth; ++i) pack.value[i] = FromFloat<T>(from[i]);
  *reinterpret_cast<Pack<T, kWidth>*>(to) = pack;
}

// ---- Sums ----

// The sum over the warp, in each lane, by the same tree whatever the lane.
template <typename T>
__device__ inline T WarpSum(T x) {
#pragma unroll
  for (int bits = kWarp / 2; bits > 0; bits /= 2) x += __shfl_xor_sync(kAllLanes, x, bits);
  return x;
}

template <typename T>
__device__ inline T WarpMax(T x) {
#pragma unroll
  for (int bits = kWarp / 2; bits > 0; bits /= 2) {
    const T other = __shfl_xor_sync(kAllLanes, x, bits);
    x = other > x ? other : x;
  }
  return x;
}

// The block's sum, or its largest element, in each thread. `shared` has room for a value a warp;
// between two calls with the same room a barrier stands here.
template <bool kMax, typename T>
__device__ inline T BlockTotal(T x, T* shared) {
  x = kMax ? WarpMax(x) : WarpSum(x);
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = x;
  __syncthreads();
  T total = shared[0];
  for (unsigned warp = 1; warp < blockDim.x / kWarp; ++warp) {
    const T other = shared[warp];
    total = kMax ? (other > total ? other : total) : total + other;
  }
  __syncthreads();
  return total;
}

// What BlockTotal needs, of doubles at most.
inline constexpr int kMaxWarps = 32;
inline constexpr size_t kTotalBytes = kMaxWarps * sizeof(double);

// The first element of a loop that all threads of all blocks share, and the step.
__device__ inline int64_t GlobalThread() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ inline int64_t GlobalThreads() { return static_cast<int64_t>(gridDim.x) * blockDim.x; }

}  // namespace swinfleet::cuda

#endif  // SWINFLEET_KERNELS_CUDA_GPU_H_
