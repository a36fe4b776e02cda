// Scaled cosine window attention, one window and head at a time, straight from tokens in image
// order. Scores exist for a tile of at most 64 rows; backward computes them again from what forward
// kept.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/window_attention.cc"
#include <algorithm>
#include <cmath>
#include <cstring>

// foreach_target.h must come first.
// clang-format off
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
#include <hwy/contrib/math/math-inl.h>
// clang-format on

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/small_gemm-inl.h"
#include "kernels/cpu/vector-inl.h"

#ifndef SWINFLEET_KERNELS_CPU_WINDOW_ATTENTION_ONCE_
#define SWINFLEET_KERNELS_CPU_WINDOW_ATTENTION_ONCE_
namespace swinfleet::cpu {

// Rows of scores that exist at once.
constexpr int64_t kTileRows = 64;
// Rows are padded to whole vectors of every instruction set.
constexpr int64_t kPad = 16;
// A score that no exponential survives, for the padding of a row.
constexpr float kExcluded = -1e30f;

inline int64_t PadUp(int64_t n) { return (n + kPad - 1) / kPad * kPad; }

struct AttentionSizes {
  AttentionSizes(const WindowGeometry& geometry, int64_t heads, const TensorView& qkv)
      : tokens(geometry.WindowTokens()),
        tokens_padded(PadUp(tokens)),
        channels(qkv.shape[qkv.shape.rank() - 1] / 3),
        dim(channels / heads),
        dim_padded(PadUp(dim)),
        tile(std::min(tokens, kTileRows)) {}
  int64_t tokens, tokens_padded, channels, dim, dim_padded, tile;

  int64_t Rows() const { return tokens_padded * dim_padded; }
  int64_t Scores() const { return tile * tokens_padded; }
};

// A window's tokens: their place in the picture, and their region where the mask differs.
struct WindowMap {
  int64_t* token;   // (N)
  int32_t* region;  // (N)
  bool masked;
};

// Hands out a thread's part of the scratch block.
class FloatStack {
 public:
  explicit FloatStack(float* at) : at_(at) {}
  float* Take(int64_t floats) {
    float* taken = at_;
    at_ += floats;
    return taken;
  }

 private:
  float* at_;
};

// Floats that hold a WindowMap's arrays.
inline int64_t MapFloats(const AttentionSizes& s) { return 3 * s.tokens_padded; }

inline WindowMap TakeMap(const AttentionSizes& s, FloatStack* stack) {
  WindowMap map;
  map.token = reinterpret_cast<int64_t*>(stack->Take(2 * s.tokens_padded));
  map.region = reinterpret_cast<int32_t*>(stack->Take(s.tokens_padded));
  map.masked = false;
  return map;
}

inline void FillMap(const WindowGeometry& geometry, int64_t window, WindowMap* map) {
  map->masked = false;
  for (int64_t t = 0; t < geometry.WindowTokens(); ++t) {
    map->token[t] = geometry.TokenAt(window, t);
    map->region[t] = geometry.RegionAt(window, t);
    map->masked = map->masked || map->region[t] != map->region[0];
  }
}

// The factor on the cosine: exp(min(logit_scale, log 100)).
struct LogitScale {
  explicit LogitScale(float logit) {
    static const float kLimit = std::log(100.0f);
    clamped = logit > kLimit;
    factor = std::exp(clamped ? kLimit : logit);
  }
  float factor;
  bool clamped;
};

// Vectors shorter than this are divided by it (torch.nn.functional.normalize).
constexpr float kShortest = 1e-12f;

}  // namespace swinfleet::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace swinfleet::cpu::HWY_NAMESPACE {

// rows (N, dim_padded) = the window's vectors of one head, from `from` (token 0, channel 0 of the
// head), `stride` floats a token; padded with zeros.
void GatherRows(const AttentionSizes& s, const WindowMap& map, const float* from, int64_t stride,
                float* rows) {
  for (int64_t t = 0; t < s.tokens; ++t) {
    float* to = rows + t * s.dim_padded;
    std::memcpy(to, from + map.token[t] * stride, s.dim * sizeof(float));
    std::fill(to + s.dim, to + s.dim_padded, 0.0f);
  }
}

