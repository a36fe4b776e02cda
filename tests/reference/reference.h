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

// A feature map and its windows. Shifts are how far the map is rolled up and left.
struct Windows {
  int64_t batch = 0;
  int64_t height = 0;
  int64_t width = 0;
  int64_t window_h = 0;
  int64_t window_w = 0;
  int64_t shift_h = 0;
  int64_t shift_w = 0;

  int64_t Tokens() const { return window_h * window_w; }
  int64_t PerPicture() const { return (height / window_h) * (width / window_w); }
};

// torch.roll of x (B, H, W, C) over H and W: element i goes to (i + by) mod size. A shift of s is
// a roll by -s, as in the official code.
Vec Roll(const Windows& w, int64_t channels, const Vec& x, int64_t by_h, int64_t by_w);
// window_partition: (B, H, W, C) -> (B windows, window_h window_w, C). Does not roll.
Vec WindowPartition(const Windows& w, int64_t channels, const Vec& x);
// window_reverse: the inverse.
Vec WindowReverse(const Windows& w, int64_t channels, const Vec& windows);
// SwinTransformerBlock.attn_mask: (windows, N, N) of 0 and -100.
Vec AttentionMask(const Windows& w);

// ---- window_attention.cc ----

// Scaled cosine attention on vectors that are already cut into windows and heads.
struct CosineAttention {
  int64_t windows = 0;  // B times the windows of a picture
  int64_t heads = 0;
  int64_t tokens = 0;  // N
  int64_t dim = 0;     // D
  // Window i uses mask i mod masks; 0 for none.
  int64_t masks = 0;
};
struct CosineAttentionResult {
  Vec out;        // (windows, heads, N, D)
  Vec lse;        // (windows, heads, N): log of the sum of the exponentials of the scores
  Vec attention;  // (windows, heads, N, N): the probabilities
};
struct CosineAttentionGradients {
  Vec dq, dk, dv;    // (windows, heads, N, D)
  Vec dlogit_scale;  // (heads)
  Vec dbias;         // (heads, N, N)
};
// q, k, v (windows, heads, N, D); logit_scale (heads), clamped at log(100); bias (heads, N, N);
// mask (masks, N, N) or absent.
CosineAttentionResult CosineAttentionForward(const CosineAttention& a, const Vec& q, const Vec& k,
                                             const Vec& v, const Vec& logit_scale, const Vec& bias,
                                             const Vec& mask);
CosineAttentionGradients CosineAttentionBackward(const CosineAttention& a, const Vec& q,
                                                 const Vec& k, const Vec& v, const Vec& logit_scale,
                                                 const Vec& bias, const Vec& mask, const Vec& dout);

// The gradients if no term cancelled another: every difference and sum of terms replaced by the sum
// of their absolute values. Rounding errors of float32 are relative to these.
CosineAttentionGradients CosineAttentionBackwardSizes(const CosineAttention& a, const Vec& q,
                                                      const Vec& k, const Vec& v,
                                                      const Vec& logit_scale, const Vec& bias,
                                                      const Vec& mask, const Vec& dout);

// The same on a feature map: rolls it, cuts it into windows, attends, and undoes both.
struct WindowAttentionResult {
  Vec out;  // (B, H, W, C)
  Vec lse;  // (B, H, W, heads)
};
struct WindowAttentionGradients {
  Vec dqkv;          // (B, H, W, 3 C)
  Vec dlogit_scale;  // (heads)
  Vec dbias;         // (heads, N, N)
};
// qkv (B, H, W, 3 C) with C = heads dim.
WindowAttentionResult WindowAttentionForward(const Windows& w, int64_t heads, int64_t dim,
                                             const Vec& qkv, const Vec& logit_scale,
                                             const Vec& bias);
WindowAttentionGradients WindowAttentionBackward(const Windows& w, int64_t heads, int64_t dim,
                                                 const Vec& qkv, const Vec& logit_scale,
                                                 const Vec& bias, const Vec& dout);
WindowAttentionGradients WindowAttentionBackwardSizes(const Windows& w, int64_t heads, int64_t dim,
                                                      const Vec& qkv, const Vec& logit_scale,
                                                      const Vec& bias, const Vec& dout);

// ---- position_bias.cc ----

// relative_coords_table of the official code, (2 window_h - 1, 2 window_w - 1, 2). A pretraining
// window of 0 means none. A window of one token has the coordinate 0.
Vec RelativeCoordinates(int64_t window_h, int64_t window_w, int64_t pretrained_h,
                        int64_t pretrained_w);
// relative_position_index of the official code, (N, N).
std::vector<int64_t> RelativePositionIndices(int64_t window_h, int64_t window_w);
struct PositionBias {
  int64_t window_h = 0;
  int64_t window_w = 0;
  int64_t hidden = 0;
  int64_t heads = 0;
};
// bias (heads, N, N) from coords (T, 2), w1 (hidden, 2), b1 (hidden), w2 (heads, hidden).
Vec PositionBiasForward(const PositionBias& p, const Vec& coords, const Vec& w1, const Vec& b1,
                        const Vec& w2);
struct PositionBiasGradients {
  Vec dw1;  // (hidden, 2)
  Vec db1;  // (hidden)
  Vec dw2;  // (heads, hidden)
};
PositionBiasGradients PositionBiasBackward(const PositionBias& p, const Vec& coords, const Vec& w1,
                                           const Vec& b1, const Vec& w2, const Vec& dbias);

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

// ---- patch.cc, merge.cc ----

struct Picture {
  int64_t batch = 0;
  int64_t channels = 0;
  int64_t height = 0;
  int64_t width = 0;
};
// All patches of image (B, channels, H, W), in raster order: (B (H / patch_h) (W / patch_w),
// channels patch_h patch_w).
Vec PatchGather(const Picture& p, int64_t patch_h, int64_t patch_w, const Vec& image);
Vec PatchScatter(const Picture& p, int64_t patch_h, int64_t patch_w, const Vec& rows);
// x (B, H, W, C) -> (B (H / 2) (W / 2), 4 C), as torch.cat of x[0::2, 0::2], x[1::2, 0::2],
// x[0::2, 1::2], x[1::2, 1::2].
Vec MergeGather(const Picture& p, const Vec& x);
Vec MergeScatter(const Picture& p, const Vec& rows);

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
