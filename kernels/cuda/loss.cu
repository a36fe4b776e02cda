// Losses with their gradients, the targets of pre-training, and means over tokens. Sums of a
// picture are made by one block, in an order that the numbers alone decide.
#include <cmath>

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/launch.h"

namespace swinfleet::cuda {
namespace {

// A block a picture. Sums are float64: the row is short and everything hangs on it.
template <typename T>
__global__ void CrossEntropyKernel(const T* all_logits, const float* all_targets, int64_t classes,
                                   float grad_scale, float* loss, T* dlogits) {
  SharedCarver carver;
  double* shared = carver.Take<double>(kMaxWarps);
  const T* logits = all_logits + blockIdx.x * classes;
  const float* target = all_targets + blockIdx.x * classes;
  double peak = -INFINITY;
  bool bad = false;
  for (int64_t k = threadIdx.x; k < classes; k += blockDim.x) {
    const double logit = ToFloat(logits[k]);
    bad = bad || logit != logit;
    peak = logit > peak ? logit : peak;
  }
  peak = BlockTotal<true>(peak, shared);
  // A maximum passes NaN over; it must come out.
  const bool any_bad = BlockTotal<true>(bad ? 1.0 : 0.0, shared) > 0;
  if (any_bad) peak = NAN;
  double sum = 0;
  for (int64_t k = threadIdx.x; k < classes; k += blockDim.x) {
    sum += exp(static_cast<double>(ToFloat(logits[k])) - peak);
  }
  const double log_sum = peak + log(BlockTotal<false>(sum, shared));
  double total = 0, mass = 0;
  for (int64_t k = threadIdx.x; k < classes; k += blockDim.x) {
    mass += target[k];
    // A class without weight adds nothing, also where its logit is minus infinity.
    if (target[k] != 0) total += target[k] * (log_sum - static_cast<double>(ToFloat(logits[k])));
  }
  total = BlockTotal<false>(total, shared);
  mass = BlockTotal<false>(mass, shared);
  if (threadIdx.x == 0) loss[blockIdx.x] = static_cast<float>(total);
  if (dlogits == nullptr) return;
  for (int64_t k = threadIdx.x; k < classes; k += blockDim.x) {
    const double probability = exp(static_cast<double>(ToFloat(logits[k])) - log_sum);
    dlogits[blockIdx.x * classes + k] =
        FromFloat<T>(static_cast<float>(grad_scale * (mass * probability - target[k])));
  }
}

// What a masked loss says of one value.
struct AbsoluteError {
  float slope;

  __device__ float Loss(float difference) const { return fabsf(difference); }
  __device__ float Gradient(float difference) const {
    // NaN must not look like a perfect prediction.
    if (difference != difference) return difference;
    return difference > 0 ? slope : (difference < 0 ? -slope : 0.0f);
  }
};

struct SquaredError {
  float slope;

  __device__ float Loss(float difference) const { return difference * difference; }
  __device__ float Gradient(float difference) const { return slope * difference; }
};

// Where the mask of a value of a picture is: of pixels in units, or of patches of n values.
struct UnitMask {
  const int32_t* mask;
  uint32_t height, width, unit;

  __device__ bool operator()(int64_t picture, uint32_t i) const {
    const uint32_t row = i / width % height / unit, column = i % width / unit;
    const uint32_t across = width / unit, units = height / unit * across;
    return mask[picture * units + row * across + column] != 0;
  }
};

struct PatchMask {
  const int32_t* mask;
  uint32_t patches, n;
  bool shared;

