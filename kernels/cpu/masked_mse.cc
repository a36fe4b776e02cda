// The mean squared error over masked patches, and its gradient.
#include <algorithm>

#include "kernels/checks.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/element.h"
#include "kernels/cpu/parallel.h"

namespace swinfleet::cpu {
namespace {

// The sum of squared differences of a patch of n values; with dprediction also its derivative,
// `slope` times the difference.
template <typename T>
double Patch(const T* prediction, const float* target, int64_t n, float slope, T* dprediction) {
  // Sums of a few values in float32, and of those in float64.
  constexpr int64_t kBlock = 64;
  double sum = 0;
  for (int64_t first = 0; first < n; first += kBlock) {
    float part = 0;
    for (int64_t i = first; i < std::min(first + kBlock, n); ++i) {
      const float difference = ToFloat(prediction[i]) - target[i];
      part += difference * difference;
    }
    sum += part;
  }
  for (int64_t i = 0; dprediction != nullptr && i < n; ++i) {
    dprediction[i] = FromFloat<T>(slope * (ToFloat(prediction[i]) - target[i]));
  }
  return sum;
}

// One picture.
template <typename T>
void Picture(const MaskedMseArgs& args, int64_t b) {
  const int64_t patches = args.prediction.shape[1], n = args.prediction.shape[2];
  const int32_t* mask = args.mask.i32() + (args.mask.shape[0] == 1 ? 0 : b * patches);
  const float slope = args.grad_scale * args.scale * 2 / static_cast<float>(n);
  double sum = 0;
  for (int64_t l = 0; l < patches; ++l) {
    const int64_t start = (b * patches + l) * n;
    T* gradient = args.dprediction.empty() ? nullptr : Elements<T>(args.dprediction) + start;
    if (mask[l] != 0) {
      sum += Patch(Elements<T>(args.prediction) + start, args.target.f32() + start, n, slope,
                   gradient);
    } else if (gradient != nullptr) {
      std::fill_n(gradient, n, FromFloat<T>(0.0f));
    }
  }
  args.loss.f32()[b] = static_cast<float>(args.scale * sum / static_cast<double>(n));
}

}  // namespace

void MaskedMse(const MaskedMseArgs& args, Context& context) {
  const Shape& shape = args.prediction.shape;
  CHECK_EQ(shape.rank(), 3) << shape;
  CHECK(args.mask.shape == Shape({shape[0], shape[1]}) || args.mask.shape == Shape({1, shape[1]}))
      << args.mask.shape << " for " << shape;
  CHECK(args.target.shape == shape) << args.target.shape;
  CHECK_EQ(args.loss.NumElements(), shape[0]);
  CHECK(args.dprediction.empty() || args.dprediction.shape == shape) << args.dprediction.shape;
  CheckFloating(args.prediction.dtype, {args.dprediction});
  CheckDtype(DType::kF32, {args.target, args.loss});
  CheckDtype(DType::kI32, {args.mask});
  DispatchDType(args.prediction.dtype, [&](auto tag) {
    ParallelFor(context.threads, shape[0], 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t b = begin; b < end; ++b) Picture<decltype(tag)>(args, b);
    });
  });
}

}  // namespace swinfleet::cpu
