// The truth that backends are compared with: every operation of kernels/ops.h in double precision,
// in plain loops, written from the definitions and the official code, not from any backend.
//
// Tensors are flat vectors, row-major, with their shapes beside them; an empty vector is an absent
// tensor. Gradients are returned, never added to anything. Letters are those of kernels/ops.h: B
// pictures, H and W tokens, C channels, M rows, N outputs or tokens of a window, K inputs, T table
// entries, D channels of a head.
#ifndef SWINFLEET_TESTS_REFERENCE_REFERENCE_H_
#define SWINFLEET_TESTS_REFERENCE_REFERENCE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace swinfleet::reference {

using Vec = std::vector<double>;

// ---- linear.cc ----

// y (M, N) = x (M, K) weight (N, K)^T + bias (N) or nothing.
Vec LinearForward(int64_t m, int64_t n, int64_t k, const Vec& x, const Vec& weight,
                  const Vec& bias);
// dx (M, K) from dy (M, N) and weight (N, K).
Vec LinearBackwardInput(int64_t m, int64_t n, int64_t k, const Vec& dy, const Vec& weight);
struct LinearGradients {
  Vec dweight;  // (N, K)
  Vec dbias;    // (N)
};
LinearGradients LinearBackwardWeight(int64_t m, int64_t n, int64_t k, const Vec& dy, const Vec& x);

// ---- windows.cc ----

// A feature map and its windows. The map is padded with zeros at its far ends to whole windows.
// Shifts are how far it is then rolled towards the origin.
struct Windows {
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

  static int64_t Padded(int64_t size, int64_t window) {
    return size % window == 0 ? size : size + window - size % window;
  }
  int64_t PaddedD() const { return Padded(depth, window_d); }
  int64_t PaddedH() const { return Padded(height, window_h); }
  int64_t PaddedW() const { return Padded(width, window_w); }
  int64_t Tokens() const { return window_d * window_h * window_w; }
  int64_t PerPicture() const { return PaddedD() * PaddedH() * PaddedW() / Tokens(); }
};

// torch.nn.functional.pad: (B, D, H, W, C) -> (B, D', H', W', C), whole windows.
Vec Pad(const Windows& m, int64_t channels, const Vec& x);
// x[:, :D, :H, :W]: the inverse.
Vec Crop(const Windows& m, int64_t channels, const Vec& x);
// torch.roll of a padded map: element i goes to (i + by) mod size. A shift of s is a roll by -s, as
// in the official code.
Vec Roll(const Windows& m, int64_t channels, const Vec& x, int64_t by_d, int64_t by_h,
         int64_t by_w);
// window_partition of a padded map -> (B windows, N, C).
Vec WindowPartition(const Windows& m, int64_t channels, const Vec& x);
// window_reverse: the inverse.
Vec WindowReverse(const Windows& m, int64_t channels, const Vec& windows);
// From a map (B, D, H, W, C) to its windows (B windows, N, C): pad, roll, partition; and back.
Vec CutWindows(const Windows& m, int64_t channels, const Vec& x);
Vec JoinWindows(const Windows& m, int64_t channels, const Vec& windows);
// SwinTransformerBlock.attn_mask, compute_mask of Video Swin: (windows, N, N) of 0 and -100.
Vec AttentionMask(const Windows& m);
// (windows, N): 1 in the padding, 0 elsewhere.
Vec PaddingOfWindows(const Windows& m);

// ---- window_attention.cc ----

// The lse of a token that attends to nobody; the score of an excluded pair.
inline constexpr double kNobodyLse = -1e30;

