// Windows of a map: where their tokens stand, and the operations that move them.
#include <gtest/gtest.h>

#include "tests/kernels/op_check.h"
#include "tests/kernels/window_attention_case.h"

namespace swinfleet::testing {
namespace {

// {batch, height, width, window_h, window_w, shift_h, shift_w[, depth, window_d, shift_d]}.
const std::vector<reference::Windows> kMaps = {
    {1, 2, 2, 2, 2, 0, 0},          {2, 4, 4, 2, 2, 1, 1},          {1, 6, 10, 3, 5, 1, 2},
    {2, 7, 14, 7, 7, 0, 3},         {2, 1, 3, 1, 1, 0, 0},          {1, 7, 5, 4, 4, 2, 3},
    {3, 3, 2, 4, 4, 0, 0},          {1, 3, 2, 4, 4, 2, 1},          {1, 4, 4, 2, 2, 1, 1, 4, 2, 1},
    {2, 5, 7, 4, 4, 2, 2, 3, 2, 1}, {1, 3, 5, 3, 2, 0, 1, 5, 4, 2}, {1, 4, 4, 4, 4, 0, 0, 5, 2, 1}};

std::string NameOfMap(const reference::Windows& w) {
  return Name({.shape = {.windows = w, .heads = 0, .dim = 0}});
}

Shape MapShape(const reference::Windows& w, int64_t channels) {
  return {w.batch, w.depth, w.height, w.width, channels};
}

// Of the windows [first, first + count), or of all when count is 0.
Vec RowsOf(const reference::Windows& w, const WindowRange& range, int64_t channels, const Vec& x) {
  const Vec all = reference::CutWindows(w, channels, x);
  if (range.count == 0) return all;
  const int64_t size = w.Tokens() * channels;
  return Vec(all.begin() + range.first * size, all.begin() + (range.first + range.count) * size);
}

int64_t CountOf(const reference::Windows& w, const WindowRange& range) {
  return range.count > 0 ? range.count : w.batch * w.PerPicture();
}

OpCase Gather(const reference::Windows& w, const WindowRange& range, int64_t channels, DType dtype,
              uint64_t seed) {
  const int64_t n = MapShape(w, channels).NumElements();
  const Floats x = Rounded(Random(seed).Normal(n), dtype);
  OpCase op;
  op.In("x", MapShape(w, channels), x, dtype);
  op.Out("rows", {CountOf(w, range), w.Tokens(), channels}, RowsOf(w, range, channels, ToDouble(x)),
         0, OutputMode::kOverwrite, dtype);
  op.call = [w, range](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    ops.window_gather({Geometry(w), range, in[0], out[0]}, context);
  };
  return op;
}

OpCase Scatter(const reference::Windows& w, const WindowRange& range, int64_t channels, DType dtype,
               bool accumulate, uint64_t seed) {
  Random random(seed);
  const int64_t count = CountOf(w, range), size = w.Tokens() * channels;
  const Floats rows = Rounded(random.Normal(count * size), dtype);
  const Floats before = Rounded(random.Normal(MapShape(w, channels).NumElements()), dtype);
  // What other windows hold stays: these rows take the place of some of all.
  const auto join = [&](double other) {
    Vec all(w.batch * w.PerPicture() * size, other);
    std::copy(rows.begin(), rows.end(), all.begin() + range.first * size);
    return reference::JoinWindows(w, channels, all);
  };
  const Vec added = join(0), marked = join(1e9);
  Vec expected = ToDouble(before);
  for (size_t i = 0; i < expected.size(); ++i) {
    if (accumulate) {
      expected[i] = Rounded(Vec{expected[i] + added[i]}, dtype)[0];
    } else if (marked[i] != 1e9) {
      expected[i] = added[i];
    }
  }
  OpCase op;
  op.In("rows", {count, w.Tokens(), channels}, rows, dtype);
  op.Out("x", MapShape(w, channels), expected, accumulate ? reference::UnitRoundoff(dtype) : 0,
         OutputMode::kUpdate, dtype)
      .initial = before;
  op.call = [w, range, accumulate](const OpTable& ops, const Views& in, const Views& out,
                                   Context& context) {
    ops.window_scatter({Geometry(w), range, in[0], out[0], accumulate}, context);
  };
  return op;
}

// All windows, the first, the last and some in between.
std::vector<WindowRange> Ranges(const reference::Windows& w) {
  const int64_t all = w.batch * w.PerPicture();
  return {{0, 0}, {0, 1}, {all - 1, 1}, {all / 3, (all + 1) / 2}};
}

// The kernels' index functions against the official way: pad, roll, cut, compare regions.
TEST(WindowRows, GeometryMatchesRollAndPartition) {
  for (const reference::Windows& w : kMaps) {
    SCOPED_TRACE(NameOfMap(w));
    const WindowGeometry geometry = Geometry(w);
    reference::Windows one = w;
    one.batch = 1;
    Vec index(w.depth * w.height * w.width);
    // From 1: padding is 0.
    for (size_t i = 0; i < index.size(); ++i) index[i] = static_cast<double>(i + 1);
    const Vec windows = reference::CutWindows(one, 1, index);
    const Vec mask = reference::AttentionMask(w);
    const int64_t n = geometry.WindowTokens();
    ASSERT_EQ(n, w.Tokens());
    ASSERT_EQ(geometry.WindowsPerPicture(), w.PerPicture());
    ASSERT_EQ(geometry.Windows(), w.batch * w.PerPicture());
    ASSERT_EQ(geometry.HasPadding(), windows.size() != index.size());
    for (int64_t window = 0; window < w.PerPicture(); ++window) {
      for (int64_t i = 0; i < n; ++i) {
        ASSERT_EQ(geometry.TokenAt(window, i), windows[window * n + i] - 1) << window << " " << i;
        for (int64_t j = 0; j < n; ++j) {
          const bool same = geometry.RegionAt(window, i) == geometry.RegionAt(window, j);
          ASSERT_EQ(same ? 0 : -100, mask[(window * n + i) * n + j]) << window << " " << i;
        }
      }
    }
  }
}

TEST(WindowRows, Gather) {
  int i = 0;
  for (const reference::Windows& w : kMaps) {
    SCOPED_TRACE(NameOfMap(w));
    for (const WindowRange& range : Ranges(w)) {
      const DType dtype = kFloating[i++ % 3];
      CheckOp([&](uint64_t seed) { return Gather(w, range, 5, dtype, seed); });
    }
  }
}

TEST(WindowRows, Scatter) {
  int i = 0;
  for (const reference::Windows& w : kMaps) {
    SCOPED_TRACE(NameOfMap(w));
    for (const WindowRange& range : Ranges(w)) {
      const DType dtype = kFloating[i++ % 3];
      for (bool accumulate : {false, true}) {
        CheckOp([&](uint64_t seed) { return Scatter(w, range, 3, dtype, accumulate, seed); });
      }
    }
  }
}

// Each is the other's gradient: <gather x, r> = <x, scatter r>.
TEST(WindowRows, ScatterIsTheAdjointOfGather) {
  for (const reference::Windows& w : kMaps) {
    SCOPED_TRACE(NameOfMap(w));
    for (const WindowRange& range : Ranges(w)) {
      const OpCase gather = Gather(w, range, 4, DType::kF32, 1);
      OpCase scatter = Scatter(w, range, 4, DType::kF32, true, 2);
      std::fill(scatter.outputs[0].initial.begin(), scatter.outputs[0].initial.end(), 0.f);
      const double there = Dot(ToDouble(RunOp(gather)[0]), ToDouble(scatter.inputs[0].values));
      const double back = Dot(ToDouble(gather.inputs[0].values), ToDouble(RunOp(scatter)[0]));
      EXPECT_NEAR(there, back, 1e-9 * (1 + std::abs(there)));
    }
  }
}

TEST(WindowRows, ReferenceReverseUndoesPartition) {
  const reference::Windows w{2, 6, 10, 3, 5, 1, 2};
  const Vec x = ToDouble(Random(1).Normal(2 * 6 * 10 * 7));
  EXPECT_EQ(reference::WindowReverse(w, 7, reference::WindowPartition(w, 7, x)), x);
  EXPECT_EQ(reference::Roll(w, 7, reference::Roll(w, 7, x, 0, -1, -2), 0, 1, 2), x);
  EXPECT_NE(reference::Roll(w, 7, x, 0, -1, -2), x);
}

TEST(WindowRows, DryRunCountsBytes) {
  const reference::Windows w = kMaps[1];
  EXPECT_EQ(CountOp(Gather(w, {0, 3}, 5, DType::kF32, 1)).bytes, 2.0 * 3 * 4 * 5 * 4);
  EXPECT_EQ(CountOp(Scatter(w, {0, 3}, 5, DType::kBF16, true, 1)).bytes, 3.0 * 3 * 4 * 5 * 2);
}

}  // namespace
}  // namespace swinfleet::testing
