#include <cmath>

#include "tests/reference/reference.h"

namespace swinfleet::reference {

MaskedLoss MaskedL1(const Picture& p, int64_t unit, const std::vector<int64_t>& mask,
                    const Vec& prediction, const Vec& target, double scale, double grad_scale) {
  MaskedLoss result{Vec(p.batch), Vec(prediction.size())};
  const int64_t pixels = p.channels * p.height * p.width;
  for (int64_t i = 0; i < p.batch * pixels; ++i) {
    const int64_t b = i / pixels, y = i / p.width % p.height, x = i % p.width;
    const int64_t place = (b * (p.height / unit) + y / unit) * (p.width / unit) + x / unit;
    if (mask.at(place) == 0) continue;
    const double difference = prediction.at(i) - target.at(i);
    result.loss.at(b) += scale * std::abs(difference);
    result.dprediction.at(i) = grad_scale * scale * (difference > 0 ? 1 : difference < 0 ? -1 : 0);
  }
  return result;
}

MaskedLoss MaskedMse(int64_t b, int64_t l, int64_t n, const std::vector<int64_t>& mask,
                     const Vec& prediction, const Vec& target, double scale, double grad_scale) {
  MaskedLoss result{Vec(b), Vec(prediction.size())};
  for (int64_t i = 0; i < b * l * n; ++i) {
    if (mask.at(i / n % static_cast<int64_t>(mask.size())) == 0) continue;
    const double difference = prediction.at(i) - target.at(i);
    result.loss.at(i / (l * n)) += scale * difference * difference / static_cast<double>(n);
    result.dprediction.at(i) = grad_scale * scale * 2 * difference / static_cast<double>(n);
  }
  return result;
}

}  // namespace swinfleet::reference
