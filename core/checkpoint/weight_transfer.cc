#include "core/checkpoint/weight_transfer.h"

#include <glog/logging.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "core/config/errors.h"
#include "kernels/ops.h"

namespace swinfleet {
namespace {

// Each output is the sum over its taps of weight * input.
struct Taps {
  std::vector<int64_t> index;
  std::vector<double> weight;
};

// Cubic convolution with a = -0.75 at distance |x|, up to 1 and from 1 to 2.
double CubicNear(double x) {
  constexpr double a = -0.75;
  return ((a + 2) * x - (a + 3)) * x * x + 1;
}
double CubicFar(double x) {
  constexpr double a = -0.75;
  return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a;
}

std::vector<Taps> BicubicTaps(int64_t in, int64_t out) {
  std::vector<Taps> taps(out);
  // PyTorch computes places in float32.
  const float scale = static_cast<float>(in) / static_cast<float>(out);
  for (int64_t i = 0; i < out; ++i) {
    const float place = scale * (static_cast<float>(i) + 0.5F) - 0.5F;
    const auto first = static_cast<int64_t>(std::floor(place));
    const double t = place - static_cast<float>(first);
    taps[i].weight = {CubicFar(t + 1), CubicNear(t), CubicNear(1 - t), CubicFar(2 - t)};
    for (int64_t k = -1; k <= 2; ++k) {
      taps[i].index.push_back(std::clamp<int64_t>(first + k, 0, in - 1));
    }
  }
  return taps;
}

// in (height, width, channels) by rows, then columns, in double.
std::vector<float> Separable(std::span<const float> in, MapSize in_size, MapSize out_size,
                             int64_t channels, const std::vector<Taps>& down,
                             const std::vector<Taps>& across) {
  CHECK_EQ(static_cast<int64_t>(in.size()), in_size.entries() * channels);
  std::vector<double> wide(in_size.height * out_size.width * channels, 0.0);
  for (int64_t y = 0; y < in_size.height; ++y) {
    for (int64_t x = 0; x < out_size.width; ++x) {
      double* to = &wide[(y * out_size.width + x) * channels];
      for (size_t k = 0; k < across[x].index.size(); ++k) {
        const float* from = &in[(y * in_size.width + across[x].index[k]) * channels];
        for (int64_t c = 0; c < channels; ++c) to[c] += across[x].weight[k] * from[c];
      }
    }
  }
  std::vector<float> out(out_size.entries() * channels);
  std::vector<double> sum(out_size.width * channels);
  for (int64_t y = 0; y < out_size.height; ++y) {
    std::ranges::fill(sum, 0.0);
    for (size_t k = 0; k < down[y].index.size(); ++k) {
      const double* from = &wide[down[y].index[k] * out_size.width * channels];
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += down[y].weight[k] * from[i];
    }
    for (size_t i = 0; i < sum.size(); ++i) {
      out[y * static_cast<int64_t>(sum.size()) + i] = static_cast<float>(sum[i]);
    }
  }
  return out;
}

// The ratio of the geometric sequence: the official bisection, step for step.
double GeometricRatio(int64_t in_size, int64_t out_size) {
  double left = 1.01, right = 1.5, ratio = 1.01;
  while (right - left > 1e-6) {
    ratio = (left + right) / 2;
    const double reach = (1 - std::pow(ratio, static_cast<double>(in_size / 2))) / (1 - ratio);
    (reach > static_cast<double>(out_size / 2) ? right : left) = ratio;
  }
  return ratio;
}

// Offsets of the source's entries, -d, ..., -1, 0, 1, ..., d in a geometric sequence.
std::vector<double> GeometricPlaces(int64_t in_size, double ratio) {
  std::vector<double> places(in_size, 0.0);
  const int64_t middle = in_size / 2;
  double place = 1;
  for (int64_t i = 0; i < middle; ++i) {
    places[middle + 1 + i] = place;
    places[middle - 1 - i] = -place;
    place += std::pow(ratio, static_cast<double>(i + 1));
  }
  return places;
}

// The four cubic B-splines that differ from zero at x, which lies in [knots[span], knots[span +
// 1]).
std::array<double, 4> CubicBasis(const std::vector<double>& knots, size_t span, double x) {
  std::array<double, 4> basis = {1, 0, 0, 0};
  for (size_t degree = 1; degree <= 3; ++degree) {
    double carried = 0;
    for (size_t i = 0; i < degree; ++i) {
      const double high = knots[span + 1 + i], low = knots[span + 1 + i - degree];
      const double part = basis[i] / (high - low);
      basis[i] = carried + (high - x) * part;
      carried = (x - low) * part;
    }
    basis[degree] = carried;
  }
  return basis;
}

// The not-a-knot cubic spline through points at `places`: knots are all of them but the second and
// the last but one, and the ends four times.
class NotAKnotSpline {
 public:
  explicit NotAKnotSpline(const std::vector<double>& places) : places_(places) {
    const size_t n = places.size();
    knots_.assign(4, places.front());
    knots_.insert(knots_.end(), places.begin() + 2, places.end() - 2);
    knots_.insert(knots_.end(), 4, places.back());
    Invert(n);
  }

