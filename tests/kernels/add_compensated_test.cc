#include <gtest/gtest.h>

#include <cmath>

#include "tests/kernels/op_check.h"

namespace swinfleet::testing {
namespace {

struct State {
  Floats sum, error;
};

OpCase Case(const Floats& x, const State& before, DType dtype) {
  const int64_t n = static_cast<int64_t>(x.size());
  Vec sum, error;
  for (int64_t i = 0; i < n; ++i) {
    const double added = static_cast<double>(x[i]) + before.error[i];
    sum.push_back(before.sum[i] + added);
    // What is lost is known when the sum is: see CarriesWhatRoundingLeaves.
    error.push_back(0);
  }
  OpCase op;
  op.In("x", {n}, x, dtype);
  op.Out("sum", {n}, sum, Tolerance(DType::kBF16), OutputMode::kUpdate, DType::kBF16).initial =
      before.sum;
  OpOutput& lost = op.Out("error", {n}, error, 1, OutputMode::kUpdate, DType::kBF16);
  lost.initial = before.error;
  // At most half a unit of the sum's last place.
  for (double s : sum) lost.size.push_back(std::abs(s) * 0x1p-7);
  op.call = [](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    ops.add_compensated({.x = in[0], .sum = out[0], .error = out[1]}, context);
  };
  return op;
}

TEST(AddCompensated, AddsToTheSum) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    for (int64_t n : {1, 7, 64, 1003, 40001}) {
      SCOPED_TRACE(std::to_string(n) + " of " + NameOf(dtype));
      CheckOp([&](uint64_t seed) {
        Random random(seed);
        const Floats x = Rounded(random.Normal(n), dtype);
        return Case(x,
                    {Rounded(random.Normal(n), DType::kBF16),
                     Rounded(random.Normal(n, 0, 1e-3), DType::kBF16)},
                    dtype);
      });
    }
  }
}

TEST(AddCompensated, CarriesWhatRoundingLeaves) {
  const int64_t n = 500;
  Random random(5);
  const Floats x = random.Normal(n);
  const Floats sum = Rounded(random.Normal(n), DType::kBF16);
  const std::vector<Floats> after = RunOp(Case(x, {sum, Floats(n)}, DType::kF32));
  for (int64_t i = 0; i < n; ++i) {
    const double exact = static_cast<double>(sum[i]) + x[i];
    ASSERT_EQ(after[0][i], Rounded(Vec{static_cast<float>(exact)}, DType::kBF16)[0]) << i;
    const double rest = exact - after[0][i];
    ASSERT_NEAR(after[1][i], rest, std::abs(rest) * 0x1p-8 + std::abs(exact) * 0x1p-23) << i;
  }
}

// A thousand additions of a part of the sum's last place: plain bfloat16 would stand still.
TEST(AddCompensated, ManySmallAdditions) {
  const int64_t n = 40;
  const Floats x = Rounded(Random(6).Uniform(n, 1e-3, 3e-3), DType::kBF16);
  State s{Floats(n, 1), Floats(n)};
  for (int step = 0; step < 1000; ++step) {
    const std::vector<Floats> after = RunOp(Case(x, s, DType::kBF16), 1);
    s = {after[0], after[1]};
  }
  for (int64_t i = 0; i < n; ++i) {
    const double exact = 1 + 1000.0 * x[i];
    EXPECT_NEAR(s.sum[i], exact, exact * 0x1p-8) << i;
  }
}

}  // namespace
}  // namespace swinfleet::testing
