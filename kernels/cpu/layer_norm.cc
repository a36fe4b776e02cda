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

// Rows of up to kShortRow elements go through each step in blocks of so many times as many.
inline constexpr int64_t kShortRow = 256;
inline constexpr int64_t kBlocks = 2;

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

// y of a row: normalised, scaled, and added to the residual, which may be null.
template <typename T>
HWY_INLINE void NormaliseRow(const T* x, const T* gammas, const T* betas, const T* residual,
                             int64_t c, float mean, float rstd, float factor, T* y) {
  const D d;
  const V vmean = hn::Set(d, mean), vrstd = hn::Set(d, rstd), scale = hn::Set(d, factor);
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

template <typename T>
HWY_FLATTEN void ForwardRowsOf(const LayerNormForwardArgs& args, int64_t begin, int64_t end) {
  const int64_t c = args.x.shape[1];
  const int64_t rows_per_picture =
      args.scale.empty() ? 1 : args.x.shape[0] / args.scale.NumElements();
  const T *x = Elements<T>(args.x), *gammas = Elements<T>(args.gamma);
  const T* betas = Elements<T>(args.beta);
  const T* residual = args.residual.empty() ? nullptr : Elements<T>(args.residual);
  const float* scale = args.scale.empty() ? nullptr : args.scale.f32();
  float *mean = args.mean.f32(), *rstd = args.rstd.f32();
  T* y = Elements<T>(args.y);
  // Short rows are soon summed up, and would wait for their means and roots.
  const int64_t block = c <= kShortRow ? kBlocks * kSumRows : kSumRows;
  for (int64_t first = begin; first < end; first += block) {
    const int64_t last = std::min(first + block, end);
    for (int64_t row = first; row < last; row += kSumRows) {
      Statistics(x + row * c, c, std::min(kSumRows, last - row), args.eps, mean + row, rstd + row);
    }
    for (int64_t row = first; row < last; ++row) {
      NormaliseRow(x + row * c, gammas, betas, residual == nullptr ? nullptr : residual + row * c,
                   c, mean[row], rstd[row], scale == nullptr ? 1.0f : scale[row / rows_per_picture],
                   y + row * c);
    }
  }
}

// A row of LayerNormBackward.
template <typename T>
struct BackwardRow {
  HWY_INLINE void Start(const LayerNormBackwardArgs& args, int64_t row, int64_t rows_per_picture) {
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

// Rows of LayerNormBackward that go side by side, as many as registers hold: they share what is
// loaded and the last steps of their sums.
inline constexpr int kSideBySide = HWY_TARGET <= HWY_AVX3 ? 4 : 2;

// totals (2, kRows) of the lanes of two vectors a row.
template <int kRows>
HWY_INLINE void TotalsOfBoth(const V (&a)[kRows], const V (&b)[kRows], float* totals) {
  if constexpr (kRows == 4) {
    StoreTotals(a[0], a[1], a[2], a[3], totals);
    StoreTotals(b[0], b[1], b[2], b[3], totals + 4);
  } else if constexpr (kRows == 2) {
    StoreTotals(a[0], a[1], b[0], b[1], totals);
  } else {
    totals[0] = Total(a[0]);
    totals[1] = Total(b[0]);
  }
}

// Of rows [first, first + kRows): dx, and their part of sums (2, C).
template <int kRows, typename T>
HWY_INLINE void BackwardBlock(const LayerNormBackwardArgs& args, int64_t first,
                              int64_t rows_per_picture, const T* gammas, float* sums) {
  const int64_t c = args.x.shape[1];
  const float inverse = 1.0f / static_cast<float>(c);
  BackwardRow<T> rows[kRows];
  V sum_g[kRows], sum_gx[kRows];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
    rows[r].Start(args, first + r, rows_per_picture);
    sum_g[r] = sum_gx[r] = hn::Zero(D());
  }
  ForEachVector(c, [&](int64_t i, int64_t n) {
    const V gamma = LoadPart(gammas + i, n);
    V dgamma = LoadPart(sums + i, n), dbeta = LoadPart(sums + c + i, n);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const V dout = rows[r].Scaled(i, n);
      const V dout_xhat = hn::Mul(dout, rows[r].Normalised(i, n));
      sum_g[r] = hn::MulAdd(dout, gamma, sum_g[r]);
      sum_gx[r] = hn::MulAdd(dout_xhat, gamma, sum_gx[r]);
      dgamma = hn::Add(dgamma, dout_xhat);
      dbeta = hn::Add(dbeta, dout);
    }
    StorePart(dgamma, sums + i, n);
    StorePart(dbeta, sums + c + i, n);
  });
  float totals[2 * kRows];
  TotalsOfBoth<kRows>(sum_g, sum_gx, totals);
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
    FinishRow(rows[r], gammas, c, args.accumulate, totals[r] * inverse,
              totals[kRows + r] * inverse);
  }
}

// Adds this part's gradients of gamma and beta to sums (2, C).
template <typename T>
HWY_FLATTEN void BackwardRowsOf(const LayerNormBackwardArgs& args, int64_t begin, int64_t end,
                                float* sums) {
  const int64_t rows_per_picture =
      args.scale.empty() ? 1 : args.x.shape[0] / args.scale.NumElements();
  const T* gammas = Elements<T>(args.gamma);
  int64_t row = begin;
  for (; row + kSideBySide <= end; row += kSideBySide) {
    BackwardBlock<kSideBySide>(args, row, rows_per_picture, gammas, sums);
  }
  for (; row < end; ++row) BackwardBlock<1>(args, row, rows_per_picture, gammas, sums);
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
