#include "core/data/crop.h"

#include <glog/logging.h>

#include <algorithm>
#include <cmath>

namespace swinfleet {
namespace {

// To the nearest, halves to even: Python's round.
int64_t Round(double x) { return static_cast<int64_t>(std::nearbyint(x)); }

// Uniform over [low, high).
double Uniform(double low, double high, CounterRng* rng) {
  return low + (high - low) * rng->Uniform();
}

CropBox MiddleCrop(int64_t height, int64_t width, double ratio_low, double ratio_high) {
  const double ratio = static_cast<double>(width) / static_cast<double>(height);
  CropBox box{0, 0, height, width};
  if (ratio < ratio_low) {
    box.height = Round(static_cast<double>(width) / ratio_low);
  } else if (ratio > ratio_high) {
    box.width = Round(static_cast<double>(height) * ratio_high);
  }
  // Rounding makes nothing of a picture of one pixel.
  box.height = std::clamp<int64_t>(box.height, 1, height);
  box.width = std::clamp<int64_t>(box.width, 1, width);
  box.top = (height - box.height) / 2;
  box.left = (width - box.width) / 2;
  return box;
}

}  // namespace

CropBox RandomResizedCrop(int64_t height, int64_t width, double scale_low, double scale_high,
                          double ratio_low, double ratio_high, CounterRng* rng) {
  CHECK(height > 0 && width > 0) << height << "x" << width;
  constexpr int kTries = 10;
  const double area = static_cast<double>(height) * static_cast<double>(width);
  for (int i = 0; i < kTries; ++i) {
    const double target = Uniform(scale_low, scale_high, rng) * area;
    const double ratio = std::exp(Uniform(std::log(ratio_low), std::log(ratio_high), rng));
    CropBox box;
    box.width = Round(std::sqrt(target * ratio));
    box.height = Round(std::sqrt(target / ratio));
    // An area below half a pixel, which only a tiny picture has, is no box either.
    if (box.width < 1 || box.height < 1 || box.width > width || box.height > height) continue;
    box.top = static_cast<int64_t>(rng->Below(height - box.height + 1));
    box.left = static_cast<int64_t>(rng->Below(width - box.width + 1));
    return box;
  }
  return MiddleCrop(height, width, ratio_low, ratio_high);
}

PictureSize EvaluationSize(int64_t height, int64_t width, int64_t image_h, int64_t image_w,
                           double eval_crop) {
  CHECK(height > 0 && width > 0) << height << "x" << width;
  const auto target_h = static_cast<int64_t>(std::floor(static_cast<double>(image_h) / eval_crop));
  const auto target_w = static_cast<int64_t>(std::floor(static_cast<double>(image_w) / eval_crop));
  if (target_h == target_w) {
    const auto longer = [&](int64_t side, int64_t shorter) {
      return static_cast<int64_t>(static_cast<double>(target_h * side) /
                                  static_cast<double>(shorter));
    };
    if (width <= height) return {longer(height, width), target_w};
    return {target_h, longer(width, height)};
  }
  const auto h = static_cast<double>(height);
  const auto w = static_cast<double>(width);
  const double ratio =
      std::min(h / static_cast<double>(target_h), w / static_cast<double>(target_w));
  return {Round(h / ratio), Round(w / ratio)};
}

int64_t CenterOffset(int64_t size, int64_t crop) {
  if (crop > size) return -((crop - size) / 2);
  return Round(static_cast<double>(size - crop) / 2.0);
}

}  // namespace swinfleet
