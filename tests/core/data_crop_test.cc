#include "core/data/crop.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace swinfleet {
namespace {

CounterRng Rng(uint64_t sample) { return CounterRng(5, RandomPurpose::kAugmentation, sample); }

TEST(Crop, EvaluationSizesAndOffsetsAreTimms) {
  // From torchvision's Resize, timm's ResizeKeepRatio and torchvision's CenterCrop.
  struct Case {
    int64_t h, w, image_h, image_w;
    double crop;
    int64_t size_h, size_w, top, left;
  };
  const Case cases[] = {
      {375, 500, 224, 224, 0.875, 256, 341, 16, 58},
      {500, 375, 224, 224, 0.875, 341, 256, 58, 16},
      {333, 500, 192, 192, 0.9, 213, 319, 10, 64},
      {500, 333, 384, 384, 1.0, 576, 384, 96, 0},
      {100, 100, 224, 224, 0.875, 256, 256, 16, 16},
      {480, 640, 192, 256, 0.9, 213, 284, 10, 14},
      {640, 480, 192, 256, 0.9, 379, 284, 94, 14},
      {333, 499, 96, 160, 0.875, 121, 182, 12, 11},
      {1, 10, 8, 8, 0.5, 16, 160, 4, 76},
      {31, 29, 32, 32, 1.0, 34, 32, 1, 0},
      {500, 667, 256, 256, 0.95, 269, 358, 6, 51},
      {97, 61, 33, 65, 0.8, 129, 81, 48, 8},
  };
  for (const Case& c : cases) {
    const PictureSize size = EvaluationSize(c.h, c.w, c.image_h, c.image_w, c.crop);
    EXPECT_EQ(size, (PictureSize{c.size_h, c.size_w})) << c.h << "x" << c.w;
    EXPECT_EQ(CenterOffset(size.height, c.image_h), c.top);
    EXPECT_EQ(CenterOffset(size.width, c.image_w), c.left);
  }
  EXPECT_EQ(CenterOffset(7, 8), 0);
  EXPECT_EQ(CenterOffset(5, 8), -1);
  EXPECT_EQ(CenterOffset(4, 8), -2);
}

// timm's get_params once more, from the same numbers.
CropBox NaiveCrop(int64_t h, int64_t w, CounterRng rng) {
  for (int tries = 10; tries > 0; --tries) {
    const double area = (0.08 + (1.0 - 0.08) * rng.Uniform()) * static_cast<double>(h * w);
    const double low = std::log(0.75), high = std::log(4.0 / 3);
    const double ratio = std::exp(low + (high - low) * rng.Uniform());
    const auto crop_w = static_cast<int64_t>(std::rint(std::sqrt(area * ratio)));
    const auto crop_h = static_cast<int64_t>(std::rint(std::sqrt(area / ratio)));
    if (crop_w <= w && crop_h <= h) {
      const auto top = static_cast<int64_t>(rng.Below(h - crop_h + 1));
      return {top, static_cast<int64_t>(rng.Below(w - crop_w + 1)), crop_h, crop_w};
    }
  }
  const double ratio = static_cast<double>(w) / static_cast<double>(h);
  int64_t crop_h = h, crop_w = w;
  if (ratio < 0.75) crop_h = static_cast<int64_t>(std::rint(static_cast<double>(w) / 0.75));
  if (ratio > 4.0 / 3) crop_w = static_cast<int64_t>(std::rint(static_cast<double>(h) * (4.0 / 3)));
  return {(h - crop_h) / 2, (w - crop_w) / 2, crop_h, crop_w};
}

TEST(Crop, RandomResizedCropIsTimms) {
  int fallbacks = 0;
  for (const auto& [h, w] : std::vector<std::pair<int64_t, int64_t>>{
           {375, 500}, {500, 333}, {64, 64}, {20, 400}, {300, 10}, {9, 8}}) {
    for (int i = 0; i < 500; ++i) {
      CounterRng rng = Rng(i);
      const CropBox box = RandomResizedCrop(h, w, 0.08, 1, 0.75, 4.0 / 3, &rng);
      ASSERT_EQ(box, NaiveCrop(h, w, Rng(i))) << h << "x" << w << " " << i;
      ASSERT_TRUE(box.top >= 0 && box.left >= 0 && box.height > 0 && box.width > 0 &&
                  box.top + box.height <= h && box.left + box.width <= w);
      fallbacks += h == 20 && box == CropBox{0, 186, 20, 27};
    }
  }
  // Of such a wide picture nearly no box fits.
  EXPECT_GT(fallbacks, 400);
}

TEST(Crop, RandomResizedCropHasTheRightDistribution) {
  // Of a large picture nearly all first draws fit, so that area and ratio keep their distributions.
  constexpr int kDraws = 20000;
  double area = 0, area2 = 0, log_ratio2 = 0, top = 0;
  for (int i = 0; i < kDraws; ++i) {
    CounterRng rng = Rng(i);
    const CropBox box = RandomResizedCrop(4000, 4000, 0.1, 0.5, 0.75, 4.0 / 3, &rng);
    const double share = static_cast<double>(box.height * box.width) / 16e6;
    area += share / kDraws;
    area2 += share * share / kDraws;
    const double log_ratio =
        std::log(static_cast<double>(box.width) / static_cast<double>(box.height));
    log_ratio2 += log_ratio * log_ratio / kDraws;
    top += static_cast<double>(box.top) / static_cast<double>(4000 - box.height) / kDraws;
  }
  // Standard errors: 0.4 / sqrt(12 * draws) and the like.
  EXPECT_NEAR(area, 0.3, 5 * 0.4 / std::sqrt(12.0 * kDraws));
  EXPECT_NEAR(area2 - area * area, 0.16 / 12, 0.02 * 0.16 / 12);
  EXPECT_NEAR(log_ratio2, std::pow(std::log(4.0 / 3), 2) / 3, 0.02 * 0.0276);
  EXPECT_NEAR(top, 0.5, 5 / std::sqrt(12.0 * kDraws));
}

TEST(Crop, TinyPictures) {
  for (int i = 0; i < 200; ++i) {
    CounterRng rng = Rng(i);
    EXPECT_EQ(RandomResizedCrop(1, 1, 0.01, 0.1, 0.75, 4.0 / 3, &rng), (CropBox{0, 0, 1, 1}));
    const CropBox line = RandomResizedCrop(1, 1000, 0.08, 1, 0.75, 4.0 / 3, &rng);
    EXPECT_EQ(line.height, 1);
    EXPECT_GE(line.width, 1);
  }
}

}  // namespace
}  // namespace swinfleet
