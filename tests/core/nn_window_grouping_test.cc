// Grouping of windows against exhaustive search, and the tables that attention gets.
#include "core/nn/window_grouping.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "core/rng/counter_rng.h"

namespace swinfleet {
namespace {

using Counts = std::vector<int32_t>;

CounterRng Random(uint64_t key) { return CounterRng(17, RandomPurpose::kDataOrder, key); }

Counts RandomCounts(uint64_t key, int64_t windows, int64_t largest) {
  CounterRng random = Random(key);
  Counts counts;
  for (int64_t i = 0; i < windows; ++i) {
    counts.push_back(1 + static_cast<int32_t>(random.Below(largest)));
  }
  return counts;
}

// The most tokens, up to `size`, that some of the windows have together.
int64_t BestSum(const Counts& counts, const std::vector<size_t>& left, int64_t size) {
  int64_t best = 0;
  for (uint32_t subset = 0; subset < uint32_t{1} << left.size(); ++subset) {
    int64_t sum = 0;
    for (size_t i = 0; i < left.size(); ++i) sum += subset >> i & 1 ? counts[left[i]] : 0;
    if (sum <= size) best = std::max(best, sum);
  }
  return best;
}

TEST(WindowGrouper, EveryKnapsackIsAsFullAsCanBe) {
  for (uint64_t trial = 0; trial < 30; ++trial) {
    const Counts counts = RandomCounts(trial, 10, 12);
    const int64_t largest = *std::ranges::max_element(counts);
    for (const int64_t size : {largest, largest + 3, int64_t{30}}) {
      WindowGrouper grouper(10, 30);
      const int64_t groups = grouper.Group(counts, size);
      std::vector<size_t> left(counts.size());
      std::iota(left.begin(), left.end(), size_t{0});
      for (int64_t group = 0; group < groups; ++group) {
        int64_t filled = 0;
        const int64_t best = BestSum(counts, left, size);
        std::erase_if(left, [&](size_t window) {
          if (grouper.groups()[window] != group) return false;
          filled += counts[window];
          return true;
        });
        EXPECT_EQ(filled, best) << "group " << group << " of size " << size;
      }
      EXPECT_TRUE(left.empty());
    }
  }
}

TEST(WindowGrouper, BestSizeCostsLeast) {
  for (uint64_t trial = 0; trial < 20; ++trial) {
    const Counts counts = RandomCounts(100 + trial, 3 + trial, 16);
    const int64_t total = std::accumulate(counts.begin(), counts.end(), int64_t{0});
    for (const int64_t channels : {1, 32, 512}) {
      WindowGrouper grouper(static_cast<int64_t>(counts.size()), total);
      double least = 0;
      int64_t best = 0;
      for (int64_t size = *std::ranges::max_element(counts); size <= total; ++size) {
        const auto groups = static_cast<double>(grouper.Group(counts, size));
        const auto s = static_cast<double>(size), c = static_cast<double>(channels);
        const double cost = groups * (4 * s * c * c + 2 * s * s * c);
        if (best > 0 && cost >= least) continue;
        least = cost;
        best = size;
      }
      EXPECT_EQ(grouper.BestSize(counts, channels, total), best) << channels;
    }
  }
}

TEST(WindowGrouper, BestSizeKeepsToItsLimit) {
  // Two small windows beside each large one would share its size's double.
  const Counts counts = {10, 6, 6, 6, 6, 6, 6, 6, 6};
  WindowGrouper grouper(9, 58);
  EXPECT_EQ(grouper.BestSize(counts, 1000, 58), 58);
  EXPECT_EQ(grouper.BestSize(counts, 1000, 12), 12);
}

struct Case {
  VisibleWindows::Options options;
  // Tokens come in squares of this side.
  int64_t unit;
};

// A random choice of units, in tokens, unit by unit.
std::vector<MapPlace> RandomPlaces(const Case& c, CounterRng* random) {
  const int64_t across = c.options.width / c.unit, units = c.options.height / c.unit * across;
  std::vector<int64_t> order(units);
  std::iota(order.begin(), order.end(), int64_t{0});
  std::vector<MapPlace> places;
  for (int64_t i = 0; i < c.options.visible / (c.unit * c.unit); ++i) {
    std::swap(order[i], order[i + static_cast<int64_t>(random->Below(units - i))]);
    for (int64_t j = 0; j < c.unit * c.unit; ++j) {
      places.push_back({static_cast<int32_t>(order[i] / across * c.unit + j / c.unit),
                        static_cast<int32_t>(order[i] % across * c.unit + j % c.unit)});
    }
  }
  return places;
}

// Whether tokens attend to each other in the official code: same window, and same region of it.
std::vector<std::pair<int64_t, int>> OfficialWindows(const VisibleWindows::Options& o) {
  const WindowGeometry geometry = {.batch = 1,
                                   .height = o.height,
                                   .width = o.width,
                                   .window_h = o.window,
                                   .window_w = o.window,
                                   .shift_h = o.shift,
                                   .shift_w = o.shift};
  std::vector<std::pair<int64_t, int>> window(geometry.Tokens());
  for (int64_t w = 0; w < geometry.WindowsPerPicture(); ++w) {
    for (int64_t t = 0; t < geometry.WindowTokens(); ++t) {
      const int64_t token = geometry.TokenAt(w, t);
      if (token >= 0) window[token] = {w, geometry.RegionAt(w, t)};
    }
  }
  return window;
}

void ExpectTables(const VisibleWindows::Options& o, const std::vector<MapPlace>& places,
                  const PackedWindows& packed, int64_t groups, int64_t size) {
  const auto official = OfficialWindows(o);
  const auto window_of = [&](int32_t token) {
    return official[places[token].row * o.width + places[token].column];
  };
  ASSERT_EQ(packed.token.shape, Shape({1, groups * size}));
  std::vector<int> seen(places.size());
  for (int64_t place = 0; place < groups * size; ++place) {
    const int32_t i = packed.token.i32()[place];
    if (i >= 0) {
      ++seen[i];
      EXPECT_EQ(packed.place.i32()[i], place);
    }
    for (int64_t other = 0; other < size; ++other) {
      const int32_t j = packed.token.i32()[place / size * size + other];
      const int32_t index = packed.index.i32()[place * size + other];
      if (i < 0 || j < 0 || window_of(i) != window_of(j)) {
        ASSERT_EQ(index, -1);
      } else {
        ASSERT_EQ(index, (places[i].row - places[j].row + o.window - 1) * (2 * o.window - 1) +
                             places[i].column - places[j].column + o.window - 1);
      }
    }
  }
  EXPECT_EQ(std::ranges::count(seen, 1), static_cast<int64_t>(places.size()));
  // No window is torn apart.
  for (size_t i = 0; i < places.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      if (window_of(i) == window_of(j)) {
        ASSERT_EQ(packed.place.i32()[i] / size, packed.place.i32()[j] / size);
      }
    }
  }
}

const std::vector<Case> kCases = {
    {{.height = 16, .width = 16, .window = 4, .shift = 0, .visible = 64, .channels = 32}, 4},
    {{.height = 16, .width = 16, .window = 4, .shift = 2, .visible = 64, .channels = 32}, 4},
    {{.height = 28, .width = 28, .window = 7, .shift = 3, .visible = 192, .channels = 8}, 4},
    {{.height = 28, .width = 20, .window = 5, .shift = 2, .visible = 120, .channels = 64}, 2},
    // Windows do not divide the map.
    {{.height = 18, .width = 12, .window = 4, .shift = 2, .visible = 81, .channels = 16}, 3},
    // One group of all.
    {{.height = 8, .width = 8, .window = 4, .shift = 2, .visible = 32, .channels = 16}, 2},
    {{.height = 1, .width = 1, .window = 1, .shift = 0, .visible = 1, .channels = 16}, 1}};

TEST(VisibleWindows, TokensOfOneWindowAttend) {
  for (const Case& c : kCases) {
    for (const int64_t group_size : {0, 1, 40, 100000}) {
      VisibleWindows::Options options = c.options;
      options.group_size = group_size;
      VisibleWindows windows(options);
      EXPECT_EQ(windows.grouped(), options.visible > 2 * options.window * options.window);
      // Room for the largest, as it was planned; that every mask fits is checked on the way.
      Arena dry = Arena::DryRun("tables");
      const Context context;
      windows.Publish({}, dry, context);
      Arena arena = Arena::OnHost("tables", dry.high_water());
      CounterRng random = Random(7);
      for (int mask = 0; mask < 10; ++mask) {
        ArenaScope scope(&arena);
        const std::vector<MapPlace> places = RandomPlaces(c, &random);
        windows.Pack(places);
        windows.Publish(places, arena, context);
        EXPECT_LE(windows.size(), windows.MaxSize());
        EXPECT_LE(windows.groups() * windows.size(), windows.MaxGroups() * windows.MaxSize());
        ExpectTables(options, places, windows.packed(), windows.groups(), windows.size());
      }
    }
  }
}

TEST(VisibleWindows, AskedSizeIsTakenUnlessAWindowHasMore) {
  VisibleWindows::Options options = kCases[0].options;
  const auto size_for = [&](int64_t group_size) {
    options.group_size = group_size;
    VisibleWindows windows(options);
    CounterRng random = Random(1);
    windows.Pack(RandomPlaces(kCases[0], &random));
    return windows.size();
  };
  // Units are windows here.
  EXPECT_EQ(size_for(1), 16);
  EXPECT_EQ(size_for(24), 24);
  EXPECT_EQ(size_for(1000), 64);
}

}  // namespace
}  // namespace swinfleet
