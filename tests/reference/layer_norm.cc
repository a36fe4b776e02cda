#include <cmath>

#include "tests/reference/reference.h"

namespace swinfleet::reference {
namespace {

struct Statistics {
  double mean;
  double rstd;
};

Statistics RowStatistics(const double* x, int64_t c, double eps) {
  double mean = 0;
  for (int64_t i = 0; i < c; ++i) mean += x[i];
  mean /= static_cast<double>(c);
  double variance = 0;
  for (int64_t i = 0; i < c; ++i) variance += (x[i] - mean) * (x[i] - mean);
  variance /= static_cast<double>(c);
  return {mean, 1 / std::sqrt(variance + eps)};
}

// The drop-path factor of row `row`; rows are spread evenly over the pictures.
double ScaleOf(const Vec& scale, int64_t m, int64_t row) {
  if (scale.empty()) return 1;
  return scale.at(row / (m / static_cast<int64_t>(scale.size())));
}

}  // namespace

LayerNormResult LayerNormForward(int64_t m, int64_t c, const Vec& x, const Vec& gamma,
                                 const Vec& beta, const Vec& residual, const Vec& scale,
                                 double eps) {
  LayerNormResult r{Vec(m * c), Vec(m), Vec(m)};
  for (int64_t row = 0; row < m; ++row) {
    const Statistics s = RowStatistics(x.data() + row * c, c, eps);
    r.mean[row] = s.mean;
    r.rstd[row] = s.rstd;
    for (int64_t i = 0; i < c; ++i) {
      const double normal = (x.at(row * c + i) - s.mean) * s.rstd;
      r.y[row * c + i] = ScaleOf(scale, m, row) * (gamma.at(i) * normal + beta.at(i));
      if (!residual.empty()) r.y[row * c + i] += residual.at(row * c + i);
    }
  }
  return r;
}

LayerNormGradients LayerNormBackward(int64_t m, int64_t c, const Vec& x, const Vec& gamma,
                                     const Vec& scale, const Vec& dy, double eps) {
  LayerNormGradients g{Vec(m * c), Vec(c), Vec(c)};
  for (int64_t row = 0; row < m; ++row) {
    const Statistics s = RowStatistics(x.data() + row * c, c, eps);
    Vec normal(c);
    Vec dnormal(c);
    double mean_d = 0;
    double mean_dn = 0;
    for (int64_t i = 0; i < c; ++i) {
      const double d = ScaleOf(scale, m, row) * dy.at(row * c + i);
      normal[i] = (x.at(row * c + i) - s.mean) * s.rstd;
      dnormal[i] = d * gamma.at(i);
      g.dgamma[i] += d * normal[i];
      g.dbeta[i] += d;
      mean_d += dnormal[i] / static_cast<double>(c);
      mean_dn += dnormal[i] * normal[i] / static_cast<double>(c);
    }
    for (int64_t i = 0; i < c; ++i) {
      g.dx[row * c + i] = s.rstd * (dnormal[i] - mean_d - normal[i] * mean_dn);
    }
  }
  return g;
}

}  // namespace swinfleet::reference
