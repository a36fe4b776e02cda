#include <cmath>
#include <numbers>

#include "tests/reference/reference.h"

namespace swinfleet::reference {
namespace {

// The normal distribution function, exact in its lower tail too.
double Phi(double x) { return 0.5 * std::erfc(-x / std::numbers::sqrt2); }

double Density(double x) { return std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi); }

}  // namespace

Vec GeluForward(const Vec& x) {
  Vec y;
  for (double v : x) y.push_back(v * Phi(v));
  return y;
}

Vec GeluBackward(const Vec& x, const Vec& dy) {
  Vec dx;
  for (size_t i = 0; i < x.size(); ++i) dx.push_back(dy.at(i) * (Phi(x[i]) + x[i] * Density(x[i])));
  return dx;
}

Vec ColumnSums(const Vec& x, int64_t columns) {
  Vec sums(columns, 0.0);
  for (size_t i = 0; i < x.size(); ++i) sums[i % columns] += x[i];
  return sums;
}

}  // namespace swinfleet::reference
