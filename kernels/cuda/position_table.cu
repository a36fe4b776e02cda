// The log-spaced continuous position bias: a two-layer MLP over the relative coordinates of a
// window.
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/scratch.h"

namespace swinfleet::cuda {
namespace {

template <typename T>
struct TableArrays {
  const float* coords;  // (T, 2)
  const T* w1;          // (hidden, 2)
  const T* b1;          // (hidden)
  const T* w2;          // (heads, hidden)
  uint32_t entries, hidden, heads;
};

// A hidden unit of an entry, after the ReLU.
template <typename T>
__device__ float HiddenUnit(const TableArrays<T>& a, uint32_t entry, uint32_t unit) {
  const float y = a.coords[2 * entry], x = a.coords[2 * entry + 1];
  const float sum =
      fmaf(ToFloat(a.w1[2 * unit]), y, fmaf(ToFloat(a.w1[2 * unit + 1]), x, ToFloat(a.b1[unit])));
  // NaN stays what it is.
  return sum < 0 ? 0.0f : sum;
}

// A block an entry, a warp a head. With dtable null writes the table, else (heads, entries), the
// gradient of what the sigmoid is of: for whoever goes through the entries of a head.
template <typename T>
__global__ void TableKernel(TableArrays<T> a, const float* dtable, float* result) {
  SharedCarver carver;
  float* hidden = carver.Take<float>(a.hidden);
  for (uint32_t unit = threadIdx.x; unit < a.hidden; unit += blockDim.x) {
    hidden[unit] = HiddenUnit(a, blockIdx.x, unit);
  }
  __syncthreads();
  for (uint32_t head = threadIdx.x / kWarp; head < a.heads; head += blockDim.x / kWarp) {
    float score = 0;
    for (uint32_t unit = threadIdx.x % kWarp; unit < a.hidden; unit += kWarp) {
      score = fmaf(ToFloat(a.w2[head * a.hidden + unit]), hidden[unit], score);
    }
    score = WarpSum(score);
    const float sigmoid = 1.0f / (1.0f + expf(-score));
    const uint32_t at = blockIdx.x * a.heads + head;
    if (threadIdx.x % kWarp == 0) {
      if (dtable == nullptr) {
        result[at] = 16.0f * sigmoid;
      } else {
        result[head * a.entries + blockIdx.x] = dtable[at] * 16.0f * sigmoid * (1.0f - sigmoid);
      }
    }
  }
}

// A block a hidden unit: its gradients are sums over the entries.
template <typename T>
__global__ void TableGradientsKernel(TableArrays<T> a, const float* dscores, float* dw1, float* db1,
                                     float* dw2) {
  SharedCarver carver;
  float* totals = carver.Take<float>(kMaxWarps);
  const uint32_t unit = blockIdx.x;
  float y_sum = 0, x_sum = 0, sum = 0;
  for (uint32_t t = threadIdx.x; t < a.entries; t += blockDim.x) {
    if (!(HiddenUnit(a, t, unit) > 0)) continue;
    float gradient = 0;
    for (uint32_t head = 0; head < a.heads; ++head) {
      gradient =
          fmaf(dscores[head * a.entries + t], ToFloat(a.w2[head * a.hidden + unit]), gradient);
    }
    y_sum = fmaf(gradient, a.coords[2 * t], y_sum);
    x_sum = fmaf(gradient, a.coords[2 * t + 1], x_sum);
    sum += gradient;
  }
  y_sum = BlockTotal<false>(y_sum, totals);
  x_sum = BlockTotal<false>(x_sum, totals);
  sum = BlockTotal<false>(sum, totals);
  if (threadIdx.x == 0) {
    dw1[2 * unit] += y_sum;
    dw1[2 * unit + 1] += x_sum;
    db1[unit] += sum;
  }
  for (uint32_t head = 0; head < a.heads; ++head) {
    float product = 0;
    for (uint32_t t = threadIdx.x; t < a.entries; t += blockDim.x) {
      product = fmaf(dscores[head * a.entries + t], HiddenUnit(a, t, unit), product);
    }
    product = BlockTotal<false>(product, totals);
    if (threadIdx.x == 0) dw2[head * a.hidden + unit] += product;
  }
}

template <typename Args>
void CheckShapes(const Args& args, const TensorView& table) {
  CHECK(args.w2.shape.rank() == 2 && args.coords.shape.rank() == 2) << args.w2.shape;
  const int64_t heads = args.w2.shape[0], hidden = args.w2.shape[1];
  CHECK_EQ(args.coords.shape[1], 2) << args.coords.shape;
  CHECK(table.shape == Shape({args.coords.shape[0], heads})) << table.shape;
  CHECK_EQ(args.w1.NumElements(), 2 * hidden) << args.w1.shape;
  CHECK_EQ(args.b1.NumElements(), hidden) << args.b1.shape;
  CheckFloating(args.w1.dtype, {args.b1, args.w2});
  CheckDtype(DType::kF32, {args.coords, table});
  Narrow(table.NumElements());
  Narrow(args.w2.NumElements());
}

template <typename T, typename Args>
TableArrays<T> ArraysOf(const Args& args) {
  return {Elements<float>(args.coords), Elements<T>(args.w1),         Elements<T>(args.b1),
          Elements<T>(args.w2),         Narrow(args.coords.shape[0]), Narrow(args.w2.shape[1]),
          Narrow(args.w2.shape[0])};
}

template <typename T>
void RunTable(const TableArrays<T>& arrays, const float* dtable, float* result,
              const Context& context) {
  GpuLaunch(TableKernel<T>, arrays.entries, kThreads, arrays.hidden * sizeof(float),
            StreamOf(context), arrays, dtable, result);
}

}  // namespace

void PositionTableForward(const PositionTableForwardArgs& args, Context& context) {
  CheckShapes(args, args.table);
  DispatchDType(args.w1.dtype, [&](auto tag) {
    RunTable(ArraysOf<decltype(tag)>(args), nullptr, Elements<float>(args.table), context);
  });
}

void PositionTableBackward(const PositionTableBackwardArgs& args, Context& context) {
  CheckShapes(args, args.dtable);
  CHECK(args.dw1.NumElements() == args.w1.NumElements() &&
        args.db1.NumElements() == args.b1.NumElements() && args.dw2.shape == args.w2.shape)
      << args.dw1.shape << args.db1.shape << args.dw2.shape;
  CheckDtype(DType::kF32, {args.dw1, args.db1, args.dw2});
  ArenaScope scope(context.workspace);
  float* dscores = TakeScratch(args, context);
  DispatchDType(args.w1.dtype, [&](auto tag) {
    using T = decltype(tag);
    const TableArrays<T> arrays = ArraysOf<T>(args);
    RunTable(arrays, Elements<float>(args.dtable), dscores, context);
    GpuLaunch(TableGradientsKernel<T>, arrays.hidden, kThreads, kTotalBytes, StreamOf(context),
              arrays, dscores, Elements<float>(args.dw1), Elements<float>(args.db1),
              Elements<float>(args.dw2));
  });
}

}  // namespace swinfleet::cuda