// The other way.
void ScatterRows(const AttentionSizes& s, const WindowMap& map, const float* rows, int64_t stride,
                 float* to) {
  for (int64_t t = 0; t < s.tokens; ++t) {
    std::memcpy(to + map.token[t] * stride, rows + t * s.dim_padded, s.dim * sizeof(float));
  }
}

HWY_INLINE float Dot(const float* a, const float* b, int64_t n) {
  const D d;
  V sum = hn::Zero(d);
  for (int64_t i = 0; i < n; i += static_cast<int64_t>(hn::Lanes(d))) {
    sum = hn::MulAdd(hn::Load(d, a + i), hn::Load(d, b + i), sum);
  }
  return Total(sum);
}

// row = factor * row, over a padded row.
HWY_INLINE void ScaleRow(float* row, int64_t n, float factor) {
  const D d;
  const V f = hn::Set(d, factor);
  for (int64_t i = 0; i < n; i += static_cast<int64_t>(hn::Lanes(d))) {
    hn::Store(hn::Mul(hn::Load(d, row + i), f), d, row + i);
  }
}

// Divides each row by its norm and multiplies it by `factor`. inverse (N), where given, gets
// 1 / norm, negative where the norm was too short to be divided by.
void NormaliseRows(const AttentionSizes& s, float factor, float* rows, float* inverse) {
  for (int64_t t = 0; t < s.tokens; ++t) {
    float* row = rows + t * s.dim_padded;
    const float norm = std::sqrt(Dot(row, row, s.dim_padded));
    const bool tiny = norm < kShortest;
    const float inv = 1.0f / (tiny ? kShortest : norm);
    ScaleRow(row, s.dim_padded, inv * factor);
    if (inverse != nullptr) inverse[t] = tiny ? -inv : inv;
  }
}

// columns (dim_padded, tokens_padded) = rows (N, dim_padded)^T; the rows' padding becomes zero.
void TransposeRows(const AttentionSizes& s, float* rows, float* columns) {
  std::fill(rows + s.tokens * s.dim_padded, rows + s.Rows(), 0.0f);
  Transpose(rows, s.tokens_padded, s.dim_padded, s.dim_padded, columns, s.tokens_padded);
}

// scores (count, tokens_padded) of rows [first, first + count): bias + mask + scaled q k^T.
void Scores(const AttentionSizes& s, const WindowMap& map, int64_t first, int64_t count,
            const float* scaled_q, const float* k_columns, const float* bias, float* scores) {
  for (int64_t i = 0; i < count; ++i) {
    float* row = scores + i * s.tokens_padded;
    std::memcpy(row, bias + (first + i) * s.tokens, s.tokens * sizeof(float));
    std::fill(row + s.tokens, row + s.tokens_padded, kExcluded);
    if (!map.masked) continue;
    const int32_t region = map.region[first + i];
    for (int64_t j = 0; j < s.tokens; ++j) row[j] += map.region[j] != region ? -100.0f : 0.0f;
  }
  SmallGemm({scaled_q + first * s.dim_padded, s.dim_padded, 1}, count, s.tokens_padded, s.dim,
            k_columns, s.tokens_padded, scores, s.tokens_padded, true);
}

// row = softmax(row); returns the logarithm of the sum of exponentials.
HWY_INLINE float SoftmaxRow(float* row, int64_t n) {
  const D d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  V peak = hn::Load(d, row);
  for (int64_t j = lanes; j < n; j += lanes) peak = hn::Max(peak, hn::Load(d, row + j));
  peak = hn::MaxOfLanes(d, peak);
  V sum = hn::Zero(d);
  for (int64_t j = 0; j < n; j += lanes) {
    const V e = hn::Exp(d, hn::Sub(hn::Load(d, row + j), peak));
    sum = hn::Add(sum, e);
    hn::Store(e, d, row + j);
  }
  const float total = Total(sum);
  ScaleRow(row, n, 1.0f / total);
  return hn::GetLane(peak) + std::log(total);
}

