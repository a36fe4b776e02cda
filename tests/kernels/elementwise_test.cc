#include <gtest/gtest.h>

#include "tests/kernels/op_check.h"

namespace swinfleet::testing {
namespace {

const std::vector<int64_t> kCounts = {1, 7, 64, 1000, 4097, 100003};

struct Rows {
  int64_t b, n;
};

const std::vector<Rows> kRows = {{1, 1}, {2, 7}, {5, 64}, {3, 1001}, {1, 5000}, {300, 5}};

TEST(Add, AddsToY) {
  for (int64_t n : kCounts) {
    SCOPED_TRACE(n);
    CheckOp([&](uint64_t seed) {
      const Floats x = Random(seed).Normal(n);
      OpCase op;
      op.In("x", {n}, x);
      op.Out("y", {n}, ToDouble(x), F32(), OutputMode::kAccumulate);
      op.call = [](const OpTable& ops, const Views& in, const Views& out, Context& context) {
        ops.add({.x = in[0], .y = out[0]}, context);
      };
      return op;
    });
  }
}

// Sums over the tree of micro-batches must not depend on who adds what part: every element is one
// rounded addition.
TEST(Add, IsCorrectlyRounded) {
  const int64_t n = 1003;
  Random random(1);
  const Floats x = random.Normal(n);
  const Floats y = random.Normal(n);
  OpCase op;
  op.In("x", {n}, x);
  op.Out("y", {n}, Vec(n), 0, OutputMode::kUpdate).initial = y;
  op.call = [](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    ops.add({.x = in[0], .y = out[0]}, context);
  };
  const Floats sum = RunOp(op)[0];
  for (int64_t i = 0; i < n; ++i) ASSERT_EQ(sum[i], x[i] + y[i]) << i;
}

TEST(AddBroadcast, AddsToEveryPicture) {
  for (const Rows& r : kRows) {
    SCOPED_TRACE(Shape({r.b, r.n}));
    CheckOp([&](uint64_t seed) {
      const Floats x = Random(seed).Normal(r.n);
      OpCase op;
      op.In("x", {r.n}, x);
      op.Out("y", {r.b, r.n}, reference::AddBroadcast(r.b, ToDouble(x), Vec(r.b * r.n)), F32(),
             OutputMode::kAccumulate);
      op.call = [](const OpTable& ops, const Views& in, const Views& out, Context& context) {
        ops.add_broadcast({.x = in[0], .y = out[0]}, context);
      };
      return op;
    });
  }
}

TEST(SumBroadcast, AddsTheSumOverPictures) {
  for (const Rows& r : kRows) {
    SCOPED_TRACE(Shape({r.b, r.n}));
    CheckOp([&](uint64_t seed) {
      const Floats dy = Random(seed).Normal(r.b * r.n);
      OpCase op;
      op.In("dy", {r.b, r.n}, dy);
      op.Out("dx", {r.n}, reference::SumBroadcast(r.b, ToDouble(dy)), F32(r.b),
             OutputMode::kAccumulate);
      op.call = [](const OpTable& ops, const Views& in, const Views& out, Context& context) {
        ops.sum_broadcast({.dy = in[0], .dx = out[0]}, context);
      };
      return op;
    });
  }
}

TEST(SumBroadcast, ReferenceIsTheGradientOfAddBroadcast) {
  Random random(1);
  const Vec x = ToDouble(random.Normal(6));
  const Vec y = ToDouble(random.Normal(3 * 6));
  const Vec dy = ToDouble(random.Normal(3 * 6));
  CheckGradients(
      [&](const std::vector<Vec>& in) { return Dot(dy, reference::AddBroadcast(3, in[0], in[1])); },
      {x, y}, {reference::SumBroadcast(3, dy), dy});
}

TEST(Fill, WritesTheValue) {
  for (int64_t n : kCounts) {
    for (float value : {0.f, -2.5f}) {
      SCOPED_TRACE(n);
      CheckOp([&](uint64_t) {
        OpCase op;
        op.Out("x", {n}, Vec(n, value), 0);
        op.call = [value](const OpTable& ops, const Views&, const Views& out, Context& context) {
          ops.fill({.x = out[0], .value = value}, context);
        };
        return op;
      });
    }
  }
}

}  // namespace
}  // namespace swinfleet::testing
