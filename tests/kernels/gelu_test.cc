#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/kernels/op_backend.h"
#include "tests/kernels/op_check.h"

namespace swinfleet::testing {
namespace {

struct Size {
  int64_t m, c;
};

const std::vector<Size> kSizes = {{1, 1}, {3, 5}, {7, 33}, {64, 64}, {1, 1000}, {129, 17}};

OpCase Forward(const Size& s, const Floats& x, DType dtype = DType::kF32) {
  OpCase op;
  op.In("x", {s.m, s.c}, x, dtype);
  op.Out("y", {s.m, s.c}, reference::GeluForward(ToDouble(x)), Tolerance(dtype),
         OutputMode::kOverwrite, dtype);
  op.call = [](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    ops.gelu_forward({.x = in[0], .y = out[0]}, context);
  };
  return op;
}

// In place, dx takes dy's memory and y that of x.
OpCase Backward(const Size& s, const Floats& x, const Floats& dy, bool with_y, bool in_place,
                bool with_dbias = false, DType dtype = DType::kF32) {
  const Vec dx = reference::GeluBackward(ToDouble(x), ToDouble(dy));
  OpCase op;
  op.In("x", {s.m, s.c}, x, dtype);
  op.In("dy", {s.m, s.c}, dy, dtype);
  op.Out("dx", {s.m, s.c}, dx, Tolerance(dtype), OutputMode::kOverwrite, dtype).alias =
      in_place ? 1 : -1;
  if (with_y) {
    op.Out("y", {s.m, s.c}, reference::GeluForward(ToDouble(x)), Tolerance(dtype),
           OutputMode::kOverwrite, dtype)
        .alias = in_place ? 0 : -1;
  }
  if (with_dbias) {
    // Elements are of order 1; those of two steps and of what was there may cancel.
    Vec magnitudes = dx;
    for (double& x : magnitudes) x = std::max(1.0, std::abs(x));
    op.Out("dbias", {s.c}, reference::ColumnSums(dx, s.c), Tolerance(dtype, s.m),
           OutputMode::kAccumulate)
        .size = reference::ColumnSums(magnitudes, s.c);
  }
  op.call = [=](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    ops.gelu_backward({.x = in[0],
                       .dy = in[1],
                       .dx = out[0],
                       .y = with_y ? out[1] : TensorView{},
                       .dbias = with_dbias ? out.back() : TensorView{}},
                      context);
  };
  return op;
}

template <typename Check>
void ForEachCase(const Check& check) {
  for (DType dtype : kFloating) {
    for (const Size& s : kSizes) {
      SCOPED_TRACE(std::to_string(s.m) + "x" + std::to_string(s.c) + " " + NameOf(dtype));
      check(s, dtype);
    }
  }
}

void CheckBackward(bool with_y, bool in_place, bool with_dbias = false) {
  ForEachCase([=](const Size& s, DType dtype) {
    CheckOp([&](uint64_t seed) {
      Random random(seed);
      const Floats x = Rounded(random.Normal(s.m * s.c, 0, 2.5), dtype);
      const Floats dy = Rounded(random.Normal(s.m * s.c), dtype);
      return Backward(s, x, dy, with_y, in_place, with_dbias, dtype);
    });
  });
}

// Around 0, both tails, where the density underflows, and beyond every approximation.
const Floats kSpecial = {0.f,    -0.f,  1e-38f, -1e-38f, 1e-6f, -1e-6f, 0.5f,   -0.5f, 0.7f,
                         -0.75f, 1.f,   -1.f,   3.f,     -3.f,  4.f,    -4.f,   5.f,   -5.f,
                         5.7f,   -5.7f, 10.f,   -10.f,   13.f,  -13.f,  14.f,   -14.f, 38.f,
                         -38.f,  100.f, -100.f, 1e4f,    -1e4f, 1e18f,  -1e18f, 3e37f, -3e37f};

// Positive and negative elements apart, each by its power of ten: the large ones hide nothing.
std::vector<int> SpecialGroups() {
  std::vector<int> groups;
  for (float x : kSpecial) {
    const double magnitude = std::max(1.0, static_cast<double>(std::abs(x)));
    // Negative arguments give results near zero, which are measured against those of order 1.
    groups.push_back(x <= 0 ? 0 : static_cast<int>(std::log10(magnitude)));
  }
  return groups;
}

TEST(Gelu, Forward) {
  ForEachCase([](const Size& s, DType dtype) {
    CheckOp([&](uint64_t seed) {
      return Forward(s, Rounded(Random(seed).Normal(s.m * s.c, 0, 2.5), dtype), dtype);
    });
  });
}

TEST(Gelu, Backward) { CheckBackward(true, false); }
TEST(Gelu, BackwardWithoutY) { CheckBackward(false, false); }
TEST(Gelu, BackwardInPlace) { CheckBackward(true, true); }
TEST(Gelu, BackwardInPlaceWithoutY) { CheckBackward(false, true); }
TEST(Gelu, BackwardOfBias) { CheckBackward(true, false, true); }
TEST(Gelu, BackwardOfBiasInPlace) { CheckBackward(true, true, true); }

TEST(Gelu, SpecialValues) {
  const Size s{1, static_cast<int64_t>(kSpecial.size())};
  CheckOp([&](uint64_t) {
    OpCase op = Forward(s, kSpecial);
    op.outputs[0].group = SpecialGroups();
    return op;
  });
  CheckOp([&](uint64_t) {
    OpCase op = Backward(s, kSpecial, Floats(s.c, 1), true, false);
    op.outputs[1].group = SpecialGroups();
    return op;
  });
}

TEST(Gelu, FineGrid) {
  const Size s{1, 40001};
  Floats x;
  for (int i = 0; i <= 40000; ++i) x.push_back(-10 + 0.0005f * static_cast<float>(i));
  CheckOp([&](uint64_t) { return Forward(s, x); });
  CheckOp([&](uint64_t) { return Backward(s, x, Floats(s.c, 1), true, false); });
}

// A NaN must come out as one: it is how a broken run is noticed.
TEST(Gelu, KeepsNaN) {
  const Floats x = {NAN, 1, NAN};
  EXPECT_TRUE(std::isnan(RunOp(Forward({1, 3}, x))[0][0]));
  EXPECT_TRUE(std::isnan(RunOp(Backward({1, 3}, x, {1, 1, 1}, true, false))[0][2]));
}

TEST(Gelu, ReferenceGradients) {
  Random random(1);
  const Vec x = ToDouble(random.Normal(100, 0, 2.5));
  const Vec dy = ToDouble(random.Normal(100));
  const Vec dx = reference::GeluBackward(x, dy);
  CheckGradients([&](const std::vector<Vec>& in) { return Dot(dy, reference::GeluForward(in[0])); },
                 {x}, {dx});
  // Of a bias that was added to rows of 10.
  const auto with_bias = [&](const std::vector<Vec>& in) {
    Vec sum = x;
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += in[0][i % 10];
    return Dot(dy, reference::GeluForward(sum));
  };
  CheckGradients(with_bias, {Vec(10, 0.0)}, {reference::ColumnSums(dx, 10)});
}

}  // namespace
}  // namespace swinfleet::testing
