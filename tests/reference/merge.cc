#include "tests/reference/reference.h"

namespace swinfleet::reference {

// Visits (element of x, element of the rows); the first is -1 outside of the map.
template <typename Visit>
static void ForEachMerged(const Picture& p, const Visit& visit) {
  // x[0::2, 0::2], x[1::2, 0::2], x[0::2, 1::2], x[1::2, 1::2].
  constexpr int64_t kRowOffset[4] = {0, 1, 0, 1};
  constexpr int64_t kColumnOffset[4] = {0, 0, 1, 1};
  int64_t at = 0;
  for (int64_t b = 0; b < p.batch; ++b) {
    for (int64_t i = 0; i < (p.height + 1) / 2; ++i) {
      for (int64_t j = 0; j < (p.width + 1) / 2; ++j) {
        for (int part = 0; part < 4; ++part) {
          for (int64_t c = 0; c < p.channels; ++c) {
            const int64_t row = 2 * i + kRowOffset[part];
            const int64_t column = 2 * j + kColumnOffset[part];
            const bool inside = row < p.height && column < p.width;
            const int64_t element = ((b * p.height + row) * p.width + column) * p.channels + c;
            visit(inside ? element : -1, at++);
          }
        }
      }
    }
  }
}

Vec MergeGather(const Picture& p, const Vec& x) {
  Vec rows(p.batch * ((p.height + 1) / 2) * ((p.width + 1) / 2) * 4 * p.channels);
  ForEachMerged(p, [&](int64_t from, int64_t to) {
    if (from >= 0) rows.at(to) = x.at(from);
  });
  return rows;
}

Vec MergeScatter(const Picture& p, const Vec& rows) {
  Vec x(p.batch * p.height * p.width * p.channels);
  ForEachMerged(p, [&](int64_t to, int64_t from) {
    if (to >= 0) x.at(to) = rows.at(from);
  });
  return x;
}

}  // namespace swinfleet::reference
