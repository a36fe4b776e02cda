// Layer normalisation with drop path and residual in the same pass: a warp a row. A row is read
// again for each pass over it; it is in the first-level cache by then.
#include <utility>

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/scratch.h"

namespace swinfleet::cuda {
namespace {

template <typename T>
struct ForwardArrays {
  const T* x;
  const T* gamma;
  const T* beta;
  const T* residual;   // or null
  const float* scale;  // or null: 1
  T* y;
  float* mean;
  float* rstd;
};

// Rows of c channels, a multiple of kWidth.
template <typename T, int kWidth>
__global__ void LayerNormForwardKernel(ForwardArrays<T> a, int64_t rows, int64_t rows_per_picture,
                                       int64_t c, float eps) {
  const int64_t warp = GlobalThread() / kWarp, warps = GlobalThreads() / kWarp;
  const int64_t first = threadIdx.x % kWarp * kWidth;
  constexpr int64_t kStep = kWarp * kWidth;
  const float inverse = 1.0f / static_cast<float>(c);
  for (int64_t row = warp; row < rows; row += warps) {
    const T* x = a.x + row * c;
    float v[kWidth];
    float sum = 0;
    for (int64_t i = first; i < c; i += kStep) {
      LoadFloats<kWidth>(x + i, v);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) sum += v[k];
    }
    const float mean = WarpSum(sum) * inverse;
    // The second pass over deviations keeps small variances exact.
    float squares = 0;
    for (int64_t i = first; i < c; i += kStep) {
      LoadFloats<kWidth>(x + i, v);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) squares = fmaf(v[k] - mean, v[k] - mean, squares);
    }
    const float rstd = 1.0f / sqrtf(WarpSum(squares) * inverse + eps);
    if (first == 0) {
      a.mean[row] = mean;
      a.rstd[row] = rstd;
    }
    const float scale = a.scale == nullptr ? 1.0f : a.scale[row / rows_per_picture];
    for (int64_t i = first; i < c; i += kStep) {
      float gamma[kWidth], beta[kWidth], residual[kWidth] = {};
      LoadFloats<kWidth>(x + i, v);
      LoadFloats<kWidth>(a.gamma + i, gamma);
      LoadFloats<kWidth>(a.beta + i, beta);
      if (a.residual != nullptr) LoadFloats<kWidth>(a.residual + row * c + i, residual);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        const float value = fmaf(gamma[k], (v[k] - mean) * rstd, beta[k]);
        v[k] = fmaf(value, scale, residual[k]);
      }
      StoreFloats<kWidth>(v, a.y + row * c + i);
    }
  }
}

template <typename T>
struct BackwardArrays {
  const T* x;
  const T* gamma;
  const float* mean;
  const float* rstd;
  const float* scale;  // or null: 1
  const T* dy;
  T* dx;
  float* parts;  // (blocks, 2, C)
};

// A warp's sums of gamma's and beta's gradients over its rows, in shared memory: lane l's element k
// of step s is at (s kWidth + k) 32 + l, so that lanes meet in no bank.
template <int kWidth>
__device__ int64_t PlaceOf(int64_t column) {
  return (column / (kWarp * kWidth) * kWidth + column % kWidth) * kWarp + column / kWidth % kWarp;
}

// Of one row: dx, and what it adds to the warp's sums.
template <typename T, int kWidth>
__device__ void BackwardRow(const BackwardArrays<T>& a, int64_t row, float scale, int64_t c,
                            bool accumulate, float* dgamma, float* dbeta) {
  const int64_t first = threadIdx.x % kWarp * kWidth;
  constexpr int64_t kStep = kWarp * kWidth;
  const float inverse = 1.0f / static_cast<float>(c);
  const float mean = a.mean[row], rstd = a.rstd[row];
  const T* x = a.x + row * c;
  const T* dy = a.dy + row * c;
  float v[kWidth], d[kWidth], gamma[kWidth];
  float sum_g = 0, sum_gx = 0;
  for (int64_t i = first; i < c; i += kStep) {
    LoadFloats<kWidth>(x + i, v);
    LoadFloats<kWidth>(dy + i, d);
    LoadFloats<kWidth>(a.gamma + i, gamma);
    const int64_t place = PlaceOf<kWidth>(i);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      const float xhat = (v[k] - mean) * rstd, dout = d[k] * scale;
      dgamma[place + k * kWarp] += dout * xhat;
      dbeta[place + k * kWarp] += dout;
      sum_g = fmaf(dout, gamma[k], sum_g);
      sum_gx = fmaf(dout * xhat, gamma[k], sum_gx);
    }
  }
  const float mean_g = WarpSum(sum_g) * inverse, mean_gx = WarpSum(sum_gx) * inverse;
  T* dx = a.dx + row * c;
  for (int64_t i = first; i < c; i += kStep) {
    float before[kWidth] = {};
    LoadFloats<kWidth>(x + i, v);
    LoadFloats<kWidth>(dy + i, d);
    LoadFloats<kWidth>(a.gamma + i, gamma);
    if (accumulate) LoadFloats<kWidth>(dx + i, before);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      const float xhat = (v[k] - mean) * rstd;
      const float centred = d[k] * scale * gamma[k] - mean_g - xhat * mean_gx;
      d[k] = fmaf(centred, rstd, before[k]);
    }
    StoreFloats<kWidth>(d, dx + i);
  }
}

