#include "tests/reference/reference.h"

namespace swinfleet::reference {

Vec MeanPoolForward(int64_t b, int64_t l, int64_t c, const Vec& x) {
  Vec y(b * c);
  for (int64_t i = 0; i < b; ++i) {
    for (int64_t t = 0; t < l; ++t) {
      for (int64_t j = 0; j < c; ++j) {
        y[i * c + j] += x.at((i * l + t) * c + j) / static_cast<double>(l);
      }
    }
  }
  return y;
}

Vec MeanPoolBackward(int64_t b, int64_t l, int64_t c, const Vec& dy) {
  Vec dx(b * l * c);
  for (int64_t i = 0; i < b; ++i) {
    for (int64_t t = 0; t < l; ++t) {
      for (int64_t j = 0; j < c; ++j) {
        dx[(i * l + t) * c + j] = dy.at(i * c + j) / static_cast<double>(l);
      }
    }
  }
  return dx;
}

}  // namespace swinfleet::reference