void ForwardWindows(const WindowAttentionForwardArgs& args, int64_t begin, int64_t end,
                    float* scratch) {
  const AttentionSizes s(args.geometry, args.heads, args.qkv);
  const WindowGeometry& geometry = args.geometry;
  FloatStack stack(scratch);
  WindowMap map = TakeMap(s, &stack);
  float* q = stack.Take(s.Rows());
  float* k = stack.Take(s.Rows());
  float* k_columns = stack.Take(s.Rows());
  float* v = stack.Take(s.Rows());
  float* scores = stack.Take(s.Scores());
  float* out = stack.Take(s.Rows());
  const int64_t tokens = geometry.height * geometry.width;
  const int64_t windows = geometry.WindowsPerPicture();
  int64_t mapped = -1;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t head = task % args.heads, window = task / args.heads;
    const int64_t picture = window / windows;
    if (window != mapped) FillMap(geometry, window % windows, &map);
    mapped = window;
    const float* qkv = args.qkv.f32() + picture * tokens * 3 * s.channels + head * s.dim;
    GatherRows(s, map, qkv, 3 * s.channels, q);
    GatherRows(s, map, qkv + s.channels, 3 * s.channels, k);
    GatherRows(s, map, qkv + 2 * s.channels, 3 * s.channels, v);
    NormaliseRows(s, LogitScale(args.logit_scale.f32()[head]).factor, q, nullptr);
    NormaliseRows(s, 1.0f, k, nullptr);
    TransposeRows(s, k, k_columns);
    const float* bias = args.bias.f32() + head * s.tokens * s.tokens;
    float* lse = args.lse.f32() + picture * tokens * args.heads + head;
    for (int64_t first = 0; first < s.tokens; first += s.tile) {
      const int64_t count = std::min(s.tile, s.tokens - first);
      Scores(s, map, first, count, q, k_columns, bias, scores);
      for (int64_t i = 0; i < count; ++i) {
        lse[map.token[first + i] * args.heads] =
            SoftmaxRow(scores + i * s.tokens_padded, s.tokens_padded);
      }
      SmallGemm({scores, s.tokens_padded, 1}, count, s.dim_padded, s.tokens, v, s.dim_padded,
                out + first * s.dim_padded, s.dim_padded, false);
    }
    ScatterRows(s, map, out, s.channels,
                args.out.f32() + picture * tokens * s.channels + head * s.dim);
  }
}

// p (N) = exp(score - lse), ds = p (dp - sum p dp), over a padded row.
//
// Where values hardly differ from token to token, neither does dp, and ds is a small difference.
// Two steps keep its digits: dp is taken from its first element, and p is divided by its sum, since
// an lse near 100 is rounded by more than the sum is.
HWY_INLINE void SoftmaxGradientRow(float lse, int64_t n, float* p, float* dp) {
  const D d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const V vlse = hn::Set(d, lse);
  const V origin = hn::Set(d, dp[0]);
  V sum = hn::Zero(d);
  V total = hn::Zero(d);
  for (int64_t j = 0; j < n; j += lanes) {
    const V e = hn::Exp(d, hn::Sub(hn::Load(d, p + j), vlse));
    const V difference = hn::Sub(hn::Load(d, dp + j), origin);
    hn::Store(e, d, p + j);
    hn::Store(difference, d, dp + j);
    sum = hn::MulAdd(e, difference, sum);
    total = hn::Add(total, e);
  }
  const float inverse = 1.0f / Total(total);
  const V normalise = hn::Set(d, inverse);
  const V delta = hn::Set(d, Total(sum) * inverse);
  for (int64_t j = 0; j < n; j += lanes) {
    const V probability = hn::Mul(hn::Load(d, p + j), normalise);
    hn::Store(probability, d, p + j);
    hn::Store(hn::Mul(probability, hn::Sub(hn::Load(d, dp + j), delta)), d, dp + j);
  }
}

