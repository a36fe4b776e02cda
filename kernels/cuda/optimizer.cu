// AdamW and SGD, one streaming pass each, on float32 weights or on 16 bits and what is kept of
// their masters; and the sums of the global norm.
#include <algorithm>
#include <array>
#include <cmath>
#include <span>
#include <type_traits>

#include "kernels/accelerator.h"
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
template <typename Weights, typename Gradient>
struct AdamWStep {
  static constexpr int kMoments = 2;
  Weights weights;
  const Gradient* grad;
  AdamWFactors f;

  // The step of element i, with its moments m and v.
  __device__ void operator()(int64_t i, float (&moments)[2]) const {
    const float g = __fmul_rn(ToFloat(grad[i]), f.grad_scale);
    const float mean = fmaf(__fadd_rn(g, -moments[0]), f.one_minus_beta1, moments[0]);
    const float square = fmaf(__fmul_rn(g, g), f.one_minus_beta2, __fmul_rn(moments[1], f.beta2));
    moments[0] = mean;
    moments[1] = square;
    const float denominator = fmaf(sqrtf(square), f.inverse_root, f.eps);
    weights.Store(fmaf(-f.step_size, mean / denominator, __fmul_rn(weights.Load(i), f.decay)), i);
  }
};

struct SgdFactors {
  float learning_rate, momentum, weight_decay, grad_scale;
};

template <typename Weights, typename Gradient>
struct SgdStep {
  static constexpr int kMoments = 1;
  Weights weights;
  const Gradient* grad;
  SgdFactors f;

  __device__ void operator()(int64_t i, float (&momentum)[1]) const {
    const float weight = weights.Load(i);
    const float g = fmaf(f.weight_decay, weight, __fmul_rn(ToFloat(grad[i]), f.grad_scale));
    momentum[0] = fmaf(f.momentum, momentum[0], g);
    weights.Store(fmaf(-f.learning_rate, fmaf(f.momentum, momentum[0], g), weight), i);
  }
};

template <typename Step>
struct WithFloat32Moments {
  Step step;
  float* moments[Step::kMoments];

  __device__ void operator()(int64_t i) const {
    float values[Step::kMoments];
#pragma unroll
    for (int k = 0; k < Step::kMoments; ++k) values[k] = moments[k][i];
    step(i, values);
#pragma unroll
    for (int k = 0; k < Step::kMoments; ++k) moments[k][i] = values[k];
  }
};

// The block of random numbers that Philox4x32 (kernels/philox.h) makes.
struct Numbers {
  uint32_t word[4];
};
__device__ inline Numbers DrawNumbers(uint32_t block, const uint32_t (&counter)[3],
                                      const uint32_t (&key)[2]) {
  Numbers c = {{block, counter[0], counter[1], counter[2]}};
#pragma unroll
  for (uint32_t round = 0; round < Philox::kRounds; ++round) {
    const uint64_t product0 = uint64_t{Philox::kMultiplier0} * c.word[0];
    const uint64_t product1 = uint64_t{Philox::kMultiplier1} * c.word[2];
    c = {{static_cast<uint32_t>(product1 >> 32) ^ c.word[1] ^ (key[0] + round * Philox::kWeyl0),
          static_cast<uint32_t>(product1),
          static_cast<uint32_t>(product0 >> 32) ^ c.word[3] ^ (key[1] + round * Philox::kWeyl1),
          static_cast<uint32_t>(product0)}};
  }
  return c;
}

__device__ inline uint16_t RoundMoment(float moment, uint32_t draw) {
  const uint32_t bits = __float_as_uint(moment);
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  return static_cast<uint16_t>((nan ? bits | 0x400000u : bits + draw) >> 16);
}

// A thread has the elements of one block of random numbers.
template <typename Step>
struct WithBfloat16Moments {
  Step step;
  uint16_t* moments[Step::kMoments];
  uint32_t key[2], counter[3];
  int64_t first, n;  // StochasticRounding::first; elements

  __device__ void operator()(int64_t at) const {
    const int64_t block = first / 4 + at;
    const Numbers numbers = DrawNumbers(static_cast<uint32_t>(block), counter, key);
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      const int64_t i = block * 4 + w - first;
      if (i < 0 || i >= n) continue;
      float values[Step::kMoments];
#pragma unroll
      for (int k = 0; k < Step::kMoments; ++k) {
        values[k] = __uint_as_float(static_cast<uint32_t>(moments[k][i]) << 16);
      }
      step(i, values);
#pragma unroll
      for (int k = 0; k < Step::kMoments; ++k) {
        moments[k][i] = RoundMoment(values[k], numbers.word[w] >> 16 * k & 0xffffu);
      }
    }
  }
};

