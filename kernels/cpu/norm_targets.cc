// Pixels normalised by their neighbourhood. Sums over the neighbourhood slide: down the picture for
// each column, and then along the row over the columns' sums.
#include <algorithm>
#include <cmath>

#include "kernels/checks.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/scratch.h"

namespace swinfleet {

double* TakeScratch(const NormTargetsArgs& args, Context& context) {
  return static_cast<double*>(context.workspace->AllocateBytes(
      context.threads * 2 * args.x.shape[args.x.shape.rank() - 1] * sizeof(double)));
}

namespace cpu {
namespace {

constexpr double kEpsilon = 1e-6;

struct Plane {
  const float* x;
  float* y;
  int64_t height, width;
  // Of the neighbourhood on either side.
  int64_t radius;
};

// Sums over the rows of the neighbourhood, for each column: float64, so that what is subtracted
// again leaves nothing behind that matters.
struct ColumnSums {
  double* values;
  double* squares;

  void Add(const Plane& p, int64_t row, double sign) {
    if (row < 0 || row >= p.height) return;
    const float* x = p.x + row * p.width;
    for (int64_t i = 0; i < p.width; ++i) {
      values[i] += sign * x[i];
      squares[i] += sign * x[i] * x[i];
    }
  }
};

void NormaliseRow(const Plane& p, int64_t row, const ColumnSums& columns) {
  const int64_t rows =
      std::min(row + p.radius, p.height - 1) - std::max(row - p.radius, int64_t{0}) + 1;
  double value = 0, square = 0;
  for (int64_t i = 0; i < std::min(p.radius, p.width); ++i) {
    value += columns.values[i];
    square += columns.squares[i];
  }
  for (int64_t i = 0; i < p.width; ++i) {
    const int64_t last = i + p.radius, before = i - p.radius - 1;
    if (last < p.width) {
      value += columns.values[last];
      square += columns.squares[last];
    }
    if (before >= 0) {
      value -= columns.values[before];
      square -= columns.squares[before];
    }
    const int64_t across = std::min(last, p.width - 1) - std::max(before, int64_t{-1});
    const auto count = static_cast<double>(rows * across);
    const double mean = value / count;
    const double variance = std::max(0.0, (square - value * mean) / (count - 1));
    p.y[row * p.width + i] =
        static_cast<float>((p.x[row * p.width + i] - mean) / std::sqrt(variance + kEpsilon));
  }
}

void NormalisePlane(const Plane& p, ColumnSums columns) {
  std::fill_n(columns.values, p.width, 0.0);
  std::fill_n(columns.squares, p.width, 0.0);
  for (int64_t row = 0; row < p.radius; ++row) columns.Add(p, row, 1);
  for (int64_t row = 0; row < p.height; ++row) {
    columns.Add(p, row + p.radius, 1);
    columns.Add(p, row - p.radius - 1, -1);
    NormaliseRow(p, row, columns);
  }
}

}  // namespace

void NormTargets(const NormTargetsArgs& args, Context& context) {
  const Shape& shape = args.x.shape;
  CHECK_EQ(shape.rank(), 4) << shape;
  CHECK(args.y.shape == shape) << args.y.shape << " for " << shape;
  CHECK(args.window > 1 && args.window % 2 == 1) << args.window;
  CHECK_GT(shape[2] * shape[3], 1) << "the variance of one pixel";
  CheckDtype(DType::kF32, {args.x, args.y});
  ArenaScope scope(context.workspace);
  double* scratch = TakeScratch(args, context);
  const int64_t height = shape[2], width = shape[3];
  ParallelFor(context.threads, shape[0] * shape[1], 1, [&](int64_t begin, int64_t end, int thread) {
    double* sums = scratch + thread * 2 * width;
    for (int64_t plane = begin; plane < end; ++plane) {
      const int64_t start = plane * height * width;
      NormalisePlane({args.x.f32() + start, args.y.f32() + start, height, width, args.window / 2},
                     {sums, sums + width});
    }
  });
}

}  // namespace cpu
}  // namespace swinfleet
