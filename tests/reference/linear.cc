#include "tests/reference/reference.h"

namespace swinfleet::reference {

Vec LinearForward(int64_t m, int64_t n, int64_t k, const Vec& x, const Vec& weight,
                  const Vec& bias) {
  Vec y(m * n);
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = bias.empty() ? 0 : bias.at(j);
      for (int64_t p = 0; p < k; ++p) sum += x.at(i * k + p) * weight.at(j * k + p);
      y[i * n + j] = sum;
    }
  }
  return y;
}

Vec LinearBackwardInput(int64_t m, int64_t n, int64_t k, const Vec& dy, const Vec& weight) {
  Vec dx(m * k);
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      for (int64_t p = 0; p < k; ++p) dx[i * k + p] += dy.at(i * n + j) * weight.at(j * k + p);
    }
  }
  return dx;
}

LinearGradients LinearBackwardWeight(int64_t m, int64_t n, int64_t k, const Vec& dy, const Vec& x) {
  LinearGradients g{Vec(n * k), Vec(n)};
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      g.dbias[j] += dy.at(i * n + j);
      for (int64_t p = 0; p < k; ++p) g.dweight[j * k + p] += dy.at(i * n + j) * x.at(i * k + p);
    }
  }
  return g;
}

}  // namespace swinfleet::reference
