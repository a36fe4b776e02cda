#include "tests/reference/reference.h"

namespace swinfleet::reference {

Vec MixPictures(const Picture& p, const Vec& weight, const std::vector<int64_t>& box,
                const Vec& image) {
  const int64_t pixels = p.channels * p.height * p.width;
  Vec mixed = image;
  for (int64_t b = 0; b < p.batch; ++b) {
    const int64_t partner = p.batch - 1 - b;
    if (partner == b) continue;
    for (int64_t i = 0; i < pixels; ++i) {
      const int64_t row = i / p.width % p.height, column = i % p.width;
      const bool inside = row >= box.at(4 * b) && row < box.at(4 * b + 1) &&
                          column >= box.at(4 * b + 2) && column < box.at(4 * b + 3);
      const double own = image.at(b * pixels + i), other = image.at(partner * pixels + i);
      mixed.at(b * pixels + i) =
          inside ? other : weight.at(2 * b) * own + weight.at(2 * b + 1) * other;
    }
  }
  return mixed;
}

}  // namespace swinfleet::reference