template <typename T, int kWidth>
__global__ void LayerNormBackwardKernel(BackwardArrays<T> a, int64_t rows, int64_t rows_per_picture,
                                        int64_t c, int64_t columns, bool accumulate) {
  SharedCarver carver;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  float* sums = carver.Take<float>(warps * 2 * columns);  // (warps, 2, columns)
  float* dgamma = sums + warp * 2 * columns;
  // Each lane clears the places that it adds to (PlaceOf), so nobody has to wait.
  for (int64_t i = threadIdx.x % kWarp; i < 2 * columns; i += kWarp) dgamma[i] = 0;
  const int64_t step = static_cast<int64_t>(gridDim.x) * warps;
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * warps + warp; row < rows; row += step) {
    const float scale = a.scale == nullptr ? 1.0f : a.scale[row / rows_per_picture];
    BackwardRow<T, kWidth>(a, row, scale, c, accumulate, dgamma, dgamma + columns);
  }
  __syncthreads();
  for (int64_t i = threadIdx.x; i < 2 * c; i += blockDim.x) {
    const int64_t place = (i < c ? 0 : columns) + PlaceOf<kWidth>(i < c ? i : i - c);
    float sum = 0;
    for (int w = 0; w < warps; ++w) sum += sums[w * 2 * columns + place];
    a.parts[blockIdx.x * 2 * c + i] = sum;
  }
}

void CheckShapes(const TensorView& x, const TensorView& gamma, const TensorView& scale,
                 const TensorView& mean) {
  CHECK_EQ(x.shape.rank(), 2);
  CHECK_EQ(gamma.NumElements(), x.shape[1]);
  CHECK_EQ(mean.NumElements(), x.shape[0]);
  CHECK(scale.empty() || x.shape[0] % scale.NumElements() == 0) << x.shape << scale.shape;
}

int64_t RowsPerPicture(const TensorView& x, const TensorView& scale) {
  return scale.empty() ? 1 : x.shape[0] / scale.NumElements();
}

}  // namespace

void LayerNormForward(const LayerNormForwardArgs& args, Context& context) {
  CheckShapes(args.x, args.gamma, args.scale, args.mean);
  const int64_t rows = args.x.shape[0], c = args.x.shape[1];
  CHECK_EQ(args.beta.NumElements(), c);
  CHECK_EQ(args.rstd.NumElements(), rows);
  CHECK_EQ(args.y.NumElements(), args.x.NumElements());
  CHECK(args.residual.empty() || args.residual.NumElements() == args.x.NumElements())
      << args.residual.shape;
  CheckFloating(args.x.dtype, {args.gamma, args.beta, args.residual, args.y});
  CheckDtype(DType::kF32, {args.scale, args.mean, args.rstd});
  if (rows == 0) return;
  DispatchDType(args.x.dtype, [&](auto tag) {
    using T = decltype(tag);
    const ForwardArrays<T> arrays = {Elements<T>(args.x),         Elements<T>(args.gamma),
                                     Elements<T>(args.beta),      Elements<T>(args.residual),
                                     Elements<float>(args.scale), Elements<T>(args.y),
                                     Elements<float>(args.mean),  Elements<float>(args.rstd)};
    DispatchRowWidth(c, args.x.dtype, {args.x, args.gamma, args.beta, args.residual, args.y},
                     [&](auto width) {
                       constexpr int kWidth = width;
                       GpuLaunch(LayerNormForwardKernel<T, kWidth>, BlocksFor(rows * kWarp),
                                 kThreads, 0, StreamOf(context), arrays, rows,
                                 RowsPerPicture(args.x, args.scale), c, args.eps);
                     });
  });
}

void LayerNormBackward(const LayerNormBackwardArgs& args, Context& context) {
  CheckShapes(args.x, args.gamma, args.scale, args.mean);
  const int64_t rows = args.x.shape[0], c = args.x.shape[1];
  CHECK(args.dy.NumElements() == args.x.NumElements() &&
        args.dx.NumElements() == args.x.NumElements());
  CHECK_EQ(args.rstd.NumElements(), rows);
  CHECK(args.dgamma.NumElements() == c && args.dbeta.NumElements() == c)
      << args.dgamma.shape << args.dbeta.shape;
  CheckFloating(args.x.dtype, {args.gamma, args.dy, args.dx});
  CheckDtype(DType::kF32, {args.mean, args.rstd, args.scale, args.dgamma, args.dbeta});
  ArenaScope scope(context.workspace);
  float* sums = TakeScratch(args, context);
  if (rows == 0) return;
  const LayerNormParts parts = PartsOf(args);
  DispatchDType(args.x.dtype, [&](auto tag) {
    using T = decltype(tag);
    const BackwardArrays<T> arrays = {Elements<T>(args.x),         Elements<T>(args.gamma),
                                      Elements<float>(args.mean),  Elements<float>(args.rstd),
                                      Elements<float>(args.scale), Elements<T>(args.dy),
                                      Elements<T>(args.dx),        sums};
    DispatchRowWidth(c, args.x.dtype, {args.x, args.gamma, args.dy, args.dx}, [&](auto width) {
      constexpr int kWidth = width;
      GpuLaunch(LayerNormBackwardKernel<T, kWidth>, static_cast<unsigned>(parts.parts),
                static_cast<unsigned>(parts.warps * kWarp), parts.SharedBytes(), StreamOf(context),
                arrays, rows, RowsPerPicture(args.x, args.scale), c, parts.columns,
                args.accumulate);
    });
  });
  for (const auto& [first, to] : {std::pair(0, args.dgamma), std::pair(1, args.dbeta)}) {
    AddParts({sums + first * c, parts.parts, 2 * c, c}, Elements<float>(to), context);
  }
}

}  // namespace swinfleet::cuda
