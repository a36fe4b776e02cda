// AdamW and SGD, one streaming pass each, and the master weights of 16 bits.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/optimizer.cc"
#include <algorithm>
#include <cmath>
#include <cstring>

#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/bf16_master.h"
#include "kernels/checks.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/rows.h"

#ifndef SWINFLEET_KERNELS_CPU_OPTIMIZER_FACTORS_
#define SWINFLEET_KERNELS_CPU_OPTIMIZER_FACTORS_
namespace swinfleet::cpu {

// What a step of AdamW multiplies with, rounded once from float64.
struct AdamWFactors {
  float decay, beta1, one_minus_beta1, beta2, one_minus_beta2, eps, step_size, inverse_root;
  float grad_scale;
};

struct SgdFactors {
  float learning_rate, momentum, weight_decay, grad_scale;
};

}  // namespace swinfleet::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace swinfleet::cpu::HWY_NAMESPACE {

// Never inlined: the master weights of 16 bits must go through the very instructions that float32
// weights go through.
HWY_NOINLINE void AdamWStep(float* __restrict param, const float* __restrict grad,
                            float* __restrict m, float* __restrict v, int64_t n,
                            const AdamWFactors& f) {
  for (int64_t i = 0; i < n; ++i) {
    const float g = grad[i] * f.grad_scale;
    m[i] += (g - m[i]) * f.one_minus_beta1;
    v[i] = v[i] * f.beta2 + g * g * f.one_minus_beta2;
    const float denominator = std::sqrt(v[i]) * f.inverse_root + f.eps;
    param[i] = param[i] * f.decay - f.step_size * (m[i] / denominator);
  }
}

HWY_NOINLINE void SgdStep(float* __restrict param, const float* __restrict grad,
                          float* __restrict momentum, int64_t n, const SgdFactors& f) {
  for (int64_t i = 0; i < n; ++i) {
    const float g = grad[i] * f.grad_scale + f.weight_decay * param[i];
    momentum[i] = f.momentum * momentum[i] + g;
    param[i] -= f.learning_rate * (g + f.momentum * momentum[i]);
  }
}

void JoinMasters(const uint16_t* __restrict param, const uint16_t* __restrict remainder,
                 uint32_t* __restrict master, int64_t n) {
  for (int64_t i = 0; i < n; ++i) master[i] = JoinMaster(param[i], remainder[i]);
}

void SplitMasters(const uint32_t* __restrict master, uint16_t* __restrict param,
                  uint16_t* __restrict remainder, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    param[i] = Bf16OfMaster(master[i]);
    remainder[i] = RemainderOfMaster(master[i]);
  }
}

}  // namespace swinfleet::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace swinfleet::cpu {
namespace {

HWY_EXPORT(AdamWStep);
HWY_EXPORT(SgdStep);
HWY_EXPORT(JoinMasters);
HWY_EXPORT(SplitMasters);

constexpr int64_t kGrain = 16384;
// Weights whose masters are on the stack.
constexpr int64_t kMasters = 1024;

void CheckWeights(const TensorView& param, const TensorView& master) {
  CheckFloating(param.dtype, {});
  CHECK(master.empty() == (param.dtype == DType::kF32) &&
        (master.empty() || master.NumElements() == param.NumElements()))
      << "a master " << master.shape << " of " << NameOf(param.dtype) << param.shape;
  CheckDtype(param.dtype == DType::kBF16 ? DType::kU16 : DType::kF32, {master});
}

// Calls step(weights in float32, first, count) over weights [begin, end), and keeps what it makes
// of them as AdamWArgs says.
template <typename Step>
void UpdateWeights(const TensorView& param, const TensorView& master, int64_t begin, int64_t end,
                   const Step& step) {
  if (param.dtype == DType::kF32) return step(param.f32() + begin, begin, end - begin);
  for (int64_t i = begin; i < end; i += kMasters) {
    const int64_t n = std::min(kMasters, end - i);
    if (param.dtype == DType::kF16) {
      step(master.f32() + i, i, n);
      ConvertElements(master.f32() + i, DType::kF32, param.u16() + i, DType::kF16, n);
      continue;
    }
    uint32_t bits[kMasters];
    float weights[kMasters];
    HWY_DYNAMIC_DISPATCH(JoinMasters)(param.u16() + i, master.u16() + i, bits, n);
    std::memcpy(weights, bits, n * sizeof(float));
    step(weights, i, n);
    std::memcpy(bits, weights, n * sizeof(float));
    HWY_DYNAMIC_DISPATCH(SplitMasters)(bits, param.u16() + i, master.u16() + i, n);
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
      .beta1 = static_cast<float>(args.beta1),
      .one_minus_beta1 = static_cast<float>(1 - args.beta1),
      .beta2 = static_cast<float>(args.beta2),
      .one_minus_beta2 = static_cast<float>(1 - args.beta2),
      .eps = static_cast<float>(args.eps),
      .step_size = static_cast<float>(args.learning_rate / correction1),
      .inverse_root = static_cast<float>(1 / std::sqrt(correction2)),
      .grad_scale = args.grad_scale,
  };
  ParallelFor(context.threads, n, kGrain, [&](int64_t begin, int64_t end, int) {
    UpdateWeights(args.param, args.master, begin, end, [&](float* w, int64_t i, int64_t count) {
      HWY_DYNAMIC_DISPATCH(AdamWStep)
      (w, args.grad.f32() + i, args.m.f32() + i, args.v.f32() + i, count, factors);
    });
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
  ParallelFor(context.threads, n, kGrain, [&](int64_t begin, int64_t end, int) {
    UpdateWeights(args.param, args.master, begin, end, [&](float* w, int64_t i, int64_t count) {
      HWY_DYNAMIC_DISPATCH(SgdStep)
      (w, args.grad.f32() + i, args.momentum.f32() + i, count, factors);
    });
  });
}

}  // namespace swinfleet::cpu
#endif  // HWY_ONCE