// Through y = factor * x / norm: dx = factor * inverse * (dy - y (y . dy) / factor^2). Returns
// y . dy. A row that was too short to be divided by its norm was only scaled.
HWY_INLINE float NormaliseGradientRow(const float* y, float factor, float inverse, int64_t n,
                                      float* dy) {
  const D d;
  const float dot = Dot(y, dy, n);
  const V along = hn::Set(d, inverse < 0 ? 0.0f : dot / (factor * factor));
  const V scale = hn::Set(d, factor * std::abs(inverse));
  for (int64_t i = 0; i < n; i += static_cast<int64_t>(hn::Lanes(d))) {
    const V across = hn::NegMulAdd(hn::Load(d, y + i), along, hn::Load(d, dy + i));
    hn::Store(hn::Mul(across, scale), d, dy + i);
  }
  return dot;
}

void AddRow(const float* __restrict from, float* __restrict to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] += from[i];
}

// One thread's buffers in backward: the window's vectors, and their gradients.
struct BackwardBuffers {
  BackwardBuffers(const AttentionSizes& s, FloatStack* stack)
      : map(TakeMap(s, stack)),
        q(stack->Take(s.Rows())),
        k(stack->Take(s.Rows())),
        k_columns(stack->Take(s.Rows())),
        v(stack->Take(s.Rows())),
        v_columns(stack->Take(s.Rows())),
        dout(stack->Take(s.Rows())),
        dq(stack->Take(s.Rows())),
        dk(stack->Take(s.Rows())),
        dv(stack->Take(s.Rows())),
        scores(stack->Take(s.Scores())),
        dscores(stack->Take(s.Scores())),
        q_inverse(stack->Take(s.tokens_padded)),
        k_inverse(stack->Take(s.tokens_padded)) {}
  WindowMap map;
  float *q, *k, *k_columns, *v, *v_columns, *dout, *dq, *dk, *dv, *scores, *dscores;
  float *q_inverse, *k_inverse;
};

// Gradients of one window and head, into b.dq (of the scaled, normalised q), b.dk (of the
// normalised k) and b.dv; dbias (N, N) is added to.
void BackwardTiles(const AttentionSizes& s, const BackwardBuffers& b, const float* bias,
                   const float* lse, int64_t lse_stride, float* dbias) {
  for (int64_t first = 0; first < s.tokens; first += s.tile) {
    const int64_t count = std::min(s.tile, s.tokens - first);
    const bool accumulate = first > 0;
    Scores(s, b.map, first, count, b.q, b.k_columns, bias, b.scores);
    SmallGemm({b.dout + first * s.dim_padded, s.dim_padded, 1}, count, s.tokens_padded, s.dim,
              b.v_columns, s.tokens_padded, b.dscores, s.tokens_padded, false);
    for (int64_t i = 0; i < count; ++i) {
      SoftmaxGradientRow(lse[b.map.token[first + i] * lse_stride], s.tokens_padded,
                         b.scores + i * s.tokens_padded, b.dscores + i * s.tokens_padded);
      AddRow(b.dscores + i * s.tokens_padded, dbias + (first + i) * s.tokens, s.tokens);
    }
    SmallGemm({b.scores, 1, s.tokens_padded}, s.tokens, s.dim_padded, count,
              b.dout + first * s.dim_padded, s.dim_padded, b.dv, s.dim_padded, accumulate);
    SmallGemm({b.dscores, s.tokens_padded, 1}, count, s.dim_padded, s.tokens, b.k, s.dim_padded,
              b.dq + first * s.dim_padded, s.dim_padded, false);
    SmallGemm({b.dscores, 1, s.tokens_padded}, s.tokens, s.dim_padded, count,
              b.q + first * s.dim_padded, s.dim_padded, b.dk, s.dim_padded, accumulate);
  }
}

