// Cross entropy with soft targets, and its gradient.
#include <algorithm>
#include <cmath>

#include "kernels/checks.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/element.h"

namespace swinfleet::cpu {
namespace {

// One picture. Sums are float64: the row is short and everything hangs on it.
template <typename T>
void OneRow(const T* logits, const float* target, int64_t classes, float grad_scale, float* loss,
            T* dlogits) {
  double peak = ToFloat(logits[0]);
  for (int64_t k = 1; k < classes; ++k) peak = std::max<double>(peak, ToFloat(logits[k]));
  double sum = 0;
  for (int64_t k = 0; k < classes; ++k) sum += std::exp(ToFloat(logits[k]) - peak);
  const double log_sum = peak + std::log(sum);
  double total = 0, mass = 0;
  for (int64_t k = 0; k < classes; ++k) {
    mass += target[k];
    // A class without weight adds nothing, also where its logit is minus infinity.
    if (target[k] != 0) total += target[k] * (log_sum - ToFloat(logits[k]));
  }
  *loss = static_cast<float>(total);
  if (dlogits == nullptr) return;
  for (int64_t k = 0; k < classes; ++k) {
    const double probability = std::exp(ToFloat(logits[k]) - log_sum);
    dlogits[k] = FromFloat<T>(static_cast<float>(grad_scale * (mass * probability - target[k])));
  }
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
  DispatchDType(args.logits.dtype, [&](auto tag) {
    using T = decltype(tag);
    for (int64_t b = 0; b < batch; ++b) {
      OneRow(Elements<T>(args.logits) + b * classes, args.target.f32() + b * classes, classes,
             args.grad_scale, args.loss.f32() + b,
             args.dlogits.empty() ? nullptr : Elements<T>(args.dlogits) + b * classes);
    }
  });
}

}  // namespace swinfleet::cpu
