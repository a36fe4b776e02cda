#include <algorithm>
#include <cmath>

#include "tests/reference/reference.h"

namespace swinfleet::reference {

CrossEntropyResult CrossEntropy(int64_t b, int64_t classes, const Vec& logits, const Vec& target,
                                double grad_scale) {
  CrossEntropyResult r{Vec(b), Vec(b * classes)};
  for (int64_t i = 0; i < b; ++i) {
    const double* row = logits.data() + i * classes;
    const double largest = *std::max_element(row, row + classes);
    double sum = 0;
    for (int64_t k = 0; k < classes; ++k) sum += std::exp(row[k] - largest);
    double total = 0;
    for (int64_t k = 0; k < classes; ++k) {
      const double log_probability = row[k] - largest - std::log(sum);
      r.loss[i] -= target.at(i * classes + k) * log_probability;
      total += target.at(i * classes + k);
    }
    for (int64_t k = 0; k < classes; ++k) {
      const double probability = std::exp(row[k] - largest) / sum;
      r.dlogits[i * classes + k] = grad_scale * (total * probability - target.at(i * classes + k));
    }
  }
  return r;
}

}  // namespace swinfleet::reference