  __device__ bool operator()(int64_t picture, uint32_t i) const {
    return mask[(shared ? 0 : picture * patches) + i / n] != 0;
  }
};

// A block a picture of n values.
template <typename T, typename Error, typename Mask>
__global__ void MaskedLossKernel(const T* prediction, const float* target, Mask mask, uint32_t n,
                                 Error error, double scale, float* loss, T* dprediction) {
  SharedCarver carver;
  double* shared = carver.Take<double>(kMaxWarps);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * n;
  double sum = 0;
  for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) {
    float gradient = 0;
    if (mask(blockIdx.x, i)) {
      const float difference = ToFloat(prediction[first + i]) - target[first + i];
      sum += error.Loss(difference);
      gradient = error.Gradient(difference);
    }
    if (dprediction != nullptr) dprediction[first + i] = FromFloat<T>(gradient);
  }
  sum = BlockTotal<false>(sum, shared);
  if (threadIdx.x == 0) loss[blockIdx.x] = static_cast<float>(scale * sum);
}

template <typename Args, typename Error, typename Mask>
void RunMaskedLoss(const Args& args, const Error& error, const Mask& mask, double scale,
                   const Context& context) {
  const Shape& shape = args.prediction.shape;
  CHECK(args.target.shape == shape) << args.target.shape;
  CHECK_EQ(args.loss.NumElements(), shape[0]);
  CHECK(args.dprediction.empty() || args.dprediction.shape == shape) << args.dprediction.shape;
  CheckFloating(args.prediction.dtype, {args.dprediction});
  CheckDtype(DType::kF32, {args.target, args.loss});
  CheckDtype(DType::kI32, {args.mask});
  if (shape[0] == 0) return;
  DispatchDType(args.prediction.dtype, [&](auto tag) {
    using T = decltype(tag);
    GpuLaunch(MaskedLossKernel<T, Error, Mask>, Narrow(shape[0]), kThreads, kTotalBytes,
              StreamOf(context), Elements<T>(args.prediction), Elements<float>(args.target), mask,
              Narrow(args.prediction.NumElements() / shape[0]), error, scale,
              Elements<float>(args.loss), Elements<T>(args.dprediction));
  });
}

// Targets are pixels normalised by the part of their neighbourhood that lies in the picture. A
// block has kThreads pixels of a row: sums over the rows around them, column by column, then over
// the columns around each.
struct TargetRows {
  const float* x;  // (planes, height, width)
  float* y;
  uint32_t height, width, radius;
  uint32_t blocks;   // of a row
  uint32_t columns;  // whose sums a block has, at most
};

__global__ void NormaliseTargetsKernel(TargetRows a) {
  SharedCarver carver;
  double* sums = carver.Take<double>(a.columns);
  double* squares = carver.Take<double>(a.columns);
  const uint32_t begin = blockIdx.x % a.blocks * kThreads, line = blockIdx.x / a.blocks;
  const uint32_t row = line % a.height, column = begin + threadIdx.x;
  const float* plane = a.x + static_cast<int64_t>(line / a.height) * a.height * a.width;
  const uint32_t top = row > a.radius ? row - a.radius : 0;
  const uint32_t bottom = min(row + a.radius + 1, a.height);
  const uint32_t left = begin > a.radius ? begin - a.radius : 0;
  const uint32_t right = min(begin + kThreads + a.radius, a.width);
  for (uint32_t c = left + threadIdx.x; c < right; c += kThreads) {
    double sum = 0, square = 0;
    for (uint32_t r = top; r < bottom; ++r) {
      const double value = plane[static_cast<int64_t>(r) * a.width + c];
      sum += value;
      square += value * value;
    }
    sums[c - left] = sum;
    squares[c - left] = square;
  }
  __syncthreads();
  if (column >= a.width) return;
  const uint32_t first = column > a.radius ? column - a.radius : 0;
  const uint32_t end = min(column + a.radius + 1, a.width);
  double sum = 0, square = 0;
  for (uint32_t c = first; c < end; ++c) {
    sum += sums[c - left];
    square += squares[c - left];
  }
  const double count = static_cast<double>(bottom - top) * (end - first), mean = sum / count;
  const double variance = fmax(0.0, (square - sum * mean) / (count - 1));
  const int64_t at = static_cast<int64_t>(line) * a.width + column;
  a.y[at] = static_cast<float>((a.x[at] - mean) / sqrt(variance + 1e-6));
}

// A warp a patch.
__global__ void PatchTargetsKernel(const float* image, float* y, int64_t rows, uint32_t channels,
                                   uint32_t height, uint32_t width, uint32_t patch,
                                   bool normalise) {
  const int64_t warps = GlobalThreads() / kWarp;
  const uint32_t down = height / patch, across = width / patch, n = patch * patch * channels;
  for (int64_t at = GlobalThread() / kWarp; at < rows; at += warps) {
    const auto row = static_cast<uint32_t>(at);
    const uint32_t b = row / (down * across), i = row / across % down, j = row % across;
    const auto value = [&](uint32_t e) {
      const uint32_t channel = e % channels, column = e / channels % patch;
      const uint32_t line = e / channels / patch;
      return static_cast<double>(
          image[(static_cast<int64_t>(b * channels + channel) * height + i * patch + line) * width +
                j * patch + column]);
    };
    double mean = 0, scale = 1;
    if (normalise) {
      double sum = 0, squares = 0;
      for (uint32_t e = threadIdx.x % kWarp; e < n; e += kWarp) sum += value(e);
      mean = WarpSum(sum) / n;
      for (uint32_t e = threadIdx.x % kWarp; e < n; e += kWarp) {
        squares += (value(e) - mean) * (value(e) - mean);
      }
      scale = 1 / sqrt(WarpSum(squares) / (n - 1) + 1e-6);
    }
    for (uint32_t e = threadIdx.x % kWarp; e < n; e += kWarp) {
      y[at * n + e] = static_cast<float>((value(e) - mean) * scale);
    }
  }
}

template <typename T>
struct Mean {
  const T* x;  // (B, L, C)
  T* y;        // (B, C)
  int64_t tokens, c;

