// Layer normalisation, with drop path and residual in the same pass.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/layer_norm.cc"
#include <algorithm>
#include <cmath>

#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/checks.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/element.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/vector-inl.h"

SWINFLEET_BEFORE_NAMESPACE();
namespace swinfleet::cpu::HWY_NAMESPACE {

HWY_INLINE V KeepFirst(V v, int64_t count) {
  const D d;
  return hn::IfThenElseZero(hn::FirstN(d, count), v);
}

// Rows whose sums are made together: what the last steps of a sum wait for one another is shared.
inline constexpr int64_t kSumRows = 4;

// totals (count) of sum(row), for `count` rows, kSumRows at most.
template <typename Sum>
HWY_INLINE void RowTotals(int64_t count, const Sum& sum, float* totals) {
  if (count == kSumRows) {
    StoreTotals(sum(0), sum(1), sum(2), sum(3), totals);
  } else {
    for (int64_t row = 0; row < count; ++row) totals[row] = Total(sum(row));
  }
}

// Of `count` rows of c elements.
template <typename T>
HWY_INLINE void Statistics(const T* x, int64_t c, int64_t count, float eps, float* mean,
                           float* rstd) {
  const D d;
  const float inverse = 1.0f / static_cast<float>(c);
  RowTotals(
      count,
      [&](int64_t row) {
        V sum = hn::Zero(d);
        ForEachVector(
            c, [&](int64_t i, int64_t n) { sum = hn::Add(sum, LoadPart(x + row * c + i, n)); });
        return sum;
      },
      mean);
  for (int64_t row = 0; row < count; ++row) mean[row] *= inverse;
  // The second pass over deviations keeps small variances exact.
  RowTotals(
      count,
      [&](int64_t row) {
        const V vmean = hn::Set(d, mean[row]);
        V squares = hn::Zero(d);
        ForEachVector(c, [&](int64_t i, int64_t n) {
          const V deviation = KeepFirst(hn::Sub(LoadPart(x + row * c + i, n), vmean), n);
          squares = hn::MulAdd(deviation, deviation, squares);
        });
        return squares;
      },
      rstd);
  for (int64_t row = 0; row < count; ++row) rstd[row] = 1.0f / std::sqrt(rstd[row] * inverse + eps);
}

template <typename T>
void ForwardRowsOf(const LayerNormForwardArgs& args, int64_t begin, int64_t end) {
  const D d;
  const int64_t c = args.x.shape[1];
  const int64_t rows_per_picture =
      args.scale.empty() ? 1 : args.x.shape[0] / args.scale.NumElements();
  const T* gammas = Elements<T>(args.gamma);
  const T* betas = Elements<T>(args.beta);
  for (int64_t row = begin; row < end; ++row) {
    const T* x = Elements<T>(args.x) + row * c;
    if ((row - begin) % kSumRows == 0) {
      Statistics(x, c, std::min(kSumRows, end - row), args.eps, args.mean.f32() + row,
                 args.rstd.f32() + row);
    }
    const V vmean = hn::Set(d, args.mean.f32()[row]);
    const V vrstd = hn::Set(d, args.rstd.f32()[row]);
    const V scale =
        hn::Set(d, args.scale.empty() ? 1.0f : args.scale.f32()[row / rows_per_picture]);
    const T* residual = args.residual.empty() ? nullptr : Elements<T>(args.residual) + row * c;
    T* y = Elements<T>(args.y) + row * c;
    ForEachVector(c, [&](int64_t i, int64_t n) {
      const V xhat = hn::Mul(hn::Sub(LoadPart(x + i, n), vmean), vrstd);
      V value = hn::MulAdd(LoadPart(gammas + i, n), xhat, LoadPart(betas + i, n));
      if (residual != nullptr) {
        value = hn::MulAdd(value, scale, LoadPart(residual + i, n));
      } else {
        value = hn::Mul(value, scale);
      }
      StorePart(value, y + i, n);
    });
  }
}

// A row of LayerNormBackward.
template <typename T>
struct BackwardRow {
  BackwardRow(const LayerNormBackwardArgs& args, int64_t row, int64_t rows_per_picture) {
    const D d;
    const int64_t c = args.x.shape[1];
    x = Elements<T>(args.x) + row * c;
    dy = Elements<T>(args.dy) + row * c;
    dx = Elements<T>(args.dx) + row * c;
    mean = hn::Set(d, args.mean.f32()[row]);
    rstd = hn::Set(d, args.rstd.f32()[row]);
    scale = hn::Set(d, args.scale.empty() ? 1.0f : args.scale.f32()[row / rows_per_picture]);
  }
  HWY_INLINE V Normalised(int64_t i, int64_t n) const {
    return hn::Mul(hn::Sub(LoadPart(x + i, n), mean), rstd);
  }
  HWY_INLINE V Scaled(int64_t i, int64_t n) const { return hn::Mul(LoadPart(dy + i, n), scale); }

