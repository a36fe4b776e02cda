#include "tests/reference/reference.h"

namespace swinfleet::reference {

// Visits (element of x, element of the rows).
template <typename Visit>
static void ForEachMerged(const Picture& p, const Visit& visit) {
  // x[0::2, 0::2], x[1::2, 0::2], x[0::2, 1::2], x[1::2, 1::2].
  constexpr int64_t kRowOffset[4] = {0, 1, 0, 1};
  constexpr int64_t kColumnOffset[4] = {0, 0, 1, 1};
  int64_t at = 0;
  for (int64_t b = 0; b < p.batch; ++b) {
    for (int64_t i = 0; i < p.height / 2; ++i) {
      for (int64_t j = 0; j < p.width / 2; ++j) {
        for (int part = 0; part < 4; ++part) {
          for (int64_t c = 0; c < p.channels; ++c) {
            const int64_t row = 2 * i + kRowOffset[part];
            const int64_t column = 2 * j + kColumnOffset[part];
            visit(((b * p.height + row) * p.width + column) * p.channels + c, at++);
          }
        }
      }
    }
  }
}

Vec MergeGather(const Picture& p, const Vec& x) {
  Vec rows(x.size());
  ForEachMerged(p, [&](int64_t from, int64_t to) { rows.at(to) = x.at(from); });
  return rows;
}

Vec MergeScatter(const Picture& p, const Vec& rows) {
  Vec x(rows.size());
  ForEachMerged(p, [&](int64_t to, int64_t from) { x.at(to) = rows.at(from); });
  return x;
}

}  // namespace swinfleet::reference
