// Linear layers of the CUDA backend whose factors may be rounded to TF32.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "kernels/cuda/cuda_kernels.h"
#include "tests/kernels/op_check.h"

namespace swinfleet::testing {
namespace {

// y = x weight^T: 33 rows of 130 elements, 17 outputs.
OpCase Forward(bool tf32, DType dtype) {
  const int64_t m = 33, n = 17, k = 130;
  Random random(5);
  const Floats x = Rounded(random.Normal(m * k), dtype),
               weight = Rounded(random.Normal(n * k), dtype);
  OpCase op;
  op.In("x", {m, k}, x, dtype);
  op.In("weight", {n, k}, weight, dtype);
  op.Out("y", {m, n}, reference::LinearForward(m, n, k, ToDouble(x), ToDouble(weight), {}), 0,
         OutputMode::kOverwrite, dtype);
  op.call = [tf32](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    cuda::UseTf32(tf32);
    ops.linear_forward({.x = in[0], .weight = in[1], .bias = {}, .y = out[0]}, context);
    cuda::UseTf32(false);
  };
  return op;
}

double ErrorOf(const OpCase& op) {
  const Floats got = RunOp(op)[0];
  const Vec& expected = op.outputs[0].expected;
  double largest = 0, error = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    largest = std::max(largest, std::abs(expected[i]));
    error = std::max(error, std::abs(got[i] - expected[i]));
  }
  return error / largest;
}

// Factors with 10 bits after the point, like float16's.
TEST(Tf32, RoundsFactorsWhereItIsAllowed) {
  EXPECT_LE(ErrorOf(Forward(false, DType::kF32)), F32(130));
  const double rounded = ErrorOf(Forward(true, DType::kF32));
  EXPECT_GT(rounded, F32(130));
  EXPECT_LE(rounded, Tolerance(DType::kF16));
}

TEST(Tf32, LeavesOtherDtypesAlone) {
  for (DType dtype : {DType::kBF16, DType::kF16}) {
    EXPECT_EQ(RunOp(Forward(true, dtype)), RunOp(Forward(false, dtype))) << NameOf(dtype);
  }
}

}  // namespace
}  // namespace swinfleet::testing