// Attention on vectors that are already cut into windows and heads.
struct AttentionCore {
  int64_t windows = 0;
  int64_t heads = 0;
  int64_t tokens = 0;  // N
  int64_t dim = 0;     // D
  // Window i has number (first + i) mod per_picture, and uses the mask and the excluded keys of
  // that number, and the bias of that number mod biases.
  int64_t first = 0;
  int64_t per_picture = 1;
  int64_t biases = 1;
};
struct AttentionInputs {
  Vec q, k, v;  // (windows, heads, N, D)
  // (heads), clamped at log(100); absent: plain q k / sqrt(D), or times score_scale.
  Vec logit_scale;
  // (biases, heads, N, N) or absent; entries below -1e29 exclude a pair.
  Vec bias;
  Vec mask;      // (per_picture, N, N) or absent
  Vec excluded;  // (per_picture, N), 1 for tokens that are nobody's key; or absent
  double score_scale = 0;
};
struct AttentionResult {
  Vec out;        // (windows, heads, N, D)
  Vec lse;        // (windows, heads, N): log of the sum of the exponentials of the scores
  Vec attention;  // (windows, heads, N, N): the probabilities
};
struct AttentionGradients {
  Vec dq, dk, dv;    // (windows, heads, N, D)
  Vec dlogit_scale;  // (heads), absent with it
  Vec dbias;         // as bias
};
AttentionResult AttentionForward(const AttentionCore& a, const AttentionInputs& in);
AttentionGradients AttentionBackward(const AttentionCore& a, const AttentionInputs& in,
                                     const Vec& dout);
// The gradients if no term cancelled another: every difference and sum of terms replaced by the sum
// of their absolute values. Rounding errors of float32 are relative to these.
AttentionGradients AttentionBackwardSizes(const AttentionCore& a, const AttentionInputs& in,
                                          const Vec& dout);

// The same on a feature map, or on the rows of a run of its windows.
struct WindowAttention {
  Windows windows;
  int64_t heads = 0;
  int64_t dim = 0;
  // With a count, tensors are rows of these windows, (count, N, channels); else maps.
  int64_t first = 0;
  int64_t count = 0;
  int64_t biases = 1;
  bool exclude_padding = true;
  double score_scale = 0;  // as in AttentionInputs
};
struct WindowAttentionResult {
  Vec out;  // (B, D, H, W, C) or (count, N, C)
  Vec lse;  // (B, D, H, W, heads) or (count, N, heads)
};
struct WindowAttentionGradients {
  Vec dqkv;          // as qkv
  Vec dlogit_scale;  // (heads)
  Vec dbias;         // as bias
};
// qkv (B, D, H, W, 3 C) or (count, N, 3 C) with C = heads dim. logit_scale and bias as in
// AttentionInputs.
WindowAttentionResult WindowAttentionForward(const WindowAttention& w, const Vec& qkv,
                                             const Vec& logit_scale, const Vec& bias);
WindowAttentionGradients WindowAttentionBackward(const WindowAttention& w, const Vec& qkv,
                                                 const Vec& logit_scale, const Vec& bias,
                                                 const Vec& dout);
WindowAttentionGradients WindowAttentionBackwardSizes(const WindowAttention& w, const Vec& qkv,
                                                      const Vec& logit_scale, const Vec& bias,
                                                      const Vec& dout);

// ---- position_table.cc ----

// relative_coords_table of the official code, (2 window_h - 1, 2 window_w - 1, 2). A pretraining
// window of 0 means none. A window of one token has the coordinate 0.
Vec RelativeCoordinates(int64_t window_h, int64_t window_w, int64_t pretrained_h,
                        int64_t pretrained_w);
struct PositionTable {
  int64_t entries = 0;  // T
  int64_t hidden = 0;
  int64_t heads = 0;
};
// table (T, heads) from coords (T, 2), w1 (hidden, 2), b1 (hidden), w2 (heads, hidden).
Vec PositionTableForward(const PositionTable& p, const Vec& coords, const Vec& w1, const Vec& b1,
                         const Vec& w2);
struct PositionTableGradients {
  Vec dw1;  // (hidden, 2)
  Vec db1;  // (hidden)
  Vec dw2;  // (heads, hidden)
};
PositionTableGradients PositionTableBackward(const PositionTable& p, const Vec& coords,
                                             const Vec& w1, const Vec& b1, const Vec& w2,
                                             const Vec& dtable);

// ---- bias_gather.cc ----

// relative_position_index of the official code, (N, N).
std::vector<int64_t> RelativePositionIndices(int64_t window_h, int64_t window_w);
struct BiasPairs {
  int64_t groups = 1;  // G
  int64_t heads = 0;
  int64_t tokens = 0;   // N
  int64_t entries = 0;  // T
};
// bias (G, heads, N, N) from table (T, heads), index (G, N, N) and mask (G, N, N) or nothing;
// -1e30 where the index is negative.
Vec BiasGather(const BiasPairs& p, const Vec& table, const std::vector<int64_t>& index,
               const Vec& mask);
