// The numbers of 16 bits that tests compare with.
#include "tests/reference/rounding.h"

#include <gtest/gtest.h>

#include <cmath>

namespace swinfleet::reference {
namespace {

TEST(Rounding, EveryNumberOf16BitsIsItself) {
  for (DType dtype : {DType::kBF16, DType::kF16}) {
    for (int bits = 0; bits < 0x10000; ++bits) {
      const double value = FromBits(static_cast<uint16_t>(bits), dtype);
      if (std::isnan(value)) continue;
      ASSERT_EQ(Round(value, dtype), value) << NameOf(dtype) << " " << bits;
      ASSERT_EQ(ToBits(value, dtype), bits) << NameOf(dtype);
    }
  }
}

TEST(Rounding, ByHand) {
  EXPECT_EQ(FromBits(0x3f80, DType::kBF16), 1);
  EXPECT_EQ(FromBits(0xc049, DType::kBF16), -3.140625);
  EXPECT_EQ(FromBits(0x3c00, DType::kF16), 1);
  EXPECT_EQ(FromBits(0x7bff, DType::kF16), 65504);
  EXPECT_EQ(FromBits(0x0001, DType::kF16), 0x1p-24);
  EXPECT_TRUE(std::isnan(FromBits(0x7fc0, DType::kBF16)));
  EXPECT_TRUE(std::isnan(FromBits(ToBits(NAN, DType::kF16), DType::kF16)));
}

// Halves go to the even neighbour; beyond the largest number by half a unit lies infinity.
TEST(Rounding, ToTheNearest) {
  EXPECT_EQ(Round(1 + 0x1p-8, DType::kBF16), 1);
  EXPECT_EQ(Round(1 + 3 * 0x1p-8, DType::kBF16), 1 + 0x1p-6);
  EXPECT_EQ(Round(1 + 0x1.01p-8, DType::kBF16), 1 + 0x1p-7);
  EXPECT_EQ(Round(0x1p-25, DType::kF16), 0);
  EXPECT_EQ(Round(0x1.8p-24, DType::kF16), 0x1p-23);
  EXPECT_EQ(Round(65519, DType::kF16), 65504);
  EXPECT_EQ(Round(-65520, DType::kF16), -INFINITY);
  EXPECT_EQ(Round(0x1p-150, DType::kF32), 0);
  EXPECT_EQ(Round(1.1, DType::kF32), 1.1f);
}

}  // namespace
}  // namespace swinfleet::reference
