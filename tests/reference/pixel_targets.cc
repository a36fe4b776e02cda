#include <cmath>

#include "tests/reference/reference.h"

namespace swinfleet::reference {
namespace {

struct Statistics {
  double mean = 0;
  // Unbiased.
  double variance = 0;
};

Statistics Of(const Vec& values) {
  Statistics s;
  for (const double x : values) s.mean += x / static_cast<double>(values.size());
  for (const double x : values) {
    s.variance += (x - s.mean) * (x - s.mean) / static_cast<double>(values.size() - 1);
  }
  return s;
}

}  // namespace

Vec NormTargets(const Picture& p, int64_t window, const Vec& x) {
  Vec y(x.size());
  for (int64_t i = 0; i < static_cast<int64_t>(x.size()); ++i) {
    const int64_t plane = i / (p.height * p.width), row = i / p.width % p.height,
                  column = i % p.width;
    Vec neighbours;
    for (int64_t r = row - window / 2; r <= row + window / 2; ++r) {
      for (int64_t c = column - window / 2; c <= column + window / 2; ++c) {
        if (r < 0 || r >= p.height || c < 0 || c >= p.width) continue;
        neighbours.push_back(x.at((plane * p.height + r) * p.width + c));
      }
    }
    const Statistics s = Of(neighbours);
    y.at(i) = (x.at(i) - s.mean) / std::sqrt(s.variance + 1e-6);
  }
  return y;
}

Vec PatchTargets(const Picture& p, int64_t patch, bool normalise, const Vec& image) {
  Vec y;
  for (int64_t l = 0; l < p.batch * (p.height / patch) * (p.width / patch); ++l) {
    const int64_t across = p.width / patch, down = p.height / patch;
    const int64_t b = l / (down * across), top = l / across % down * patch,
                  left = l % across * patch;
    Vec values;
    for (int64_t row = 0; row < patch; ++row) {
      for (int64_t column = 0; column < patch; ++column) {
        for (int64_t c = 0; c < p.channels; ++c) {
          values.push_back(
              image.at(((b * p.channels + c) * p.height + top + row) * p.width + left + column));
        }
      }
    }
    if (normalise) {
      const Statistics s = Of(values);
      for (double& value : values) value = (value - s.mean) / std::sqrt(s.variance + 1e-6);
    }
    y.insert(y.end(), values.begin(), values.end());
  }
  return y;
}

}  // namespace swinfleet::reference
