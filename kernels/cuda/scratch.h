// The scratch memory of the CUDA backend's operations, taken by the operation and by its dry run,
// as kernels/cpu/scratch.h says of the CPU's. Needs no CUDA.
#ifndef SWINFLEET_KERNELS_CUDA_SCRATCH_H_
#define SWINFLEET_KERNELS_CUDA_SCRATCH_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "kernels/ops.h"

namespace swinfleet::cuda {

// Whether cuBLASLt can take the bias as it is: of the result's dtype, and aligned for it. Otherwise
// it is brought into that form first.
inline bool TakesBias(const LinearForwardArgs& args) {
  constexpr uintptr_t kBiasAlignment = 16;
  return args.bias.dtype == args.y.dtype &&
         reinterpret_cast<uintptr_t>(args.bias.data) % kBiasAlignment == 0;
}

struct LinearScratch {
  // Of cuBLASLt, aligned for it.
  void* workspace = nullptr;
  size_t workspace_bytes = 0;
  // (N): the bias where TakesBias is not so, or what its gradient adds, float32.
  void* vector = nullptr;
};
LinearScratch TakeScratch(const LinearForwardArgs& args, Context& context);
LinearScratch TakeScratch(const LinearBackwardInputArgs& args, Context& context);
LinearScratch TakeScratch(const LinearBackwardWeightArgs& args, Context& context);

// How the rows of a backward layer normalisation are spread over blocks. The same on every device:
// the order of the sums follows from it.
struct LayerNormParts {
  int warps = 1;        // of a block; each has sums of its own in shared memory
  int64_t parts = 1;    // blocks
  int64_t columns = 0;  // C rounded up to what a warp moves at once
  size_t SharedBytes() const { return warps * 2 * columns * sizeof(float); }
};
LayerNormParts PartsOf(const LayerNormBackwardArgs& args);
// Each block's sums for gamma and beta: (parts, 2, C).
float* TakeScratch(const LayerNormBackwardArgs& args, Context& context);

// Parts that rows are cut into whose sum a thread for each column would make too slowly.
int64_t RowParts(int64_t rows);
// Each part's sums for the mask token: (RowParts, C).
float* TakeScratch(const MaskTokensBackwardArgs& args, Context& context);

// Blocks that share the rows of a gradient of GELU's bias.
int64_t GeluParts(int64_t rows);
// Each block's sums for the bias: (parts, C); null without.
float* TakeScratch(const GeluBackwardArgs& args, Context& context);

// The gradients of what the sigmoid is of: (heads, T).
float* TakeScratch(const PositionTableBackwardArgs& args, Context& context);

// Parts that the rows of pairs are cut into, each with sums of its own: (parts, T, heads).
int64_t BiasParts(const BiasScatterArgs& args);
float* TakeScratch(const BiasScatterArgs& args, Context& context);

// Tokens of a window that attention takes at once, and how many times. In float32 a lane has one.
// Tensor cores take 16 at a time, up to four times: tiles are as few as that allows, and alike.
inline constexpr int kPlainTile = 32;
inline constexpr int kMaxMmaTile = 64;
int64_t AttentionTile(const WindowGeometry& geometry, DType dtype);
int64_t AttentionTiles(const WindowGeometry& geometry, DType dtype);
// Why attention in windows of so many tokens can't be started on any GPU; empty when it can.
// `biases`: how many windows have a bias of their own for each pair of tokens; 1 if all share them,
// 0 without.
std::string WhyNotAttention(int64_t tokens, int64_t heads, int64_t biases, DType dtype);
// Whether one kernel does all of backward: in 16 bits, where a window is one tile.
bool AttentionIsOneKernel(const WindowGeometry& geometry, DType dtype);
// How many groups of windows have biases of their own; 1 without.
int64_t AttentionGroups(const TensorView& bias);
struct AttentionScratch {
  // Parts of the windows that kernels go through one after the other, to sum over them.
  int64_t parts = 1;
  float* dbias = nullptr;    // (parts, biases), or null without bias
  double* dscale = nullptr;  // (scale_sums, heads, tiles), or null without logit_scale
  int64_t scale_sums = 0;
  // Null where one kernel does all.
  float* delta = nullptr;  // as lse
  // The gradients of queries, of qkv's dtype, (rows, C): dqkv may take the place of qkv, and all
  // keys of a window need its queries.
  void* dq = nullptr;
};
AttentionScratch TakeScratch(const WindowAttentionBackwardArgs& args, Context& context);

// How a patch embedding goes through a batch: as many pictures at a time as these bytes hold, with
// their tokens. A GPU's cache holds them; tests make do with fewer. The same on every device, for
// the order of sums follows from it.
inline int64_t picture_bytes = int64_t{32} << 20;
int64_t PicturesAtOnce(const PatchEmbeddingForwardArgs& args);
int64_t PicturesAtOnce(const PatchEmbeddingBackwardArgs& args);
// What a convolution reads and writes, aligned for cuDNN; layouts are (B, [T,] H, W, channels).
struct PatchEmbeddingScratch {
  // Pictures filled up to whole patches, and all filters: of the call's dtype in forward, else
  // float32. Filters are absent where nothing needs them.
  void* pictures = nullptr;
  void* filters = nullptr;
  // Of the pictures: the result without the bias, of the call's dtype, or its gradient in float32.
  void* tokens = nullptr;
  // Of backward, float32. The gradient of pictures is absent where it is not asked for.
  float* dfilters = nullptr;
  float* dpictures = nullptr;
  float* bias_parts = nullptr;  // (RowParts, C)
  void* workspace = nullptr;
  size_t workspace_bytes = 0;
};
PatchEmbeddingScratch TakeScratch(const PatchEmbeddingForwardArgs& args, Context& context);
PatchEmbeddingScratch TakeScratch(const PatchEmbeddingBackwardArgs& args, Context& context);

// The sums before they go to the host: (ceil(n / 4096)).
double* TakeScratch(const SumOfSquaresArgs& args, Context& context);

}  // namespace swinfleet::cuda

#endif  // SWINFLEET_KERNELS_CUDA_SCRATCH_H_