  __device__ void operator()(int64_t i) const {
    const T* from = x + i / c * tokens * c + i % c;
    float sum = 0;
    for (int64_t token = 0; token < tokens; ++token) sum += ToFloat(from[token * c]);
    y[i] = FromFloat<T>(sum * (1.0f / static_cast<float>(tokens)));
  }
};

template <typename T>
struct MeanGradient {
  const T* dy;
  T* dx;
  int64_t tokens, c;

  __device__ void operator()(int64_t i) const {
    const float gradient = ToFloat(dy[i / (tokens * c) * c + i % c]);
    dx[i] = FromFloat<T>(gradient * (1.0f / static_cast<float>(tokens)));
  }
};

void CheckPool(const TensorView& tokens, const TensorView& means) {
  CHECK_EQ(tokens.shape.rank(), 3);
  CHECK(means.shape == Shape({tokens.shape[0], tokens.shape[2]})) << means.shape;
  CheckFloating(tokens.dtype, {means});
}

}  // namespace

void CrossEntropy(const CrossEntropyArgs& args, Context& context) {
  const int64_t batch = args.logits.shape[0], classes = args.logits.shape[1];
  CHECK_GE(classes, 1);
  CHECK(args.target.shape == args.logits.shape) << args.target.shape;
  CHECK_EQ(args.loss.NumElements(), batch);
  CHECK(args.dlogits.empty() || args.dlogits.shape == args.logits.shape) << args.dlogits.shape;
  CheckFloating(args.logits.dtype, {args.dlogits});
  CheckDtype(DType::kF32, {args.target, args.loss});
  if (batch == 0) return;
  DispatchDType(args.logits.dtype, [&](auto tag) {
    using T = decltype(tag);
    GpuLaunch(CrossEntropyKernel<T>, Narrow(batch), kThreads, kTotalBytes, StreamOf(context),
              Elements<T>(args.logits), Elements<float>(args.target), classes, args.grad_scale,
              Elements<float>(args.loss), Elements<T>(args.dlogits));
  });
}

void MaskedL1(const MaskedL1Args& args, Context& context) {
  const Shape& shape = args.prediction.shape;
  CHECK_EQ(shape.rank(), 4) << shape;
  CHECK(args.unit > 0 && shape[2] % args.unit == 0 && shape[3] % args.unit == 0)
      << shape << " in units of " << args.unit;
  CHECK(args.mask.shape == Shape({shape[0], shape[2] / args.unit * (shape[3] / args.unit)}))
      << args.mask.shape << " for " << shape;
  const UnitMask mask = {Elements<int32_t>(args.mask), Narrow(shape[2]), Narrow(shape[3]),
                         Narrow(args.unit)};
  RunMaskedLoss(args, AbsoluteError{args.grad_scale * args.scale}, mask, args.scale, context);
}

