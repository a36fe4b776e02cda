// Cross entropy with soft targets, and its gradient.
#include <algorithm>
#include <cmath>

#include "kernels/cpu/cpu_kernels.h"

namespace swinfleet::cpu {
namespace {

// One picture. Sums are float64: the row is short and everything hangs on it.
void OneRow(const float* logits, const float* target, int64_t classes, float grad_scale,
            float* loss, float* dlogits) {
  const double peak = *std::max_element(logits, logits + classes);
  double sum = 0;
  for (int64_t k = 0; k < classes; ++k) sum += std::exp(logits[k] - peak);
  const double log_sum = peak + std::log(sum);
  double total = 0, mass = 0;
  for (int64_t k = 0; k < classes; ++k) {
    mass += target[k];
    // A class without weight adds nothing, also where its logit is minus infinity.
    if (target[k] != 0) total += target[k] * (log_sum - logits[k]);
  }
  *loss = static_cast<float>(total);
  if (dlogits == nullptr) return;
  for (int64_t k = 0; k < classes; ++k) {
    dlogits[k] =
        static_cast<float>(grad_scale * (mass * std::exp(logits[k] - log_sum) - target[k]));
  }
}

}  // namespace

void CrossEntropy(const CrossEntropyArgs& args, Context& context) {
  const int64_t batch = args.logits.shape[0], classes = args.logits.shape[1];
  CHECK(args.target.shape == args.logits.shape) << args.target.shape;
  CHECK_EQ(args.loss.NumElements(), batch);
  CHECK(args.dlogits.empty() || args.dlogits.shape == args.logits.shape) << args.dlogits.shape;
  for (int64_t b = 0; b < batch; ++b) {
    OneRow(args.logits.f32() + b * classes, args.target.f32() + b * classes, classes,
           args.grad_scale, args.loss.f32() + b,
           args.dlogits.empty() ? nullptr : args.dlogits.f32() + b * classes);
  }
}

}  // namespace swinfleet::cpu
