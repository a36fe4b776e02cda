#include "kernels/tensor.h"

#include <gtest/gtest.h>

#include <vector>

namespace swinfleet {
namespace {

TEST(Tensor, ShapeCountsAndPrints) {
  EXPECT_EQ(Shape({8, 64, 64, 96}).NumElements(), 8 * 64 * 64 * 96);
  EXPECT_EQ(Shape({8, 64}).ToString(), "(8, 64)");
  EXPECT_EQ(Shape{}.NumElements(), 1);
  EXPECT_EQ(Shape({3, 0, 2}).NumElements(), 0);
  EXPECT_EQ(Shape({2, 3}), Shape({2, 3}));
  EXPECT_NE(Shape({2, 3}), Shape({2, 3, 1}));
  EXPECT_NE(Shape({2, 3}), Shape({3, 2}));
}

TEST(Tensor, RowsAndReshapeAreViews) {
  std::vector<float> data(24);
  const TensorView x = ViewOf(data.data(), {4, 2, 3});
  const TensorView rows = x.Rows(1, 2);
  EXPECT_EQ(rows.shape, Shape({2, 2, 3}));
  EXPECT_EQ(rows.f32(), data.data() + 6);
  EXPECT_EQ(x.Rows(4, 0).NumElements(), 0);
  EXPECT_EQ(x.Reshape({8, 3}).f32(), data.data());
  EXPECT_EQ(x.Bytes(), 96u);
  EXPECT_EQ((TensorView{data.data(), {4, 6}, DType::kBF16, Device::kCpu}.Bytes()), 48u);
  EXPECT_TRUE(TensorView{}.empty());
}

using TensorDeathTest = ::testing::Test;

TEST(TensorDeathTest, ShapesThatDoNotFit) {
  ::testing::GTEST_FLAG(death_test_style) = "threadsafe";
  std::vector<float> data(24);
  const TensorView x = ViewOf(data.data(), {4, 6});
  EXPECT_DEATH(x.Reshape({5, 5}), "\\(4, 6\\) to \\(5, 5\\)");
  EXPECT_DEATH(x.Rows(3, 2), "rows 3\\+2");
  EXPECT_DEATH(Shape({1, 1, 1, 1, 1, 1, 1}), "kMaxRank");
}

}  // namespace
}  // namespace swinfleet