  // Weights of all points for the value at x, which is moved into the range.
  std::vector<double> Weights(double x) const {
    const size_t n = places_.size();
    const std::vector<double> row = Row(std::clamp(x, places_.front(), places_.back()));
    std::vector<double> weights(n, 0.0);
    for (size_t i = 0; i < n; ++i) {
      for (size_t j = 0; j < n; ++j) weights[j] += row[i] * inverse_[i * n + j];
    }
    return weights;
  }

 private:
  // The B-splines at x.
  std::vector<double> Row(double x) const {
    const size_t n = places_.size();
    size_t span = 3;
    while (span + 1 < n && x >= knots_[span + 1]) ++span;
    const std::array<double, 4> basis = CubicBasis(knots_, span, x);
    std::vector<double> row(n, 0.0);
    for (size_t i = 0; i < 4; ++i) row[span - 3 + i] = basis[i];
    return row;
  }

  // Inverts the matrix of B-splines at the points (Gauss and Jordan, with pivots).
  void Invert(size_t n) {
    std::vector<double> matrix(n * n);
    inverse_.assign(n * n, 0.0);
    for (size_t i = 0; i < n; ++i) {
      std::ranges::copy(Row(places_[i]), matrix.begin() + static_cast<int64_t>(i * n));
      inverse_[i * n + i] = 1;
    }
    for (size_t column = 0; column < n; ++column) {
      size_t pivot = column;
      for (size_t i = column + 1; i < n; ++i) {
        if (std::abs(matrix[i * n + column]) > std::abs(matrix[pivot * n + column])) pivot = i;
      }
      for (size_t j = 0; j < n; ++j) {
        std::swap(matrix[pivot * n + j], matrix[column * n + j]);
        std::swap(inverse_[pivot * n + j], inverse_[column * n + j]);
      }
      const double scale = 1 / matrix[column * n + column];
      for (size_t i = 0; i < n; ++i) {
        if (i == column) continue;
        const double factor = matrix[i * n + column] * scale;
        if (factor == 0) continue;
        for (size_t j = 0; j < n; ++j) {
          matrix[i * n + j] -= factor * matrix[column * n + j];
          inverse_[i * n + j] -= factor * inverse_[column * n + j];
        }
      }
      for (size_t j = 0; j < n; ++j) {
        matrix[column * n + j] *= scale;
        inverse_[column * n + j] *= scale;
      }
    }
  }

