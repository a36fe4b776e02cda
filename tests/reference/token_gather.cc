#include "tests/reference/reference.h"

namespace swinfleet::reference {
namespace {

// Visits (element of x, element of y).
template <typename Visit>
void ForEachElement(int64_t b, int64_t l, int64_t c, const std::vector<int64_t>& index, int64_t n,
                    const Visit& visit) {
  for (int64_t i = 0; i < b * n; ++i) {
    const int64_t token = index[i % index.size()];
    if (token < 0) continue;
    for (int64_t j = 0; j < c; ++j) visit((i / n * l + token) * c + j, i * c + j);
  }
}

}  // namespace

Vec TokenGather(int64_t b, int64_t l, int64_t c, const Vec& x, const std::vector<int64_t>& index,
                int64_t n) {
  Vec y(b * n * c);
  ForEachElement(b, l, c, index, n, [&](int64_t from, int64_t to) { y.at(to) = x.at(from); });
  return y;
}

Vec TokenScatter(int64_t b, int64_t l, int64_t c, const Vec& y, const std::vector<int64_t>& index,
                 int64_t n) {
  Vec x(b * l * c);
  ForEachElement(b, l, c, index, n, [&](int64_t to, int64_t from) { x.at(to) += y.at(from); });
  return x;
}

}  // namespace swinfleet::reference
