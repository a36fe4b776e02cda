// AdamW and SGD, one streaming pass each, on float32 weights or on 16 bits and what is kept of
// their masters; and the sums of the global norm.
#include <cmath>

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/scratch.h"

namespace swinfleet::cuda {
namespace {

// The float32 weight behind each kind of parameter, as AdamWArgs says.
struct Float32Weights {
  float* param;

  __device__ float Load(int64_t i) const { return param[i]; }
  __device__ void Store(float weight, int64_t i) const { param[i] = weight; }
};

struct Bfloat16Weights {
  uint16_t* param;
  uint16_t* remainder;

  __device__ float Load(int64_t i) const {
    const unsigned low = remainder[i];
    return __uint_as_float((static_cast<unsigned>(param[i]) << 16 | low) - ((low & 0x8000u) << 1));
  }
  __device__ void Store(float weight, int64_t i) const {
    const unsigned bits = __float_as_uint(weight);
    param[i] = static_cast<uint16_t>((bits + 0x8000u) >> 16);
    remainder[i] = static_cast<uint16_t>(bits);
  }
};

struct Float16Weights {
  __half* param;
  float* master;

  __device__ float Load(int64_t i) const { return master[i]; }
  __device__ void Store(float weight, int64_t i) const {
    master[i] = weight;
    param[i] = FromFloat<__half>(weight);
  }
};

// What a step of AdamW multiplies with, rounded once from float64.
struct AdamWFactors {
  float decay, one_minus_beta1, beta2, one_minus_beta2, eps, step_size, inverse_root, grad_scale;
};

// Every product and sum is written as the instruction that it is, so that weights of all kinds go
// through the same roundings.
template <typename Weights>
struct AdamWStep {
  Weights weights;
  const float* grad;
  float* m;
  float* v;
  AdamWFactors f;

  __device__ void operator()(int64_t i) const {
    const float g = __fmul_rn(grad[i], f.grad_scale);
    const float mean = fmaf(__fadd_rn(g, -m[i]), f.one_minus_beta1, m[i]);
    const float square = fmaf(__fmul_rn(g, g), f.one_minus_beta2, __fmul_rn(v[i], f.beta2));
    m[i] = mean;
    v[i] = square;
    const float denominator = fmaf(sqrtf(square), f.inverse_root, f.eps);
    weights.Store(fmaf(-f.step_size, mean / denominator, __fmul_rn(weights.Load(i), f.decay)), i);
  }
};

struct SgdFactors {
  float learning_rate, momentum, weight_decay, grad_scale;
};

template <typename Weights>
struct SgdStep {
  Weights weights;
  const float* grad;
  float* momentum;
  SgdFactors f;

