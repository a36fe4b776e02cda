#include <gtest/gtest.h>

#include "tests/kernels/op_check.h"

namespace swinfleet::testing {
namespace {

struct Size {
  int64_t b, l, c;
};

const std::vector<Size> kSizes = {{2, 49, 33}, {1, 1, 5},     {3, 64, 768},
                                  {2, 3, 1},   {1, 4096, 20}, {2, 3, 2050}};

std::string Name(const Size& s, DType dtype) {
  return Shape{s.b, s.l, s.c}.ToString() + " " + NameOf(dtype);
}

OpCase Forward(const Size& s, const Floats& values, DType dtype) {
  const Floats x = Rounded(values, dtype);
  OpCase op;
  op.In("x", {s.b, s.l, s.c}, x, dtype);
  op.Out("y", {s.b, s.c}, reference::MeanPoolForward(s.b, s.l, s.c, ToDouble(x)),
         Tolerance(dtype, s.l), OutputMode::kOverwrite, dtype);
  op.call = [](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    ops.mean_pool_forward({.x = in[0], .y = out[0]}, context);
  };
  return op;
}

OpCase Backward(const Size& s, const Floats& values, DType dtype) {
  const Floats dy = Rounded(values, dtype);
  OpCase op;
  op.In("dy", {s.b, s.c}, dy, dtype);
  op.Out("dx", {s.b, s.l, s.c}, reference::MeanPoolBackward(s.b, s.l, s.c, ToDouble(dy)),
         Tolerance(dtype), OutputMode::kOverwrite, dtype);
  op.call = [](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    ops.mean_pool_backward({.dy = in[0], .dx = out[0]}, context);
  };
  return op;
}

TEST(MeanPool, Forward) {
  for (DType dtype : kFloating) {
    for (const Size& s : kSizes) {
      SCOPED_TRACE(Name(s, dtype));
      CheckOp([&](uint64_t seed) {
        return Forward(s, Random(seed).Normal(s.b * s.l * s.c, 0.5), dtype);
      });
    }
  }
}

// The sum is outside of float16's range, the mean is not.
TEST(MeanPool, SumBeyondFloat16) {
  const Size s{2, 900, 5};
  CheckOp([&](uint64_t seed) {
    return Forward(s, Random(seed).Uniform(2 * 900 * 5, 3e4, 6e4), DType::kF16);
  });
}

TEST(MeanPool, LargeMagnitude) {
  const Size s{2, 9, 20};
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    CheckOp(
        [&](uint64_t seed) { return Forward(s, Random(seed).Normal(2 * 9 * 20, 0, 1e30), dtype); });
  }
}

TEST(MeanPool, Backward) {
  for (DType dtype : kFloating) {
    for (const Size& s : kSizes) {
      SCOPED_TRACE(Name(s, dtype));
      CheckOp([&](uint64_t seed) { return Backward(s, Random(seed).Normal(s.b * s.c), dtype); });
    }
  }
}

TEST(MeanPool, ReferenceGradients) {
  Random random(1);
  const Vec x = ToDouble(random.Normal(2 * 5 * 3));
  const Vec dy = ToDouble(random.Normal(2 * 3));
  CheckGradients(
      [&](const std::vector<Vec>& in) {
        return Dot(dy, reference::MeanPoolForward(2, 5, 3, in[0]));
      },
      {x}, {reference::MeanPoolBackward(2, 5, 3, dy)});
}

}  // namespace
}  // namespace swinfleet::testing
