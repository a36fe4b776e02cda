#include <gtest/gtest.h>

#include "tests/kernels/op_check.h"

namespace swinfleet::testing {
namespace {

struct Size {
  int64_t m, n, k;
};

// Nothing is a multiple of a vector or of a block in most; 4500 rows are more than one block of the
// sum over rows.
const std::vector<Size> kSizes = {{1, 1, 1},    {1, 7, 5},     {3, 16, 16},    {33, 65, 17},
                                  {2, 3, 130},  {64, 96, 96},  {257, 48, 192}, {8, 10, 768},
                                  {1, 768, 33}, {4500, 24, 16}};

std::string Name(const Size& s) {
  return std::to_string(s.m) + "x" + std::to_string(s.n) + "x" + std::to_string(s.k);
}

OpCase Forward(const Size& s, bool with_bias, double magnitude, uint64_t seed) {
  Random random(seed);
  const Floats x = random.Normal(s.m * s.k, 0, magnitude);
  const Floats weight = random.Normal(s.n * s.k, 0, 0.1);
  const Floats bias = with_bias ? random.Normal(s.n, 0, magnitude) : Floats{};
  OpCase op;
  op.In("x", {s.m, s.k}, x);
  op.In("weight", {s.n, s.k}, weight);
  op.In("bias", {s.n}, bias);
  op.Out("y", {s.m, s.n},
         reference::LinearForward(s.m, s.n, s.k, ToDouble(x), ToDouble(weight), ToDouble(bias)),
         F32(s.k));
  op.call = [](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    ops.linear_forward({.x = in[0], .weight = in[1], .bias = in[2], .y = out[0]}, context);
  };
  return op;
}

OpCase BackwardInput(const Size& s, bool accumulate, uint64_t seed) {
  Random random(seed);
  const Floats dy = random.Normal(s.m * s.n);
  const Floats weight = random.Normal(s.n * s.k, 0, 0.1);
  OpCase op;
  op.In("dy", {s.m, s.n}, dy);
  op.In("weight", {s.n, s.k}, weight);
  op.Out("dx", {s.m, s.k},
         reference::LinearBackwardInput(s.m, s.n, s.k, ToDouble(dy), ToDouble(weight)), F32(s.n),
         accumulate ? OutputMode::kAccumulate : OutputMode::kOverwrite);
  op.call = [accumulate](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    ops.linear_backward_input(
        {.dy = in[0], .weight = in[1], .dx = out[0], .accumulate = accumulate}, context);
  };
  return op;
}

OpCase BackwardWeight(const Size& s, bool with_bias, uint64_t seed) {
  Random random(seed);
  const Floats dy = random.Normal(s.m * s.n);
  const Floats x = random.Normal(s.m * s.k);
  const auto g = reference::LinearBackwardWeight(s.m, s.n, s.k, ToDouble(dy), ToDouble(x));
  OpCase op;
  op.In("dy", {s.m, s.n}, dy);
  op.In("x", {s.m, s.k}, x);
  op.Out("dweight", {s.n, s.k}, g.dweight, F32(s.m), OutputMode::kAccumulate);
  if (with_bias) op.Out("dbias", {s.n}, g.dbias, F32(s.m), OutputMode::kAccumulate);
  op.call = [with_bias](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    ops.linear_backward_weight(
        {.dy = in[0], .x = in[1], .dweight = out[0], .dbias = with_bias ? out[1] : TensorView{}},
        context);
  };
  return op;
}

TEST(Linear, Forward) {
  for (const Size& s : kSizes) {
    SCOPED_TRACE(Name(s));
    CheckOp([&](uint64_t seed) { return Forward(s, true, 1, seed); });
  }
}

TEST(Linear, ForwardWithoutBias) {
  for (const Size& s : kSizes) {
    SCOPED_TRACE(Name(s));
    CheckOp([&](uint64_t seed) { return Forward(s, false, 1, seed); });
  }
}

TEST(Linear, ForwardLargeMagnitude) {
  CheckOp([](uint64_t seed) { return Forward({9, 24, 33}, true, 1e15, seed); });
}

TEST(Linear, BackwardInput) {
  for (const Size& s : kSizes) {
    SCOPED_TRACE(Name(s));
    CheckOp([&](uint64_t seed) { return BackwardInput(s, false, seed); });
  }
}

TEST(Linear, BackwardInputAccumulates) {
  for (const Size& s : kSizes) {
    SCOPED_TRACE(Name(s));
    CheckOp([&](uint64_t seed) { return BackwardInput(s, true, seed); });
  }
}

TEST(Linear, BackwardWeight) {
  for (const Size& s : kSizes) {
    SCOPED_TRACE(Name(s));
    CheckOp([&](uint64_t seed) { return BackwardWeight(s, true, seed); });
  }
}

TEST(Linear, BackwardWeightWithoutBias) {
  for (const Size& s : kSizes) {
    SCOPED_TRACE(Name(s));
    CheckOp([&](uint64_t seed) { return BackwardWeight(s, false, seed); });
  }
}

TEST(Linear, ReferenceGradients) {
  const int64_t m = 4, n = 5, k = 3;
  Random random(1);
  const Vec x = ToDouble(random.Normal(m * k));
  const Vec weight = ToDouble(random.Normal(n * k));
  const Vec bias = ToDouble(random.Normal(n));
  const Vec dy = ToDouble(random.Normal(m * n));
  const auto g = reference::LinearBackwardWeight(m, n, k, dy, x);
  CheckGradients(
      [&](const std::vector<Vec>& in) {
        return Dot(dy, reference::LinearForward(m, n, k, in[0], in[1], in[2]));
      },
      {x, weight, bias}, {reference::LinearBackwardInput(m, n, k, dy, weight), g.dweight, g.dbias});
}

TEST(Linear, DryRunCountsFlops) {
  const Size s{12, 7, 5};
  EXPECT_EQ(CountOp(Forward(s, true, 1, 1)).matrix_flops, 2 * 12 * 7 * 5);
  EXPECT_EQ(CountOp(BackwardInput(s, false, 1)).matrix_flops, 2 * 12 * 7 * 5);
  EXPECT_EQ(CountOp(BackwardWeight(s, true, 1)).matrix_flops, 2 * 12 * 7 * 5);
}

}  // namespace
}  // namespace swinfleet::testing
