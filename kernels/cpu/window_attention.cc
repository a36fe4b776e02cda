// Window attention, one window and head at a time, straight from tokens in image order. Scores
// exist for a strip of at most 16 rows; backward computes them again from what forward kept, and
// keeps them for a tile of at most 64 rows.
// Excluded padding is left out of a window's tokens from the start.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/window_attention.cc"
#include <algorithm>
#include <array>
#include <cmath>

// foreach_target.h must come first.
// clang-format off
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// clang-format on

#include "kernels/cpu/attention_rows-inl.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/small_gemm-inl.h"
#include "kernels/cpu/window_attention_bf16-inl.h"
#include "kernels/cpu/window_map.h"

SWINFLEET_BEFORE_NAMESPACE();
namespace swinfleet::cpu::HWY_NAMESPACE {

// One thread's buffers in forward.
struct ForwardBuffers {
  ForwardBuffers(const AttentionSizes& s, FloatStack* stack)
      : map(s, stack),
        after(s, stack),
        q(stack->Take(s.Rows())),
        k(stack->Take(s.Rows())),
        k_columns(stack->Take(s.Rows())),
        v(stack->Take(s.Rows())),
        scores(stack->Take(s.StripScores())),
        inverse{stack->Take(s.tokens_padded), stack->Take(s.tokens_padded)},
        sums{stack->Take(s.StripRows()), stack->Take(s.StripRows())} {}
  WindowMap map, after;
  float *q, *k, *k_columns, *v, *scores;
  InverseNormsOfBoth inverse;
  StripSums sums;
};

// q k of rows [first, first + count), with bias and mask; q is scaled, k_columns normalised.
void Scores(const AttentionSizes& s, const WindowMap& map, int64_t first, int64_t count,
            const float* scaled_q, const float* k_columns, const float* bias, float* scores) {
  const ScoreStart start = StartScores(s, map, first, count, bias, scores);
  SmallGemm<F32>({scaled_q + first * s.dim_padded, s.dim_padded, 1}, count, s.tokens_padded, s.dim,
                 k_columns, s.tokens_padded,
                 AddTo{scores, s.tokens_padded, start.rows, start.stride});
}

// One window and head, from b.q (scaled), b.k_columns and b.v. lse and out are those of row 0.
template <typename T>
void ForwardStrips(const AttentionSizes& s, const ForwardBuffers& b, const float* bias, float* lse,
                   int64_t lse_stride, T* out, const NextVectors& next) {
  const int64_t n = s.tokens_padded;
  for (int64_t first = 0; first < s.tokens; first += s.strip) {
    const int64_t count = std::min(s.strip, s.tokens - first);
    next.q.Ask(first, count);
    Scores(s, b.map, first, count, b.q, b.k_columns, bias, b.scores);
    next.k.Ask(first, count);
    SoftmaxRows(b.scores, count, n, b.sums,
                [&](int64_t row, int64_t j, V e) { hn::Store(e, D(), b.scores + row * n + j); });
    FinishSoftmax(b.map, first, count, b.sums, lse, lse_stride);
    next.v.Ask(first, count);
    SmallGemm<F32>({b.scores, n, 1}, count, s.dim_padded, s.tokens, b.v, s.dim_padded,
                   ScatterScaledRows<T>{b.map.row + first, s.dim, b.sums.inverse, s.channels, out});
    next.out.Ask(first, count);
    next.lse.Ask(first, count);
  }
}

template <typename T>
void ForwardTasks(const WindowAttentionForwardArgs& args, const AttentionTasks& tasks,
                  float* scratch) {
  AttentionSizes s(args.geometry, args.heads, args.qkv);
  FloatStack stack(scratch);
  ForwardBuffers b(s, &stack);
  const int64_t stride = 3 * s.channels;
  ForEachTask(args, tasks, &s, &b.map, &b.after, [&](int64_t window, int64_t head, NextTask task) {
    const T* qkv = Elements<T>(args.qkv) + head * s.dim;
    GatherRows(s, b.map, qkv, stride, b.q);
    GatherRows(s, b.map, qkv + s.channels, stride, b.k);
    GatherRows(s, b.map, qkv + 2 * s.channels, stride, b.v);
    const ScoreScale scale(args.logit_scale, args.score_scale, head, s.dim);
    if (scale.cosine) {
      NormaliseBoth(s, scale.factor, b.inverse, b.q, b.k);
    } else {
      ScaleRows(s, scale.factor, b.q);
    }
    TransposeRows(s, b.k, b.k_columns);
    ForwardStrips(s, b, BiasOf(args.bias, args.geometry, args.heads, window, head),
                  args.lse.f32() + head, args.heads, Elements<T>(args.out) + head * s.dim,
                  NextVectors(s, args, task, Elements<T>(args.qkv), Elements<T>(args.out)));
  });
}

void ForwardWindows(const WindowAttentionForwardArgs& args, const AttentionTasks& tasks,
                    float* scratch) {
#if SWINFLEET_NATIVE_BF16
  if (args.qkv.dtype == DType::kBF16) return ForwardBf16Tasks(args, tasks, scratch);
#endif
  DispatchDType(args.qkv.dtype,
                [&](auto tag) { ForwardTasks<decltype(tag)>(args, tasks, scratch); });
}

// One thread's buffers in backward: the window's vectors, and their gradients.
struct BackwardBuffers {
  BackwardBuffers(const AttentionSizes& s, FloatStack* stack)
      : map(s, stack),
        after(s, stack),
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
        inverse{stack->Take(s.tokens_padded), stack->Take(s.tokens_padded)} {}
  WindowMap map, after;
  float *q, *k, *k_columns, *v, *v_columns, *dout, *dq, *dk, *dv, *scores, *dscores;
  InverseNormsOfBoth inverse;
};

// p and ds of a row, (tokens_padded), from what SoftmaxGradientRows makes of score and dp; dbias
// (N, N) is added to.
HWY_INLINE void FinishGradientRow(const AttentionSizes& s, const WindowMap& map, int64_t token,
                                  const RowGradient& gradient, float* p, float* ds, float* dbias) {
  const D d;
  const bool whole = BiasIsWhole(s, dbias);
  float* dbias_row = whole ? dbias + token * s.tokens : nullptr;
  for (int64_t j = 0; j < s.tokens_padded; j += static_cast<int64_t>(hn::Lanes(d))) {
    const V weight = hn::Mul(hn::Load(d, p + j), gradient.factor);
    const V dscore = hn::Mul(weight, hn::Sub(hn::Load(d, ds + j), gradient.delta));
    hn::Store(weight, d, p + j);
    hn::Store(dscore, d, ds + j);
    if (whole) hn::StoreU(hn::Add(hn::LoadU(d, dbias_row + j), dscore), d, dbias_row + j);
  }
  if (dbias != nullptr && !whole) AddBiasRow(s, map, token, ds, dbias);
}

// Of kRows tokens from `token` on; lse is that of the tensors' row 0.
template <int64_t kRows>
HWY_INLINE void GradientRows(const AttentionSizes& s, const WindowMap& map, int64_t token,
                             const float* lse, int64_t lse_stride, float* p, float* ds,
                             float* dbias) {
  float sums[kRows];
  RowGradient gradients[kRows];
  for (int64_t i = 0; i < kRows; ++i) sums[i] = lse[map.row[token + i] * lse_stride];
  SoftmaxGradientRows<kRows>(sums, s.tokens_padded, p, ds, gradients);
  for (int64_t i = 0; i < kRows; ++i) {
    const int64_t row = i * s.tokens_padded;
    FinishGradientRow(s, map, token + i, gradients[i], p + row, ds + row, dbias);
  }
}

// Of rows [first, first + count): p and ds, and b.dq.
void BackwardStrip(const AttentionSizes& s, const BackwardBuffers& b, int64_t first, int64_t count,
                   const float* bias, const float* lse, int64_t lse_stride, float* dbias, float* p,
                   float* ds, const NextVectors& next) {
  const int64_t n = s.tokens_padded, dim = s.dim_padded;
  next.q.Ask(first, count);
  Scores(s, b.map, first, count, b.q, b.k_columns, bias, p);
  next.k.Ask(first, count);
  SmallGemm<F32>({b.dout + first * dim, dim, 1}, count, n, s.dim, b.v_columns, n, Overwrite{ds, n});
  next.v.Ask(first, count);
  int64_t i = 0;
  for (; i + kSideBySide <= count; i += kSideBySide) {
    GradientRows<kSideBySide>(s, b.map, first + i, lse, lse_stride, p + i * n, ds + i * n, dbias);
  }
  for (; i < count; ++i) {
    GradientRows<1>(s, b.map, first + i, lse, lse_stride, p + i * n, ds + i * n, dbias);
  }
  next.out.Ask(first, count);
  next.lse.Ask(first, count);
  SmallGemm<F32>({ds, n, 1}, count, dim, s.tokens, b.k, dim, Overwrite{b.dq + first * dim, dim});
}

// Gradients of one window and head, into b.dq (of the scaled, normalised q), b.dk (of the
// normalised k) and b.dv; dbias (N, N), where given, is added to. lse is that of row 0.
void BackwardTiles(const AttentionSizes& s, const BackwardBuffers& b, const float* bias,
                   const float* lse, int64_t lse_stride, float* dbias, const NextVectors& next) {
  const int64_t n = s.tokens_padded, dim = s.dim_padded;
  for (int64_t first = 0; first < s.tokens; first += s.tile) {
    const int64_t count = std::min(s.tile, s.tokens - first);
    const float *q = b.q + first * dim, *dout = b.dout + first * dim;
    for (int64_t i = 0; i < count; i += s.strip) {
      BackwardStrip(s, b, first + i, std::min(s.strip, count - i), bias, lse, lse_stride, dbias,
                    b.scores + i * n, b.dscores + i * n, next);
    }
    const auto sum_up = [&](const float* weights, const float* vectors, float* to) {
      const SmallMatrix<float> columns = {weights, 1, n};
      if (first == 0) {
        SmallGemm<F32>(columns, s.tokens, dim, count, vectors, dim, Overwrite{to, dim});
      } else {
        SmallGemm<F32>(columns, s.tokens, dim, count, vectors, dim, AddTo{to, dim, to, dim});
      }
    };
    sum_up(b.scores, dout, b.dv);
    sum_up(b.dscores, q, b.dk);
  }
}

// Writes the gradients of q and k, from those of the scaled, normalised q and of the normalised k,
// and of v; dqkv is that of row 0. Returns the gradient of the scale's logarithm.
template <typename T>
double ScatterGradients(const AttentionSizes& s, const BackwardBuffers& b, const ScoreScale& scale,
                        T* dqkv) {
  const int64_t stride = 3 * s.channels;
  double dscale = 0;
  if (scale.cosine) {
    // The score is q . k with q scaled: its derivative by the scale's logarithm is itself.
    dscale = ScatterNormGradients(s, b.map, b.q, scale.factor, b.inverse.q, b.dq, stride, dqkv);
    ScatterNormGradients(s, b.map, b.k, 1.0f, b.inverse.k, b.dk, stride, dqkv + s.channels);
  } else {
    ScaleRows(s, scale.factor, b.dq);
    ScatterRows(s, b.map, b.dq, stride, dqkv);
    ScatterRows(s, b.map, b.dk, stride, dqkv + s.channels);
  }
  ScatterRows(s, b.map, b.dv, stride, dqkv + 2 * s.channels);
  for (int part = 0; part < 3; ++part) {
    ClearPadding(s, b.map, stride, dqkv + part * s.channels);
  }
  return scale.clamped ? 0 : dscale;
}

// The window's vectors of one head, from those of row 0, and what products need of them, into the
// buffers.
template <typename T>
void LoadWindow(const AttentionSizes& s, const T* qkv, const T* dout, const ScoreScale& scale,
                const BackwardBuffers& b) {
  const int64_t stride = 3 * s.channels;
  GatherRows(s, b.map, qkv, stride, b.q);
  GatherRows(s, b.map, qkv + s.channels, stride, b.k);
  GatherRows(s, b.map, qkv + 2 * s.channels, stride, b.v);
  GatherRows(s, b.map, dout, s.channels, b.dout);
  if (scale.cosine) {
    NormaliseBoth(s, scale.factor, b.inverse, b.q, b.k);
  } else {
    ScaleRows(s, scale.factor, b.q);
  }
  TransposeRows(s, b.k, b.k_columns);
  TransposeRows(s, b.v, b.v_columns);
}

// dbias (as args.dbias) and dscale (heads, of the scale's logarithm) are this thread's sums.
template <typename T>
void BackwardTasks(const WindowAttentionBackwardArgs& args, const AttentionTasks& tasks,
                   float* scratch, const TensorView& dbias, double* dscale) {
  AttentionSizes s(args.geometry, args.heads, args.qkv);
  const WindowGeometry& geometry = args.geometry;
  FloatStack stack(scratch);
  BackwardBuffers b(s, &stack);
  ForEachTask(args, tasks, &s, &b.map, &b.after, [&](int64_t window, int64_t head, NextTask task) {
    const ScoreScale scale(args.logit_scale, args.score_scale, head, s.dim);
    const T* qkv = Elements<T>(args.qkv) + head * s.dim;
    const T* dout = Elements<T>(args.dout) + head * s.dim;
    LoadWindow(s, qkv, dout, scale, b);
    BackwardTiles(s, b, BiasOf(args.bias, geometry, args.heads, window, head),
                  args.lse.f32() + head, args.heads,
                  BiasOf(dbias, geometry, args.heads, window, head),
                  NextVectors(s, args, task, Elements<T>(args.qkv), Elements<T>(args.dout)));
    const double gradient = ScatterGradients(s, b, scale, Elements<T>(args.dqkv) + head * s.dim);
    if (scale.cosine) dscale[head] += gradient;
  });
}

void BackwardWindows(const WindowAttentionBackwardArgs& args, const AttentionTasks& tasks,
                     float* scratch, const TensorView& dbias, double* dscale) {
#if SWINFLEET_NATIVE_BF16
  if (args.qkv.dtype == DType::kBF16) {
    return BackwardBf16Tasks(args, tasks, scratch, dbias, dscale);
  }
#endif
  DispatchDType(args.qkv.dtype, [&](auto tag) {
    BackwardTasks<decltype(tag)>(args, tasks, scratch, dbias, dscale);
  });
}

void AddSums(const float* __restrict from, float* __restrict to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] += from[i];
}

}  // namespace swinfleet::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace swinfleet {
namespace {

// (windows, N, width) of a range, or the map (B, D, H, W, width), of which D may be left out when
// it is 1.
void CheckTokens(const WindowGeometry& g, const WindowRange& range, const Shape& shape,
                 int64_t width) {
  if (range.count > 0) {
    CHECK(range.first >= 0 && range.first + range.count <= g.Windows())
        << range.first << "+" << range.count << " of " << g.Windows() << " windows";
    CHECK(shape == Shape({range.count, g.WindowTokens(), width})) << shape;
  } else {
    CHECK(shape == Shape({g.batch, g.depth, g.height, g.width, width}) ||
          (g.depth == 1 && shape == Shape({g.batch, g.height, g.width, width})))
        << shape << " for a map of " << g.depth << "x" << g.height << "x" << g.width << " and "
        << width << " channels";
  }
}

// What forward and backward have in common; `out` is dout in backward.
template <typename Args>
void CheckArgs(const Args& args, const TensorView& out) {
  const WindowGeometry& g = args.geometry;
  CHECK(g.window_d > 0 && g.window_h > 0 && g.window_w > 0)
      << g.window_d << "x" << g.window_h << "x" << g.window_w;
  CHECK(g.shift_d >= 0 && g.shift_d < g.window_d && g.shift_h >= 0 && g.shift_h < g.window_h &&
        g.shift_w >= 0 && g.shift_w < g.window_w)
      << g.shift_d << "," << g.shift_h << "," << g.shift_w;
  CHECK(args.exclude_padding || args.range.count > 0 || !g.HasPadding())
      << "only a range of windows has rows of padding";
  const int64_t width = args.qkv.shape[args.qkv.shape.rank() - 1];
  CHECK(args.heads > 0 && width % (3 * args.heads) == 0)
      << args.heads << " heads of " << args.qkv.shape;
  CheckTokens(g, args.range, args.qkv.shape, width);
  CheckTokens(g, args.range, out.shape, width / 3);
  CheckTokens(g, args.range, args.lse.shape, args.heads);
  CHECK(out.dtype == args.qkv.dtype) << NameOf(out.dtype) << " for " << NameOf(args.qkv.dtype);
  CHECK(args.lse.dtype == DType::kF32) << NameOf(args.lse.dtype);
  if (!args.logit_scale.empty()) CHECK_EQ(args.logit_scale.NumElements(), args.heads);
  if (args.bias.empty()) return;
  Shape bias = {args.heads, g.WindowTokens(), g.WindowTokens()};
  if (args.bias.shape.rank() == 4) {
    bias = {std::max<int64_t>(args.bias.shape[0], 1), bias[0], bias[1], bias[2]};
  }
  CHECK(args.bias.shape == bias) << args.bias.shape << " where " << bias << " fits";
  CHECK(args.bias.dtype == DType::kF32) << NameOf(args.bias.dtype);
}

int64_t WindowsOf(const WindowGeometry& geometry, const WindowRange& range) {
  return range.count > 0 ? range.count : geometry.Windows();
}

// The largest gradient of a bias of which each thread has one of its own, in floats.
constexpr int64_t kThreadBias = 256 * 1024;

// Whether each thread takes heads of its own, and so its own part of the bias's gradient, where
// that is large. Otherwise threads take windows: they find the tokens that they have made before in
// their own caches, which matters most where threads have no cache in common.
bool SplitsHeads(const WindowAttentionBackwardArgs& args, const Context& context) {
  return !args.dbias.empty() && args.dbias.NumElements() > kThreadBias &&
         args.heads % context.threads == 0;
}

float* TakeFloats(int64_t floats, Context& context) {
  return static_cast<float*>(context.workspace->AllocateBytes(floats * sizeof(float)));
}

}  // namespace

