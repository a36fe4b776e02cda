#include <algorithm>

#include "tests/reference/reference.h"

namespace swinfleet::reference {

Vec Pad(const Map& from, const Map& to, const Vec& x) {
  const auto at = [](const Map& m, int64_t b, int64_t d, int64_t h, int64_t w, int64_t c) {
    return (((b * m.depth + d) * m.height + h) * m.width + w) * m.channels + c;
  };
  Vec y(to.batch * to.depth * to.height * to.width * to.channels);
  for (int64_t b = 0; b < from.batch; ++b) {
    for (int64_t d = 0; d < std::min(from.depth, to.depth); ++d) {
      for (int64_t h = 0; h < std::min(from.height, to.height); ++h) {
        for (int64_t w = 0; w < std::min(from.width, to.width); ++w) {
          for (int64_t c = 0; c < from.channels; ++c) {
            y.at(at(to, b, d, h, w, c)) = x.at(at(from, b, d, h, w, c));
          }
        }
      }
    }
  }
  return y;
}

}  // namespace swinfleet::reference
