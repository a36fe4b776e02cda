// The operations: one argument struct and one function pointer each. A backend fills a table.
//
// Letters: B pictures, H and W height and width in tokens, C channels, M rows (tokens), N a linear
// layer's outputs or the tokens of a window, K its inputs, T entries of a position bias table.
//
// Throughout: tensors are dense and row-major. Activations, their gradients and parameters share
// the dtype of the call, float32, bfloat16 or float16, which is that of its first tensor. These are
// float32 always: what is marked f32, means, deviations, lse, losses, scales of drop path, and
// gradients of parameters. Sums are made in float32 or wider. Gradients of parameters are *added*
// to what their tensor holds; gradients of activations overwrite unless an argument says otherwise.
// Shapes that do not fit are broken invariants (CHECK). Outputs must not overlap inputs, but where
// said.
#ifndef SWINFLEET_KERNELS_OPS_H_
#define SWINFLEET_KERNELS_OPS_H_

#include <cstdint>
#include <vector>

#include "kernels/arena.h"
#include "kernels/philox.h"
#include "kernels/tensor.h"

namespace swinfleet {

class Accelerator;
class ConstantTables;
struct OpTable;
class PackedWeights;
class Profile;

// Counts of one run on the dry-run device.
struct WorkCount {
  // Multiplications and additions of matrix products (linear layers and attention), each counted.
  double matrix_flops = 0;
  // Bytes read and written, counting each tensor of each operation once.
  double bytes = 0;
  // Calls of operations.
  int64_t calls = 0;
  // Kernels that they start on a GPU, copies not among them; counted by CudaDryRunOps.
  int64_t launches = 0;
  // The tensors counted are added here, unless this is null.
  std::vector<TensorView>* tensors = nullptr;
};

// What an operation needs besides its arguments.
struct Context {
  const OpTable* ops = nullptr;
  // Scratch memory; an operation leaves it as it found it.
  Arena* workspace = nullptr;
  // Threads of the CPU backend.
  int threads = 1;
  // Weights of linear layers that don't change any more, for the CPU backend
  // (kernels/packed_weights.h); null in training.
  PackedWeights* packed_weights = nullptr;
  // Of kCuda, but in a dry run: the GPU's stream (a cudaStream_t), on which operations are put and
  // return.
  void* stream = nullptr;
  // Where tensors are that operations work on, kCpu or kCuda; in a dry run, where they would be.
  Device device = Device::kCpu;
  // Of kCuda, but in a dry run.
  Accelerator* accelerator = nullptr;
  // Of kCuda: linear layers and convolutions of float32 may round their factors to the 10 bits of
  // TF32, which tensor cores multiply.
  bool tf32 = false;
  // Of kCuda: what is kept there of modules' constants (kernels/placement.h).
  ConstantTables* constants = nullptr;
  // Only used on the dry-run device.
  WorkCount* count = nullptr;
  // Where ProfilingOps (kernels/profile.h) and modules record what they do; null outside of a
  // profile.
  Profile* profile = nullptr;
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

// dweight += dy^T x, or dweight = dy^T x; dbias += column sums of dy.
struct LinearBackwardWeightArgs {
  TensorView dy;           // (M, N)
  TensorView x;            // (M, K)
  TensorView dweight;      // (N, K)
  TensorView dbias;        // (N) or absent
  bool accumulate = true;  // of dweight
};

// Windows on a feature map of D x H x W tokens (D = 1: a picture). The map is padded at its far
// ends to whole windows, shifted cyclically by `shift` towards the origin, and cut into windows, as
// the official code does.
struct WindowGeometry {
  int64_t batch = 0;
  int64_t height = 0;
  int64_t width = 0;
  int64_t window_h = 0;
  int64_t window_w = 0;
  int64_t shift_h = 0;
  int64_t shift_w = 0;
  int64_t depth = 1;
  int64_t window_d = 1;
  int64_t shift_d = 0;

