// MAE's targets: the pixels of each patch, normalised or as they are.
#include <cmath>

#include "kernels/checks.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"

namespace swinfleet::cpu {
namespace {

constexpr double kEpsilon = 1e-6;

// The patch whose first pixel, of the first channel, is at `image`: as (row, column, channel).
void CopyPatch(const PatchTargetsArgs& args, const float* image, float* y) {
  const int64_t channels = args.image.shape[1], width = args.image.shape[3];
  const int64_t plane = args.image.shape[2] * width;
  for (int64_t row = 0; row < args.patch; ++row) {
    for (int64_t column = 0; column < args.patch; ++column) {
      for (int64_t c = 0; c < channels; ++c) *y++ = image[c * plane + row * width + column];
    }
  }
}

void Normalise(float* y, int64_t n) {
  double mean = 0, squares = 0;
  for (int64_t i = 0; i < n; ++i) mean += y[i];
  mean /= static_cast<double>(n);
  for (int64_t i = 0; i < n; ++i) squares += (y[i] - mean) * (y[i] - mean);
  const double scale = 1 / std::sqrt(squares / static_cast<double>(n - 1) + kEpsilon);
  for (int64_t i = 0; i < n; ++i) y[i] = static_cast<float>((y[i] - mean) * scale);
}

}  // namespace

void PatchTargets(const PatchTargetsArgs& args, Context& context) {
  const Shape& shape = args.image.shape;
  const int64_t patch = args.patch;
  CHECK_EQ(shape.rank(), 4) << shape;
  CHECK(patch > 0 && shape[2] % patch == 0 && shape[3] % patch == 0) << shape << " by " << patch;
  const int64_t down = shape[2] / patch, across = shape[3] / patch;
  const int64_t n = patch * patch * shape[1];
  CHECK(args.y.shape == Shape({shape[0], down * across, n})) << args.y.shape;
  CHECK(!args.normalise || n > 1) << "the variance of one value";
  CheckDtype(DType::kF32, {args.image, args.y});
  ParallelFor(context.threads, shape[0] * down * across, 4, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t b = row / (down * across), i = row / across % down, j = row % across;
      float* y = args.y.f32() + row * n;
      CopyPatch(args,
                args.image.f32() + (b * shape[1] * shape[2] + i * patch) * shape[3] + j * patch, y);
      if (args.normalise) Normalise(y, n);
    }
  });
}

}  // namespace swinfleet::cpu
