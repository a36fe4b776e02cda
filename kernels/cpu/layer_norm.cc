// Layer normalisation, with drop path and residual in the same pass.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/layer_norm.cc"
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

template <typename T>
void ForwardRowsOf(const LayerNormForwardArgs& args, int64_t begin, int64_t end) {
  const D d;
  const int64_t c = args.x.shape[1];
  const int64_t rows_per_picture =
      args.scale.empty() ? 1 : args.x.shape[0] / args.scale.NumElements();
  const float inverse = 1.0f / static_cast<float>(c);
  const T* gammas = Elements<T>(args.gamma);
  const T* betas = Elements<T>(args.beta);
  for (int64_t row = begin; row < end; ++row) {
    const T* x = Elements<T>(args.x) + row * c;
    V sum = hn::Zero(d);
    ForEachVector(c, [&](int64_t i, int64_t n) { sum = hn::Add(sum, LoadPart(x + i, n)); });
    const float mean = Total(sum) * inverse;
    // The second pass over deviations keeps small variances exact.
    const V vmean = hn::Set(d, mean);
    V squares = hn::Zero(d);
    ForEachVector(c, [&](int64_t i, int64_t n) {
      const V deviation = KeepFirst(hn::Sub(LoadPart(x + i, n), vmean), n);
      squares = hn::MulAdd(deviation, deviation, squares);
    });
    const float rstd = 1.0f / std::sqrt(Total(squares) * inverse + args.eps);
    args.mean.f32()[row] = mean;
    args.rstd.f32()[row] = rstd;
    const V vrstd = hn::Set(d, rstd);
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

// Adds this part's gradients of gamma and beta to sums (2, C).
template <typename T>
void BackwardRowsOf(const LayerNormBackwardArgs& args, int64_t begin, int64_t end, float* sums) {
  const D d;
  const int64_t c = args.x.shape[1];
  const int64_t rows_per_picture =
      args.scale.empty() ? 1 : args.x.shape[0] / args.scale.NumElements();
  const float inverse = 1.0f / static_cast<float>(c);
  const T* gammas = Elements<T>(args.gamma);
  for (int64_t row = begin; row < end; ++row) {
    const T* x = Elements<T>(args.x) + row * c;
    const T* dy = Elements<T>(args.dy) + row * c;
    T* dx = Elements<T>(args.dx) + row * c;
    const V mean = hn::Set(d, args.mean.f32()[row]);
    const V rstd = hn::Set(d, args.rstd.f32()[row]);
    const V scale =
        hn::Set(d, args.scale.empty() ? 1.0f : args.scale.f32()[row / rows_per_picture]);
    V sum_g = hn::Zero(d), sum_gx = hn::Zero(d);
    ForEachVector(c, [&](int64_t i, int64_t n) {
      const V xhat = hn::Mul(hn::Sub(LoadPart(x + i, n), mean), rstd);
      const V dout = hn::Mul(LoadPart(dy + i, n), scale);
      const V dout_xhat = hn::Mul(dout, xhat);
      StorePart(hn::Add(LoadPart(sums + i, n), dout_xhat), sums + i, n);
      StorePart(hn::Add(LoadPart(sums + c + i, n), dout), sums + c + i, n);
      const V gamma = LoadPart(gammas + i, n);
      sum_g = hn::MulAdd(dout, gamma, sum_g);
      sum_gx = hn::MulAdd(dout_xhat, gamma, sum_gx);
    });
    const V mean_g = hn::Set(d, Total(sum_g) * inverse);
    const V mean_gx = hn::Set(d, Total(sum_gx) * inverse);
    ForEachVector(c, [&](int64_t i, int64_t n) {
      const V xhat = hn::Mul(hn::Sub(LoadPart(x + i, n), mean), rstd);
      const V g = hn::Mul(hn::Mul(LoadPart(dy + i, n), scale), LoadPart(gammas + i, n));
      const V centred = hn::NegMulAdd(xhat, mean_gx, hn::Sub(g, mean_g));
      const V gradient = hn::Mul(centred, rstd);
      StorePart(args.accumulate ? hn::Add(LoadPart(dx + i, n), gradient) : gradient, dx + i, n);
    });
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