// dtable (T, heads).
Vec BiasScatter(const BiasPairs& p, const Vec& dbias, const std::vector<int64_t>& index);

// ---- layer_norm.cc ----

struct LayerNormResult {
  Vec y;     // (M, C)
  Vec mean;  // (M)
  Vec rstd;  // (M): 1 / sqrt(biased variance + eps)
};
struct LayerNormGradients {
  Vec dx;             // (M, C), through the normalisation alone
  Vec dgamma, dbeta;  // (C)
};
// y = residual + scale (gamma (x - mean) rstd + beta); residual (M, C) and scale (B) may be absent.
LayerNormResult LayerNormForward(int64_t m, int64_t c, const Vec& x, const Vec& gamma,
                                 const Vec& beta, const Vec& residual, const Vec& scale,
                                 double eps);
LayerNormGradients LayerNormBackward(int64_t m, int64_t c, const Vec& x, const Vec& gamma,
                                     const Vec& scale, const Vec& dy, double eps);

// ---- gelu.cc ----

Vec GeluForward(const Vec& x);
Vec GeluBackward(const Vec& x, const Vec& dy);
// The gradient of a bias that rows of `columns` had added to them, from that of the rows.
Vec ColumnSums(const Vec& x, int64_t columns);

// ---- patch.cc, patch_embedding.cc, merge.cc ----

struct Picture {
  int64_t batch = 0;
  int64_t channels = 0;
  int64_t height = 0;
  int64_t width = 0;
  int64_t frames = 1;
};
// All patches of image (B, channels, T, H, W), padded with zeros to whole patches at its far ends,
// in raster order: (B ceil(T / patch_t) ceil(H / patch_h) ceil(W / patch_w), channels patch_t
// patch_h patch_w).
Vec PatchGather(const Picture& p, int64_t patch_h, int64_t patch_w, const Vec& image,
                int64_t patch_t = 1);
// The padding's elements are dropped.
Vec PatchScatter(const Picture& p, int64_t patch_h, int64_t patch_w, const Vec& rows,
                 int64_t patch_t = 1);
// torch.nn.functional.conv3d of the image, padded likewise, with the patch as kernel and stride:
// weight (filters, channels, patch_t, patch_h, patch_w), bias (filters) -> (B T' H' W', filters).
struct PatchSize {
  int64_t t = 1;
  int64_t h = 0;
  int64_t w = 0;
};
Vec PatchEmbeddingForward(const Picture& p, const PatchSize& patch, int64_t filters,
                          const Vec& image, const Vec& weight, const Vec& bias);
struct PatchEmbeddingGradients {
  Vec dweight;
  Vec dbias;
  Vec dimage;
};
PatchEmbeddingGradients PatchEmbeddingBackward(const Picture& p, const PatchSize& patch,
                                               int64_t filters, const Vec& image, const Vec& weight,
                                               const Vec& dy);
// x (B, H, W, C), padded with zeros to even H and W -> (B (H / 2) (W / 2), 4 C), as torch.cat of
// x[0::2, 0::2], x[1::2, 0::2], x[0::2, 1::2], x[1::2, 1::2].
Vec MergeGather(const Picture& p, const Vec& x);
Vec MergeScatter(const Picture& p, const Vec& rows);

// ---- pad.cc ----

struct Map {
  int64_t batch = 0;
  int64_t depth = 0;
  int64_t height = 0;
  int64_t width = 0;
  int64_t channels = 0;
};
// x, of shape `from`, cut off or extended with zeros at its far ends to the shape `to`.
Vec Pad(const Map& from, const Map& to, const Vec& x);

// ---- residual_add.cc ----

// x + scale[b] branch, rows (M, C) spread evenly over the pictures; scale (B) may be absent.
Vec ResidualAdd(int64_t c, const Vec& x, const Vec& branch, const Vec& scale);
// scale[b] x.
Vec ScaleRows(int64_t c, const Vec& x, const Vec& scale);

// ---- token_gather.cc ----

// The tokens of x (B, L, C) at index (B, n) or (1, n); zeros where it is negative.
Vec TokenGather(int64_t b, int64_t l, int64_t c, const Vec& x, const std::vector<int64_t>& index,
                int64_t n);
// Its transpose: y (B, n, C) added to zeros (B, L, C).
Vec TokenScatter(int64_t b, int64_t l, int64_t c, const Vec& y, const std::vector<int64_t>& index,
                 int64_t n);

