// The mean absolute error over masked pixels, and its gradient.
#include <algorithm>
#include <cmath>

#include "kernels/checks.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/element.h"
#include "kernels/cpu/parallel.h"

namespace swinfleet::cpu {
namespace {

// The sum of absolute differences of n neighbours; with dprediction also their derivatives, `slope`
// by the sign.
template <typename T>
float Segment(const T* prediction, const float* target, int64_t n, float slope, T* dprediction) {
  float sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += std::abs(ToFloat(prediction[i]) - target[i]);
  for (int64_t i = 0; dprediction != nullptr && i < n; ++i) {
    const float difference = ToFloat(prediction[i]) - target[i];
    const float sign = difference > 0 ? 1.0f : (difference < 0 ? -1.0f : 0.0f);
    // NaN must not look like a perfect prediction.
    dprediction[i] = FromFloat<T>(std::isnan(difference) ? difference : slope * sign);
  }
  return sum;
}

// One picture.
template <typename T>
void Picture(const MaskedL1Args& args, int64_t b) {
  const Shape& shape = args.prediction.shape;
  const int64_t height = shape[2], width = shape[3], unit = args.unit;
  const int64_t units_w = width / unit;
  const int32_t* mask = args.mask.i32() + b * (height / unit) * units_w;
  double sum = 0;
  for (int64_t row = 0; row < shape[1] * height; ++row) {
    const int64_t start = (b * shape[1] * height + row) * width;
    const int32_t* mask_row = mask + row % height / unit * units_w;
    const T* prediction = Elements<T>(args.prediction) + start;
    T* dprediction = args.dprediction.empty() ? nullptr : Elements<T>(args.dprediction) + start;
    for (int64_t u = 0; u < units_w; ++u) {
      T* gradient = dprediction == nullptr ? nullptr : dprediction + u * unit;
      if (mask_row[u] != 0) {
        sum += Segment(prediction + u * unit, args.target.f32() + start + u * unit, unit,
                       args.grad_scale * args.scale, gradient);
      } else if (gradient != nullptr) {
        std::fill_n(gradient, unit, FromFloat<T>(0.0f));
      }
    }
  }
  args.loss.f32()[b] = static_cast<float>(args.scale * sum);
}

}  // namespace

void MaskedL1(const MaskedL1Args& args, Context& context) {
  const Shape& shape = args.prediction.shape;
  CHECK_EQ(shape.rank(), 4) << shape;
  CHECK(args.unit > 0 && shape[2] % args.unit == 0 && shape[3] % args.unit == 0)
      << shape << " in units of " << args.unit;
  CHECK(args.mask.shape == Shape({shape[0], shape[2] / args.unit * (shape[3] / args.unit)}))
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