  const T *x, *dy;
  T* dx;
  V mean, rstd, scale;
};

// dx of a row, from the means over it of the gradient by what is normalised, and of that times the
// normalised.
template <typename T>
HWY_INLINE void FinishRow(const BackwardRow<T>& row, const T* gammas, int64_t c, bool accumulate,
                          float g_mean, float gx_mean) {
  const V mean_g = hn::Set(D(), g_mean), mean_gx = hn::Set(D(), gx_mean);
  ForEachVector(c, [&](int64_t i, int64_t n) {
    const V g = hn::Mul(row.Scaled(i, n), LoadPart(gammas + i, n));
    const V centred = hn::NegMulAdd(row.Normalised(i, n), mean_gx, hn::Sub(g, mean_g));
    const V gradient = hn::Mul(centred, row.rstd);
    StorePart(accumulate ? hn::Add(LoadPart(row.dx + i, n), gradient) : gradient, row.dx + i, n);
  });
}

// Adds this part's gradients of gamma and beta to sums (2, C). Rows go in pairs, which share what
// is loaded and the last steps of their sums; an odd last one is its own partner, whose gradients
// count once.
template <typename T>
void BackwardRowsOf(const LayerNormBackwardArgs& args, int64_t begin, int64_t end, float* sums) {
  const int64_t c = args.x.shape[1];
  const int64_t rows_per_picture =
      args.scale.empty() ? 1 : args.x.shape[0] / args.scale.NumElements();
  const float inverse = 1.0f / static_cast<float>(c);
  const T* gammas = Elements<T>(args.gamma);
  for (int64_t at = begin; at < end; at += 2) {
    const bool pair = at + 1 < end;
    const BackwardRow<T> rows[2] = {{args, at, rows_per_picture},
                                    {args, pair ? at + 1 : at, rows_per_picture}};
    V sum_g[2] = {hn::Zero(D()), hn::Zero(D())}, sum_gx[2] = {hn::Zero(D()), hn::Zero(D())};
    ForEachVector(c, [&](int64_t i, int64_t n) {
      const V gamma = LoadPart(gammas + i, n);
      V dgamma = LoadPart(sums + i, n), dbeta = LoadPart(sums + c + i, n);
#pragma GCC unroll 2
      for (int r = 0; r < 2; ++r) {
        const V dout = rows[r].Scaled(i, n);
        const V dout_xhat = hn::Mul(dout, rows[r].Normalised(i, n));
        sum_g[r] = hn::MulAdd(dout, gamma, sum_g[r]);
        sum_gx[r] = hn::MulAdd(dout_xhat, gamma, sum_gx[r]);
        if (r == 1 && !pair) continue;
        dgamma = hn::Add(dgamma, dout_xhat);
        dbeta = hn::Add(dbeta, dout);
      }
      StorePart(dgamma, sums + i, n);
      StorePart(dbeta, sums + c + i, n);
    });
    float totals[4];
    StoreTotals(sum_g[0], sum_gx[0], sum_g[1], sum_gx[1], totals);
    for (int r = 0; r < (pair ? 2 : 1); ++r) {
      FinishRow(rows[r], gammas, c, args.accumulate, totals[2 * r] * inverse,
                totals[2 * r + 1] * inverse);
    }
  }
}

void ForwardRows(const LayerNormForwardArgs& args, int64_t begin, int64_t end) {
  DispatchDType(args.x.dtype, [&](auto tag) { ForwardRowsOf<decltype(tag)>(args, begin, end); });
}

void BackwardRows(const LayerNormBackwardArgs& args, int64_t begin, int64_t end, float* sums) {
  DispatchDType(args.x.dtype,
                [&](auto tag) { BackwardRowsOf<decltype(tag)>(args, begin, end, sums); });
}

}  // namespace swinfleet::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace swinfleet {

