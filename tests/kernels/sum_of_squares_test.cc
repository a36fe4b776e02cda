#include <gtest/gtest.h>

#include <cmath>

#include "tests/kernels/op_check.h"

namespace swinfleet::testing {
namespace {

// Squares of floats are exact in float64; the sum of 4096 of them loses a few roundings.
constexpr double kTolerance = 1e-13;

int64_t Chunks(int64_t n) { return (n + kNormChunk - 1) / kNormChunk; }

OpCase Case(const Floats& values, DType dtype = DType::kF32) {
  const Floats x = Rounded(values, dtype);
  const int64_t n = static_cast<int64_t>(x.size());
  OpCase op;
  op.In("x", {n}, x, dtype);
  op.Out("sums", {Chunks(n)}, reference::SumOfSquares(kNormChunk, ToDouble(x)), kTolerance)
      .is_double = true;
  // Each chunk against itself.
  for (int i = 0; i < Chunks(n); ++i) op.outputs[0].group.push_back(i);
  op.call = [](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    ops.sum_of_squares({.x = in[0], .sums = static_cast<double*>(out[0].data)}, context);
  };
  return op;
}

TEST(SumOfSquares, Chunks) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    for (int64_t n : {1, 5, 4095, 4096, 4097, 8192, 100000}) {
      SCOPED_TRACE(std::to_string(n) + " of " + NameOf(dtype));
      CheckOp([&](uint64_t seed) { return Case(Random(seed).Normal(n), dtype); });
    }
  }
}

// The squares are outside of float32's range.
TEST(SumOfSquares, LargeAndSmall) {
  for (double magnitude : {1e30, 1e-30}) {
    CheckOp([&](uint64_t seed) { return Case(Random(seed).Normal(5000, 0, magnitude)); });
  }
}

// A chunk has the same sum in whatever shard it lies, to the bit.
TEST(SumOfSquares, DoNotDependOnTheShard) {
  const Floats x = Random(3).Normal(5 * kNormChunk + 100);
  std::vector<double> all(6);
  std::vector<double> shard(4);
  Arena workspace = Arena::OnHost("workspace", 1 << 20);
  Floats copy = x;
  for (int threads : {1, 2}) {
    Context context{
        .ops = &CpuOps(), .workspace = &workspace, .threads = threads, .count = nullptr};
    CpuOps().sum_of_squares(
        {.x = ViewOf(copy.data(), {static_cast<int64_t>(copy.size())}), .sums = all.data()},
        context);
    CpuOps().sum_of_squares(
        {.x = ViewOf(copy.data() + 2 * kNormChunk, {3 * kNormChunk + 100}), .sums = shard.data()},
        context);
    for (int i = 0; i < 4; ++i) EXPECT_EQ(shard[i], all[2 + i]);
  }
}

TEST(SumOfSquares, ShowsNaNAndInfinity) {
  for (float bad : {NAN, INFINITY, -INFINITY}) {
    Floats x(2 * kNormChunk, 1);
    x[kNormChunk + 17] = bad;
    double sums[2] = {};
    Arena workspace = Arena::OnHost("workspace", 1 << 20);
    Context context{.ops = &CpuOps(), .workspace = &workspace, .threads = 2, .count = nullptr};
    CpuOps().sum_of_squares({.x = ViewOf(x.data(), {2 * kNormChunk}), .sums = sums}, context);
    EXPECT_EQ(sums[0], kNormChunk);
    EXPECT_FALSE(std::isfinite(sums[1]));
  }
}

TEST(SumOfSquares, ReferenceNormAndClip) {
  EXPECT_DOUBLE_EQ(reference::GlobalNorm({{3, 0}, {4}}), 5);
  EXPECT_DOUBLE_EQ(reference::ClipCoefficient(5, 1), 1 / 5.000001);
  EXPECT_EQ(reference::ClipCoefficient(5, 7), 1);
}

}  // namespace
}  // namespace swinfleet::testing
