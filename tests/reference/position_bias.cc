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

Entry TableEntry(const PositionBias& p, int64_t t, const Vec& coords, const Vec& w1, const Vec& b1,
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

std::vector<int64_t> RelativePositionIndices(int64_t window_h, int64_t window_w) {
  // coords_flatten: the row and the column of each token.
  std::vector<int64_t> rows;
  std::vector<int64_t> columns;
  for (int64_t i = 0; i < window_h; ++i) {
    for (int64_t j = 0; j < window_w; ++j) {
      rows.push_back(i);
      columns.push_back(j);
    }
  }
  std::vector<int64_t> index;
  for (size_t i = 0; i < rows.size(); ++i) {
    for (size_t j = 0; j < rows.size(); ++j) {
      int64_t relative_row = rows[i] - rows[j];
      int64_t relative_column = columns[i] - columns[j];
      relative_row += window_h - 1;
      relative_column += window_w - 1;
      relative_row *= 2 * window_w - 1;
      index.push_back(relative_row + relative_column);
    }
  }
  return index;
}

Vec PositionBiasForward(const PositionBias& p, const Vec& coords, const Vec& w1, const Vec& b1,
                        const Vec& w2) {
  const std::vector<int64_t> index = RelativePositionIndices(p.window_h, p.window_w);
  const int64_t pairs = static_cast<int64_t>(index.size());
  Vec bias(p.heads * pairs);
  for (int64_t i = 0; i < pairs; ++i) {
    const Entry e = TableEntry(p, index[i], coords, w1, b1, w2);
    for (int64_t h = 0; h < p.heads; ++h) bias[h * pairs + i] = 16 * Sigmoid(e.heads[h]);
  }
  return bias;
}

PositionBiasGradients PositionBiasBackward(const PositionBias& p, const Vec& coords, const Vec& w1,
                                           const Vec& b1, const Vec& w2, const Vec& dbias) {
  const std::vector<int64_t> index = RelativePositionIndices(p.window_h, p.window_w);
  const int64_t pairs = static_cast<int64_t>(index.size());
  PositionBiasGradients g{Vec(2 * p.hidden), Vec(p.hidden), Vec(p.heads * p.hidden)};
  for (int64_t i = 0; i < pairs; ++i) {
    const int64_t t = index[i];
    const Entry e = TableEntry(p, t, coords, w1, b1, w2);
    for (int64_t h = 0; h < p.heads; ++h) {
      const double s = Sigmoid(e.heads[h]);
      const double dhead = dbias.at(h * pairs + i) * 16 * s * (1 - s);
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
