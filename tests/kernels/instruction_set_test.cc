#include <gtest/gtest.h>
#include <hwy/highway.h>
#include <hwy/targets.h>

#include <algorithm>
#include <string>

#include "tests/kernels/op_check.h"

namespace swinfleet::testing {
namespace {

// CheckOp runs every operation with each of these; here it is shown that they come into force.
TEST(InstructionSet, CanBeChosen) {
  const std::string best = CpuInstructionSet();
  const std::vector<int64_t> sets = InstructionSets();
  ASSERT_FALSE(sets.empty());
  EXPECT_EQ(best, hwy::TargetName(sets[0]));
  for (int64_t set : sets) {
    UseInstructionSet use(set);
    EXPECT_STREQ(CpuInstructionSet(), hwy::TargetName(set));
  }
  EXPECT_EQ(best, CpuInstructionSet());
}

#if HWY_ARCH_X86
// The kernels are compiled for these, whatever this machine's best one is.
TEST(InstructionSet, IncludesAVX2AndSSE4) {
  const std::vector<int64_t> sets = InstructionSets();
  for (int64_t wanted : {HWY_AVX2, HWY_SSE4}) {
    if ((hwy::SupportedTargets() & wanted) == 0) continue;
    EXPECT_NE(std::find(sets.begin(), sets.end(), wanted), sets.end()) << hwy::TargetName(wanted);
  }
}
#endif

// Two sets differ in rounding: were the choice without effect, this would be the same bits.
TEST(InstructionSet, ChangesRounding) {
  const std::vector<int64_t> sets = InstructionSets();
  if (sets.size() < 2) GTEST_SKIP() << "this machine has one instruction set only";
  const int64_t n = 4001;
  const Floats x = Random(1).Normal(n, 3);
  OpCase op;
  op.In("x", {1, n}, x);
  op.In("gamma", {n}, Floats(n, 1));
  op.Out("y", {1, n}, Vec(n), 0);
  op.Out("mean", {1}, Vec(1), 0);
  op.Out("rstd", {1}, Vec(1), 0);
  op.call = [](const OpTable& ops, const Views& in, const Views& out, Context& context) {
    ops.layer_norm_forward({.x = in[0],
                            .gamma = in[1],
                            .beta = in[1],
                            .residual = {},
                            .scale = {},
                            .y = out[0],
                            .mean = out[1],
                            .rstd = out[2]},
                           context);
  };
  const Floats best = RunOp(op)[0];
  UseInstructionSet use(sets.back());
  EXPECT_NE(RunOp(op)[0], best);
}

}  // namespace
}  // namespace swinfleet::testing
