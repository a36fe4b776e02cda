#include "core/nn/sin_cos_positions.h"

#include <glog/logging.h>

#include <cmath>

namespace swinfleet {

std::vector<float> SinCosPositions(int64_t channels, int64_t height, int64_t width,
                                   bool class_token) {
  CHECK_EQ(channels % 4, 0) << channels;
  const int64_t waves = channels / 4;
  std::vector<float> positions(class_token ? channels : 0);
  positions.reserve(channels * (height * width + 1));
  const auto append = [&](int64_t coordinate, double (*wave)(double)) {
    for (int64_t i = 0; i < waves; ++i) {
      const double frequency =
          std::pow(10000.0, -static_cast<double>(i) / static_cast<double>(waves));
      positions.push_back(static_cast<float>(wave(static_cast<double>(coordinate) * frequency)));
    }
  };
  for (int64_t row = 0; row < height; ++row) {
    for (int64_t column = 0; column < width; ++column) {
      for (const int64_t coordinate : {column, row}) {
        append(coordinate, std::sin);
        append(coordinate, std::cos);
      }
    }
  }
  return positions;
}

}  // namespace swinfleet
