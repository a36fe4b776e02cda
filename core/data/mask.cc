#include "core/data/mask.h"

#include <glog/logging.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

namespace swinfleet {

MaskConfig MaskConfigFor(const ModelConfig& model, const PretrainConfig& pretrain) {
  MaskConfig mask;
  mask.method = pretrain.method;
  mask.ratio = pretrain.mask_ratio;
  if (!mask.on()) return mask;
  const int64_t unit =
      pretrain.method == PretrainConfig::Method::kMae ? model.patch_size : pretrain.mask_unit;
  CHECK_GT(unit, 0);
  mask.units_h = model.image_h / unit;
  mask.units_w = model.image_w / unit;
  return mask;
}

Shape MaskShape(const MaskConfig& mask, int64_t batch) {
  return {mask.method == PretrainConfig::Method::kGreenMim ? 1 : batch, mask.units()};
}

int64_t MaskedUnits(PretrainConfig::Method method, int64_t units, double ratio) {
  const auto count = static_cast<double>(units);
  if (method == PretrainConfig::Method::kSimMim) {
    return static_cast<int64_t>(std::ceil(count * ratio));
  }
  return units - static_cast<int64_t>(count * (1 - ratio));
}

void MaskFromPermutation(std::span<const int64_t> permutation, int64_t masked,
                         std::span<int32_t> mask) {
  CHECK_EQ(permutation.size(), mask.size());
  CHECK(masked >= 0 && masked <= static_cast<int64_t>(mask.size())) << masked;
  std::fill(mask.begin(), mask.end(), 0);
  for (int64_t i = 0; i < masked; ++i) mask[permutation[i]] = 1;
}

void DrawMask(const MaskConfig& config, CounterRng rng, std::vector<int64_t>* scratch,
              std::span<int32_t> mask) {
  const int64_t units = config.units();
  CHECK_GT(units, 0);
  CHECK_EQ(static_cast<int64_t>(mask.size()), units);
  const int64_t masked = MaskedUnits(config.method, units, config.ratio);
  scratch->resize(units);
  std::iota(scratch->begin(), scratch->end(), 0);
  // As much of a random permutation as is used.
  for (int64_t i = 0; i < masked; ++i) {
    std::swap((*scratch)[i], (*scratch)[i + static_cast<int64_t>(rng.Below(units - i))]);
  }
  MaskFromPermutation(*scratch, masked, mask);
}

void ExpandMask(std::span<const int32_t> mask, int64_t height, int64_t width, int64_t factor,
                std::span<int32_t> out) {
  CHECK_EQ(static_cast<int64_t>(mask.size()), height * width);
  CHECK_EQ(static_cast<int64_t>(out.size()), height * width * factor * factor);
  const int64_t out_width = width * factor;
  for (int64_t y = 0; y < height * factor; ++y) {
    for (int64_t x = 0; x < out_width; ++x) {
      out[y * out_width + x] = mask[y / factor * width + x / factor];
    }
  }
}

}  // namespace swinfleet
