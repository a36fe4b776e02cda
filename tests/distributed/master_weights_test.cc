#include "distributed/master_weights.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

namespace swinfleet {
namespace {

// Every exponent with fractions around the halves of bfloat16 and float16.
std::vector<float> Masters() {
  std::vector<float> masters;
  for (uint32_t exponent = 0; exponent < 255; ++exponent) {
    for (const uint32_t fraction : {0x0u, 0x1u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu, 0x10000u,
                                    0x18000u, 0x1000u, 0x3000u, 0x7f7fffu, 0x123456u}) {
      for (const uint32_t sign : {0u, 0x80000000u}) {
        masters.push_back(std::bit_cast<float>(sign | exponent << 23 | fraction));
      }
    }
  }
  return masters;
}

TEST(MasterWeights, AreRestoredToTheBit) {
  const std::vector<float> masters = Masters();
  const auto n = static_cast<int64_t>(masters.size());
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    std::vector<uint16_t> values(n), remainders(n);
    std::vector<float> wide(n), restored(n);
    const TensorView value_view{values.data(), Shape{n}, dtype};
    const TensorView kept = dtype == DType::kBF16
                                ? TensorView{remainders.data(), Shape{n}, DType::kU16}
                                : ViewOf(wide.data(), Shape{n});
    EXPECT_EQ(kept.dtype, MasterDType(dtype));
    RoundWeights(masters, value_view);
    KeepMasters(masters, kept);
    RestoreMasters(value_view, kept, restored);
    for (int64_t i = 0; i < n; ++i) {
      ASSERT_EQ(std::bit_cast<uint32_t>(restored[i]), std::bit_cast<uint32_t>(masters[i]));
    }
  }
}

TEST(MasterWeights, Bf16IsRoundedAwayFromZeroInTheMiddle) {
  const std::vector<float> masters = {std::bit_cast<float>(0x3f808000u),
                                      std::bit_cast<float>(0xbf818000u),
                                      std::bit_cast<float>(0x3f807fffu)};
  std::vector<uint16_t> values(3);
  EXPECT_TRUE(RoundWeights(masters, {values.data(), Shape{3}, DType::kBF16}));
  EXPECT_EQ(values, (std::vector<uint16_t>{0x3f81, 0xbf82, 0x3f80}));
}

TEST(MasterWeights, OverflowIsTold) {
  std::vector<uint16_t> value(1);
  const TensorView f16{value.data(), Shape{1}, DType::kF16};
  const TensorView bf16{value.data(), Shape{1}, DType::kBF16};
  const auto fits = [](float x, const TensorView& view) {
    return RoundWeights(std::span<const float>(&x, 1), view);
  };
  EXPECT_TRUE(fits(65504, f16));
  EXPECT_TRUE(fits(-65519, f16));
  EXPECT_FALSE(fits(65520, f16));
  EXPECT_TRUE(fits(65520, bf16));
  EXPECT_FALSE(fits(std::numeric_limits<float>::max(), bf16));
}

TEST(MasterWeights, WideningIsExact) {
  std::vector<uint16_t> bits = {0x3c00, 0xc000, 0x0001, 0x7bff};
  std::vector<float> wide(4);
  WidenWeights({bits.data(), Shape{4}, DType::kF16}, wide);
  EXPECT_EQ(wide, (std::vector<float>{1, -2, 0x1p-24f, 65504}));
  bits = {0x3f80, 0xc000, 0x0001, 0x7f7f};
  WidenWeights({bits.data(), Shape{4}, DType::kBF16}, wide);
  EXPECT_EQ(wide[0], 1);
  EXPECT_EQ(wide[1], -2);
  EXPECT_EQ(wide[2], 0x1p-133f);
}

}  // namespace
}  // namespace swinfleet
