#include "core/data/mask.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <set>
#include <vector>

namespace swinfleet {
namespace {

using ::testing::ElementsAre;
using Method = PretrainConfig::Method;

CounterRng Rng(uint64_t i) { return CounterRng(9, RandomPurpose::kMask, i); }

TEST(Mask, CountsAreThoseOfTheOfficialCodes) {
  // Python: int(np.ceil(n * ratio)).
  EXPECT_EQ(MaskedUnits(Method::kSimMim, 36, 0.6), 22);
  EXPECT_EQ(MaskedUnits(Method::kSimMim, 16, 0.6), 10);
  EXPECT_EQ(MaskedUnits(Method::kSimMim, 64, 0.75), 48);
  EXPECT_EQ(MaskedUnits(Method::kSimMim, 9, 0.4), 4);
  EXPECT_EQ(MaskedUnits(Method::kSimMim, 25, 0.28), 8);  // 25 * 0.28 is above 7 in float64.
  // Python: n - int(n * (1 - ratio)).
  EXPECT_EQ(MaskedUnits(Method::kMae, 196, 0.75), 147);
  EXPECT_EQ(MaskedUnits(Method::kMae, 49, 0.75), 37);
  EXPECT_EQ(MaskedUnits(Method::kMae, 10, 0.9), 10);  // 10 * (1 - 0.9) is below 1 in float64.
  EXPECT_EQ(MaskedUnits(Method::kGreenMim, 49, 0.75), 37);
}

TEST(Mask, UnitsFollowFromTheMethod) {
  ModelConfig model;
  model.image_h = 192;
  model.image_w = 96;
  model.patch_size = 4;
  PretrainConfig pretrain;
  pretrain.method = Method::kSimMim;
  pretrain.mask_ratio = 0.6;
  const MaskConfig simmim = MaskConfigFor(model, pretrain);
  EXPECT_EQ(simmim.units_h, 6);
  EXPECT_EQ(simmim.units_w, 3);
  EXPECT_EQ(simmim.ratio, 0.6);
  pretrain.method = Method::kMae;
  EXPECT_EQ(MaskConfigFor(model, pretrain).units(), 48 * 24);
  pretrain.method = Method::kGreenMim;
  EXPECT_EQ(MaskConfigFor(model, pretrain).units(), 18);
  pretrain.method = Method::kNone;
  EXPECT_FALSE(MaskConfigFor(model, pretrain).on());
}

TEST(Mask, EveryUnitIsMaskedEquallyOftenAndPairsIndependently) {
  MaskConfig config{Method::kSimMim, 0.6, 3, 4};
  std::vector<int32_t> mask(12);
  std::vector<int64_t> scratch;
  std::vector<int> counts(12);
  int first_two = 0;
  std::set<std::vector<int32_t>> seen;
  constexpr int kDraws = 20000;
  for (int i = 0; i < kDraws; ++i) {
    DrawMask(config, Rng(i), &scratch, mask);
    ASSERT_EQ(std::accumulate(mask.begin(), mask.end(), 0), 8);
    for (int k = 0; k < 12; ++k) counts[k] += mask[k];
    first_two += mask[0] == 1 && mask[1] == 1;
    seen.insert(mask);
  }
  const double p = 8.0 / 12;
  for (int count : counts) EXPECT_NEAR(count, kDraws * p, 5 * std::sqrt(kDraws * p * (1 - p)));
  const double pair = 8.0 * 7 / (12 * 11);
  EXPECT_NEAR(first_two, kDraws * pair, 5 * std::sqrt(kDraws * pair * (1 - pair)));
  EXPECT_EQ(seen.size(), 495U);  // 12 over 8.
}

TEST(Mask, FromAPermutationAndExpanded) {
  std::vector<int32_t> mask(4, 7);
  MaskFromPermutation(std::vector<int64_t>{2, 0, 3, 1}, 2, mask);
  EXPECT_THAT(mask, ElementsAre(1, 0, 1, 0));
  std::vector<int32_t> wide(24);
  ExpandMask(std::vector<int32_t>{1, 0, 0, 0, 1, 1}, 2, 3, 2, wide);
  EXPECT_THAT(wide, ElementsAre(1, 1, 0, 0, 0, 0,  //
                                1, 1, 0, 0, 0, 0,  //
                                0, 0, 1, 1, 1, 1,  //
                                0, 0, 1, 1, 1, 1));
}

}  // namespace
}  // namespace swinfleet
