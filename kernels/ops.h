// The operations: one argument struct and one function pointer each. A backend fills a table.
//
// Letters: B pictures, H and W height and width in tokens, C channels, M rows (tokens), N a linear
// layer's outputs or the tokens of a window, K its inputs, T entries of a position bias table.
//
// Throughout: tensors are dense, row-major, float32. Gradients of parameters are *added* to what
// their tensor holds; gradients of activations overwrite unless an argument says otherwise. Shapes
// that do not fit are broken invariants (CHECK). Outputs must not overlap inputs, but where said.
#ifndef SWINFLEET_KERNELS_OPS_H_
#define SWINFLEET_KERNELS_OPS_H_

#include <cstdint>

#include "kernels/arena.h"
#include "kernels/tensor.h"

namespace swinfleet {

struct OpTable;

// Counts of one run on the dry-run device.
struct WorkCount {
  // Multiplications and additions of matrix products (linear layers and attention), each counted.
  double matrix_flops = 0;
  // Bytes read and written, counting each tensor of each operation once.
  double bytes = 0;
  // Calls of operations.
  int64_t calls = 0;
};

// What an operation needs besides its arguments.
struct Context {
  const OpTable* ops = nullptr;
  // Scratch memory; an operation leaves it as it found it.
  Arena* workspace = nullptr;
  // Threads of the CPU backend.
  int threads = 1;
  // Only used on the dry-run device.
  WorkCount* count = nullptr;
};

// y = x weight^T + bias.
struct LinearForwardArgs {
  TensorView x;       // (M, K)
  TensorView weight;  // (N, K)
  TensorView bias;    // (N) or absent
  TensorView y;       // (M, N)
};

// dx = dy weight, or dx += dy weight.
struct LinearBackwardInputArgs {
  TensorView dy;      // (M, N)
  TensorView weight;  // (N, K)
  TensorView dx;      // (M, K)
  bool accumulate = false;
};

// dweight += dy^T x; dbias += column sums of dy.
struct LinearBackwardWeightArgs {
  TensorView dy;       // (M, N)
  TensorView x;        // (M, K)
  TensorView dweight;  // (N, K)
  TensorView dbias;    // (N) or absent
};

// Windows on a feature map. The map is shifted cyclically by `shift` up and left before it is cut
// into windows, as the official code does; H and W are multiples of the window.
struct WindowGeometry {
  int64_t batch = 0;
  int64_t height = 0;
  int64_t width = 0;
  int64_t window_h = 0;
  int64_t window_w = 0;
  int64_t shift_h = 0;
  int64_t shift_w = 0;

  int64_t WindowTokens() const { return window_h * window_w; }
  int64_t WindowsPerPicture() const { return (height / window_h) * (width / window_w); }
  // The token, in image order within a picture, that stands at place `token` of window `window`.
  int64_t TokenAt(int64_t window, int64_t token) const {
    const int64_t columns = width / window_w;
    const int64_t row = (window / columns) * window_h + token / window_w;
    const int64_t column = (window % columns) * window_w + token % window_w;
    return ((row + shift_h) % height) * width + (column + shift_w) % width;
  }
  // The region of the shifted map that this place lies in: tokens attend within their region; pairs
  // of different regions get -100 (SwinTransformerBlock.attn_mask of the official code).
  int RegionAt(int64_t window, int64_t token) const {
    const int64_t columns = width / window_w;
    const int64_t row = (window / columns) * window_h + token / window_w;
    const int64_t column = (window % columns) * window_w + token % window_w;
    return 3 * Band(row, height, window_h, shift_h) + Band(column, width, window_w, shift_w);
  }