float* TakeScratch(const LayerNormBackwardArgs& args, Context& context) {
  return static_cast<float*>(
      context.workspace->AllocateBytes(context.threads * 2 * args.x.shape[1] * sizeof(float)));
}

namespace cpu {
namespace {

HWY_EXPORT(ForwardRows);
HWY_EXPORT(BackwardRows);

constexpr int64_t kGrain = 8;

void CheckShapes(const TensorView& x, const TensorView& gamma, const TensorView& scale,
                 const TensorView& mean) {
  CHECK_EQ(x.shape.rank(), 2);
  CHECK_EQ(gamma.NumElements(), x.shape[1]);
  CHECK_EQ(mean.NumElements(), x.shape[0]);
  CHECK(scale.empty() || x.shape[0] % scale.NumElements() == 0) << x.shape << scale.shape;
}

}  // namespace

void LayerNormForward(const LayerNormForwardArgs& args, Context& context) {
  CheckShapes(args.x, args.gamma, args.scale, args.mean);
  CHECK_EQ(args.beta.NumElements(), args.x.shape[1]);
  CHECK_EQ(args.rstd.NumElements(), args.x.shape[0]);
  CHECK_EQ(args.y.NumElements(), args.x.NumElements());
  CHECK(args.residual.empty() || args.residual.NumElements() == args.x.NumElements())
      << args.residual.shape;
  CheckFloating(args.x.dtype, {args.gamma, args.beta, args.residual, args.y});
  CheckDtype(DType::kF32, {args.scale, args.mean, args.rstd});
  ParallelFor(context.threads, args.x.shape[0], kGrain, [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(ForwardRows)(args, begin, end);
  });
}

void LayerNormBackward(const LayerNormBackwardArgs& args, Context& context) {
  CheckShapes(args.x, args.gamma, args.scale, args.mean);
  CHECK(args.dy.NumElements() == args.x.NumElements() &&
        args.dx.NumElements() == args.x.NumElements());
  CHECK_EQ(args.rstd.NumElements(), args.x.shape[0]);
  CHECK(args.dgamma.NumElements() == args.x.shape[1] && args.dbeta.NumElements() == args.x.shape[1])
      << args.dgamma.shape << args.dbeta.shape;
  CheckFloating(args.x.dtype, {args.gamma, args.dy, args.dx});
  CheckDtype(DType::kF32, {args.mean, args.rstd, args.scale, args.dgamma, args.dbeta});
  ArenaScope scope(context.workspace);
  const int64_t c = args.x.shape[1];
  float* sums = TakeScratch(args, context);
  std::fill_n(sums, context.threads * 2 * c, 0.0f);
  ParallelFor(context.threads, args.x.shape[0], kGrain,
              [&](int64_t begin, int64_t end, int thread) {
                HWY_DYNAMIC_DISPATCH(BackwardRows)(args, begin, end, sums + thread * 2 * c);
              });
  for (int thread = 0; thread < context.threads; ++thread) {
    const float* part = sums + thread * 2 * c;
    for (int64_t i = 0; i < c; ++i) {
      args.dgamma.f32()[i] += part[i];
      args.dbeta.f32()[i] += part[c + i];
    }
  }
}

}  // namespace cpu
}  // namespace swinfleet
#endif  // HWY_ONCE