// dbias (heads, N, N) and dscale (heads, of the scale's logarithm) are this thread's sums.
void BackwardWindows(const WindowAttentionBackwardArgs& args, int64_t begin, int64_t end,
                     float* scratch, float* dbias, double* dscale) {
  const AttentionSizes s(args.geometry, args.heads, args.qkv);
  const WindowGeometry& geometry = args.geometry;
  FloatStack stack(scratch);
  BackwardBuffers b(s, &stack);
  const int64_t tokens = geometry.height * geometry.width;
  const int64_t windows = geometry.WindowsPerPicture();
  const int64_t stride = 3 * s.channels;
  int64_t mapped = -1;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t head = task % args.heads, window = task / args.heads;
    const int64_t picture = window / windows;
    if (window != mapped) FillMap(geometry, window % windows, &b.map);
    mapped = window;
    const float* qkv = args.qkv.f32() + picture * tokens * stride + head * s.dim;
    const LogitScale scale(args.logit_scale.f32()[head]);
    GatherRows(s, b.map, qkv, stride, b.q);
    GatherRows(s, b.map, qkv + s.channels, stride, b.k);
    GatherRows(s, b.map, qkv + 2 * s.channels, stride, b.v);
    GatherRows(s, b.map, args.dout.f32() + picture * tokens * s.channels + head * s.dim, s.channels,
               b.dout);
    NormaliseRows(s, scale.factor, b.q, b.q_inverse);
    NormaliseRows(s, 1.0f, b.k, b.k_inverse);
    TransposeRows(s, b.k, b.k_columns);
    TransposeRows(s, b.v, b.v_columns);
    const int64_t square = head * s.tokens * s.tokens;
    BackwardTiles(s, b, args.bias.f32() + square,
                  args.lse.f32() + picture * tokens * args.heads + head, args.heads,
                  dbias + square);
    for (int64_t t = 0; t < s.tokens; ++t) {
      const int64_t row = t * s.dim_padded;
      const float dot =
          NormaliseGradientRow(b.q + row, scale.factor, b.q_inverse[t], s.dim_padded, b.dq + row);
      // The score is q . k with q scaled: its derivative by the scale's logarithm is itself.
      if (!scale.clamped) dscale[head] += dot;
      NormaliseGradientRow(b.k + row, 1.0f, b.k_inverse[t], s.dim_padded, b.dk + row);
    }
    float* dqkv = args.dqkv.f32() + picture * tokens * stride + head * s.dim;
    ScatterRows(s, b.map, b.dq, stride, dqkv);
    ScatterRows(s, b.map, b.dk, stride, dqkv + s.channels);
    ScatterRows(s, b.map, b.dv, stride, dqkv + 2 * s.channels);
  }
}

}  // namespace swinfleet::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace swinfleet {
namespace {

void CheckShapes(const WindowGeometry& g, int64_t heads, const TensorView& qkv,
                 const TensorView& logit_scale, const TensorView& bias, const TensorView& lse) {
  CHECK_EQ(qkv.shape.rank(), 4);
  CHECK(qkv.shape[0] == g.batch && qkv.shape[1] == g.height && qkv.shape[2] == g.width)
      << qkv.shape;
  CHECK(g.height % g.window_h == 0 && g.width % g.window_w == 0)
      << g.window_h << "x" << g.window_w << " windows on " << qkv.shape;
  CHECK_EQ(qkv.shape[3] % (3 * heads), 0) << heads << " heads of " << qkv.shape;
  CHECK_EQ(logit_scale.NumElements(), heads);
  CHECK_EQ(bias.NumElements(), heads * g.WindowTokens() * g.WindowTokens());
  CHECK_EQ(lse.NumElements(), g.batch * g.height * g.width * heads);
}

float* TakeFloats(int64_t floats, Context& context) {
  return static_cast<float*>(context.workspace->AllocateBytes(floats * sizeof(float)));
}

}  // namespace

WindowAttentionScratch TakeScratch(const WindowAttentionForwardArgs& args, Context& context) {
  const cpu::AttentionSizes s(args.geometry, args.heads, args.qkv);
  WindowAttentionScratch scratch;
  scratch.floats_per_thread = cpu::MapFloats(s) + 5 * s.Rows() + s.Scores();
  scratch.block = TakeFloats(context.threads * scratch.floats_per_thread, context);
  return scratch;
}

