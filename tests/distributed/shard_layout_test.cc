#include "distributed/shard_layout.h"

#include <gtest/gtest.h>

#include <vector>

#include "kernels/ops.h"

namespace swinfleet {
namespace {

ParameterTable OddTable() {
  ParameterTable table;
  table.BeginUnit("a");
  table.Add("a.weight", Shape{5, 7}, {});
  table.Add("a.bias", Shape{7}, {});
  table.Add("a.big", Shape{1000, 33}, {});
  table.BeginUnit("b");
  table.Add("b.whole", Shape{4096 * 2}, {});
  table.BeginUnit("c");
  table.Add("c.scalar", Shape{1}, {});
  return table;
}

TEST(ShardLayout, ShardsAreEqualWholeChunks) {
  const ParameterTable table = OddTable();
  for (const int ranks : {1, 2, 3, 4, 5, 8, 64}) {
    const ShardLayout layout(table, ranks);
    for (size_t u = 0; u < table.units().size(); ++u) {
      const int unit = static_cast<int>(u);
      EXPECT_EQ(layout.ShardSize(unit) * ranks, layout.PaddedSize(unit));
      EXPECT_EQ(layout.ShardSize(unit) % kNormChunk, 0);
      EXPECT_GE(layout.PaddedSize(unit), table.units()[u].size);
      EXPECT_LT(layout.PaddedSize(unit) - table.units()[u].size, ranks * kNormChunk);
    }
  }
}

TEST(ShardLayout, OneRankNeedsNoMoreThanTheTable) {
  const ParameterTable table = OddTable();
  const ShardLayout layout(table, 1);
  for (size_t u = 0; u < table.units().size(); ++u) {
    EXPECT_EQ(layout.PaddedSize(static_cast<int>(u)), table.units()[u].padded_size);
  }
}

TEST(ShardLayout, ShardIndexMirrorsTheBitsOfPowersOfTwo) {
  EXPECT_EQ(ShardLayout::ShardIndex(0, 1), 0);
  const std::vector<int> eight = {0, 4, 2, 6, 1, 5, 3, 7};
  for (int r = 0; r < 8; ++r) EXPECT_EQ(ShardLayout::ShardIndex(r, 8), eight[r]);
  for (int r = 0; r < 6; ++r) EXPECT_EQ(ShardLayout::ShardIndex(r, 6), r);
}

TEST(ShardLayout, SegmentsOfAllRanksAreEveryElementOnce) {
  const ParameterTable table = OddTable();
  for (const int ranks : {1, 2, 3, 8}) {
    const ShardLayout layout(table, ranks);
    std::vector<std::vector<int>> seen;
    for (const ParameterInfo& info : table.parameters()) seen.emplace_back(info.size(), 0);
    for (int unit = 0; unit < 3; ++unit) {
      for (int rank = 0; rank < ranks; ++rank) {
        const int64_t begin = layout.ShardBegin(unit, rank);
        for (const ShardLayout::Segment& s : layout.ShardSegments(unit, rank)) {
          const ParameterInfo& info = table.parameters()[s.parameter];
          EXPECT_EQ(s.unit_begin, info.offset + s.parameter_begin);
          EXPECT_GE(s.unit_begin, begin);
          EXPECT_LE(s.unit_begin + s.size, begin + layout.ShardSize(unit));
          for (int64_t i = 0; i < s.size; ++i) ++seen[s.parameter][s.parameter_begin + i];
        }
      }
      size_t whole = 0;
      for (const ShardLayout::Segment& s : layout.UnitSegments(unit)) {
        EXPECT_EQ(s.size, table.parameters()[s.parameter].size());
        ++whole;
      }
      EXPECT_EQ(whole, table.units()[unit].parameters.size());
    }
    for (const auto& counts : seen) {
      for (const int count : counts) ASSERT_EQ(count, 1);
    }
  }
}

TEST(ShardLayout, LeavesAreContiguousAndAllTaken) {
  for (const int ranks : {1, 2, 3, 5, 8}) {
    EXPECT_EQ(ShardLayout::LeafBegin(0, ranks, 8), 0);
    EXPECT_EQ(ShardLayout::LeafBegin(ranks, ranks, 8), 8);
  }
}

TEST(ShardLayout, EveryLeafIsOneRanks) {
  for (const Accumulation form :
       {Accumulation::kPlain, Accumulation::kSplit, Accumulation::kSplitLowPrecision}) {
    for (const int64_t leaves : {1, 3, 8, 13}) {
      for (int ranks = 1; ranks <= leaves; ++ranks) {
        std::vector<int> seen(leaves);
        for (int rank = 0; rank < ranks; ++rank) {
          const ShardLayout::Leaves own = ShardLayout::LeavesOf(form, rank, ranks, leaves);
          EXPECT_GE(own.count, 1);
          EXPECT_LE(own.count, ShardLayout::Rounds(ranks, leaves));
          for (int64_t i = 0; i < own.count; ++i) ++seen.at(own[i]);
        }
        EXPECT_EQ(seen, std::vector<int>(leaves, 1)) << ranks;
      }
    }
  }
}

TEST(ShardLayout, SplitTakesTheLeavesOfARoundInRankOrder) {
  const ShardLayout::Leaves own = ShardLayout::LeavesOf(Accumulation::kSplit, 3, 4, 16);
  EXPECT_EQ(own.count, 4);
  EXPECT_EQ(own[0], 3);
  EXPECT_EQ(own[2], 11);
  const ShardLayout::Leaves plain = ShardLayout::LeavesOf(Accumulation::kPlain, 3, 4, 16);
  EXPECT_EQ(plain[0], 12);
  EXPECT_EQ(plain[3], 15);
}

}  // namespace
}  // namespace swinfleet
