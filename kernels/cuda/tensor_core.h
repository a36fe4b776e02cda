// Products of 16-bit tiles on tensor cores. A warp holds rows of one factor in registers, in the
// fragments of mma.m16n8k16, and takes the other from row-major tiles in shared memory. In the
// sums, a lane has the rows lane / 4 and lane / 4 + 8, and of each 8 columns two neighbours, from
// 2 (lane mod 4) on: elements 0 and 1 are of the first row, 2 and 3 of the second.
#ifndef SWINFLEET_KERNELS_CUDA_TENSOR_CORE_H_
#define SWINFLEET_KERNELS_CUDA_TENSOR_CORE_H_

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/gpu.h"

namespace swinfleet::cuda {

// Elements from one row of kDim to the next: any eight rows are in banks of their own where 16
// bytes are read of each.
template <int kDim>
inline constexpr int kRowStride = kDim + 8;

__device__ inline uint32_t LaneRow() { return threadIdx.x % kWarp / 4; }
__device__ inline uint32_t LaneColumn() { return threadIdx.x % 4 * 2; }

template <typename T>
__device__ void Mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  if constexpr (std::is_same_v<T, __half>) {
    MmaF16(d, a, b);
  } else {
    MmaBf16(d, a, b);
  }
}

// Two neighbours of a row, each the nearest T, in one register of a fragment.
template <typename T>
__device__ uint32_t PackPair(float x, float y) {
  const Pack<T, 2> pair = {{FromFloat<T>(x), FromFloat<T>(y)}};
  return reinterpret_cast<const uint32_t&>(pair);
}

template <typename T>
__device__ void UnpackPair(uint32_t word, float (&to)[2]) {
  const auto& pair = reinterpret_cast<const Pack<T, 2>&>(word);
  to[0] = ToFloat(pair.value[0]);
  to[1] = ToFloat(pair.value[1]);
}

// Sums of two neighbouring blocks of 8 columns, rounded, as the left factor of a product.
template <typename T>
__device__ void PackRows(const float (&x)[2][4], uint32_t (&a)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) a[i] = PackPair<T>(x[i / 2][i % 2 * 2], x[i / 2][i % 2 * 2 + 1]);
}

// 16 rows of kDim as the left factor.
template <int kDim, typename T>
__device__ void LoadRows(const T* rows, uint32_t (&a)[kDim / 16][4]) {
  const uint32_t lane = threadIdx.x % kWarp;
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k) {
    LoadMatrix4(a[k], rows + lane % 16 * kRowStride<kDim> + lane / 16 * 8 + k * 16);
  }
}

// d += X Y^T, 16 x 16, of 16 rows of kDim each.
template <int kDim, typename T>
__device__ void AddProducts(const uint32_t (&x)[kDim / 16][4], const T* y, float (&d)[2][4]) {
  const uint32_t lane = threadIdx.x % kWarp;
  const T* const row = y + (lane % 8 + lane / 16 * 8) * kRowStride<kDim> + lane / 8 % 2 * 8;
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k) {
    uint32_t b[4];
    LoadMatrix4(b, row + k * 16);
    Mma<T>(d[0], x[k], {b[0], b[1]});
    Mma<T>(d[1], x[k], {b[2], b[3]});
  }
}

// d += P Y, 16 x kDim, of weights of 16 x 16 and 16 rows.
template <int kDim, typename T>
__device__ void AddWeighted(const uint32_t (&p)[4], const T* y, float (&d)[kDim / 8][4]) {
  const uint32_t lane = threadIdx.x % kWarp;
  const T* const row = y + lane % 16 * kRowStride<kDim> + lane / 16 * 8;
#pragma unroll
  for (int n = 0; n < kDim / 16; ++n) {
    uint32_t b[4];
    LoadMatrix4Transposed(b, row + n * 16);
    Mma<T>(d[2 * n], p, {b[0], b[1]});
    Mma<T>(d[2 * n + 1], p, {b[2], b[3]});
  }
}

// The sum, or the largest, of what the four lanes of a row have.
__device__ inline float RowSum(float x) {
  x += __shfl_xor_sync(kAllLanes, x, 1);
  return x + __shfl_xor_sync(kAllLanes, x, 2);
}

__device__ inline float RowMax(float x) {
  x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, 1));
  return fmaxf(x, __shfl_xor_sync(kAllLanes, x, 2));
}

// Writes sums of 16 rows to a tile, rounded.
template <int kDim, typename T>
__device__ void PutRows(const float (&d)[kDim / 8][4], T* rows) {
#pragma unroll
  for (int n = 0; n < kDim / 8; ++n) {
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      T* const to = rows + (LaneRow() + 8 * i) * kRowStride<kDim> + n * 8 + LaneColumn();
      *reinterpret_cast<uint32_t*>(to) = PackPair<T>(d[n][2 * i], d[n][2 * i + 1]);
    }
  }
}

}  // namespace swinfleet::cuda

#endif  // SWINFLEET_KERNELS_CUDA_TENSOR_CORE_H_
