#include <gtest/gtest.h>

#include "tests/kernels/op_check.h"

namespace swinfleet::testing {
namespace {

using Size = reference::BiasPairs;

// {G, heads, N, T}.
const std::vector<Size> kSizes = {{1, 3, 16, 49},  {1, 1, 9, 25},   {1, 5, 1, 1},
                                  {4, 2, 12, 30},  {7, 3, 6, 121},  {1, 2, 64, 225},
                                  {1, 1, 6, 5000}, {1, 1, 270, 700}};

std::string Name(const Size& s) {
  return "G " + std::to_string(s.groups) + ", heads " + std::to_string(s.heads) + ", N " +
         std::to_string(s.tokens) + ", T " + std::to_string(s.entries);
}

struct Data {
  Floats table, mask, dbias;
  std::vector<int64_t> index;
};

// A part of `excluded` of all pairs has no entry.
Data MakeData(const Size& s, double excluded, DType dtype, uint64_t seed) {
  Random random(seed);
  const int64_t pairs = s.groups * s.tokens * s.tokens;
  Data data;
  data.table = Rounded(random.Normal(s.entries * s.heads, 0, 3), dtype);
  data.dbias = random.Normal(pairs * s.heads);
  const Floats chosen = random.Uniform(pairs, 0, static_cast<double>(s.entries));
  const Floats draw = random.Uniform(pairs, 0, 1), masked = random.Uniform(pairs, 0, 1);
  for (int64_t i = 0; i < pairs; ++i) {
    const int64_t entry = std::min(static_cast<int64_t>(chosen[i]), s.entries - 1);
    data.index.push_back(draw[i] < excluded ? -1 : entry);
    data.mask.push_back(masked[i] < 0.3f ? -100.f : 0.f);
  }
  return data;
}

void AddIndex(const Size& s, const Data& data, OpCase* op) {
  op->In("index", {s.groups, s.tokens, s.tokens}, Floats(data.index.begin(), data.index.end()),
         DType::kI32);
}

OpCase Gather(const Size& s, const Data& data, bool mask, DType dtype) {
  OpCase op;
  op.In("table", {s.entries, s.heads}, data.table, dtype);
  AddIndex(s, data, &op);
  op.In("mask", {s.groups, s.tokens, s.tokens}, mask ? data.mask : Floats{});
  OpOutput& bias = op.Out("bias", {s.groups, s.heads, s.tokens, s.tokens},
                          reference::BiasGather(s, ToDouble(data.table), data.index,
                                                mask ? ToDouble(data.mask) : Vec{}),
                          F32());
  // Excluded scores are larger by far and would hide the others.
  for (double x : bias.expected) bias.group.push_back(x == reference::kNobodyLse ? 1 : 0);
  op.call = [](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    ops.bias_gather({.table = in[0], .index = in[1], .mask = in[2], .bias = out[0]}, context);
  };
  return op;
}

OpCase Scatter(const Size& s, const Data& data) {
  OpCase op;
  op.In("dbias", {s.groups, s.heads, s.tokens, s.tokens}, data.dbias);
  AddIndex(s, data, &op);
  const int64_t terms = s.groups * s.tokens * s.tokens;
  op.Out("dtable", {s.entries, s.heads},
         reference::BiasScatter(s, ToDouble(data.dbias), data.index),
         F32(static_cast<double>(terms)), OutputMode::kAccumulate);
  op.call = [](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    ops.bias_scatter({.dbias = in[0], .index = in[1], .dtable = out[0]}, context);
  };
  return op;
}

// Windows with the official indices, which run down along a window's row; without the pairs that
// `excluded` leaves out.
struct Window {
  int64_t height, width;
};
const std::vector<Window> kWindows = {{7, 7}, {8, 8}, {3, 5}, {2, 20}, {4, 16}};
const std::vector<Window> kFewWindows = {{3, 5}, {2, 20}};

Size SizeOf(const Window& w) {
  return {1, 3, w.height * w.width, (2 * w.height - 1) * (2 * w.width - 1)};
}

Data WindowData(const Window& w, double excluded, DType dtype, uint64_t seed) {
  Data data = MakeData(SizeOf(w), excluded, dtype, seed);
  const std::vector<int64_t> official = reference::RelativePositionIndices(w.height, w.width);
  for (size_t i = 0; i < official.size(); ++i) {
    if (data.index[i] >= 0) data.index[i] = official[i];
  }
  return data;
}

TEST(BiasGather, OfWindows) {
  for (const Window& w : SizesToRun(kWindows, kFewWindows)) {
    const Size s = SizeOf(w);
    SCOPED_TRACE(Name(s));
    for (double excluded : {0.0, 0.1}) {
      for (bool mask : {false, true}) {
        CheckOp([&](uint64_t seed) {
          return Gather(s, WindowData(w, excluded, DType::kF32, seed), mask, DType::kF32);
        });
      }
      CheckOp(
          [&](uint64_t seed) { return Scatter(s, WindowData(w, excluded, DType::kF32, seed)); });
    }
  }
}

TEST(BiasGather, Gather) {
  for (const Size& s : kSizes) {
    SCOPED_TRACE(Name(s));
    for (DType dtype : kFloating) {
      for (bool mask : {false, true}) {
        CheckOp([&](uint64_t seed) {
          return Gather(s, MakeData(s, mask ? 0.2 : 0, dtype, seed), mask, dtype);
        });
      }
    }
  }
}

TEST(BiasGather, Scatter) {
  for (const Size& s : kSizes) {
    SCOPED_TRACE(Name(s));
    for (double excluded : {0.0, 0.2}) {
      CheckOp([&](uint64_t seed) { return Scatter(s, MakeData(s, excluded, DType::kF32, seed)); });
    }
  }
}

// What attention takes for excluded is exactly that, with a mask or without.
TEST(BiasGather, ExcludedScoresAreExact) {
  const Size s = kSizes[3];
  Data data = MakeData(s, 0.5, DType::kF32, 1);
  for (bool mask : {false, true}) {
    const Floats bias = RunOp(Gather(s, data, mask, DType::kF32))[0];
    const int64_t pairs = s.tokens * s.tokens;
    for (size_t i = 0; i < bias.size(); ++i) {
      const int64_t group = static_cast<int64_t>(i) / (s.heads * pairs);
      const bool excluded = data.index[group * pairs + static_cast<int64_t>(i) % pairs] < 0;
      EXPECT_EQ(bias[i] == kExcludedScore, excluded) << i;
    }
  }
}

TEST(BiasGather, ReferenceGradients) {
  const Size s = kSizes[3];
  const Data data = MakeData(s, 0.2, DType::kF32, 3);
  Vec dbias = ToDouble(data.dbias);
  const Vec dtable = reference::BiasScatter(s, dbias, data.index);
  // Constants of -1e30 would drown the differences.
  const Vec at_zero = reference::BiasGather(s, Vec(data.table.size()), data.index, {});
  for (size_t i = 0; i < dbias.size(); ++i) {
    if (at_zero[i] != 0) dbias[i] = 0;
  }
  CheckGradients(
      [&](const std::vector<Vec>& in) {
        return Dot(dbias, reference::BiasGather(s, in[0], data.index, {}));
      },
      {ToDouble(data.table)}, {dtable});
}

TEST(BiasGather, RelativePositionIndex) {
  for (const auto& [window_h, window_w] : std::vector<std::pair<int64_t, int64_t>>{
           {1, 1}, {2, 2}, {3, 5}, {5, 3}, {8, 8}, {2, 9}, {12, 12}}) {
    const std::vector<int64_t> expected = reference::RelativePositionIndices(window_h, window_w);
    const int64_t n = window_h * window_w;
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        ASSERT_EQ(RelativePositionIndex(window_h, window_w, i, j), expected[i * n + j]);
      }
    }
  }
}

}  // namespace
}  // namespace swinfleet::testing