void CheckWeights(const TensorView& param, const TensorView& master) {
  CheckFloating(param.dtype, {});
  CHECK(master.empty() == (param.dtype == DType::kF32) &&
        (master.empty() || master.NumElements() == param.NumElements()))
      << "a master " << master.shape << " of " << NameOf(param.dtype) << param.shape;
  CheckDtype(param.dtype == DType::kBF16 ? DType::kU16 : DType::kF32, {master});
}

void CheckMoments(std::span<const TensorView> moments, const StochasticRounding& rounding,
                  int64_t n) {
  for (const TensorView& moment : moments) {
    CHECK(moment.NumElements() == n && moment.dtype == moments[0].dtype &&
          (moment.dtype == DType::kF32 || moment.dtype == DType::kBF16))
        << "a moment " << NameOf(moment.dtype) << moment.shape << " of " << n << " weights";
  }
  CHECK(rounding.first >= 0 && rounding.first + n <= int64_t{1} << 34) << rounding.first;
}

// Runs a step over elements whose moments are of either kind.
template <typename Step>
void RunStep(const Step& step, const std::array<TensorView, Step::kMoments>& moments,
             const StochasticRounding& rounding, int64_t n, const Context& context) {
  if (moments[0].dtype == DType::kF32) {
    WithFloat32Moments<Step> body = {step, {}};
    for (size_t k = 0; k < moments.size(); ++k) body.moments[k] = Elements<float>(moments[k]);
    return ForEach(n, body, context);
  }
  WithBfloat16Moments<Step> body = {step, {}, {}, {}, rounding.first, n};
  for (size_t k = 0; k < moments.size(); ++k) body.moments[k] = Elements<uint16_t>(moments[k]);
  std::copy_n(rounding.stream.key.begin(), 2, body.key);
  std::copy_n(rounding.stream.counter.begin(), 3, body.counter);
  ForEach(n == 0 ? 0 : (rounding.first % 4 + n + 3) / 4, body, context);
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

// Calls run(gradient) with the gradient's elements, float32 or bfloat16.
template <typename Run>
void DispatchGradient(const TensorView& grad, const Run& run) {
  CHECK(grad.dtype == DType::kF32 || grad.dtype == DType::kBF16) << NameOf(grad.dtype);
  if (grad.dtype == DType::kF32) return run(Elements<float>(grad));
  return run(Elements<__nv_bfloat16>(grad));
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
  CHECK_EQ(args.grad.NumElements(), n);
  CHECK_GE(args.step, 1);
  CheckWeights(args.param, args.master);
  const std::array moments = {args.m, args.v};
  CheckMoments(moments, args.rounding, n);
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
    DispatchGradient(args.grad, [&](const auto* grad) {
      using Gradient = std::remove_cvref_t<decltype(*grad)>;
      RunStep(AdamWStep<decltype(weights), Gradient>{weights, grad, factors}, moments,
              args.rounding, n, context);
    });
  });
}

void Sgd(const SgdArgs& args, Context& context) {
  const int64_t n = args.param.NumElements();
  CHECK_EQ(args.grad.NumElements(), n);
  CheckWeights(args.param, args.master);
  const std::array moments = {args.momentum};
  CheckMoments(moments, args.rounding, n);
  const SgdFactors factors = {
      .learning_rate = static_cast<float>(args.learning_rate),
      .momentum = static_cast<float>(args.momentum_factor),
      .weight_decay = static_cast<float>(args.weight_decay),
      .grad_scale = args.grad_scale,
  };
  DispatchWeights(args.param, args.master, [&](auto weights) {
    DispatchGradient(args.grad, [&](const auto* grad) {
      using Gradient = std::remove_cvref_t<decltype(*grad)>;
      RunStep(SgdStep<decltype(weights), Gradient>{weights, grad, factors}, moments, args.rounding,
              n, context);
    });
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
  context.accelerator->CopyOutLater(sums, args.sums, chunks * sizeof(double));
}

}  // namespace swinfleet::cuda