WindowAttentionScratch TakeScratch(const WindowAttentionBackwardArgs& args, Context& context) {
  const cpu::AttentionSizes s(args.geometry, args.heads, args.qkv);
  WindowAttentionScratch scratch;
  scratch.floats_per_thread =
      cpu::MapFloats(s) + 9 * s.Rows() + 2 * s.Scores() + 2 * s.tokens_padded;
  scratch.block = TakeFloats(context.threads * scratch.floats_per_thread, context);
  if (context.threads > 1) {
    scratch.dbias = TakeFloats((context.threads - 1) * args.dbias.NumElements(), context);
  }
  scratch.dscale = static_cast<double*>(
      context.workspace->AllocateBytes(context.threads * args.heads * sizeof(double)));
  return scratch;
}

namespace cpu {
namespace {

HWY_EXPORT(ForwardWindows);
HWY_EXPORT(BackwardWindows);
HWY_EXPORT(AddRow);

}  // namespace

void WindowAttentionForward(const WindowAttentionForwardArgs& args, Context& context) {
  CheckShapes(args.geometry, args.heads, args.qkv, args.logit_scale, args.bias, args.lse);
  CHECK_EQ(3 * args.out.NumElements(), args.qkv.NumElements()) << args.out.shape;
  ArenaScope scope(context.workspace);
  const WindowAttentionScratch scratch = TakeScratch(args, context);
  const int64_t tasks = args.geometry.batch * args.geometry.WindowsPerPicture() * args.heads;
  ParallelFor(context.threads, tasks, 1, [&](int64_t begin, int64_t end, int thread) {
    HWY_DYNAMIC_DISPATCH(ForwardWindows)
    (args, begin, end, scratch.block + thread * scratch.floats_per_thread);
  });
}

void WindowAttentionBackward(const WindowAttentionBackwardArgs& args, Context& context) {
  CheckShapes(args.geometry, args.heads, args.qkv, args.logit_scale, args.bias, args.lse);
  CHECK_EQ(3 * args.dout.NumElements(), args.qkv.NumElements()) << args.dout.shape;
  CHECK(args.dqkv.shape == args.qkv.shape) << args.dqkv.shape << " for " << args.qkv.shape;
  CHECK_EQ(args.dlogit_scale.NumElements(), args.heads);
  CHECK_EQ(args.dbias.NumElements(), args.bias.NumElements()) << args.dbias.shape;
  ArenaScope scope(context.workspace);
  const WindowAttentionScratch scratch = TakeScratch(args, context);
  const int64_t tasks = args.geometry.batch * args.geometry.WindowsPerPicture() * args.heads;
  const int64_t bias_size = args.dbias.NumElements();
  if (context.threads > 1) {
    std::fill_n(scratch.dbias, (context.threads - 1) * bias_size, 0.0f);
  }
  std::fill_n(scratch.dscale, context.threads * args.heads, 0.0);
  ParallelFor(context.threads, tasks, 1, [&](int64_t begin, int64_t end, int thread) {
    float* dbias = thread == 0 ? args.dbias.f32() : scratch.dbias + (thread - 1) * bias_size;
    HWY_DYNAMIC_DISPATCH(BackwardWindows)
    (args, begin, end, scratch.block + thread * scratch.floats_per_thread, dbias,
     scratch.dscale + thread * args.heads);
  });
  for (int thread = 0; thread < context.threads; ++thread) {
    if (thread > 0) {
      HWY_DYNAMIC_DISPATCH(AddRow)
      (scratch.dbias + (thread - 1) * bias_size, args.dbias.f32(), bias_size);
    }
    for (int64_t head = 0; head < args.heads; ++head) {
      args.dlogit_scale.f32()[head] +=
          static_cast<float>(scratch.dscale[thread * args.heads + head]);
    }
  }
}

}  // namespace cpu
}  // namespace swinfleet
#endif  // HWY_ONCE
