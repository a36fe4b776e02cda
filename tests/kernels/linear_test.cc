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

// More than one block of what is converted to float32, in each direction.
const std::vector<Size> kLargeSizes = {{1030, 10, 12}, {3, 1100, 20}, {5, 30, 1040}};

std::string Name(const Size& s, DType dtype) {
  return std::to_string(s.m) + "x" + std::to_string(s.n) + "x" + std::to_string(s.k) + " " +
         NameOf(dtype);
}

// A bias may be float32 beside x and weight of 16 bits.
struct Options {
  DType dtype = DType::kF32;
  bool bias = true;
  DType bias_dtype = DType::kF32;
  bool accumulate = false;
};

// CUDA's products are a library's: its substitute has one way for all sizes.
const std::vector<Size> kFewSizes = {{1, 1, 1}, {3, 16, 16}, {33, 65, 17}, {2, 3, 130}};

// Calls check(size, dtype) for each.
template <typename Check>
void ForEachCase(const Check& check) {
  for (DType dtype : kFloating) {
    std::vector<Size> sizes = kSizes;
    if (dtype != DType::kF32) sizes.insert(sizes.end(), kLargeSizes.begin(), kLargeSizes.end());
    for (const Size& s : SizesToRun(sizes, kFewSizes)) {
      SCOPED_TRACE(Name(s, dtype));
      check(s, dtype);
    }
  }
}

OpCase Forward(const Size& s, const Options& o, double magnitude, uint64_t seed) {
  Random random(seed);
  const Floats x = Rounded(random.Normal(s.m * s.k, 0, magnitude), o.dtype);
  const Floats weight = Rounded(random.Normal(s.n * s.k, 0, 0.1), o.dtype);
  const Floats bias = o.bias ? Rounded(random.Normal(s.n, 0, magnitude), o.bias_dtype) : Floats{};
  OpCase op;
  op.In("x", {s.m, s.k}, x, o.dtype);
  op.In("weight", {s.n, s.k}, weight, o.dtype);
  op.In("bias", {s.n}, bias, o.bias_dtype);
  op.Out("y", {s.m, s.n},
         reference::LinearForward(s.m, s.n, s.k, ToDouble(x), ToDouble(weight), ToDouble(bias)),
         Tolerance(o.dtype, s.k), OutputMode::kOverwrite, o.dtype);
  op.call = [](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    ops.linear_forward({.x = in[0], .weight = in[1], .bias = in[2], .y = out[0]}, context);
  };
  return op;
}

OpCase BackwardInput(const Size& s, const Options& o, uint64_t seed) {
  Random random(seed);
  const Floats dy = Rounded(random.Normal(s.m * s.n), o.dtype);
  const Floats weight = Rounded(random.Normal(s.n * s.k, 0, 0.1), o.dtype);
  OpCase op;
  op.In("dy", {s.m, s.n}, dy, o.dtype);
  op.In("weight", {s.n, s.k}, weight, o.dtype);
  op.Out("dx", {s.m, s.k},
         reference::LinearBackwardInput(s.m, s.n, s.k, ToDouble(dy), ToDouble(weight)),
         Tolerance(o.dtype, s.n), o.accumulate ? OutputMode::kAccumulate : OutputMode::kOverwrite,
         o.dtype);
  op.call = [o](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    ops.linear_backward_input(
        {.dy = in[0], .weight = in[1], .dx = out[0], .accumulate = o.accumulate}, context);
  };
  return op;
}

OpCase BackwardWeight(const Size& s, const Options& o, uint64_t seed) {
  Random random(seed);
  const Floats dy = Rounded(random.Normal(s.m * s.n), o.dtype);
  const Floats x = Rounded(random.Normal(s.m * s.k), o.dtype);
  const auto g = reference::LinearBackwardWeight(s.m, s.n, s.k, ToDouble(dy), ToDouble(x));
  OpCase op;
  op.In("dy", {s.m, s.n}, dy, o.dtype);
  op.In("x", {s.m, s.k}, x, o.dtype);
  op.Out("dweight", {s.n, s.k}, g.dweight, F32(s.m),
         o.accumulate ? OutputMode::kAccumulate : OutputMode::kOverwrite);
  if (o.bias) op.Out("dbias", {s.n}, g.dbias, F32(s.m), OutputMode::kAccumulate);
  op.call = [o](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    ops.linear_backward_weight({.dy = in[0],
                                .x = in[1],
                                .dweight = out[0],
                                .dbias = o.bias ? out[1] : TensorView{},
                                .accumulate = o.accumulate},
                               context);
  };
  return op;
}