void MaskedMse(const MaskedMseArgs& args, Context& context) {
  const Shape& shape = args.prediction.shape;
  CHECK_EQ(shape.rank(), 3) << shape;
  CHECK(args.mask.shape == Shape({shape[0], shape[1]}) || args.mask.shape == Shape({1, shape[1]}))
      << args.mask.shape << " for " << shape;
  const auto n = static_cast<float>(shape[2]);
  const PatchMask mask = {Elements<int32_t>(args.mask), Narrow(shape[1]), Narrow(shape[2]),
                          args.mask.shape[0] == 1};
  RunMaskedLoss(args, SquaredError{args.grad_scale * args.scale * 2 / n}, mask,
                args.scale / static_cast<double>(shape[2]), context);
}

void NormTargets(const NormTargetsArgs& args, Context& context) {
  const Shape& shape = args.x.shape;
  CHECK_EQ(shape.rank(), 4) << shape;
  CHECK(args.y.shape == shape) << args.y.shape << " for " << shape;
  CHECK(args.window > 1 && args.window % 2 == 1) << args.window;
  CHECK_GT(shape[2] * shape[3], 1) << "the variance of one pixel";
  CheckDtype(DType::kF32, {args.x, args.y});
  const int64_t width = shape[3], radius = args.window / 2;
  const int64_t blocks = (width + kThreads - 1) / kThreads;
  // Arrays of doubles end at multiples of two.
  const int64_t columns = (std::min(width, kThreads + 2 * radius) + 1) / 2 * 2;
  const uint32_t grid = Narrow(shape[0] * shape[1] * shape[2] * blocks);
  if (grid == 0) return;
  GpuLaunch(NormaliseTargetsKernel, grid, kThreads, 2 * columns * sizeof(double), StreamOf(context),
            TargetRows{Elements<float>(args.x), Elements<float>(args.y), Narrow(shape[2]),
                       Narrow(width), Narrow(radius), Narrow(blocks), Narrow(columns)});
}

void PatchTargets(const PatchTargetsArgs& args, Context& context) {
  const Shape& shape = args.image.shape;
  const int64_t patch = args.patch;
  CHECK_EQ(shape.rank(), 4) << shape;
  CHECK(patch > 0 && shape[2] % patch == 0 && shape[3] % patch == 0) << shape << " by " << patch;
  const int64_t down = shape[2] / patch, across = shape[3] / patch;
  const int64_t n = patch * patch * shape[1], rows = Narrow(shape[0] * down * across);
  CHECK(args.y.shape == Shape({shape[0], down * across, n})) << args.y.shape;
  CHECK(!args.normalise || n > 1) << "the variance of one value";
  CheckDtype(DType::kF32, {args.image, args.y});
  if (rows == 0) return;
  GpuLaunch(PatchTargetsKernel, BlocksFor(rows * kWarp), kThreads, 0, StreamOf(context),
            Elements<float>(args.image), Elements<float>(args.y), rows, Narrow(shape[1]),
            Narrow(shape[2]), Narrow(shape[3]), Narrow(patch), args.normalise);
}

void MeanPoolForward(const MeanPoolForwardArgs& args, Context& context) {
  CheckPool(args.x, args.y);
  DispatchDType(args.x.dtype, [&](auto tag) {
    using T = decltype(tag);
    ForEach(args.y.NumElements(),
            Mean<T>{Elements<T>(args.x), Elements<T>(args.y), args.x.shape[1], args.x.shape[2]},
            context);
  });
}

void MeanPoolBackward(const MeanPoolBackwardArgs& args, Context& context) {
  CheckPool(args.dx, args.dy);
  DispatchDType(args.dx.dtype, [&](auto tag) {
    using T = decltype(tag);
    ForEach(args.dx.NumElements(),
            MeanGradient<T>{Elements<T>(args.dy), Elements<T>(args.dx), args.dx.shape[1],
                            args.dx.shape[2]},
            context);
  });
}

}  // namespace swinfleet::cuda
