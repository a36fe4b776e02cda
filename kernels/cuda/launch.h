// What the host side of the CUDA operations shares: streams, element types, and kernels that do one
// thing for each index.
#ifndef SWINFLEET_KERNELS_CUDA_LAUNCH_H_
#define SWINFLEET_KERNELS_CUDA_LAUNCH_H_

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <limits>

#include "kernels/checks.h"
#include "kernels/cuda/gpu.h"
#include "kernels/ops.h"

namespace swinfleet::cuda {

inline cudaStream_t StreamOf(const Context& context) {
  return static_cast<cudaStream_t>(context.stream);
}

template <typename T>
T* Elements(const TensorView& view) {
  return static_cast<T*>(view.data);
}

// Calls body(T()) with the element type of a floating dtype.
template <typename Body>
void DispatchDType(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::kF32:
      return body(float());
    case DType::kBF16:
      return body(__nv_bfloat16());
    case DType::kF16:
      return body(__half());
    case DType::kI32:
    case DType::kU16:
      break;
  }
  LOG(FATAL) << NameOf(dtype) << " where a floating type is needed";
}

// Whether all tensors that are not absent start at a multiple of so many bytes.
inline bool AreAligned(size_t bytes, std::initializer_list<TensorView> tensors) {
  return std::all_of(tensors.begin(), tensors.end(), [bytes](const TensorView& tensor) {
    return reinterpret_cast<uintptr_t>(tensor.data) % bytes == 0;
  });
}

// For indices of 32 bits.
inline uint32_t Narrow(int64_t x) {
  CHECK(x >= 0 && x <= std::numeric_limits<int32_t>::max()) << x << " does not fit into 32 bits";
  return static_cast<uint32_t>(x);
}

inline constexpr int kThreads = 256;

// Blocks for so many threads: enough to fill any device several times over, which is all that a
// kernel gains that goes on in steps of its grid.
inline unsigned BlocksFor(int64_t threads) {
  constexpr int64_t kMaxBlocks = 8192;
  return static_cast<unsigned>(
      std::clamp((threads + kThreads - 1) / kThreads, int64_t{1}, kMaxBlocks));
}

// body(i) for i in [0, n). Bodies are structs with what they need, since nvcc compiles lambdas of
// the host for the host.
template <typename Body>
__global__ void ForEachKernel(int64_t n, Body body) {
  for (int64_t i = GlobalThread(); i < n; i += GlobalThreads()) body(i);
}

template <typename Body>
void ForEach(int64_t n, const Body& body, const Context& context) {
  if (n == 0) return;
  GpuLaunch(ForEachKernel<Body>, BlocksFor(n), kThreads, 0, StreamOf(context), n, body);
}

// Elements [first, first + kWidth), or as many as there are before n; the rest is 0.
template <int kWidth, typename T>
__device__ void LoadUpTo(const T* from, int64_t first, int64_t n, float (&to)[kWidth]) {
  if (first + kWidth <= n) return LoadFloats<kWidth>(from + first, to);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) to[i] = first + i < n ? ToFloat(from[first + i]) : 0.0f;
}

template <int kWidth, typename T>
__device__ void StoreUpTo(const float (&from)[kWidth], int64_t first, int64_t n, T* to) {
  if (first + kWidth <= n) return StoreFloats<kWidth>(from, to + first);
  for (int i = 0; i < kWidth && first + i < n; ++i) to[first + i] = FromFloat<T>(from[i]);
}

// Calls body(std::integral_constant<int, width>): what 16 bytes hold of the smallest of the dtypes
// if all tensors are aligned for it, else one element at a time.
template <typename Body>
void DispatchWidth(DType smallest, std::initializer_list<TensorView> tensors, const Body& body) {
  bool aligned = true;
  const size_t width = 16 / SizeOf(smallest);
  for (const TensorView& tensor : tensors) {
    // Wider elements are moved by more than one instruction, of 16 bytes each.
    aligned = aligned && AreAligned(std::min<size_t>(16, width * SizeOf(tensor.dtype)), {tensor});
  }
  if (!aligned) return body(std::integral_constant<int, 1>());
  if (width == 8) return body(std::integral_constant<int, 8>());
  return body(std::integral_constant<int, 4>());
}

// As DispatchWidth, for rows of c channels one after the other.
template <typename Body>
void DispatchRowWidth(int64_t c, DType dtype, std::initializer_list<TensorView> tensors,
                      const Body& body) {
  if (c * static_cast<int64_t>(SizeOf(dtype)) % 16 != 0) {
    return body(std::integral_constant<int, 1>());
  }
  DispatchWidth(dtype, tensors, body);
}

// Parts of n sums that blocks have made: part p's of sum i is at parts[p * stride + i].
struct Parts {
  const float* parts;
  int64_t count, stride, n;
};

// sums += parts, by one kernel, in an order that the number of parts decides (add_parts.cu).
void AddParts(const Parts& p, float* sums, const Context& context);

}  // namespace swinfleet::cuda

#endif  // SWINFLEET_KERNELS_CUDA_LAUNCH_H_
