#include <cmath>

#include "tests/reference/reference.h"

namespace swinfleet::reference {

void AdamW(const AdamWOptions& o, const Vec& grad, Vec* param, Vec* m, Vec* v) {
  const double correction1 = 1 - std::pow(o.beta1, static_cast<double>(o.step));
  const double correction2 = 1 - std::pow(o.beta2, static_cast<double>(o.step));
  for (size_t i = 0; i < grad.size(); ++i) {
    const double g = grad[i] * o.grad_scale;
    param->at(i) *= 1 - o.learning_rate * o.weight_decay;
    m->at(i) = o.beta1 * m->at(i) + (1 - o.beta1) * g;
    v->at(i) = o.beta2 * v->at(i) + (1 - o.beta2) * g * g;
    const double denominator = std::sqrt(v->at(i)) / std::sqrt(correction2) + o.eps;
    param->at(i) -= o.learning_rate / correction1 * m->at(i) / denominator;
  }
}

}  // namespace swinfleet::reference
