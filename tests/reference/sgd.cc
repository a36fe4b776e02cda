#include "tests/reference/reference.h"

namespace swinfleet::reference {

void Sgd(const SgdOptions& o, const Vec& grad, Vec* param, Vec* momentum) {
  for (size_t i = 0; i < grad.size(); ++i) {
    const double g = grad[i] * o.grad_scale + o.weight_decay * param->at(i);
    momentum->at(i) = o.momentum_factor * momentum->at(i) + g;
    param->at(i) -= o.learning_rate * (g + o.momentum_factor * momentum->at(i));
  }
}

}  // namespace swinfleet::reference
