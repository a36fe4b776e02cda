// What the two ways of computing window attention share: in float32 (window_attention_plain.cu),
// and in 16 bits on tensor cores (window_attention_mma.cu and window_attention_mma_backward.cu).
// window_attention.cu chooses.
#ifndef SWINFLEET_KERNELS_CUDA_WINDOW_ATTENTION_H_
#define SWINFLEET_KERNELS_CUDA_WINDOW_ATTENTION_H_

#include <cmath>
#include <cstdint>

#include "kernels/accelerator.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/scratch.h"
#include "kernels/cuda/window_map.h"

namespace swinfleet::cuda {

inline constexpr int kMaxDim = kMostCudaHeadDim;
inline constexpr float kMinLength = 1e-12f;
inline constexpr float kMaxLogitScale = 4.6051702f;  // log 100

struct AttentionShape {
  WindowMap map;
  uint32_t heads, dim, tokens;
  uint32_t groups;    // G, or 1 without biases
  float score_scale;  // without logit_scale
  // Tensors hold windows' tokens, and not the map.
  bool in_rows;
  bool exclude_padding;
  // Every head's part of a row begins at a multiple of 16 bytes, in all tensors.
  bool wide;
};

template <typename T>
struct AttentionInputs {
  AttentionShape s;
  const T* qkv;
  const T* logit_scale;  // or null
  const float* bias;     // or null
};

template <typename T>
struct ForwardOutputs {
  T* out;
  float* lse;
};

template <typename T>
struct BackwardArrays {
  const float* lse;
  const T* dout;
  T* dqkv;             // may be qkv
  T* dq;               // (rows, C): queries' part of it, or null where that is written at once
  float* delta;        // as lse: of each row the mean, by its weights, of their gradients
  double* dscale;      // (sums, heads, tiles of queries), or null
  float* dbias_parts;  // (parts, G, heads, N, N), or null
};

// How many of what there are.
struct AttentionLaunch {
  unsigned windows, heads;
  unsigned tile, tiles;  // tokens of a tile, tiles of a window
  unsigned parts;        // that backward cuts windows into
  cudaStream_t stream;

  // A block a head of a window and a tile.
  dim3 Grid() const { return {windows * heads, tiles}; }
  // A block a head of a group of a part of the windows, and a pair of tiles.
  dim3 PartGrid(unsigned groups) const { return {parts * groups * heads, tiles * tiles}; }
};

// Backward but for the last steps, which are the same for both: dq stays in its scratch, and so do
// sums for scale and biases.
void PlainForward(const AttentionInputs<float>& a, const ForwardOutputs<float>& o,
                  const AttentionLaunch& launch);
void PlainBackward(const AttentionInputs<float>& a, const BackwardArrays<float>& b,
                   const AttentionLaunch& launch);
// For __nv_bfloat16 and __half.
template <typename T>
void MmaForward(const AttentionInputs<T>& a, const ForwardOutputs<T>& o,
                const AttentionLaunch& launch);
template <typename T>
void MmaBackward(const AttentionInputs<T>& a, const BackwardArrays<T>& b,
                 const AttentionLaunch& launch);

// ---- Tokens ----

inline constexpr int32_t kNobody = -1;

struct Token {
  int32_t row;     // of the tensors; -1: nobody, of padding or beyond the window
  int32_t region;  // of the mask; kNobody
};

__device__ inline Token TokenOf(const AttentionShape& s, uint32_t window, uint32_t token) {
  if (token >= s.tokens) return {-1, kNobody};
  const uint32_t at = window * s.tokens + token;
  int32_t row = s.map(at);
  if (s.in_rows && !(row < 0 && s.exclude_padding)) row = static_cast<int32_t>(at);
  return {row, row < 0 ? kNobody : s.map.Region(at)};
}

// The row of a tensor that a token has, though it may attend to nobody; -1 for none.
__device__ inline int64_t RowToWrite(const AttentionShape& s, uint32_t window, uint32_t token,
                                     int32_t row) {
  if (row >= 0 || !s.in_rows || token >= s.tokens) return row;
  return static_cast<int64_t>(window) * s.tokens + token;
}

// Where the head's vector of part `part` of `parts` of a row begins.
__device__ inline int64_t VectorAt(const AttentionShape& s, int64_t row, uint32_t parts,
                                   uint32_t part, uint32_t head) {
  return ((row * parts + part) * s.heads + head) * s.dim;
}

// ---- Scores ----

// What multiplies the product of q and k.
template <typename T>
__device__ float ScaleOf(const AttentionInputs<T>& a, uint32_t head) {
  if (a.logit_scale == nullptr) return a.s.score_scale;
  return expf(fminf(ToFloat(a.logit_scale[head]), kMaxLogitScale));
}

// The biases of a window and head, (N, N), or null.
template <typename T>
__device__ const float* BiasOf(const AttentionInputs<T>& a, uint32_t window, uint32_t head) {
  if (a.bias == nullptr) return nullptr;
  const int64_t group = a.s.map.NumberInPicture(window) % a.s.groups;
  return a.bias + (group * a.s.heads + head) * a.s.tokens * a.s.tokens;
}

// Adds bias and mask to a scaled product; minus infinity for a pair that is excluded.
__device__ inline float ScoreOf(float scaled, const float* bias, uint32_t pair,
                                int32_t query_region, int32_t key_region) {
  constexpr float kExcludedBelow = -1e29f;
  if (query_region == kNobody || key_region == kNobody) return -INFINITY;
  if (bias != nullptr) {
    const float extra = bias[pair];
    if (extra < kExcludedBelow) return -INFINITY;
    scaled += extra;
  }
  return query_region == key_region ? scaled : scaled - 100.0f;
}

// ---- Windows one after the other ----

// What a block works on: a head of the windows of a part that are of a group.
struct PartBlock {
  uint32_t head, group, groups, begin, end;

  __device__ PartBlock(const AttentionShape& s, uint32_t windows, uint32_t parts)
      : head(blockIdx.x % s.heads), group(blockIdx.x / s.heads % s.groups), groups(s.groups) {
    const uint64_t part = blockIdx.x / s.heads / s.groups;
    begin = static_cast<uint32_t>(windows * part / parts);
    end = static_cast<uint32_t>(windows * (part + 1) / parts);
  }
  // The first such window from `window` on; `end` for none.
  __device__ uint32_t From(const WindowMap& map, uint32_t window) const {
    while (window < end && map.NumberInPicture(window) % groups != group) ++window;
    return window;
  }
};

}  // namespace swinfleet::cuda

#endif  // SWINFLEET_KERNELS_CUDA_WINDOW_ATTENTION_H_
