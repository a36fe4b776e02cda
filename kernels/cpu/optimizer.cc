// AdamW and SGD, one streaming pass each.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/optimizer.cc"
#include <cmath>

#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"

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

void AdamWStep(float* __restrict param, const float* __restrict grad, float* __restrict m,
               float* __restrict v, int64_t n, const AdamWFactors& f) {
  for (int64_t i = 0; i < n; ++i) {
    const float g = grad[i] * f.grad_scale;
    m[i] += (g - m[i]) * f.one_minus_beta1;
    v[i] = v[i] * f.beta2 + g * g * f.one_minus_beta2;
    const float denominator = std::sqrt(v[i]) * f.inverse_root + f.eps;
    param[i] = param[i] * f.decay - f.step_size * (m[i] / denominator);
  }
}

void SgdStep(float* __restrict param, const float* __restrict grad, float* __restrict momentum,
             int64_t n, const SgdFactors& f) {
  for (int64_t i = 0; i < n; ++i) {
    const float g = grad[i] * f.grad_scale + f.weight_decay * param[i];
    momentum[i] = f.momentum * momentum[i] + g;
    param[i] -= f.learning_rate * (g + f.momentum * momentum[i]);
  }
}

}  // namespace swinfleet::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace swinfleet::cpu {
namespace {

HWY_EXPORT(AdamWStep);
HWY_EXPORT(SgdStep);

constexpr int64_t kGrain = 16384;

}  // namespace

void AdamW(const AdamWArgs& args, Context& context) {
  const int64_t n = args.param.NumElements();
  CHECK(args.grad.NumElements() == n && args.m.NumElements() == n && args.v.NumElements() == n);
  CHECK_GE(args.step, 1);
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
    HWY_DYNAMIC_DISPATCH(AdamWStep)
    (args.param.f32() + begin, args.grad.f32() + begin, args.m.f32() + begin, args.v.f32() + begin,
     end - begin, factors);
  });
}

void Sgd(const SgdArgs& args, Context& context) {
  const int64_t n = args.param.NumElements();
  CHECK(args.grad.NumElements() == n && args.momentum.NumElements() == n);
  const SgdFactors factors = {
      .learning_rate = static_cast<float>(args.learning_rate),
      .momentum = static_cast<float>(args.momentum_factor),
      .weight_decay = static_cast<float>(args.weight_decay),
      .grad_scale = args.grad_scale,
  };
  ParallelFor(context.threads, n, kGrain, [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(SgdStep)
    (args.param.f32() + begin, args.grad.f32() + begin, args.momentum.f32() + begin, end - begin,
     factors);
  });
}

}  // namespace swinfleet::cpu
#endif  // HWY_ONCE
