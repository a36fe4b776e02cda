#include "tests/reference/reference.h"

namespace swinfleet::reference {

Vec Add(const Vec& x, const Vec& y) {
  Vec sum;
  for (size_t i = 0; i < x.size(); ++i) sum.push_back(x[i] + y.at(i));
  return sum;
}

Vec AddBroadcast(int64_t b, const Vec& x, const Vec& y) {
  Vec sum = y;
  for (int64_t i = 0; i < b; ++i) {
    for (size_t j = 0; j < x.size(); ++j) sum.at(i * x.size() + j) += x[j];
  }
  return sum;
}

Vec SumBroadcast(int64_t b, const Vec& dy) {
  Vec dx(dy.size() / b);
  for (size_t i = 0; i < dy.size(); ++i) dx[i % dx.size()] += dy[i];
  return dx;
}

Vec SumOfSquares(int64_t chunk, const Vec& x) {
  Vec sums((x.size() + chunk - 1) / chunk);
  for (size_t i = 0; i < x.size(); ++i) sums[i / chunk] += x[i] * x[i];
  return sums;
}

}  // namespace swinfleet::reference
