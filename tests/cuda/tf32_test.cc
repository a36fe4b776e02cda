// Linear layers and convolutions of the CUDA backend whose factors may be rounded to TF32.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

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
    context.tf32 = tf32;
    ops.linear_forward({.x = in[0], .weight = in[1], .bias = {}, .y = out[0]}, context);
  };
  return op;
}

// Pictures of 12 x 12 x 3 by 8 filters of 4 x 4.
const reference::Picture kPicture{2, 3, 12, 12};
const reference::PatchSize kPatch{1, 4, 4};
constexpr int64_t kFilters = 8, kTokens = 18, kWidth = 48;

OpCase EmbedPatches(bool tf32, DType dtype) {
  Random random(6);
  const Floats image = Rounded(random.Normal(2 * 3 * 12 * 12), dtype);
  const Floats weight = Rounded(random.Normal(kFilters * kWidth), dtype);
  const Floats bias = Rounded(random.Normal(kFilters), dtype);
  OpCase op;
  op.In("image", {2, 3, 12, 12}, image);
  op.In("weight", {kFilters, 3, 4, 4}, weight, dtype);
  op.In("bias", {kFilters}, bias, dtype);
  op.Out("y", {kTokens, kFilters},
         reference::PatchEmbeddingForward(kPicture, kPatch, kFilters, ToDouble(image),
                                          ToDouble(weight), ToDouble(bias)),
         0, OutputMode::kOverwrite, dtype);
  op.call = [tf32](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    context.tf32 = tf32;
    ops.patch_embedding_forward({in[0], in[1], in[2], out[0]}, context);
  };
  return op;
}

OpCase EmbedPatchesBackward(bool tf32) {
  Random random(7);
  const Floats image = random.Normal(2 * 3 * 12 * 12);
  const Floats weight = random.Normal(kFilters * kWidth);
  const Floats dy = random.Normal(kTokens * kFilters);
  const auto g = reference::PatchEmbeddingBackward(kPicture, kPatch, kFilters, ToDouble(image),
                                                   ToDouble(weight), ToDouble(dy));
  OpCase op;
  op.In("image", {2, 3, 12, 12}, image);
  op.In("weight", {kFilters, 3, 4, 4}, weight);
  op.In("dy", {kTokens, kFilters}, dy);
  op.Out("dweight", {kFilters, 3, 4, 4}, g.dweight, 0, OutputMode::kUpdate).initial =
      Floats(g.dweight.size());
  op.Out("dimage", {2, 3, 12, 12}, g.dimage, 0);
  op.Out("dbias", {kFilters}, g.dbias, 0, OutputMode::kUpdate).initial = Floats(kFilters);
  op.call = [tf32](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    context.tf32 = tf32;
    ops.patch_embedding_backward({in[0], in[1], in[2], out[0], out[2], out[1]}, context);
  };
  return op;
}

double ErrorOf(const OpCase& op, int output = 0) {
  const Floats got = RunOp(op)[output];
  const Vec& expected = op.outputs[output].expected;
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

TEST(Tf32, RoundsFactorsOfConvolutionsWhereItIsAllowed) {
  EXPECT_LE(ErrorOf(EmbedPatches(false, DType::kF32)), F32(kWidth));
  const double rounded = ErrorOf(EmbedPatches(true, DType::kF32));
  EXPECT_GT(rounded, F32(kWidth));
  EXPECT_LE(rounded, Tolerance(DType::kF16));
  for (const int output : {0, 1}) {
    EXPECT_LE(ErrorOf(EmbedPatchesBackward(false), output), F32(kTokens));
    EXPECT_GT(ErrorOf(EmbedPatchesBackward(true), output), F32(kTokens));
    EXPECT_LE(ErrorOf(EmbedPatchesBackward(true), output), Tolerance(DType::kF16));
  }
}

TEST(Tf32, LeavesOtherDtypesAlone) {
  for (DType dtype : {DType::kBF16, DType::kF16}) {
    EXPECT_EQ(RunOp(Forward(true, dtype)), RunOp(Forward(false, dtype))) << NameOf(dtype);
    EXPECT_EQ(RunOp(EmbedPatches(true, dtype)), RunOp(EmbedPatches(false, dtype)));
  }
}

}  // namespace
}  // namespace swinfleet::testing