  int64_t Tokens() const { return depth * height * width; }
  int64_t WindowTokens() const { return window_d * window_h * window_w; }
  int64_t WindowsD() const { return (depth + window_d - 1) / window_d; }
  int64_t WindowsH() const { return (height + window_h - 1) / window_h; }
  int64_t WindowsW() const { return (width + window_w - 1) / window_w; }
  int64_t WindowsPerPicture() const { return WindowsD() * WindowsH() * WindowsW(); }
  int64_t Windows() const { return batch * WindowsPerPicture(); }
  bool HasPadding() const {
    return depth % window_d != 0 || height % window_h != 0 || width % window_w != 0;
  }
  // The token, in raster order within a picture, that stands at place `token` of window `window`
  // (both in raster order); -1 where there is only padding.
  int64_t TokenAt(int64_t window, int64_t token) const {
    const int64_t d = (PlaceD(window, token) + shift_d) % (WindowsD() * window_d);
    const int64_t h = (PlaceH(window, token) + shift_h) % (WindowsH() * window_h);
    const int64_t w = (PlaceW(window, token) + shift_w) % (WindowsW() * window_w);
    return d < depth && h < height && w < width ? (d * height + h) * width + w : -1;
  }
  // The region of the shifted, padded map that this place lies in: tokens attend within their
  // region; pairs of different regions get -100 (SwinTransformerBlock.attn_mask of the official
  // code, compute_mask of Video Swin).
  int RegionAt(int64_t window, int64_t token) const {
    const int band_d = Band(PlaceD(window, token), WindowsD() * window_d, window_d, shift_d);
    const int band_h = Band(PlaceH(window, token), WindowsH() * window_h, window_h, shift_h);
    const int band_w = Band(PlaceW(window, token), WindowsW() * window_w, window_w, shift_w);
    return 9 * band_d + 3 * band_h + band_w;
  }