  const std::vector<double> places_;
  std::vector<double> knots_;
  std::vector<double> inverse_;  // (n, n): from points to coefficients
};

}  // namespace

std::vector<float> ResizeBicubic(std::span<const float> in, MapSize in_size, MapSize out_size,
                                 int64_t channels) {
  return Separable(in, in_size, out_size, channels, BicubicTaps(in_size.height, out_size.height),
                   BicubicTaps(in_size.width, out_size.width));
}

std::vector<float> ResizeGeometric(std::span<const float> in, int64_t in_size, int64_t out_size,
                                   int64_t channels) {
  CHECK_GE(in_size, 5);
  const NotAKnotSpline spline(GeometricPlaces(in_size, GeometricRatio(in_size, out_size)));
  std::vector<int64_t> all(in_size);
  for (int64_t i = 0; i < in_size; ++i) all[i] = i;
  std::vector<Taps> taps(out_size);
  for (int64_t i = 0; i < out_size; ++i) {
    taps[i] = {all, spline.Weights(static_cast<double>(i - out_size / 2))};
  }
  return Separable(in, {in_size, in_size}, {out_size, out_size}, channels, taps, taps);
}

std::vector<float> ResizeClipTable(std::span<const float> in,
                                   const std::array<int64_t, 3>& in_window,
                                   const std::array<int64_t, 3>& out_window, int64_t channels) {
  const MapSize in_size = {2 * in_window[1] - 1, 2 * in_window[2] - 1};
  const MapSize out_size = {2 * out_window[1] - 1, 2 * out_window[2] - 1};
  const int64_t slice = in_size.entries() * channels;
  CHECK_EQ(static_cast<int64_t>(in.size()), (2 * in_window[0] - 1) * slice);
  // The largest offsets in time.
  const int64_t in_last = in_window[0] - 1, out_last = out_window[0] - 1;
  std::vector<float> out;
  out.reserve((2 * out_last + 1) * out_size.entries() * channels);
  for (int64_t offset = -out_last; offset <= out_last; ++offset) {
    const int64_t from = std::clamp(offset, -in_last, in_last) + in_last;
    const std::span<const float> values = in.subspan(from * slice, slice);
    if (in_size == out_size) {
      out.insert(out.end(), values.begin(), values.end());
      continue;
    }
    const std::vector<float> resized = ResizeBicubic(values, in_size, out_size, channels);
    out.insert(out.end(), resized.begin(), resized.end());
  }
  return out;
}

std::optional<int64_t> WindowOfCoordinates(std::span<const float> coords, MapSize window) {
  if (window == MapSize{1, 1}) return 1;
  // A coordinate is log8(1 + 8 offset / (size - 1)). The mean over all offsets, since a coordinate
  // of 16 bits alone is too coarse to tell large windows apart.
  double sum = 0;
  int64_t count = 0, at = 0;
  for (int64_t dy = 1 - window.height; dy < window.height; ++dy) {
    for (int64_t dx = 1 - window.width; dx < window.width; ++dx) {
      for (const int64_t offset : {dy, dx}) {
        const double coordinate = coords[at++];
        if (offset <= 0) continue;
        sum += 8 * static_cast<double>(offset) / (std::exp2(3 * coordinate) - 1);
        ++count;
      }
    }
  }
  const double size = std::round(sum / static_cast<double>(count)) + 1;
  // Beyond what model.pretrained_window_sizes takes; NaN too.
  if (!(size >= 2 && size <= 4 * kMaxWindow)) return std::nullopt;
  std::vector<float> expected(coords.size());
  const auto trained = static_cast<int64_t>(size);
  LogSpacedCoordinates(window.height, window.width, trained, trained, expected.data());
  for (size_t i = 0; i < coords.size(); ++i) {
    constexpr float kRounding = 0.01f;
    if (!(std::abs(coords[i] - expected[i]) <= kRounding * std::abs(expected[i]))) {
      return std::nullopt;
    }
  }
  return trained;
}

std::vector<float> InflateProjection(std::span<const float> in, int64_t rows, int64_t frames) {
  const int64_t values = static_cast<int64_t>(in.size()) / rows;
  std::vector<float> out;
  out.reserve(in.size() * frames);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t frame = 0; frame < frames; ++frame) {
      for (const float value : in.subspan(row * values, values)) {
        out.push_back(value / static_cast<float>(frames));
      }
    }
  }
  return out;
}

std::vector<float> RepeatTable(std::span<const float> in, int64_t times) {
  std::vector<float> out;
  out.reserve(in.size() * times);
  for (int64_t i = 0; i < times; ++i) out.insert(out.end(), in.begin(), in.end());
  return out;
}

}  // namespace swinfleet
