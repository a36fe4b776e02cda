#include "tests/reference/reference.h"

namespace swinfleet::reference {

Vec ResidualAdd(int64_t c, const Vec& x, const Vec& branch, const Vec& scale) {
  Vec y = ScaleRows(c, branch, scale.empty() ? Vec{1} : scale);
  for (size_t i = 0; i < y.size(); ++i) y[i] += x.at(i);
  return y;
}

Vec ScaleRows(int64_t c, const Vec& x, const Vec& scale) {
  const size_t rows_per_picture = x.size() / c / scale.size();
  Vec y;
  for (size_t i = 0; i < x.size(); ++i) y.push_back(scale.at(i / c / rows_per_picture) * x[i]);
  return y;
}

}  // namespace swinfleet::reference
