#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>
#include <vector>

#include "core/data/loader.h"
#include "core/rng/counter_rng.h"
#include "core/rng/keyed_permutation.h"

namespace swinfleet {
namespace {

using Block = std::array<uint32_t, 4>;

// Chi-square statistic of counts against equal shares, as standard deviations from its mean.
double ChiSquareZ(const std::vector<int64_t>& counts) {
  const double total = std::accumulate(counts.begin(), counts.end(), 0.0);
  const double expected = total / counts.size();
  double sum = 0;
  for (int64_t count : counts) sum += (count - expected) * (count - expected) / expected;
  const double freedom = counts.size() - 1.0;
  return (sum - freedom) / std::sqrt(2 * freedom);
}

TEST(Philox, MatchesTheKnownAnswersOfRandom123) {
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, {0, 0}),
            (Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(CounterRng, StreamFollowsFromThePublishedBlocks) {
  const auto hash = Philox4x32({0x89abcdef, 0x01234567, 5, 6}, {0x76543210, 0xfedcba98});
  CounterRng rng(0xfedcba9876543210, RandomPurpose::kDropPath, 0x0123456789abcdef, 5, 6);
  for (uint32_t n = 0; n < 3; ++n) {
    for (uint32_t value : Philox4x32({n, 4, hash[2], hash[3]}, {hash[0], hash[1]})) {
      EXPECT_EQ(rng.NextU32(), value);
    }
  }
}

TEST(CounterRng, EveryArgumentSelectsAnotherStream) {
  std::set<uint64_t> first;
  int streams = 0;
  const auto add = [&](CounterRng rng) {
    first.insert(rng.NextU64());
    ++streams;
  };
  for (uint64_t seed : {0ULL, 1ULL, 1ULL << 32, 1ULL << 63}) {
    for (RandomPurpose purpose : {RandomPurpose::kDataOrder, RandomPurpose::kAugmentation}) {
      for (uint64_t a : {0ULL, 1ULL, 1ULL << 32}) {
        for (uint32_t b : {0, 1}) {
          for (uint32_t c : {0, 1}) add(CounterRng(seed, purpose, a, b, c));
        }
      }
    }
  }
  EXPECT_EQ(static_cast<int>(first.size()), streams);
}

TEST(CounterRng, BelowIsUniformAndInRange) {
  for (uint64_t bound : {1ULL, 2ULL, 3ULL, 7ULL, 10ULL, 100ULL}) {
    CounterRng rng(7, RandomPurpose::kAugmentation, bound);
    std::vector<int64_t> counts(bound);
    for (int i = 0; i < 100000; ++i) {
      const uint64_t value = rng.Below(bound);
      ASSERT_LT(value, bound);
      ++counts[value];
    }
    if (bound > 1) {
      EXPECT_LT(std::fabs(ChiSquareZ(counts)), 5) << bound;
    }
  }
}

TEST(CounterRng, BelowHasNoBiasWhereAPlainProductWouldHave) {
  // Of 2^64 values, 3 * 2^62 results: without rejection every third would come twice as often.
  const uint64_t bound = 3ULL << 62;
  CounterRng rng(7, RandomPurpose::kAugmentation, 1);
  std::vector<int64_t> counts(3);
  for (int i = 0; i < 60000; ++i) {
    const uint64_t value = rng.Below(bound);
    ASSERT_LT(value, bound);
    ++counts[value % 3];
  }
  EXPECT_LT(std::fabs(ChiSquareZ(counts)), 5);
}

TEST(CounterRng, UniformIsInTheHalfOpenInterval) {
  CounterRng rng(3, RandomPurpose::kDropPath, 0);
  double sum = 0;
  double sum2 = 0;
  const int count = 100000;
  for (int i = 0; i < count; ++i) {
    const double u = rng.Uniform();
    ASSERT_GE(u, 0);
    ASSERT_LT(u, 1);
    sum += u;
    sum2 += u * u;
  }
  EXPECT_NEAR(sum / count, 0.5, 0.005);
  EXPECT_NEAR(sum2 / count, 1.0 / 3, 0.005);
}

TEST(NormalQuantile, InvertsTheDistributionFunction) {
  const auto distribution = [](double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); };
  for (int i = 1; i < 2000; ++i) {
    const double p = i / 4000.0;
    EXPECT_NEAR(distribution(NormalQuantile(p)) / p, 1, 1e-14) << p;
    EXPECT_NEAR(distribution(NormalQuantile(1 - p)) / (1 - p), 1, 1e-14) << p;
  }
  // In the tail dp/p is about x dx.
  for (int e = 3; e <= 53; ++e) {
    const double p = std::ldexp(1.0, -e);
    EXPECT_NEAR(distribution(NormalQuantile(p)) / p, 1, 2e-13) << e;
    EXPECT_EQ(NormalQuantile(p), -NormalQuantile(1 - p)) << e;
  }
  EXPECT_EQ(NormalQuantile(0.5), 0);
}

TEST(CounterRng, NormalHasTheMomentsOfANormal) {
  CounterRng rng(11, RandomPurpose::kInitialWeights, 0);
  const int count = 200000;
  double moments[5] = {};
  for (int i = 0; i < count; ++i) {
    const double x = rng.Normal();
    for (int k = 1; k <= 4; ++k) moments[k] += std::pow(x, k) / count;
  }
  EXPECT_NEAR(moments[1], 0, 0.012);
  EXPECT_NEAR(moments[2], 1, 0.016);
  EXPECT_NEAR(moments[3], 0, 0.05);
  EXPECT_NEAR(moments[4], 3, 0.12);
}

// The bits are part of what a seed means: a change of them changes every run.
TEST(CounterRng, BitsOfASeedStayWhatTheyAre) {
  CounterRng rng(42, RandomPurpose::kInitialWeights, 1, 2, 3);
  EXPECT_EQ(rng.NextU64(), UINT64_C(0x60d957fb5f515b18));
  EXPECT_EQ(rng.Below(1000), 812U);
  EXPECT_EQ(rng.Uniform(), 0.49116221792751047);
  EXPECT_EQ(rng.Normal(), -0.70135763859129752);
  EXPECT_EQ(ShuffledIndex(42, 3, 12345, 60000), 7655);
}

TEST(ShuffledIndex, IsABijectionForEveryCount) {
  std::vector<int64_t> counts = {4095, 4096, 4097, 10000, 60000, 65536, 65537};
  for (int64_t count = 1; count <= 300; ++count) counts.push_back(count);
  for (int64_t count : counts) {
    std::vector<bool> seen(count);
    const KeyedPermutation order(CounterRng(5, RandomPurpose::kDataOrder, 2), count);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t image = order(i);
      ASSERT_TRUE(image >= 0 && image < count) << image << " of " << count;
      ASSERT_FALSE(seen[image]) << count;
      seen[image] = true;
      if (i < 4) {
        ASSERT_EQ(ShuffledIndex(5, 2, i, count), image);
      }
    }
  }
}

TEST(ShuffledIndex, StaysInRangeForHugeCounts) {
  const int64_t count = (int64_t{1} << 62) + 12345;
  std::set<int64_t> images;
  for (int64_t i = 0; i < 1000; ++i) {
    const int64_t image = ShuffledIndex(1, 0, count - 1 - i, count);
    ASSERT_TRUE(image >= 0 && image < count);
    images.insert(image);
  }
  EXPECT_EQ(images.size(), 1000U);
}

TEST(ShuffledIndex, EveryOrderOfAFewIsEquallyLikely) {
  for (int64_t count : {3, 4, 5}) {
    std::map<std::vector<int64_t>, int64_t> orders;
    for (int64_t epoch = 0; epoch < 24000; ++epoch) {
      std::vector<int64_t> order;
      for (int64_t i = 0; i < count; ++i) order.push_back(ShuffledIndex(9, epoch, i, count));
      ++orders[order];
    }
    std::vector<int64_t> counts;
    for (const auto& entry : orders) counts.push_back(entry.second);
    const size_t factorial = count == 3 ? 6 : count == 4 ? 24 : 120;
    EXPECT_EQ(counts.size(), factorial);
    EXPECT_LT(std::fabs(ChiSquareZ(counts)), 5) << count;
  }
}

TEST(ShuffledIndex, EveryPlaceIsEquallyLikely) {
  for (int64_t count : {7, 16, 23, 64}) {
    std::vector<int64_t> places(count * count);
    for (int64_t epoch = 0; epoch < 4000; ++epoch) {
      const KeyedPermutation order(CounterRng(1, RandomPurpose::kDataOrder, epoch), count);
      for (int64_t i = 0; i < count; ++i) ++places[i * count + order(i)];
    }
    EXPECT_LT(std::fabs(ChiSquareZ(places)), 5) << count;
  }
}

TEST(ShuffledIndex, MixesLikeAShuffle) {
  const int64_t count = 60000;
  std::vector<int64_t> order(count);
  for (int64_t i = 0; i < count; ++i) order[i] = ShuffledIndex(0, 0, i, count);
  double correlation = 0;  // of neighbours, and of place and image
  double own = 0;
  const double mean = (count - 1) / 2.0;
  const double variance = (static_cast<double>(count) * count - 1) / 12;
  int64_t successors = 0;
  int64_t fixed = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t after = order[(i + 1) % count];
    correlation += (order[i] - mean) * (after - mean) / variance / count;
    own += (i - mean) * (order[i] - mean) / variance / count;
    successors += after == order[i] + 1;
    fixed += order[i] == i;
  }
  const double sigma = 1 / std::sqrt(static_cast<double>(count));
  EXPECT_LT(std::fabs(correlation), 5 * sigma);
  EXPECT_LT(std::fabs(own), 5 * sigma);
  // Both are Poisson with mean 1 in a random order.
  EXPECT_LT(successors, 8);
  EXPECT_LT(fixed, 8);
  // The first tenth of the order takes a tenth of each part of the data.
  std::vector<int64_t> parts(20);
  for (int64_t i = 0; i < count / 10; ++i) ++parts[order[i] * 20 / count];
  EXPECT_LT(std::fabs(ChiSquareZ(parts)), 5);
}

TEST(ShuffledIndex, EpochsAndSeedsHaveTheirOwnOrders) {
  const int64_t count = 10000;
  int64_t same_epoch = 0;
  int64_t same_seed = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t image = ShuffledIndex(1, 1, i, count);
    same_epoch += image == ShuffledIndex(1, 2, i, count);
    same_seed += image == ShuffledIndex(2, 1, i, count);
  }
  EXPECT_LT(same_epoch, 8);
  EXPECT_LT(same_seed, 8);
}

}  // namespace
}  // namespace swinfleet
