#include "kernels/cpu/element.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "tests/kernels/op_check.h"
#include "tests/reference/rounding.h"

namespace swinfleet::testing {
namespace {

template <typename T>
uint16_t BitsOf(T x) {
  uint16_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}

// Numbers of all sizes, the smallest and the largest of each dtype, and what lies in the middle
// between two numbers of 16 bits.
Floats Numbers() {
  Floats numbers = {0.f, -0.f, 65504.f, 65519.9f, 65520.f, 1e30f, 3.4e38f, INFINITY, -INFINITY};
  for (uint32_t bits = 0; bits < 0x7f800000; bits += 0x1000 * 7) {
    numbers.push_back(std::bit_cast<float>(bits));
  }
  for (uint32_t half = 0; half < 0x10000; half += 3) {
    // Of bfloat16: halfway to the next, one bit below and one above.
    for (uint32_t low : {0x7fffu, 0x8000u, 0x8001u}) {
      const float x = std::bit_cast<float>(half << 16 | low);
      if (std::isfinite(x)) numbers.push_back(x);
    }
  }
  for (uint16_t half = 0; half < 0x7bff; ++half) {
    const auto low = static_cast<float>(reference::FromBits(half, DType::kF16));
    const auto high = static_cast<float>(reference::FromBits(half + 1, DType::kF16));
    const float middle = low + (high - low) / 2;
    for (float x : {middle, std::nextafter(middle, 0.f), std::nextafter(middle, high)}) {
      numbers.push_back(x);
      numbers.push_back(-x);
    }
  }
  return numbers;
}

template <typename T>
void CheckRounding() {
  const DType dtype = DTypeOf<T>();
  for (float x : Numbers()) {
    const double expected = reference::Round(x, dtype);
    const T rounded = FromFloat<T>(x);
    ASSERT_EQ(static_cast<double>(swinfleet::ToFloat(rounded)), expected)
        << NameOf(dtype) << " of " << x;
    ASSERT_EQ(std::signbit(swinfleet::ToFloat(rounded)), std::signbit(x)) << x;
  }
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    T element;
    std::memcpy(&element, &half, sizeof(half));
    const float x = swinfleet::ToFloat(element);
    if (std::isnan(x)) {
      ASSERT_TRUE(std::isnan(swinfleet::ToFloat(FromFloat<T>(x)))) << bits;
    } else {
      ASSERT_EQ(static_cast<double>(x), reference::FromBits(half, dtype)) << bits;
      ASSERT_EQ(BitsOf(FromFloat<T>(x)), half);
    }
  }
}

TEST(Element, RoundsToNearestEven) {
  CheckRounding<hwy::bfloat16_t>();
  CheckRounding<hwy::float16_t>();
}

TEST(Element, NanStaysNan) {
  for (uint32_t bits : {0x7f800001u, 0x7fc00000u, 0x7fffffffu, 0xff800001u, 0xffffffffu}) {
    const float nan = std::bit_cast<float>(bits);
    EXPECT_TRUE(std::isnan(swinfleet::ToFloat(FromFloat<hwy::bfloat16_t>(nan))));
    EXPECT_TRUE(std::isnan(swinfleet::ToFloat(FromFloat<hwy::float16_t>(nan))));
  }
}

// Vectors, whole and not, convert to the bits that single elements do, with every instruction set.
TEST(Element, VectorsConvertAlike) {
  Floats numbers = Numbers();
  numbers.push_back(std::numeric_limits<float>::quiet_NaN());
  const int64_t n = static_cast<int64_t>(numbers.size());
  std::vector<uint16_t> halves(n);
  Floats back(n);
  Arena workspace = Arena::OnHost("workspace", 64);
  Context context{.ops = &CpuOps(), .workspace = &workspace, .threads = 1, .count = nullptr};
  const auto check = [&](auto tag) {
    using T = decltype(tag);
    const TensorView half{halves.data(), Shape{n}, DTypeOf<T>()};
    CpuOps().cast({ViewOf(numbers.data(), Shape{n}), half}, context);
    CpuOps().cast({half, ViewOf(back.data(), Shape{n})}, context);
    for (int64_t i = 0; i < n; ++i) {
      const T expected = FromFloat<T>(numbers[i]);
      if (std::isnan(numbers[i])) {
        ASSERT_TRUE(std::isnan(back[i]));
      } else {
        ASSERT_EQ(halves[i], BitsOf(expected)) << NameOf(DTypeOf<T>()) << " of " << numbers[i];
        ASSERT_EQ(back[i], swinfleet::ToFloat(expected)) << numbers[i];
      }
    }
  };
  for (int64_t set : InstructionSets()) {
    UseInstructionSet use(set);
    check(hwy::bfloat16_t());
    check(hwy::float16_t());
  }
}

}  // namespace
}  // namespace swinfleet::testing
