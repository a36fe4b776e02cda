#include <gtest/gtest.h>

#include <cmath>

#include "tests/kernels/op_check.h"

namespace swinfleet::testing {
namespace {

struct Size {
  int64_t window_h, window_w, pretrained_h, pretrained_w, hidden, heads;
};

const std::vector<Size> kSizes = {{2, 2, 0, 0, 512, 3},  {3, 3, 0, 0, 33, 1},  {3, 5, 0, 0, 512, 2},
                                  {5, 3, 7, 2, 17, 2},   {8, 8, 0, 0, 512, 3}, {8, 8, 6, 6, 64, 2},
                                  {12, 12, 6, 6, 40, 2}, {4, 4, 8, 8, 512, 6}, {7, 7, 12, 12, 1, 1},
                                  {2, 9, 0, 0, 96, 5},   {2, 2, 0, 0, 20, 11}};

// More entries than a CUDA block has threads, more heads than it has warps; and, where that is soon
// done, more hidden units than it has threads.
const std::vector<Size> kFewSizes = {{5, 3, 7, 2, 17, 2}, {9, 9, 6, 6, 3, 2}, {2, 2, 0, 0, 20, 11}};
const std::vector<Size> kFewForward = {kFewSizes[0], kFewSizes[2], {2, 2, 0, 0, 300, 3}};

std::string Name(const Size& s) {
  return "window " + std::to_string(s.window_h) + "x" + std::to_string(s.window_w) +
         ", pretrained " + std::to_string(s.pretrained_h) + "x" + std::to_string(s.pretrained_w) +
         ", hidden " + std::to_string(s.hidden) + ", heads " + std::to_string(s.heads);
}

int64_t Entries(const Size& s) { return (2 * s.window_h - 1) * (2 * s.window_w - 1); }

reference::PositionTable Shapes(const Size& s) {
  return {.entries = Entries(s), .hidden = s.hidden, .heads = s.heads};
}

struct Data {
  Floats coords, w1, b1, w2, dtable;
};

// `gain` is the deviation of the sigmoid's argument, about. Parameters are numbers that `dtype`
// holds.
Data MakeData(const Size& s, double gain, uint64_t seed, DType dtype = DType::kF32) {
  Random random(seed);
  Data data;
  data.coords = ToFloat(
      reference::RelativeCoordinates(s.window_h, s.window_w, s.pretrained_h, s.pretrained_w));
  data.w1 = Rounded(random.Normal(s.hidden * 2), dtype);
  data.b1 = Rounded(random.Normal(s.hidden, 0, 0.5), dtype);
  data.w2 = Rounded(random.Normal(s.heads * s.hidden, 0, gain / std::sqrt(s.hidden)), dtype);
  data.dtable = random.Normal(Entries(s) * s.heads);
  return data;
}

void AddInputs(const Size& s, const Data& data, DType dtype, OpCase* op) {
  op->In("coords", {Entries(s), 2}, data.coords);
  op->In("w1", {s.hidden, 2}, data.w1, dtype);
  op->In("b1", {s.hidden}, data.b1, dtype);
  op->In("w2", {s.heads, s.hidden}, data.w2, dtype);
}

OpCase Forward(const Size& s, const Data& data, DType dtype = DType::kF32) {
  OpCase op;
  AddInputs(s, data, dtype, &op);
  op.Out("table", {Entries(s), s.heads},
         reference::PositionTableForward(Shapes(s), ToDouble(data.coords), ToDouble(data.w1),
                                         ToDouble(data.b1), ToDouble(data.w2)),
         F32(s.hidden));
  op.call = [](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    ops.position_table_forward(
        {.coords = in[0], .w1 = in[1], .b1 = in[2], .w2 = in[3], .table = out[0]}, context);
  };
  return op;
}

OpCase Backward(const Size& s, const Data& data, DType dtype = DType::kF32) {
  const auto g =
      reference::PositionTableBackward(Shapes(s), ToDouble(data.coords), ToDouble(data.w1),
                                       ToDouble(data.b1), ToDouble(data.w2), ToDouble(data.dtable));
  const double tolerance = F32(Entries(s) + s.hidden);
  OpCase op;
  AddInputs(s, data, dtype, &op);
  op.In("dtable", {Entries(s), s.heads}, data.dtable);
  op.Out("dw1", {s.hidden, 2}, g.dw1, tolerance, OutputMode::kAccumulate);
  op.Out("db1", {s.hidden}, g.db1, tolerance, OutputMode::kAccumulate);
  op.Out("dw2", {s.heads, s.hidden}, g.dw2, tolerance, OutputMode::kAccumulate);
  op.call = [](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    ops.position_table_backward({.coords = in[0],
                                 .w1 = in[1],
                                 .b1 = in[2],
                                 .w2 = in[3],
                                 .dtable = in[4],
                                 .dw1 = out[0],
                                 .db1 = out[1],
                                 .dw2 = out[2]},
                                context);
  };
  return op;
}

TEST(PositionTable, Forward) {
  for (const Size& s : SizesToRun(kSizes, kFewForward)) {
    SCOPED_TRACE(Name(s));
    CheckOp([&](uint64_t seed) { return Forward(s, MakeData(s, 2, seed)); });
  }
}

TEST(PositionTable, Backward) {
  for (const Size& s : SizesToRun(kSizes, kFewSizes)) {
    SCOPED_TRACE(Name(s));
    CheckOp([&](uint64_t seed) { return Backward(s, MakeData(s, 2, seed)); });
  }
}

// Weights in 16 bits; the table and all gradients are float32.
TEST(PositionTable, SixteenBits) {
  for (DType dtype : {DType::kBF16, DType::kF16}) {
    for (const Size& s : SizesToRun<Size>({kSizes[0], kSizes[3], kSizes[5]}, {kFewSizes[0]})) {
      SCOPED_TRACE(Name(s));
      CheckOp([&](uint64_t seed) { return Forward(s, MakeData(s, 2, seed, dtype), dtype); });
      CheckOp([&](uint64_t seed) { return Backward(s, MakeData(s, 2, seed, dtype), dtype); });
    }
  }
}

// A sigmoid of +-1000 is 0 or 1 and has no gradient; its exponential overflows on the way.
TEST(PositionTable, SaturatedSigmoid) {
  const Size s{3, 5, 0, 0, 32, 2};
  Data data = MakeData(s, 0, 1);
  for (int64_t i = 0; i < s.hidden; ++i) {
    data.b1[i] = 20;
    data.w2[i] = 10;
    data.w2[s.hidden + i] = -10;
  }
  const Floats table = RunOp(Forward(s, data))[0];
  for (int64_t i = 0; i < Entries(s); ++i) {
    ASSERT_EQ(table[2 * i], 16);
    ASSERT_EQ(table[2 * i + 1], 0);
  }
  OpCase backward = Backward(s, data);
  for (OpOutput& output : backward.outputs) {
    output.mode = OutputMode::kUpdate;
    output.initial = Floats(output.expected.size(), 1);
  }
  for (const Floats& values : RunOp(backward)) {
    for (float value : values) ASSERT_EQ(value, 1);
  }
}

// Hidden units of exactly 0 pass no gradient, as in PyTorch.
TEST(PositionTable, UnitsAtTheKink) {
  const Size s{3, 3, 0, 0, 24, 2};
  CheckOp([&](uint64_t seed) {
    Data data = MakeData(s, 2, seed);
    std::fill(data.b1.begin(), data.b1.end(), 0.f);
    return Backward(s, data);
  });
}

TEST(PositionTable, ReferenceGradients) {
  for (const Size& s : {Size{2, 3, 0, 0, 6, 2}, Size{4, 4, 8, 8, 5, 1}}) {
    SCOPED_TRACE(Name(s));
    const Data data = MakeData(s, 2, 5);
    const Vec coords = ToDouble(data.coords);
    const Vec dtable = ToDouble(data.dtable);
    const Vec w1 = ToDouble(data.w1);
    const Vec b1 = ToDouble(data.b1);
    const Vec w2 = ToDouble(data.w2);
    const auto g = reference::PositionTableBackward(Shapes(s), coords, w1, b1, w2, dtable);
    CheckGradients(
        [&](const std::vector<Vec>& in) {
          return Dot(dtable,
                     reference::PositionTableForward(Shapes(s), coords, in[0], in[1], in[2]));
        },
        {w1, b1, w2}, {g.dw1, g.db1, g.dw2});
  }
}

TEST(PositionTable, Coordinates) {
  for (const Size& s : kSizes) {
    SCOPED_TRACE(Name(s));
    const Vec expected =
        reference::RelativeCoordinates(s.window_h, s.window_w, s.pretrained_h, s.pretrained_w);
    Floats got(2 * Entries(s), NAN);
    LogSpacedCoordinates(s.window_h, s.window_w, s.pretrained_h, s.pretrained_w, got.data());
    ASSERT_EQ(got.size(), expected.size());
    for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], expected[i], F32() / 2) << i;
  }
}

// The known ends: log2(9) / 3 at the window's edge without a pretraining window, 0 in the middle.
TEST(PositionTable, CoordinatesAtTheEdges) {
  Floats coords(2 * 15 * 15);
  LogSpacedCoordinates(8, 8, 0, 0, coords.data());
  EXPECT_NEAR(coords[0], -std::log2(9.0) / 3, 1e-6);
  EXPECT_NEAR(coords.back(), std::log2(9.0) / 3, 1e-6);
  EXPECT_EQ(coords[2 * (7 * 15 + 7)], 0);
}

// A window of one token, as at the end of a small network, has no offsets but 0.
TEST(PositionTable, CoordinatesOfOneToken) {
  Floats coords(2, NAN);
  LogSpacedCoordinates(1, 1, 0, 0, coords.data());
  EXPECT_EQ(coords, (Floats{0, 0}));
}

}  // namespace
}  // namespace swinfleet::testing
