#include <gtest/gtest.h>

#include "tests/kernels/op_check.h"

namespace swinfleet::testing {
namespace {

using reference::Map;

struct Size {
  Map from, to;
};

// {batch, depth, height, width, channels}: larger, smaller, both, and the same.
const std::vector<Size> kSizes = {
    {{2, 1, 5, 6, 3}, {2, 1, 8, 8, 3}},   {{2, 1, 8, 8, 3}, {2, 1, 5, 6, 3}},
    {{1, 3, 4, 5, 17}, {1, 4, 4, 8, 17}}, {{1, 4, 4, 8, 17}, {1, 3, 4, 5, 17}},
    {{3, 2, 3, 3, 7}, {3, 4, 2, 5, 7}},   {{2, 1, 7, 7, 96}, {2, 1, 7, 7, 96}}};

Shape ShapeOf(const Map& m) { return {m.batch, m.depth, m.height, m.width, m.channels}; }

OpCase Case(const Size& s, DType dtype, uint64_t seed) {
  const Floats x = Rounded(Random(seed).Normal(ShapeOf(s.from).NumElements()), dtype);
  OpCase op;
  op.In("x", ShapeOf(s.from), x, dtype);
  op.Out("y", ShapeOf(s.to), reference::Pad(s.from, s.to, ToDouble(x)), 0, OutputMode::kOverwrite,
         dtype);
  op.call = [](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    ops.pad({.x = in[0], .y = out[0]}, context);
  };
  return op;
}

TEST(Pad, PadsAndCuts) {
  for (DType dtype : kFloating) {
    for (const Size& s : kSizes) {
      SCOPED_TRACE(ShapeOf(s.from).ToString() + " to " + ShapeOf(s.to).ToString());
      CheckOp([&](uint64_t seed) { return Case(s, dtype, seed); });
    }
  }
}

// Cutting is the gradient of padding, and the other way round.
TEST(Pad, ReferenceGradients) {
  const Size& s = kSizes[4];
  Random random(1);
  const Vec x = ToDouble(random.Normal(ShapeOf(s.from).NumElements()));
  const Vec dy = ToDouble(random.Normal(ShapeOf(s.to).NumElements()));
  CheckGradients(
      [&](const std::vector<Vec>& in) { return Dot(dy, reference::Pad(s.from, s.to, in[0])); }, {x},
      {reference::Pad(s.to, s.from, dy)});
}

TEST(Pad, ReferenceByHand) {
  EXPECT_EQ(reference::Pad({1, 1, 2, 2, 1}, {1, 1, 3, 3, 1}, {1, 2, 3, 4}),
            (Vec{1, 2, 0, 3, 4, 0, 0, 0, 0}));
}

}  // namespace
}  // namespace swinfleet::testing