// ---- mask_tokens.cc ----

// x (B, L, C) with `token` (C) in the place of tokens whose mask (B, L), or (L) for all pictures,
// is not 0.
Vec MaskTokensForward(int64_t b, int64_t l, int64_t c, const std::vector<int64_t>& mask,
                      const Vec& token, const Vec& x);
struct MaskTokensGradients {
  Vec dx;      // (B, L, C)
  Vec dtoken;  // (C)
};
MaskTokensGradients MaskTokensBackward(int64_t b, int64_t l, int64_t c,
                                       const std::vector<int64_t>& mask, const Vec& dy);

// ---- masked_loss.cc ----

struct MaskedLoss {
  Vec loss;         // (B)
  Vec dprediction;  // as the prediction: grad_scale times the gradient of the sum of the losses
};
// SimMIM's loss of pictures (B, channels, H, W); mask (B, H / unit, W / unit).
MaskedLoss MaskedL1(const Picture& p, int64_t unit, const std::vector<int64_t>& mask,
                    const Vec& prediction, const Vec& target, double scale, double grad_scale);
// MAE's loss of patches (B, L, n); mask (B, L), or (L) for all pictures.
MaskedLoss MaskedMse(int64_t b, int64_t l, int64_t n, const std::vector<int64_t>& mask,
                     const Vec& prediction, const Vec& target, double scale, double grad_scale);

// ---- pixel_targets.cc ----

// norm_targets of SimMIM: x (B, channels, H, W) normalised by the part of the neighbourhood of
// `window` pixels that lies within the picture.
Vec NormTargets(const Picture& p, int64_t window, const Vec& x);
// patchify of MAE: (B, L, patch * patch * channels), each patch normalised or as it is.
Vec PatchTargets(const Picture& p, int64_t patch, bool normalise, const Vec& image);

// ---- mix_pictures.cc ----

// Pictures (B, channels, H, W) mixed with their partners; weight (B, 2), box (B, 4).
Vec MixPictures(const Picture& p, const Vec& weight, const std::vector<int64_t>& box,
                const Vec& image);

// ---- mean_pool.cc ----

// y (B, C) from x (B, L, C).
Vec MeanPoolForward(int64_t b, int64_t l, int64_t c, const Vec& x);
Vec MeanPoolBackward(int64_t b, int64_t l, int64_t c, const Vec& dy);

// ---- cross_entropy.cc ----

struct CrossEntropyResult {
  Vec loss;     // (B)
  Vec dlogits;  // (B, classes): grad_scale times the gradient of the sum of the losses
};
CrossEntropyResult CrossEntropy(int64_t b, int64_t classes, const Vec& logits, const Vec& target,
                                double grad_scale);

// ---- elementwise.cc ----

// x + y.
Vec Add(const Vec& x, const Vec& y);
// y (B, n) with x (n) added to every row.
Vec AddBroadcast(int64_t b, const Vec& x, const Vec& y);
// Column sums (n) of dy (B, n).
Vec SumBroadcast(int64_t b, const Vec& dy);
// The sum of the squares of each `chunk` elements; the last chunk may be shorter.
Vec SumOfSquares(int64_t chunk, const Vec& x);

// ---- clip.cc ----

// The Euclidean norm over all tensors.
double GlobalNorm(const std::vector<Vec>& gradients);
// torch.nn.utils.clip_grad_norm_: min(1, max_norm / (norm + 1e-6)).
double ClipCoefficient(double norm, double max_norm);

// ---- adamw.cc, sgd.cc ----

struct AdamWOptions {
  double learning_rate = 0;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0;
  int64_t step = 1;  // 1 for the first
  double grad_scale = 1;
};
// torch.optim.AdamW: updates param, m and v in place.
void AdamW(const AdamWOptions& o, const Vec& grad, Vec* param, Vec* m, Vec* v);

struct SgdOptions {
  double learning_rate = 0;
  double momentum_factor = 0.9;
  double weight_decay = 0;
  double grad_scale = 1;
};
// torch.optim.SGD with nesterov=True: updates param and momentum in place.
void Sgd(const SgdOptions& o, const Vec& grad, Vec* param, Vec* momentum);

}  // namespace swinfleet::reference

#endif  // SWINFLEET_TESTS_REFERENCE_REFERENCE_H_
