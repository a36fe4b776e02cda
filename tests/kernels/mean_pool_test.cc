#include <gtest/gtest.h>

#include "tests/kernels/op_check.h"

namespace swinfleet::testing {
namespace {

struct Size {
  int64_t b, l, c;
};

const std::vector<Size> kSizes = {{2, 49, 33}, {1, 1, 5}, {3, 64, 768}, {2, 3, 1}, {1, 4096, 20}};

std::string Name(const Size& s) { return Shape{s.b, s.l, s.c}.ToString(); }

OpCase Forward(const Size& s, const Floats& x) {
  OpCase op;
  op.In("x", {s.b, s.l, s.c}, x);
  op.Out("y", {s.b, s.c}, reference::MeanPoolForward(s.b, s.l, s.c, ToDouble(x)), F32(s.l));
  op.call = [](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    ops.mean_pool_forward({.x = in[0], .y = out[0]}, context);
  };
  return op;
}

OpCase Backward(const Size& s, const Floats& dy) {
  OpCase op;
  op.In("dy", {s.b, s.c}, dy);
  op.Out("dx", {s.b, s.l, s.c}, reference::MeanPoolBackward(s.b, s.l, s.c, ToDouble(dy)), F32());
  op.call = [](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    ops.mean_pool_backward({.dy = in[0], .dx = out[0]}, context);
  };
  return op;
}

TEST(MeanPool, Forward) {
  for (const Size& s : kSizes) {
    SCOPED_TRACE(Name(s));
    CheckOp([&](uint64_t seed) { return Forward(s, Random(seed).Normal(s.b * s.l * s.c, 0.5)); });
  }
}

TEST(MeanPool, LargeMagnitude) {
  const Size s{2, 9, 20};
  CheckOp([&](uint64_t seed) { return Forward(s, Random(seed).Normal(2 * 9 * 20, 0, 1e30)); });
}

TEST(MeanPool, Backward) {
  for (const Size& s : kSizes) {
    SCOPED_TRACE(Name(s));
    CheckOp([&](uint64_t seed) { return Backward(s, Random(seed).Normal(s.b * s.c)); });
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