 private:
  static int Band(int64_t at, int64_t size, int64_t window, int64_t shift) {
    if (shift == 0 || at < size - window) return 0;
    return at < size - shift ? 1 : 2;
  }
};

// Scaled cosine attention within windows (Swin V2): out = softmax(exp(min(logit_scale, log 100)) *
// cos(q, k) + bias + mask) v, per head, where vectors are divided by max(norm, 1e-12).
// Takes and gives tokens in image order; head h has channels [h D, (h + 1) D) of q, k and v.
struct WindowAttentionForwardArgs {
  WindowGeometry geometry;
  int64_t heads = 0;
  TensorView qkv;          // (B, H, W, 3 C): q, k, v
  TensorView logit_scale;  // (heads)
  TensorView bias;         // (heads, N, N)
  TensorView out;          // (B, H, W, C)
  // Logarithm of the sum of the exponentials of each row of scores, kept for backward.
  TensorView lse;  // (B, H, W, heads)
};

struct WindowAttentionBackwardArgs {
  WindowGeometry geometry;
  int64_t heads = 0;
  TensorView qkv;           // (B, H, W, 3 C)
  TensorView logit_scale;   // (heads)
  TensorView bias;          // (heads, N, N)
  TensorView lse;           // (B, H, W, heads)
  TensorView dout;          // (B, H, W, C)
  TensorView dqkv;          // (B, H, W, 3 C), overwritten
  TensorView dlogit_scale;  // (heads), added to; nothing where the scale is clamped
  TensorView dbias;         // (heads, N, N), added to
};

// The log-spaced continuous position bias of Swin V2: a two-layer MLP over relative coordinates,
// 16 sigmoid(w2 relu(w1 coords + b1)), spread to pairs of tokens by their relative position.
struct PositionBiasForwardArgs {
  int64_t window_h = 0;
  int64_t window_w = 0;
  TensorView coords;  // (T, 2), T = (2 window_h - 1) (2 window_w - 1)
  TensorView w1;      // (hidden, 2)
  TensorView b1;      // (hidden)
  TensorView w2;      // (heads, hidden)
  TensorView bias;    // (heads, N, N)
};

struct PositionBiasBackwardArgs {
  int64_t window_h = 0;
  int64_t window_w = 0;
  TensorView coords;  // (T, 2)
  TensorView w1;      // (hidden, 2)
  TensorView b1;      // (hidden)
  TensorView w2;      // (heads, hidden)
  TensorView dbias;   // (heads, N, N)
  TensorView dw1;     // (hidden, 2), added to
  TensorView db1;     // (hidden), added to
  TensorView dw2;     // (heads, hidden), added to
};

// y = residual + scale[b] * (gamma * (x - mean) * rstd + beta); without residual and scale a plain
// LayerNorm. y may be the residual or x itself. Statistics are over C, the variance is the biased
// one.
struct LayerNormForwardArgs {
  TensorView x;         // (M, C)
  TensorView gamma;     // (C)
  TensorView beta;      // (C)
  TensorView residual;  // (M, C) or absent
  // Drop path: one factor a picture, M / B rows each.
  TensorView scale;  // (B) or absent
  TensorView y;      // (M, C)
  TensorView mean;   // (M)
  TensorView rstd;   // (M)
  float eps = 1e-5f;
};

// The gradient through the normalisation alone; the residual's gradient is dy itself.
struct LayerNormBackwardArgs {
  TensorView x;       // (M, C)
  TensorView gamma;   // (C)
  TensorView mean;    // (M)
  TensorView rstd;    // (M)
  TensorView scale;   // (B) or absent
  TensorView dy;      // (M, C)
  TensorView dx;      // (M, C); may be dy itself
  TensorView dgamma;  // (C), added to
  TensorView dbeta;   // (C), added to
};

// y = x Phi(x), exact (erf).
struct GeluForwardArgs {
  TensorView x;  // (M, C)
  TensorView y;  // (M, C)
};

// dx = dy gelu'(x), and y = gelu(x) again, which the next weight gradient needs.
struct GeluBackwardArgs {
  TensorView x;   // (M, C)
  TensorView dy;  // (M, C)
  TensorView dx;  // (M, C); may be dy itself
  TensorView y;   // (M, C) or absent
};

// Rows [first_row, first_row + rows) of the patches of a picture, in raster order, each as
// (channel, row, column): a convolution whose stride is its kernel is this and a linear layer.
struct PatchGatherArgs {
  TensorView image;  // (B, channels, H, W) in pixels
  int64_t patch_h = 0;
  int64_t patch_w = 0;
  int64_t first_row = 0;
  TensorView rows;  // (rows, channels * patch_h * patch_w)
};

// The inverse: writes rows back to their place in the picture.
struct PatchScatterArgs {
  TensorView rows;  // (rows, channels * patch_h * patch_w)
  int64_t patch_h = 0;
  int64_t patch_w = 0;
  int64_t first_row = 0;
  TensorView image;  // (B, channels, H, W)
};

// Patch merging's neighbours: row (b, i, j) is x at (2i, 2j), (2i+1, 2j), (2i, 2j+1), (2i+1, 2j+1).
// Rows [first_row, first_row + rows) of the B (H/2) (W/2).
struct MergeGatherArgs {
  TensorView x;  // (B, H, W, C), H and W even
  int64_t first_row = 0;
  TensorView rows;  // (rows, 4 C)
};

struct MergeScatterArgs {
  TensorView rows;  // (rows, 4 C)
  int64_t first_row = 0;
  TensorView x;  // (B, H, W, C)
};

// y = mean of x over the tokens of a picture.
struct MeanPoolForwardArgs {
  TensorView x;  // (B, L, C)
  TensorView y;  // (B, C)
};

struct MeanPoolBackwardArgs {
  TensorView dy;  // (B, C)
  TensorView dx;  // (B, L, C)
};

// loss[b] = -sum_k target[b, k] log softmax(logits[b])[k], and
// dlogits[b] = grad_scale * (sum_k target[b, k] * softmax(logits[b]) - target[b]).
struct CrossEntropyArgs {
  TensorView logits;   // (B, classes)
  TensorView target;   // (B, classes)
  TensorView loss;     // (B)
  TensorView dlogits;  // (B, classes) or absent
  float grad_scale = 1;
};

// y += x.
struct AddArgs {
  TensorView x;  // (n)
  TensorView y;  // (n)
};

// y[b] += x for every picture b (absolute position embedding).
struct AddBroadcastArgs {
  TensorView x;  // (n)
  TensorView y;  // (B, n)
};

// dx += sum of dy over pictures.
struct SumBroadcastArgs {
  TensorView dy;  // (B, n)
  TensorView dx;  // (n), added to
};

struct FillArgs {
  TensorView x;
  float value = 0;
};

// sums[i] = sum of the squares, in float64, of elements [4096 i, 4096 (i + 1)): the fixed chunks
// of the global gradient norm.
inline constexpr int64_t kNormChunk = 4096;
struct SumOfSquaresArgs {
  TensorView x;            // (n)
  double* sums = nullptr;  // (ceil(n / 4096)), host memory
};

// One step of AdamW as PyTorch defines it (torch.optim.AdamW), on gradients times grad_scale.
struct AdamWArgs {
  TensorView param;  // (n)
  TensorView grad;   // (n)
  TensorView m;      // (n)
  TensorView v;      // (n)
  double learning_rate = 0;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0;
  // 1 for the first step.
  int64_t step = 1;
  float grad_scale = 1;
};

// One step of SGD with Nesterov momentum (torch.optim.SGD, no dampening), weight decay added to the
// gradient. The momentum starts as zero.
struct SgdArgs {
  TensorView param;     // (n)
  TensorView grad;      // (n)
  TensorView momentum;  // (n)
  double learning_rate = 0;
  double momentum_factor = 0.9;
  double weight_decay = 0;
  float grad_scale = 1;
};

// The backend's functions.
struct OpTable {
  void (*linear_forward)(const LinearForwardArgs&, Context&);
  void (*linear_backward_input)(const LinearBackwardInputArgs&, Context&);
  void (*linear_backward_weight)(const LinearBackwardWeightArgs&, Context&);
  void (*window_attention_forward)(const WindowAttentionForwardArgs&, Context&);
  void (*window_attention_backward)(const WindowAttentionBackwardArgs&, Context&);
  void (*position_bias_forward)(const PositionBiasForwardArgs&, Context&);
  void (*position_bias_backward)(const PositionBiasBackwardArgs&, Context&);
  void (*layer_norm_forward)(const LayerNormForwardArgs&, Context&);
  void (*layer_norm_backward)(const LayerNormBackwardArgs&, Context&);
  void (*gelu_forward)(const GeluForwardArgs&, Context&);
  void (*gelu_backward)(const GeluBackwardArgs&, Context&);
  void (*patch_gather)(const PatchGatherArgs&, Context&);
  void (*patch_scatter)(const PatchScatterArgs&, Context&);
  void (*merge_gather)(const MergeGatherArgs&, Context&);
  void (*merge_scatter)(const MergeScatterArgs&, Context&);
  void (*mean_pool_forward)(const MeanPoolForwardArgs&, Context&);
  void (*mean_pool_backward)(const MeanPoolBackwardArgs&, Context&);
  void (*cross_entropy)(const CrossEntropyArgs&, Context&);
  void (*add)(const AddArgs&, Context&);
  void (*add_broadcast)(const AddBroadcastArgs&, Context&);
  void (*sum_broadcast)(const SumBroadcastArgs&, Context&);
  void (*fill)(const FillArgs&, Context&);
  void (*sum_of_squares)(const SumOfSquaresArgs&, Context&);
  void (*adamw)(const AdamWArgs&, Context&);
  void (*sgd)(const SgdArgs&, Context&);
};

// oneDNN and Highway kernels on host memory. Sets the number of OpenMP threads lazily to the
// context's.
const OpTable& CpuOps();
// Runs nothing; adds to Context::count and takes the CPU backend's scratch from the workspace.
const OpTable& DryRunOps();

// Relative coordinates of the position bias: (offset / (n - 1)) * 8 per direction, with n the
// pretraining window if that is not 0, else the window; then sign(c) log2(1 + |c|) / 3. Computed in
// float32 like the official table. Fills `coords` ((2 window_h - 1) (2 window_w - 1), 2).
void LogSpacedCoordinates(int64_t window_h, int64_t window_w, int64_t pretrained_h,
                          int64_t pretrained_w, float* coords);

// Entry of the position bias table for tokens i and j of a window (WindowAttention.
// relative_position_index of the official code).
inline int64_t RelativePositionIndex(int64_t window_h, int64_t window_w, int64_t i, int64_t j) {
  const int64_t dy = i / window_w - j / window_w + window_h - 1;
  const int64_t dx = i % window_w - j % window_w + window_w - 1;
  return dy * (2 * window_w - 1) + dx;
}

// The instruction set that the Highway kernels run with ("AVX3_ZEN4", "AVX2", ...): part of what a
// reproducible run must keep.
const char* CpuInstructionSet();

}  // namespace swinfleet

#endif  // SWINFLEET_KERNELS_OPS_H_
