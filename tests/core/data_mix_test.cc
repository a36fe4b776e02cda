#include "core/data/mix.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/loss/targets.h"
#include "kernels/ops.h"

namespace swinfleet {
namespace {

CounterRng Rng(uint64_t i) { return CounterRng(11, RandomPurpose::kMixing, i); }

TEST(Mix, BetaHasItsMoments) {
  for (const double alpha : {0.05, 0.2, 0.8, 1.0, 3.0, 50.0}) {
    CounterRng rng = Rng(1);
    double mean = 0, square = 0;
    constexpr int kDraws = 40000;
    for (int i = 0; i < kDraws; ++i) {
      const double x = BetaSample(alpha, &rng);
      ASSERT_TRUE(x >= 0 && x <= 1) << alpha;
      mean += x / kDraws;
      square += (x - 0.5) * (x - 0.5) / kDraws;
    }
    const double variance = 1 / (4 * (2 * alpha + 1));
    EXPECT_NEAR(mean, 0.5, 5 * std::sqrt(variance / kDraws)) << alpha;
    EXPECT_NEAR(square, variance, 0.03 * variance) << alpha;
  }
  // So small that one of its two gamma numbers underflows.
  CounterRng rng = Rng(2);
  for (int i = 0; i < 1000; ++i) ASSERT_TRUE(std::isfinite(BetaSample(1e-4, &rng)));
}

TEST(Mix, BetaOfOneIsUniform) {
  CounterRng rng = Rng(3);
  std::vector<int> bins(10);
  for (int i = 0; i < 20000; ++i) ++bins[std::min(9, static_cast<int>(BetaSample(1, &rng) * 10))];
  for (int count : bins) EXPECT_NEAR(count, 2000, 5 * std::sqrt(2000.0));
}

TEST(Mix, BoxesAreCutOffAndLamCorrected) {
  EXPECT_EQ(CutmixBox(48, 64, 0.75, 24, 32), (MixBox{12, 36, 16, 48}));
  EXPECT_EQ(CutmixBox(48, 64, 0.75, 0, 63), (MixBox{0, 12, 47, 64}));
  EXPECT_EQ(CutmixBox(5, 5, 0.64, 2, 2), (MixBox{1, 4, 1, 4}));  // sides of int(5 * 0.6)
  EXPECT_EQ(CutmixBox(48, 64, 1, 5, 5), (MixBox{5, 5, 5, 5}));
  EXPECT_EQ(CutmixBox(48, 64, 0, 24, 32), (MixBox{0, 48, 0, 64}));
  EXPECT_DOUBLE_EQ(LamOutside({12, 36, 16, 48}, 48, 64), 0.75);
  EXPECT_DOUBLE_EQ(LamOutside({5, 5, 5, 5}, 48, 64), 1);
}

MixConfig Config(double mixup, double cutmix, MixConfig::Mode mode) {
  MixConfig config;
  config.mixup_alpha = mixup;
  config.cutmix_alpha = cutmix;
  config.mode = mode;
  return config;
}

bool Same(const MixEntry& a, const MixEntry& b) {
  return a.lam == b.lam && a.cutmix == b.cutmix && a.box == b.box;
}

TEST(Mix, ModesShareWhatTheyShould) {
  std::vector<MixEntry> entries(6);
  DrawMix(Config(0.8, 1, MixConfig::Mode::kBatch), 32, 32, Rng(4), entries);
  for (const MixEntry& entry : entries) EXPECT_TRUE(Same(entry, entries[0]));
  DrawMix(Config(0.8, 1, MixConfig::Mode::kPair), 32, 32, Rng(4), entries);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(Same(entries[i], entries[5 - i]));
  EXPECT_FALSE(Same(entries[0], entries[1]));
  DrawMix(Config(0.8, 0, MixConfig::Mode::kElement), 32, 32, Rng(4), entries);
  for (int i = 1; i < 6; ++i) EXPECT_NE(entries[i].lam, entries[0].lam);
  std::vector<MixEntry> odd(3);
  DrawMix(Config(0.8, 0, MixConfig::Mode::kPair), 32, 32, Rng(4), odd);
  EXPECT_EQ(odd[1].lam, 1);
}

TEST(Mix, ProbabilitiesAreKept) {
  MixConfig config = Config(0.8, 1, MixConfig::Mode::kElement);
  config.probability = 0.6;
  config.switch_probability = 0.3;
  constexpr int kDraws = 20000;
  std::vector<MixEntry> entries(kDraws);
  DrawMix(config, 32, 32, Rng(5), entries);
  int cutmix = 0, mixup = 0;
  for (const MixEntry& entry : entries) {
    cutmix += entry.cutmix;
    mixup += !entry.cutmix && entry.lam != 1;
  }
  EXPECT_NEAR(cutmix, kDraws * 0.18, 5 * std::sqrt(kDraws * 0.18 * 0.82));
  EXPECT_NEAR(mixup, kDraws * 0.42, 5 * std::sqrt(kDraws * 0.42 * 0.58));
  config.probability = 0;
  DrawMix(config, 32, 32, Rng(5), entries);
  for (const MixEntry& entry : entries) ASSERT_TRUE(Same(entry, MixEntry{}));
  config.probability = 1;
  config.cutmix_alpha = 0;
  DrawMix(config, 32, 32, Rng(5), entries);
  for (const MixEntry& entry : entries) ASSERT_FALSE(entry.cutmix);
  config.mixup_alpha = 0;
  config.cutmix_alpha = 1;
  DrawMix(config, 32, 32, Rng(5), entries);
  for (const MixEntry& entry : entries) ASSERT_TRUE(entry.cutmix);
}

TEST(Mix, MinMaxBoxesLieWithinAndHaveTheirSides) {
  MixConfig config;
  config.cutmix_minmax = {0.25, 0.75};
  config.mode = MixConfig::Mode::kElement;
  std::vector<MixEntry> entries(5000);
  DrawMix(config, 32, 64, Rng(6), entries);
  std::vector<int> heights(33), widths(65);
  for (const MixEntry& entry : entries) {
    const MixBox& box = entry.box;
    ASSERT_TRUE(entry.cutmix && box.y0 >= 0 && box.y1 <= 32 && box.x0 >= 0 && box.x1 <= 64);
    ASSERT_DOUBLE_EQ(entry.lam, LamOutside(box, 32, 64));
    ++heights[box.y1 - box.y0];
    ++widths[box.x1 - box.x0];
  }
  // [8, 24) and [16, 48), as numpy's randint.
  for (int h = 0; h <= 32; ++h) EXPECT_EQ(heights[h] > 0, h >= 8 && h < 24) << h;
  for (int w = 0; w <= 64; ++w) EXPECT_EQ(widths[w] > 0, w >= 16 && w < 48) << w;
  // An empty range.
  config.cutmix_minmax = {0.5, 0.5};
  DrawMix(config, 32, 64, Rng(6), entries);
  EXPECT_EQ(entries[0].box.y1 - entries[0].box.y0, 16);
}

void Mix(const std::vector<MixEntry>& entries, const Shape& shape, std::vector<float>* image) {
  std::vector<float> weight(2 * entries.size());
  std::vector<int32_t> box(4 * entries.size());
  DescribeMix(entries, weight, box);
  Context context{.ops = &CpuOps(), .workspace = nullptr, .threads = 2};
  context.ops->mix_pictures({.image = ViewOf(image->data(), shape, Device::kCpu),
                             .weight = ViewOf(weight.data(), {shape[0], 2}, Device::kCpu),
                             .box = ViewOf(box.data(), {shape[0], 4}, Device::kCpu)},
                            context);
}

// timm's formulas, picture by picture on copies.
TEST(Mix, PicturesAndTargetsAreTheDefinition) {
  constexpr int64_t kPlanes = 6, kH = 5, kW = 7, kClasses = 4;
  for (const int64_t batch : {1, 2, 5, 6}) {
    for (const MixConfig::Mode mode :
         {MixConfig::Mode::kBatch, MixConfig::Mode::kPair, MixConfig::Mode::kElement}) {
      for (int seed = 0; seed < 20; ++seed) {
        MixConfig config = Config(0.8, 1, mode);
        config.probability = 0.8;
        std::vector<MixEntry> entries(batch);
        DrawMix(config, kH, kW, Rng(100 + seed), entries);
        std::vector<float> image(batch * kPlanes * kH * kW);
        CounterRng values = Rng(7);
        for (float& x : image) x = static_cast<float>(values.Normal());
        const std::vector<float> original = image;
        std::vector<int64_t> labels;
        for (int64_t b = 0; b < batch; ++b) labels.push_back(b * 3 % kClasses);
        Mix(entries, {batch, kPlanes, kH, kW}, &image);
        std::vector<float> target(batch * kClasses);
        MixTargets(entries, labels, kClasses, 0.1, target);
        std::vector<float> smooth(batch * kClasses);
        SmoothedTargets(labels, kClasses, 0.1, smooth);
        for (int64_t b = 0; b < batch; ++b) {
          const MixEntry& mix = entries[b];
          const int64_t partner = batch - 1 - b;
          for (int64_t i = 0; i < kPlanes * kH * kW; ++i) {
            const int64_t y = i / kW % kH, x = i % kW;
            const float own = original[b * kPlanes * kH * kW + i];
            const float other = original[partner * kPlanes * kH * kW + i];
            double expected = mix.lam * own + (1 - mix.lam) * other;
            if (mix.cutmix) {
              const bool inside =
                  y >= mix.box.y0 && y < mix.box.y1 && x >= mix.box.x0 && x < mix.box.x1;
              expected = inside ? other : own;
            }
            if (b == partner) expected = own;
            ASSERT_NEAR(image[b * kPlanes * kH * kW + i], expected, 1e-6);
          }
          for (int64_t k = 0; k < kClasses; ++k) {
            ASSERT_NEAR(
                target[b * kClasses + k],
                mix.lam * smooth[b * kClasses + k] + (1 - mix.lam) * smooth[partner * kClasses + k],
                1e-6);
          }
        }
      }
    }
  }
}

TEST(Mix, NothingMixedIsSmoothedTargetsToTheBit) {
  const std::vector<MixEntry> entries(3);
  const std::vector<int64_t> labels = {2, 0, 4};
  std::vector<float> mixed(15), smooth(15);
  MixTargets(entries, labels, 5, 0.1, mixed);
  SmoothedTargets(labels, 5, 0.1, smooth);
  EXPECT_EQ(mixed, smooth);
}

}  // namespace
}  // namespace swinfleet
