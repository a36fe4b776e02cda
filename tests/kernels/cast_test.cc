#include <gtest/gtest.h>

#include <cmath>

#include "tests/kernels/op_check.h"

namespace swinfleet::testing {
namespace {

// Without tolerance: a rounded number is the nearest one.
OpCase Case(const Floats& values, DType from, DType to) {
  const int64_t n = static_cast<int64_t>(values.size());
  const Floats x = Rounded(values, from);
  OpCase op;
  op.In("x", {n}, x, from);
  op.Out("y", {n}, Rounded(ToDouble(x), to), 0, OutputMode::kOverwrite, to);
  op.call = [](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    ops.cast({.x = in[0], .y = out[0]}, context);
  };
  return op;
}

template <typename Check>
void ForEachPair(const Check& check) {
  for (DType from : kFloating) {
    for (DType to : kFloating) {
      SCOPED_TRACE(std::string(NameOf(from)) + " to " + NameOf(to));
      check(from, to);
    }
  }
}

TEST(Cast, Rounds) {
  ForEachPair([](DType from, DType to) {
    for (int64_t n : {1, 7, 33, 1000, 40003}) {
      SCOPED_TRACE(n);
      CheckOp([&](uint64_t seed) { return Case(Random(seed).Normal(n), from, to); });
    }
  });
}

// Halves between two numbers of 16 bits, the borders of their ranges, and subnormal numbers.
TEST(Cast, SpecialValues) {
  Floats values = {0.f, -0.f, 65280.f, 0x1p-24f, 0x1p-25f, 0x1.8p-25f};
  for (float base : {1.f, -3.f, 1000.f, 0x1p-14f, 0x1p-16f, 0x1p-23f}) {
    for (int eighths = 0; eighths <= 32; ++eighths) {
      const float step = static_cast<float>(eighths) / 8;
      values.push_back(base * (1 + step * 0x1p-7f));
      values.push_back(base * (1 + step * 0x1p-10f));
    }
  }
  ForEachPair(
      [&](DType from, DType to) { CheckOp([&](uint64_t) { return Case(values, from, to); }); });
  CheckOp([](uint64_t) { return Case({65519.9f, -65519.9f, 65504.f}, DType::kF32, DType::kF16); });
}

TEST(Cast, KeepsInfinityAndNaN) {
  ForEachPair([](DType from, DType to) {
    OpCase op = Case({0.f, 1.f, 2.f}, from, to);
    op.inputs[0].values = {NAN, INFINITY, -INFINITY};
    const Floats y = RunOp(op)[0];
    EXPECT_TRUE(std::isnan(y[0]));
    EXPECT_EQ(y[1], INFINITY);
    EXPECT_EQ(y[2], -INFINITY);
  });
  EXPECT_EQ(RunOp(Case({1e6f}, DType::kF32, DType::kF16))[0][0], INFINITY);
}

}  // namespace
}  // namespace swinfleet::testing
