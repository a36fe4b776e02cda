#include <gtest/gtest.h>
#include <hwy/targets.h>

#include "tests/kernels/op_check.h"

namespace swinfleet::testing {
namespace {

// Float32 is the processor's own everywhere; no set of instructions below AVX-512 has the others.
TEST(NativeDtypes, OfLinearLayers) {
  for (int64_t target : InstructionSets()) {
    UseInstructionSet use(target);
    EXPECT_TRUE(CpuHasNative(DType::kF32));
    if (target > HWY_AVX3) {
      EXPECT_FALSE(CpuHasNative(DType::kBF16));
      EXPECT_FALSE(CpuHasNative(DType::kF16));
    }
  }
}

}  // namespace
}  // namespace swinfleet::testing
