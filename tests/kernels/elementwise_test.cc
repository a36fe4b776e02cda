#include <gtest/gtest.h>

#include "tests/kernels/op_check.h"

namespace swinfleet::testing {
namespace {

const std::vector<int64_t> kCounts = {1, 7, 64, 1000, 4097, 100003};

struct Rows {
  int64_t b, n;
};

const std::vector<Rows> kRows = {{1, 1}, {2, 7}, {5, 64}, {3, 1001}, {1, 5000}, {300, 5}};

struct Dtypes {
  DType x, y;
};
// Tensors of 16 bits are also added to float32.
constexpr Dtypes kAddDtypes[] = {{DType::kF32, DType::kF32},
                                 {DType::kBF16, DType::kBF16},
                                 {DType::kF16, DType::kF16},
                                 {DType::kBF16, DType::kF32},
                                 {DType::kF16, DType::kF32}};

TEST(Add, AddsToY) {
  for (const Dtypes& d : kAddDtypes) {
    for (int64_t n : kCounts) {
      SCOPED_TRACE(std::to_string(n) + " of " + NameOf(d.x) + " to " + NameOf(d.y));
      CheckOp([&](uint64_t seed) {
        const Floats x = Rounded(Random(seed).Normal(n), d.x);
        OpCase op;
        op.In("x", {n}, x, d.x);
        op.Out("y", {n}, ToDouble(x), Tolerance(d.y), OutputMode::kAccumulate, d.y);
        op.call = [](const OpTable& ops, const Views& in, const Views& out, Context& context) {
          ops.add({.x = in[0], .y = out[0]}, context);
        };
        return op;
      });
    }
  }
}

// Sums over the tree of micro-batches must not depend on who adds what part: every element is one
// rounded addition.
TEST(Add, IsCorrectlyRounded) {
  const int64_t n = 1003;
  for (const Dtypes& d : kAddDtypes) {
    Random random(1);
    const Floats x = Rounded(random.Normal(n), d.x);
    const Floats y = Rounded(random.Normal(n), d.y);
    OpCase op;
    op.In("x", {n}, x, d.x);
    op.Out("y", {n}, Vec(n), 0, OutputMode::kUpdate, d.y).initial = y;
    op.call = [](const OpTable& ops, const Views& in, const Views& out, Context& context) {
      ops.add({.x = in[0], .y = out[0]}, context);
    };
    const Floats sum = RunOp(op)[0];
    const Vec exact = reference::Add(ToDouble(x), ToDouble(y));
    EXPECT_EQ(ToDouble(sum), Rounded(exact, d.y)) << NameOf(d.x) << " to " << NameOf(d.y);
  }
}

TEST(AddBroadcast, AddsToEveryPicture) {
  for (DType dtype : kFloating) {
    for (const Rows& r : kRows) {
      SCOPED_TRACE(Shape({r.b, r.n}).ToString() + " " + NameOf(dtype));
      CheckOp([&](uint64_t seed) {
        const Floats x = Rounded(Random(seed).Normal(r.n), dtype);
        OpCase op;
        op.In("x", {r.n}, x, dtype);
        op.Out("y", {r.b, r.n}, reference::AddBroadcast(r.b, ToDouble(x), Vec(r.b * r.n)),
               Tolerance(dtype), OutputMode::kAccumulate, dtype);
        op.call = [](const OpTable& ops, const Views& in, const Views& out, Context& context) {
          ops.add_broadcast({.x = in[0], .y = out[0]}, context);
        };
        return op;
      });
    }
  }
}

TEST(SumBroadcast, AddsTheSumOverPictures) {
  for (DType dtype : kFloating) {
    for (const Rows& r : kRows) {
      SCOPED_TRACE(Shape({r.b, r.n}).ToString() + " " + NameOf(dtype));
      CheckOp([&](uint64_t seed) {
        const Floats dy = Rounded(Random(seed).Normal(r.b * r.n), dtype);
        OpCase op;
        op.In("dy", {r.b, r.n}, dy, dtype);
        op.Out("dx", {r.n}, reference::SumBroadcast(r.b, ToDouble(dy)), F32(r.b),
               OutputMode::kAccumulate);
        op.call = [](const OpTable& ops, const Views& in, const Views& out, Context& context) {
          ops.sum_broadcast({.dy = in[0], .dx = out[0]}, context);
        };
        return op;
      });
    }
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
  for (DType dtype : kFloating) {
    for (int64_t n : kCounts) {
      for (float value : {0.f, -2.5f, 0.3f}) {
        SCOPED_TRACE(n);
        CheckOp([&](uint64_t) {
          OpCase op;
          op.Out("x", {n}, Rounded(Vec(n, value), dtype), 0, OutputMode::kOverwrite, dtype);
          op.call = [value](const OpTable& ops, const Views&, const Views& out, Context& context) {
            ops.fill({.x = out[0], .value = value}, context);
          };
          return op;
        });
      }
    }
  }
}

}  // namespace
}  // namespace swinfleet::testing
