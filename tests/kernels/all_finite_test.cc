#include "kernels/all_finite.h"

#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "kernels/cpu/rows.h"

namespace swinfleet {
namespace {

TEST(AllFinite, WhatIsNotIsFoundInEveryDtypeAndPart) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  // Enough for two threads; the last vector is not whole.
  constexpr int64_t kSize = 40003;
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const float bad : {kInfinity, -kInfinity, std::numeric_limits<float>::quiet_NaN()}) {
      for (const int64_t at : {int64_t{0}, int64_t{20040}, kSize - 1}) {
        std::vector<float> wide(kSize, -65504.0f), room(kSize);
        wide[5] = 0x1p-24f;
        const TensorView values{room.data(), Shape{kSize}, dtype};
        cpu::ConvertElements(wide.data(), DType::kF32, room.data(), dtype, kSize);
        EXPECT_TRUE(CpuAllFinite(values, 2)) << NameOf(dtype);
        wide[at] = bad;
        cpu::ConvertElements(wide.data(), DType::kF32, room.data(), dtype, kSize);
        for (const int threads : {1, 2, 3}) {
          EXPECT_FALSE(CpuAllFinite(values, threads))
              << NameOf(dtype) << " " << bad << " at " << at << ", " << threads << " threads";
        }
      }
    }
  }
}

TEST(AllFinite, NothingIsFinite) {
  EXPECT_TRUE(CpuAllFinite(TensorView{nullptr, Shape{0}, DType::kF32}, 2));
}

}  // namespace
}  // namespace swinfleet