WindowAttentionScratch TakeScratch(const WindowAttentionForwardArgs& args, Context& context) {
  const cpu::AttentionSizes s(args.geometry, args.heads, args.qkv);
  WindowAttentionScratch scratch;
  scratch.floats_per_thread = cpu::ForwardFloats(s);
  scratch.block = TakeFloats(context.threads * scratch.floats_per_thread, context);
  return scratch;
}

WindowAttentionScratch TakeScratch(const WindowAttentionBackwardArgs& args, Context& context) {
  const cpu::AttentionSizes s(args.geometry, args.heads, args.qkv);
  WindowAttentionScratch scratch;
  scratch.floats_per_thread = cpu::BackwardFloats(s);
  scratch.block = TakeFloats(context.threads * scratch.floats_per_thread, context);
  if (!args.dbias.empty() && context.threads > 1 && !SplitsHeads(args, context)) {
    scratch.dbias = TakeFloats((context.threads - 1) * args.dbias.NumElements(), context);
  }
  if (!args.logit_scale.empty()) {
    scratch.dscale = static_cast<double*>(
        context.workspace->AllocateBytes(context.threads * args.heads * sizeof(double)));
  }
  return scratch;
}

namespace cpu {
namespace {

HWY_EXPORT(ForwardWindows);
HWY_EXPORT(BackwardWindows);
HWY_EXPORT(AddSums);

// Elements of the bias's gradient that a thread adds up, at least.
constexpr int64_t kSumGrain = 4096;

// All threads' work, with sums of each thread's own where they share a gradient.
void RunBackward(const WindowAttentionBackwardArgs& args, const WindowAttentionScratch& scratch,
                 Context& context) {
  const auto run = [&](const AttentionTasks& tasks, int thread) {
    TensorView dbias = args.dbias;
    if (thread > 0 && scratch.dbias != nullptr) {
      dbias.data = scratch.dbias + (thread - 1) * dbias.NumElements();
    }
    double* dscale = scratch.dscale == nullptr ? nullptr : scratch.dscale + thread * args.heads;
    HWY_DYNAMIC_DISPATCH(BackwardWindows)
    (args, tasks, scratch.block + thread * scratch.floats_per_thread, dbias, dscale);
  };
  const int64_t windows = WindowsOf(args.geometry, args.range);
  if (SplitsHeads(args, context)) {
    ParallelFor(context.threads, args.heads, 1, [&](int64_t begin, int64_t end, int thread) {
      run({args.range.first, begin, end - begin, 0, windows * (end - begin)}, thread);
    });
  } else {
    ParallelFor(context.threads, windows * args.heads, 1,
                [&](int64_t begin, int64_t end, int thread) {
                  run({args.range.first, 0, args.heads, begin, end}, thread);
                });
  }
}

}  // namespace

void WindowAttentionForward(const WindowAttentionForwardArgs& args, Context& context) {
  CheckArgs(args, args.out);
  ArenaScope scope(context.workspace);
  const WindowAttentionScratch scratch = TakeScratch(args, context);
  const int64_t tasks = WindowsOf(args.geometry, args.range) * args.heads;
  ParallelFor(context.threads, tasks, 1, [&](int64_t begin, int64_t end, int thread) {
    HWY_DYNAMIC_DISPATCH(ForwardWindows)
    (args, {args.range.first, 0, args.heads, begin, end},
     scratch.block + thread * scratch.floats_per_thread);
  });
}

void WindowAttentionBackward(const WindowAttentionBackwardArgs& args, Context& context) {
  CheckArgs(args, args.dout);
  CHECK(args.dqkv.shape == args.qkv.shape && args.dqkv.dtype == args.qkv.dtype)
      << args.dqkv.shape << " for " << args.qkv.shape;
  CHECK(args.dbias.empty() == args.bias.empty() && args.dbias.shape == args.bias.shape)
      << args.dbias.shape << " for " << args.bias.shape;
  CHECK_EQ(args.dlogit_scale.NumElements(), args.logit_scale.empty() ? 1 : args.heads);
  CHECK(args.dlogit_scale.empty() == args.logit_scale.empty());
  ArenaScope scope(context.workspace);
  const WindowAttentionScratch scratch = TakeScratch(args, context);
  const int64_t bias_size = args.dbias.empty() ? 0 : args.dbias.NumElements();
  if (scratch.dbias != nullptr) {
    std::fill_n(scratch.dbias, (context.threads - 1) * bias_size, 0.0f);
  }
  if (scratch.dscale != nullptr) std::fill_n(scratch.dscale, context.threads * args.heads, 0.0);
  RunBackward(args, scratch, context);
  if (scratch.dbias != nullptr) {
    ParallelFor(context.threads, bias_size, kSumGrain, [&](int64_t begin, int64_t end, int) {
      for (int thread = 1; thread < context.threads; ++thread) {
        HWY_DYNAMIC_DISPATCH(AddSums)
        (scratch.dbias + (thread - 1) * bias_size + begin, args.dbias.f32() + begin, end - begin);
      }
    });
  }
  for (int64_t i = 0; scratch.dscale != nullptr && i < context.threads * args.heads; ++i) {
    args.dlogit_scale.f32()[i % args.heads] += static_cast<float>(scratch.dscale[i]);
  }
}

}  // namespace cpu
}  // namespace swinfleet
#endif  // HWY_ONCE
