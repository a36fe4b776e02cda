#include <algorithm>
#include <cmath>

#include "tests/reference/reference.h"

namespace swinfleet::reference {

double GlobalNorm(const std::vector<Vec>& gradients) {
  double squares = 0;
  for (const Vec& gradient : gradients) {
    for (double g : gradient) squares += g * g;
  }
  return std::sqrt(squares);
}

double ClipCoefficient(double norm, double max_norm) {
  return std::min(1.0, max_norm / (norm + 1e-6));
}

}  // namespace swinfleet::reference
