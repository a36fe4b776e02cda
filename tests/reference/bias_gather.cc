#include "tests/reference/reference.h"

namespace swinfleet::reference {

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

Vec BiasGather(const BiasPairs& p, const Vec& table, const std::vector<int64_t>& index,
               const Vec& mask) {
  Vec bias;
  for (int64_t g = 0; g < p.groups; ++g) {
    for (int64_t h = 0; h < p.heads; ++h) {
      for (int64_t pair = 0; pair < p.tokens * p.tokens; ++pair) {
        const int64_t at = g * p.tokens * p.tokens + pair;
        const double shift = mask.empty() ? 0 : mask.at(at);
        bias.push_back(index.at(at) < 0 ? kNobodyLse
                                        : table.at(index.at(at) * p.heads + h) + shift);
      }
    }
  }
  return bias;
}

Vec BiasScatter(const BiasPairs& p, const Vec& dbias, const std::vector<int64_t>& index) {
  Vec dtable(p.entries * p.heads);
  for (int64_t g = 0; g < p.groups; ++g) {
    for (int64_t h = 0; h < p.heads; ++h) {
      for (int64_t pair = 0; pair < p.tokens * p.tokens; ++pair) {
        const int64_t at = index.at(g * p.tokens * p.tokens + pair);
        if (at < 0) continue;
        dtable.at(at * p.heads + h) += dbias.at((g * p.heads + h) * p.tokens * p.tokens + pair);
      }
    }
  }
  return dtable;
}

}  // namespace swinfleet::reference
