#include <cmath>

#include "tests/reference/reference.h"

namespace swinfleet::reference {
namespace {

double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

double Coordinate(int64_t offset, int64_t window, int64_t pretrained) {
  if (offset == 0) return 0;
  const int64_t span = pretrained > 0 ? pretrained - 1 : window - 1;
  const double x = static_cast<double>(offset) / static_cast<double>(span) * 8;
  return std::copysign(std::log2(std::abs(x) + 1) / std::log2(8.0), x);
}

// Of one entry of the table: hidden units after the ReLU, and the heads before the sigmoid.
struct Entry {
  Vec hidden;
  Vec heads;
};

Entry TableEntry(const PositionTable& p, int64_t t, const Vec& coords, const Vec& w1, const Vec& b1,
                 const Vec& w2) {
  Entry e{Vec(p.hidden), Vec(p.heads)};
  for (int64_t u = 0; u < p.hidden; ++u) {
    const double pre =
        w1.at(2 * u) * coords.at(2 * t) + w1.at(2 * u + 1) * coords.at(2 * t + 1) + b1.at(u);
    e.hidden[u] = pre > 0 ? pre : 0;
  }
  for (int64_t h = 0; h < p.heads; ++h) {
    for (int64_t u = 0; u < p.hidden; ++u) e.heads[h] += w2.at(h * p.hidden + u) * e.hidden[u];
  }
  return e;
}

}  // namespace

Vec RelativeCoordinates(int64_t window_h, int64_t window_w, int64_t pretrained_h,
                        int64_t pretrained_w) {
  Vec coords;
  for (int64_t i = -(window_h - 1); i <= window_h - 1; ++i) {
    for (int64_t j = -(window_w - 1); j <= window_w - 1; ++j) {
      coords.push_back(Coordinate(i, window_h, pretrained_h));
      coords.push_back(Coordinate(j, window_w, pretrained_w));
    }
  }
  return coords;
}

Vec PositionTableForward(const PositionTable& p, const Vec& coords, const Vec& w1, const Vec& b1,
                         const Vec& w2) {
  Vec table;
  for (int64_t t = 0; t < p.entries; ++t) {
    for (double x : TableEntry(p, t, coords, w1, b1, w2).heads) table.push_back(16 * Sigmoid(x));
  }
  return table;
}

PositionTableGradients PositionTableBackward(const PositionTable& p, const Vec& coords,
                                             const Vec& w1, const Vec& b1, const Vec& w2,
                                             const Vec& dtable) {
  PositionTableGradients g{Vec(2 * p.hidden), Vec(p.hidden), Vec(p.heads * p.hidden)};
  for (int64_t t = 0; t < p.entries; ++t) {
    const Entry e = TableEntry(p, t, coords, w1, b1, w2);
    for (int64_t h = 0; h < p.heads; ++h) {
      const double s = Sigmoid(e.heads[h]);
      const double dhead = dtable.at(t * p.heads + h) * 16 * s * (1 - s);
      for (int64_t u = 0; u < p.hidden; ++u) {
        g.dw2[h * p.hidden + u] += dhead * e.hidden[u];
        if (e.hidden[u] <= 0) continue;
        const double dpre = dhead * w2.at(h * p.hidden + u);
        g.db1[u] += dpre;
        g.dw1[2 * u] += dpre * coords.at(2 * t);
        g.dw1[2 * u + 1] += dpre * coords.at(2 * t + 1);
      }
    }
  }
  return g;
}

}  // namespace swinfleet::reference