TEST(Linear, Forward) {
  ForEachCase([](const Size& s, DType dtype) {
    const Options o{.dtype = dtype, .bias_dtype = dtype};
    CheckOp([&](uint64_t seed) { return Forward(s, o, 1, seed); });
  });
}

TEST(Linear, ForwardWithoutBias) {
  ForEachCase([](const Size& s, DType dtype) {
    const Options o{.dtype = dtype, .bias = false};
    CheckOp([&](uint64_t seed) { return Forward(s, o, 1, seed); });
  });
}

TEST(Linear, ForwardWithFloat32Bias) {
  for (DType dtype : {DType::kBF16, DType::kF16}) {
    CheckOp([&](uint64_t seed) { return Forward({33, 65, 17}, {.dtype = dtype}, 1, seed); });
  }
}

TEST(Linear, ForwardLargeMagnitude) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    const Options o{.dtype = dtype, .bias_dtype = dtype};
    CheckOp([&](uint64_t seed) { return Forward({9, 24, 33}, o, 1e15, seed); });
  }
}

TEST(Linear, BackwardInput) {
  ForEachCase([](const Size& s, DType dtype) {
    CheckOp([&](uint64_t seed) { return BackwardInput(s, {.dtype = dtype}, seed); });
  });
}

TEST(Linear, BackwardInputAccumulates) {
  ForEachCase([](const Size& s, DType dtype) {
    const Options o{.dtype = dtype, .accumulate = true};
    CheckOp([&](uint64_t seed) { return BackwardInput(s, o, seed); });
  });
}

TEST(Linear, BackwardWeight) {
  ForEachCase([](const Size& s, DType dtype) {
    CheckOp([&](uint64_t seed) { return BackwardWeight(s, {.dtype = dtype}, seed); });
  });
}

TEST(Linear, BackwardWeightAccumulates) {
  ForEachCase([](const Size& s, DType dtype) {
    const Options o{.dtype = dtype, .accumulate = true};
    CheckOp([&](uint64_t seed) { return BackwardWeight(s, o, seed); });
  });
}

// A sum of no rows.
TEST(Linear, BackwardWeightOfNothing) {
  for (const bool accumulate : {false, true}) {
    Arena arena = Arena::OnHost("test", 4096);
    Context context{.ops = &CpuOps(), .workspace = &arena};
    std::vector<float> dweight(6, 7.0f), none;
    CpuOps().linear_backward_weight({.dy = ViewOf(none.data(), {0, 2}),
                                     .x = ViewOf(none.data(), {0, 3}),
                                     .dweight = ViewOf(dweight.data(), {2, 3}),
                                     .dbias = {},
                                     .accumulate = accumulate},
                                    context);
    EXPECT_EQ(dweight, std::vector<float>(6, accumulate ? 7.0f : 0.0f));
  }
}

TEST(Linear, BackwardWeightWithoutBias) {
  ForEachCase([](const Size& s, DType dtype) {
    const Options o{.dtype = dtype, .bias = false, .accumulate = true};
    CheckOp([&](uint64_t seed) { return BackwardWeight(s, o, seed); });
  });
}

// Blocks of what is converted to float32 that begin inside of rows.
TEST(Linear, BlocksInTwoDirections) {
  const Options o{.dtype = DType::kF16, .bias_dtype = DType::kF16, .accumulate = true};
  CheckOp([&](uint64_t seed) { return Forward({2, 1030, 1026}, o, 1, seed); });
  CheckOp([&](uint64_t seed) { return BackwardInput({1026, 2, 1030}, o, seed); });
  CheckOp([&](uint64_t seed) { return BackwardWeight({2, 1026, 1030}, o, seed); });
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
  EXPECT_EQ(CountOp(Forward(s, {}, 1, 1)).matrix_flops, 2 * 12 * 7 * 5);
  EXPECT_EQ(CountOp(BackwardInput(s, {}, 1)).matrix_flops, 2 * 12 * 7 * 5);
  EXPECT_EQ(CountOp(BackwardWeight(s, {}, 1)).matrix_flops, 2 * 12 * 7 * 5);
}

}  // namespace
}  // namespace swinfleet::testing
