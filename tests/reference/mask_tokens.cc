#include "tests/reference/reference.h"

namespace swinfleet::reference {

Vec MaskTokensForward(int64_t b, int64_t l, int64_t c, const std::vector<int64_t>& mask,
                      const Vec& token, const Vec& x) {
  Vec y = x;
  for (int64_t i = 0; i < b * l * c; ++i) {
    if (mask.at(i / c % static_cast<int64_t>(mask.size())) != 0) y.at(i) = token.at(i % c);
  }
  return y;
}

MaskTokensGradients MaskTokensBackward(int64_t b, int64_t l, int64_t c,
                                       const std::vector<int64_t>& mask, const Vec& dy) {
  MaskTokensGradients gradients{dy, Vec(c)};
  for (int64_t i = 0; i < b * l * c; ++i) {
    if (mask.at(i / c % static_cast<int64_t>(mask.size())) == 0) continue;
    gradients.dtoken.at(i % c) += dy.at(i);
    gradients.dx.at(i) = 0;
  }
  return gradients;
}

}  // namespace swinfleet::reference