  __device__ void operator()(int64_t i) const {
    const float weight = weights.Load(i);
    const float g = fmaf(f.weight_decay, weight, __fmul_rn(grad[i], f.grad_scale));
    const float moved = fmaf(f.momentum, momentum[i], g);
    momentum[i] = moved;
    weights.Store(fmaf(-f.learning_rate, fmaf(f.momentum, moved, g), weight), i);
  }
};

void CheckWeights(const TensorView& param, const TensorView& master) {
  CheckFloating(param.dtype, {});
  CHECK(master.empty() == (param.dtype == DType::kF32) &&
        (master.empty() || master.NumElements() == param.NumElements()))
      << "a master " << master.shape << " of " << NameOf(param.dtype) << param.shape;
  CheckDtype(param.dtype == DType::kBF16 ? DType::kU16 : DType::kF32, {master});
}

// Calls run(weights) with the kind of weights that a parameter has.
template <typename Run>
void DispatchWeights(const TensorView& param, const TensorView& master, const Run& run) {
  switch (param.dtype) {
    case DType::kBF16:
      return run(Bfloat16Weights{Elements<uint16_t>(param), Elements<uint16_t>(master)});
    case DType::kF16:
      return run(Float16Weights{Elements<__half>(param), Elements<float>(master)});
    default:
      return run(Float32Weights{Elements<float>(param)});
  }
}

// A warp a chunk, each lane every 32nd element, then the lanes' sums by the same tree: one order on
// every device.
template <typename T>
__global__ void SumOfSquaresKernel(const T* x, int64_t n, int64_t chunks, double* sums) {
  const int64_t warps = GlobalThreads() / kWarp;
  for (int64_t chunk = GlobalThread() / kWarp; chunk < chunks; chunk += warps) {
    const int64_t end = chunk * kNormChunk + kNormChunk < n ? chunk * kNormChunk + kNormChunk : n;
    double sum = 0;
    for (int64_t i = chunk * kNormChunk + threadIdx.x % kWarp; i < end; i += kWarp) {
      const double value = ToFloat(x[i]);
      sum += value * value;
    }
    sum = WarpSum(sum);
    if (threadIdx.x % kWarp == 0) sums[chunk] = sum;
  }
}

}  // namespace

void AdamW(const AdamWArgs& args, Context& context) {
  const int64_t n = args.param.NumElements();
  CHECK(args.grad.NumElements() == n && args.m.NumElements() == n && args.v.NumElements() == n);
  CHECK_GE(args.step, 1);
  CheckWeights(args.param, args.master);
  CheckDtype(DType::kF32, {args.grad, args.m, args.v});
  const double correction1 = 1 - std::pow(args.beta1, args.step);
  const double correction2 = 1 - std::pow(args.beta2, args.step);
  const AdamWFactors factors = {
      .decay = static_cast<float>(1 - args.learning_rate * args.weight_decay),
      .one_minus_beta1 = static_cast<float>(1 - args.beta1),
      .beta2 = static_cast<float>(args.beta2),
      .one_minus_beta2 = static_cast<float>(1 - args.beta2),
      .eps = static_cast<float>(args.eps),
      .step_size = static_cast<float>(args.learning_rate / correction1),
      .inverse_root = static_cast<float>(1 / std::sqrt(correction2)),
      .grad_scale = args.grad_scale,
  };
  DispatchWeights(args.param, args.master, [&](auto weights) {
    ForEach(n,
            AdamWStep<decltype(weights)>{weights, Elements<float>(args.grad),
                                         Elements<float>(args.m), Elements<float>(args.v), factors},
            context);
  });
}

void Sgd(const SgdArgs& args, Context& context) {
  const int64_t n = args.param.NumElements();
  CHECK(args.grad.NumElements() == n && args.momentum.NumElements() == n);
  CheckWeights(args.param, args.master);
  CheckDtype(DType::kF32, {args.grad, args.momentum});
  const SgdFactors factors = {
      .learning_rate = static_cast<float>(args.learning_rate),
      .momentum = static_cast<float>(args.momentum_factor),
      .weight_decay = static_cast<float>(args.weight_decay),
      .grad_scale = args.grad_scale,
  };
  DispatchWeights(args.param, args.master, [&](auto weights) {
    ForEach(n,
            SgdStep<decltype(weights)>{weights, Elements<float>(args.grad),
                                       Elements<float>(args.momentum), factors},
            context);
  });
}

void SumOfSquares(const SumOfSquaresArgs& args, Context& context) {
  const int64_t n = args.x.NumElements(), chunks = (n + kNormChunk - 1) / kNormChunk;
  CHECK(args.x.dtype == DType::kF32 || args.x.dtype == DType::kBF16) << NameOf(args.x.dtype);
  ArenaScope scope(context.workspace);
  double* sums = TakeScratch(args, context);
  if (n == 0) return;
  const auto run = [&](auto* x) {
    GpuLaunch(SumOfSquaresKernel<std::remove_pointer_t<decltype(x)>>, BlocksFor(chunks * kWarp),
              kThreads, 0, StreamOf(context), x, n, chunks, sums);
  };
  if (args.x.dtype == DType::kF32) {
    run(Elements<float>(args.x));
  } else {
    run(Elements<__nv_bfloat16>(args.x));
  }
  CheckCuda(cudaStreamSynchronize(StreamOf(context)), "waiting for sums of squares");
  CheckCuda(cudaMemcpy(args.sums, sums, chunks * sizeof(double), cudaMemcpyDeviceToHost),
            "a copy of sums of squares");
}

}  // namespace swinfleet::cuda
