// GELU with the exact error function, and its gradient.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/gelu.cc"
// foreach_target.h must come first.
// clang-format off
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// clang-format on

#include "kernels/checks.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/element.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/vector-inl.h"

SWINFLEET_BEFORE_NAMESPACE();
namespace swinfleet::cpu::HWY_NAMESPACE {

struct GeluParts {
  V phi;      // Phi(x), the normal distribution function
  V density;  // its derivative
};

// 1 / x for x >= 1, where a division takes longer than all the rest. Infinity gives 0 or NaN.
HWY_INLINE V Inverse(V x) {
  const D d;
  V inverse = hn::ApproximateReciprocal(x);
  // It begins with 14 digits there, with 11 or so elsewhere.
  constexpr int kSteps = HWY_TARGET <= HWY_AVX3 ? 1 : 2;
  for (int step = 0; step < kSteps; ++step) {
    inverse = hn::Mul(inverse, hn::NegMulAdd(x, inverse, hn::Set(d, 2.0f)));
  }
  return inverse;
}

// Phi(x) = 1 - erfc(x / sqrt 2) / 2 with Abramowitz and Stegun's 7.1.26 (absolute error 1.5e-7) for
// the half x >= 0 and its mirror image below, so that nothing cancels. The exponential serves the
// derivative too.
HWY_INLINE GeluParts Parts(V x) {
  const D d;
  const V magnitude = hn::Abs(x);
  const V exponential = ExpOfNegative(hn::Mul(hn::Set(d, -0.5f), hn::Mul(x, x)));
  // 0.3275911 / sqrt 2
  const V t = Inverse(hn::MulAdd(magnitude, hn::Set(d, 0.23164189f), hn::Set(d, 1.0f)));
  V poly = hn::Set(d, 0.5f * 1.061405429f);
  poly = hn::MulAdd(poly, t, hn::Set(d, 0.5f * -1.453152027f));
  poly = hn::MulAdd(poly, t, hn::Set(d, 0.5f * 1.421413741f));
  poly = hn::MulAdd(poly, t, hn::Set(d, 0.5f * -0.284496736f));
  poly = hn::MulAdd(poly, t, hn::Set(d, 0.5f * 0.254829592f));
  const V tail = hn::Mul(hn::Mul(poly, t), exponential);
  const V phi = hn::IfThenElse(hn::Ge(x, hn::Zero(d)), hn::Sub(hn::Set(d, 1.0f), tail), tail);
  return {phi, hn::Mul(exponential, hn::Set(d, 0.39894228f))};
}

template <typename T>
void GeluOf(const T* x, T* y, int64_t n) {
  ForEachVector(n, [&](int64_t i, int64_t count) {
    const V value = LoadPart(x + i, count);
    StorePart(hn::Mul(value, Parts(value).phi), y + i, count);
  });
}

// y may be null; so may be sums, to which dx is added as it was rounded.
template <typename T>
void GeluGradientOf(const T* x, const T* dy, T* dx, T* y, float* sums, int64_t n) {
  ForEachVector(n, [&](int64_t i, int64_t count) {
    const V value = LoadPart(x + i, count);
    const GeluParts parts = Parts(value);
    const V slope = hn::MulAdd(value, parts.density, parts.phi);
    StorePart(hn::Mul(LoadPart(dy + i, count), slope), dx + i, count);
    if (y != nullptr) StorePart(hn::Mul(value, parts.phi), y + i, count);
    if (sums == nullptr) return;
    StorePart(hn::Add(LoadPart(sums + i, count), LoadPart(dx + i, count)), sums + i, count);
  });
}

// Elements [begin, end).
void Gelu(const GeluForwardArgs& args, int64_t begin, int64_t end) {
  DispatchDType(args.x.dtype, [&](auto tag) {
    using T = decltype(tag);
    GeluOf(Elements<T>(args.x) + begin, Elements<T>(args.y) + begin, end - begin);
  });
}

// Elements [begin, end), `length` at a time; the sums of these pieces are added to `sums`, unless
// that is null.
void GeluGradient(const GeluBackwardArgs& args, int64_t begin, int64_t end, int64_t length,
                  float* sums) {
  DispatchDType(args.x.dtype, [&](auto tag) {
    using T = decltype(tag);
    for (int64_t i = begin; i < end; i += length) {
      GeluGradientOf(Elements<T>(args.x) + i, Elements<T>(args.dy) + i, Elements<T>(args.dx) + i,
                     args.y.empty() ? nullptr : Elements<T>(args.y) + i, sums, length);
    }
  });
}

}  // namespace swinfleet::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace swinfleet {

float* TakeScratch(const GeluBackwardArgs& args, Context& context) {
  if (args.dbias.empty()) return nullptr;
  return static_cast<float*>(
      context.workspace->AllocateBytes(context.threads * args.dbias.NumElements() * sizeof(float)));
}

namespace cpu {
namespace {

HWY_EXPORT(Gelu);
HWY_EXPORT(GeluGradient);

constexpr int64_t kGrain = 4096;

}  // namespace

void GeluForward(const GeluForwardArgs& args, Context& context) {
  CHECK_EQ(args.x.NumElements(), args.y.NumElements());
  CheckFloating(args.x.dtype, {args.y});
  ParallelFor(context.threads, args.x.NumElements(), kGrain, [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(Gelu)(args, begin, end);
  });
}

void GeluBackward(const GeluBackwardArgs& args, Context& context) {
  const int64_t n = args.x.NumElements();
  CHECK(args.dy.NumElements() == n && args.dx.NumElements() == n);
  CHECK(args.y.empty() || args.y.NumElements() == n);
  CheckFloating(args.x.dtype, {args.dy, args.dx, args.y});
  CheckDtype(DType::kF32, {args.dbias});
  if (args.dbias.empty()) {
    ParallelFor(context.threads, n, kGrain, [&](int64_t begin, int64_t end, int) {
      HWY_DYNAMIC_DISPATCH(GeluGradient)(args, begin, end, end - begin, nullptr);
    });
    return;
  }
  // Rows as a linear layer's gradient of a bias takes them, to the same bits.
  const int64_t c = args.dbias.NumElements();
  CHECK_EQ(args.x.shape.rank(), 2);
  CHECK_EQ(args.x.shape[1], c);
  ArenaScope scope(context.workspace);
  float* sums = TakeScratch(args, context);
  std::fill_n(sums, context.threads * c, 0.0f);
  ParallelFor(context.threads, args.x.shape[0], 1, [&](int64_t begin, int64_t end, int thread) {
    HWY_DYNAMIC_DISPATCH(GeluGradient)(args, begin * c, end * c, c, sums + thread * c);
  });
  AddRows({sums, DType::kF32, context.threads, c, c}, args.dbias.f32());
}

}  // namespace cpu
}  // namespace swinfleet
#endif  // HWY_ONCE