 private:
  // Coordinates in the shifted, padded map.
  int64_t PlaceD(int64_t window, int64_t token) const {
    return window / (WindowsH() * WindowsW()) * window_d + token / (window_h * window_w);
  }
  int64_t PlaceH(int64_t window, int64_t token) const {
    return window / WindowsW() % WindowsH() * window_h + token / window_w % window_h;
  }
  int64_t PlaceW(int64_t window, int64_t token) const {
    return window % WindowsW() * window_w + token % window_w;
  }
  static int Band(int64_t at, int64_t size, int64_t window, int64_t shift) {
    if (shift == 0 || at < size - window) return 0;
    return at < size - shift ? 1 : 2;
  }
};

// A run of consecutive windows of a geometry, counted over the batch: sequential attention works on
// one at a time. Tensors then hold these windows' tokens alone, window by window: (windows, N, C).
struct WindowRange {
  int64_t first = 0;
  // 0: all windows, and tensors hold the map, (B, D, H, W, C), without its padding.
  int64_t count = 0;
};

// A score that no exponential survives.
inline constexpr float kExcludedScore = -1e30f;

// Attention within windows: out = softmax(score + bias + mask) v, per head; head h has channels
// [h D, (h + 1) D) of q, k and v. Takes and gives tokens in raster order (but see WindowRange).
//
// With logit_scale the score is Swin V2's scaled cosine, exp(min(logit_scale, log 100)) *
// cos(q, k), where vectors are divided by max(norm, 1e-12). Without, it is q k / sqrt(D).
struct WindowAttentionForwardArgs {
  WindowGeometry geometry;
  int64_t heads = 0;
  TensorView qkv;          // (B, D, H, W, 3 C) or (windows, N, 3 C): q, k, v
  TensorView logit_scale;  // (heads) or absent
  // f32, (heads, N, N); or (G, heads, N, N), where window w of a picture takes number w modulo G;
  // or absent. An entry of kExcludedScore excludes the pair.
  TensorView bias;
  TensorView out;  // (B, D, H, W, C) or (windows, N, C)
  // Logarithm of the sum of the exponentials of each row of scores, kept for backward.
  TensorView lse;  // f32, (B, D, H, W, heads) or (windows, N, heads)
  WindowRange range;
  // Padding is nobody's key. Only with a range can this be false: then the tensors' rows of padding
  // are tokens like others (Video Swin).
  bool exclude_padding = true;
  // Without logit_scale: the factor on q k in place of 1 / sqrt(D); 0 means that.
  float score_scale = 0;
};

struct WindowAttentionBackwardArgs {
  WindowGeometry geometry;
  int64_t heads = 0;
  TensorView qkv;           // as in forward
  TensorView logit_scale;   // (heads) or absent
  TensorView bias;          // as in forward
  TensorView lse;           // as in forward
  TensorView dout;          // as out in forward
  TensorView dqkv;          // as qkv, overwritten; zero for excluded padding; may be qkv itself
  TensorView dlogit_scale;  // f32 (heads), added to; nothing where the scale is clamped
  TensorView dbias;         // f32, as bias, added to; absent with it
  WindowRange range;
  bool exclude_padding = true;
  float score_scale = 0;
};

// The tokens of a range of windows, window by window; zero where there is only padding.
struct WindowGatherArgs {
  WindowGeometry geometry;
  WindowRange range;
  TensorView x;     // (B, D, H, W, C)
  TensorView rows;  // (windows, N, C)
};

// The inverse: writes the rows of tokens back to their places (adds, with `accumulate`); rows of
// padding are dropped.
struct WindowScatterArgs {
  WindowGeometry geometry;
  WindowRange range;
  TensorView rows;  // (windows, N, C)
  TensorView x;     // (B, D, H, W, C)
  bool accumulate = false;
};

// The log-spaced continuous position bias of Swin V2: a two-layer MLP over relative coordinates,
// table = 16 sigmoid(w2 relu(w1 coords + b1)).
struct PositionTableForwardArgs {
  TensorView coords;  // f32 (T, 2)
  TensorView w1;      // (hidden, 2)
  TensorView b1;      // (hidden)
  TensorView w2;      // (heads, hidden)
  TensorView table;   // f32 (T, heads)
};

struct PositionTableBackwardArgs {
  TensorView coords;  // f32 (T, 2)
  TensorView w1;      // (hidden, 2)
  TensorView b1;      // (hidden)
  TensorView w2;      // (heads, hidden)
  TensorView dtable;  // f32 (T, heads)
  TensorView dw1;     // f32 (hidden, 2), added to
  TensorView db1;     // f32 (hidden), added to
  TensorView dw2;     // f32 (heads, hidden), added to
};

// bias[g, h, i, j] = table[index[g, i, j], h] + mask[g, i, j]; kExcludedScore where the index is
// negative. With G = 1, the position bias of windows that are all alike.
struct BiasGatherArgs {
  TensorView table;  // (T, heads), of any floating dtype
  TensorView index;  // i32 (G, N, N)
  TensorView mask;   // f32 (G, N, N) or absent
  TensorView bias;   // f32 (G, heads, N, N)
};

struct BiasScatterArgs {
  TensorView dbias;   // f32 (G, heads, N, N)
  TensorView index;   // i32 (G, N, N)
  TensorView dtable;  // f32 (T, heads), added to
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

// The gradient through the normalisation alone; a residual's gradient is dy itself.
struct LayerNormBackwardArgs {
  TensorView x;       // (M, C)
  TensorView gamma;   // (C)
  TensorView mean;    // (M)
  TensorView rstd;    // (M)
  TensorView scale;   // (B) or absent
  TensorView dy;      // (M, C)
  TensorView dx;      // (M, C); may be dy itself, or x
  TensorView dgamma;  // (C), added to
  TensorView dbeta;   // (C), added to
  // dx += instead (pre-normalisation: dx holds the residual's gradient).
  bool accumulate = false;
};

// y = x + scale[b] * branch, with M / B rows a picture.
struct ResidualAddArgs {
  TensorView x;       // (M, C)
  TensorView branch;  // (M, C)
  TensorView scale;   // f32 (B) or absent
  TensorView y;       // (M, C); may be x or branch
};

// y = scale[b] * x: the gradient of a branch under drop path.
struct ScaleRowsArgs {
  TensorView x;      // (M, C)
  TensorView scale;  // f32 (B)
  TensorView y;      // (M, C); may be x
};

// y = x Phi(x), exact (erf).
struct GeluForwardArgs {
  TensorView x;  // (M, C)
  TensorView y;  // (M, C)
};

// dx = dy gelu'(x), and y = gelu(x) again, which the next weight gradient needs; dbias += column
// sums of dx: the gradient of the bias that is part of x.
struct GeluBackwardArgs {
  TensorView x;      // (M, C)
  TensorView dy;     // (M, C)
  TensorView dx;     // (M, C); may be dy itself
  TensorView y;      // (M, C) or absent; may be x itself
  TensorView dbias;  // (C) or absent
};

// Rows [first_row, first_row + rows) of the patches of a picture or clip, in raster order, each as
// (channel, frame, row, column): a convolution whose stride is its kernel is this and a linear
// layer. Patches at the far ends that the picture does not fill are filled with zeros.
struct PatchGatherArgs {
  TensorView image;  // f32, or the dtype of rows: (B, channels, H, W) or (B, channels, T, H, W)
  int64_t patch_h = 0;
  int64_t patch_w = 0;
  int64_t first_row = 0;
  TensorView rows;  // (rows, channels * patch_t * patch_h * patch_w)
  int64_t patch_t = 1;
};

// The inverse: writes rows back to their place in the picture.
struct PatchScatterArgs {
  TensorView rows;  // (rows, channels * patch_t * patch_h * patch_w)
  int64_t patch_h = 0;
  int64_t patch_w = 0;
  int64_t first_row = 0;
  TensorView image;  // f32, or the dtype of rows: as in PatchGatherArgs
  int64_t patch_t = 1;
};

// Patches to tokens, a convolution whose stride is its kernel (PatchEmbed of the official code,
// PatchEmbed3D of Video Swin): y = patches weight^T + bias, of patches as patch_gather makes them,
// rounded to y's dtype, which is that of the call. Their size is the weight's.
struct PatchEmbeddingForwardArgs {
  TensorView image;   // f32 (B, channels, H, W) or (B, channels, T, H, W)
  TensorView weight;  // (C, channels, patch_h, patch_w) or (C, channels, patch_t, patch_h, patch_w)
  TensorView bias;    // (C), also f32
  TensorView y;       // (M, C), M = B ceil(T / patch_t) ceil(H / patch_h) ceil(W / patch_w)
};

// dweight += dy^T patches, dbias += column sums of dy, and dimage = dy weight, each patch in its
// place in the picture.
struct PatchEmbeddingBackwardArgs {
  TensorView image;    // as in PatchEmbeddingForwardArgs
  TensorView weight;   // likewise; read if there is dimage
  TensorView dy;       // (M, C)
  TensorView dweight;  // as weight
  TensorView dbias;    // (C)
  TensorView dimage;   // f32, as image; or absent
};

// Patch merging's neighbours: row (b, i, j) is x at (2i, 2j), (2i+1, 2j), (2i, 2j+1), (2i+1, 2j+1),
// zero outside of the map. Rows [first_row, first_row + rows) of the B ceil(H/2) ceil(W/2). Frames
// of clips are pictures here.
struct MergeGatherArgs {
  TensorView x;  // (B, H, W, C)
  int64_t first_row = 0;
  TensorView rows;  // (rows, 4 C)
};

struct MergeScatterArgs {
  TensorView rows;  // (rows, 4 C)
  int64_t first_row = 0;
  TensorView x;  // (B, H, W, C)
};

// y = x at the origin's corner; zeros where y is larger, nothing where it is smaller: padding of a
// map at its far ends, and its inverse.
struct PadArgs {
  TensorView x;  // (B, D, H, W, C)
  TensorView y;  // (B, D', H', W', C)
};

// y[b, i] = x[b, index[b, i]]; zeros where the index is negative.
struct TokenGatherArgs {
  TensorView x;      // (B, L, C)
  TensorView index;  // i32 (B, n), or (1, n) for all pictures alike
  TensorView y;      // (B, n, C)
};

// x[b, index[b, i]] = y[b, i], or += with `accumulate`; negative indices are skipped. No index
// stands twice in a row.
struct TokenScatterArgs {
  TensorView y;      // (B, n, C)
  TensorView index;  // i32 (B, n) or (1, n)
  TensorView x;      // (B, L, C)
  bool accumulate = false;
};

// y = x, rounded to y's dtype.
struct CastArgs {
  TensorView x;  // (n)
  TensorView y;  // (n)
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

// x[b, l] = token where mask[b, l] is not 0 (SimMIM's mask token).
struct MaskTokensForwardArgs {
  TensorView mask;   // i32 (B, L), or (1, L) for all pictures alike
  TensorView token;  // (C)
  TensorView x;      // (B, L, C), changed in place
};

// dtoken += the sum of dx over masked tokens, which become zero.
struct MaskTokensBackwardArgs {
  TensorView mask;    // as in forward
  TensorView dx;      // (B, L, C), changed in place
  TensorView dtoken;  // f32 (C), added to
};

// SimMIM's loss: loss[b] = scale * sum of |prediction - target| over the pixels and channels of
// masked units, and dprediction = grad_scale * scale * its sign there, 0 elsewhere. `scale` is
// 1 / ((masked pixels of the micro-batch + 1e-5) * channels).
struct MaskedL1Args {
  TensorView prediction;  // (B, channels, H, W)
  TensorView target;      // f32 (B, channels, H, W)
  TensorView mask;        // i32 (B, H / unit * W / unit), 1 = masked
  int64_t unit = 1;       // side of a unit in pixels
  float scale = 1;
  TensorView loss;         // f32 (B)
  TensorView dprediction;  // (B, channels, H, W) or absent
  float grad_scale = 1;
};

// MAE's loss: loss[b] = scale * sum over masked patches of the mean of (prediction - target)^2, and
// dprediction = grad_scale * its derivative, 0 elsewhere. `scale` is 1 / masked patches.
struct MaskedMseArgs {
  TensorView prediction;  // (B, L, P)
  TensorView target;      // f32 (B, L, P)
  TensorView mask;        // i32 (B, L) or (1, L), 1 = masked
  float scale = 1;
  TensorView loss;         // f32 (B)
  TensorView dprediction;  // (B, L, P) or absent
  float grad_scale = 1;
};

// SimMIM's normalised targets (norm_targets of the official code): y = (x - mean) / sqrt(var +
// 1e-6), with the mean and the unbiased variance of each channel over the `window` x `window`
// neighbourhood that lies within the picture.
struct NormTargetsArgs {
  TensorView x;  // f32 (B, channels, H, W)
  int64_t window = 47;
  TensorView y;  // f32 (B, channels, H, W)
};

// MAE's targets (patchify of the official code): y[b, l] holds patch l as (row, column, channel);
// with `normalise`, less its mean and divided by sqrt(unbiased variance + 1e-6).
struct PatchTargetsArgs {
  TensorView image;  // f32 (B, channels, H, W)
  int64_t patch = 16;
  bool normalise = false;
  TensorView y;  // f32 (B, L, patch * patch * channels)
};

// Mixup (Zhang et al. 2018) and cutmix (Yun et al. 2019) as timm.data.Mixup does them, in place:
// picture i of B is mixed with picture B - 1 - i, both as they were; the middle one of an odd
// number stays. In its box a picture has its partner's pixels, elsewhere weight[0] * its own +
// weight[1] * its partner's, or its own where weight[1] is 0.
struct MixPicturesArgs {
  TensorView image;   // f32 (B, planes, H, W), channels times frames of planes
  TensorView weight;  // f32 (B, 2)
  TensorView box;     // i32 (B, 4): the first row and the one past the last, then columns
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
  TensorView x;  // (n)
  // (ceil(n / 4096)), host memory, whatever the device: of a GPU there after its next Wait.
  double* sums = nullptr;
};

// How the moments of an update are rounded to bfloat16: to one of the two neighbours, drawn so that
// the expectation is the number itself. Rounded to the nearest, a moment would stay where it is
// when it should change by less than half of its last place, as a second moment does with beta2 =
// 0.999. Number first + i of the stream is for element i: its lower 16 bits for the first moment,
// its upper 16 bits for the second. A number x goes up with the probability (x - lower neighbour) /
// (distance of the neighbours), to within 2^-16; infinities and NaN stay what they are.
struct StochasticRounding {
  RandomStream stream;
  // At least 0, and below 2^34 with all elements.
  int64_t first = 0;
};

// Weights in 16 bits have a float32 master. Of bfloat16 it is kept as the 16 bits that rounding
// takes away: bf16 = (bits + 0x8000) >> 16 and remainder = bits & 0xffff, from which bits =
// (bf16 << 16 | remainder) - (remainder >= 0x8000 ? 0x10000 : 0). Of float16 it is kept whole.
//
// One step of AdamW as PyTorch defines it (torch.optim.AdamW), on gradients times grad_scale.
struct AdamWArgs {
  TensorView param;  // (n), float32, bfloat16 or float16
  TensorView grad;   // (n), f32 or bf16
  TensorView m;      // (n), f32 or bf16
  TensorView v;      // (n), as m
  double learning_rate = 0;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0;
  // 1 for the first step.
  int64_t step = 1;
  float grad_scale = 1;
  // (n): with a bfloat16 param the remainder, u16; with a float16 one the master, f32; else absent.
  TensorView master;
  // Of moments in bfloat16.
  StochasticRounding rounding = {};
};

// One step of SGD with Nesterov momentum (torch.optim.SGD, no dampening), weight decay added to the
// gradient. The momentum starts as zero.
struct SgdArgs {
  TensorView param;     // (n), float32, bfloat16 or float16
  TensorView grad;      // (n), f32 or bf16
  TensorView momentum;  // (n), f32 or bf16
  double learning_rate = 0;
  double momentum_factor = 0.9;
  double weight_decay = 0;
  float grad_scale = 1;
  // As in AdamWArgs.
  TensorView master;
  StochasticRounding rounding = {};
};

// sum += x in bfloat16, where `error` carries what rounding left of earlier additions (Kahan).
struct AddCompensatedArgs {
  TensorView x;      // (n), f32 or bf16
  TensorView sum;    // (n), bf16
  TensorView error;  // (n), bf16
};

// The backend's functions.
struct OpTable {
  void (*linear_forward)(const LinearForwardArgs&, Context&);
  void (*linear_backward_input)(const LinearBackwardInputArgs&, Context&);
  void (*linear_backward_weight)(const LinearBackwardWeightArgs&, Context&);
  void (*window_attention_forward)(const WindowAttentionForwardArgs&, Context&);
  void (*window_attention_backward)(const WindowAttentionBackwardArgs&, Context&);
  void (*window_gather)(const WindowGatherArgs&, Context&);
  void (*window_scatter)(const WindowScatterArgs&, Context&);
  void (*position_table_forward)(const PositionTableForwardArgs&, Context&);
  void (*position_table_backward)(const PositionTableBackwardArgs&, Context&);
  void (*bias_gather)(const BiasGatherArgs&, Context&);
  void (*bias_scatter)(const BiasScatterArgs&, Context&);
  void (*layer_norm_forward)(const LayerNormForwardArgs&, Context&);
  void (*layer_norm_backward)(const LayerNormBackwardArgs&, Context&);
  void (*residual_add)(const ResidualAddArgs&, Context&);
  void (*scale_rows)(const ScaleRowsArgs&, Context&);
  void (*gelu_forward)(const GeluForwardArgs&, Context&);
  void (*gelu_backward)(const GeluBackwardArgs&, Context&);
  void (*patch_gather)(const PatchGatherArgs&, Context&);
  void (*patch_scatter)(const PatchScatterArgs&, Context&);
  void (*patch_embedding_forward)(const PatchEmbeddingForwardArgs&, Context&);
  void (*patch_embedding_backward)(const PatchEmbeddingBackwardArgs&, Context&);
  void (*merge_gather)(const MergeGatherArgs&, Context&);
  void (*merge_scatter)(const MergeScatterArgs&, Context&);
  void (*pad)(const PadArgs&, Context&);
  void (*token_gather)(const TokenGatherArgs&, Context&);
  void (*token_scatter)(const TokenScatterArgs&, Context&);
  void (*cast)(const CastArgs&, Context&);
  void (*mean_pool_forward)(const MeanPoolForwardArgs&, Context&);
  void (*mean_pool_backward)(const MeanPoolBackwardArgs&, Context&);
  void (*cross_entropy)(const CrossEntropyArgs&, Context&);
  void (*mask_tokens_forward)(const MaskTokensForwardArgs&, Context&);
  void (*mask_tokens_backward)(const MaskTokensBackwardArgs&, Context&);
  void (*masked_l1)(const MaskedL1Args&, Context&);
  void (*masked_mse)(const MaskedMseArgs&, Context&);
  void (*norm_targets)(const NormTargetsArgs&, Context&);
  void (*patch_targets)(const PatchTargetsArgs&, Context&);
  void (*mix_pictures)(const MixPicturesArgs&, Context&);
  void (*add)(const AddArgs&, Context&);
  void (*add_broadcast)(const AddBroadcastArgs&, Context&);
  void (*sum_broadcast)(const SumBroadcastArgs&, Context&);
  void (*fill)(const FillArgs&, Context&);
  void (*sum_of_squares)(const SumOfSquaresArgs&, Context&);
  void (*adamw)(const AdamWArgs&, Context&);
  void (*sgd)(const SgdArgs&, Context&);
  void (*add_compensated)(const AddCompensatedArgs&, Context&);
};

// oneDNN and Highway kernels on host memory. Sets the number of OpenMP threads lazily to the
// context's.
const OpTable& CpuOps();
// Runs nothing; adds to Context::count and takes the CPU backend's scratch from the workspace.
const OpTable& DryRunOps();
// The same for the CUDA backend: takes its scratch. Operations that it does not have are null
// (docs/cuda.md).
const OpTable& CudaDryRunOps();

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

// Whether the processor has instructions of its own for products of this floating dtype and the CPU
// backend's library uses them: of bfloat16 AVX512_BF16 or AMX, of float16 AVX512_FP16. Without them
// results are the same but for the order of sums; linear layers convert to float32 and are slower
// than in float32.
bool CpuHasNative(DType dtype);

// Products that the CPU backend has prepared in this process so far, one for each shape and thread.
// Each takes memory of its own; a step with the shapes of an earlier one prepares none.
int64_t CpuProductsMade();

}  // namespace swinfleet

#endif  // SWINFLEET_KERNELS_OPS_H_
