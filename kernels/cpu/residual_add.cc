// Residual connections with drop path, and the gradient of their branch.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/residual_add.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/checks.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/element.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vector-inl.h"

SWINFLEET_BEFORE_NAMESPACE();
namespace swinfleet::cpu::HWY_NAMESPACE {

// y = x + scale branch; without x, y = scale branch.
template <typename T>
void ScaledRow(const T* x, const T* branch, float scale, T* y, int64_t n) {
  const D d;
  const V factor = hn::Set(d, scale);
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t i = 0; i < n; i += lanes) {
    const int64_t count = std::min(lanes, n - i);
    const V value = LoadPart(branch + i, count);
    StorePart(
        x == nullptr ? hn::Mul(value, factor) : hn::MulAdd(value, factor, LoadPart(x + i, count)),
        y + i, count);
  }
}

// Rows [begin, end); `x` may be absent.
void ScaledRows(const TensorView& x, const TensorView& branch, const TensorView& scale,
                const TensorView& y, int64_t begin, int64_t end) {
  const int64_t c = branch.shape[1];
  const int64_t rows_per_picture = scale.empty() ? 1 : branch.shape[0] / scale.NumElements();
  DispatchDType(branch.dtype, [&](auto tag) {
    using T = decltype(tag);
    for (int64_t row = begin; row < end; ++row) {
      const float factor = scale.empty() ? 1.0f : scale.f32()[row / rows_per_picture];
      ScaledRow(x.empty() ? nullptr : Elements<T>(x) + row * c, Elements<T>(branch) + row * c,
                factor, Elements<T>(y) + row * c, c);
    }
  });
}

}  // namespace swinfleet::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace swinfleet::cpu {
namespace {

HWY_EXPORT(ScaledRows);

constexpr int64_t kGrain = 16;

void Run(const TensorView& x, const TensorView& branch, const TensorView& scale,
         const TensorView& y, int threads) {
  CHECK_EQ(branch.shape.rank(), 2);
  CHECK(y.shape == branch.shape && (x.empty() || x.shape == branch.shape))
      << x.shape << branch.shape << y.shape;
  CHECK(scale.empty() || branch.shape[0] % scale.NumElements() == 0) << branch.shape << scale.shape;
  CheckFloating(branch.dtype, {x, y});
  CheckDtype(DType::kF32, {scale});
  ParallelFor(threads, branch.shape[0], kGrain, [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(ScaledRows)(x, branch, scale, y, begin, end);
  });
}

}  // namespace

void ResidualAdd(const ResidualAddArgs& args, Context& context) {
  CHECK(!args.x.empty());
  Run(args.x, args.branch, args.scale, args.y, context.threads);
}

void ScaleRows(const ScaleRowsArgs& args, Context& context) {
  CHECK(!args.scale.empty());
  Run({}, args.x, args.scale, args.y, context.threads);
}

}  // namespace swinfleet::cpu
#endif  // HWY_ONCE
