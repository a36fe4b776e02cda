#include "tests/reference/rounding.h"

#include <glog/logging.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace swinfleet::reference {
namespace {

struct Format {
  int fraction_bits;
  int lowest_exponent;   // of normal numbers
  int highest_exponent;  // of finite numbers
};

Format FormatOf(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return {23, -126, 127};
    case DType::kBF16:
      return {7, -126, 127};
    case DType::kF16:
      return {10, -14, 15};
    case DType::kI32:
    case DType::kU16:
      break;
  }
  LOG(FATAL) << NameOf(dtype) << " is no floating dtype";
}

// 2^exponent, a normal number. Tests convert millions of numbers, for which std::ldexp is slow.
double PowerOfTwo(int exponent) {
  return std::bit_cast<double>(static_cast<uint64_t>(exponent + 1023) << 52);
}

// std::ilogb of a number that is not 0, but at least `lowest`.
int Exponent(double x, int lowest) {
  const int biased = static_cast<int>(std::bit_cast<uint64_t>(x) >> 52 & 0x7ff);
  return std::max(biased - 1023, lowest);
}

}  // namespace

double Round(double x, DType dtype) {
  if (x == 0 || !std::isfinite(x)) return x;
  const Format format = FormatOf(dtype);
  const int exponent = Exponent(x, format.lowest_exponent);
  if (exponent > format.highest_exponent) {
    return std::copysign(std::numeric_limits<double>::infinity(), x);
  }
  const double unit = PowerOfTwo(exponent - format.fraction_bits);
  // Halves go to the even neighbour, as the mode of rounding is when a program starts.
  const double rounded = std::nearbyint(x / unit) * unit;
  if (std::abs(rounded) < PowerOfTwo(format.highest_exponent + 1)) return rounded;
  return std::copysign(std::numeric_limits<double>::infinity(), x);
}

uint16_t ToBits(double x, DType dtype) {
  const Format format = FormatOf(dtype);
  const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  const int biased_top = format.highest_exponent - format.lowest_exponent + 2;
  const uint16_t infinity = static_cast<uint16_t>(biased_top << format.fraction_bits);
  if (std::isnan(x))
    return sign | infinity | static_cast<uint16_t>(1 << (format.fraction_bits - 1));
  if (std::isinf(x)) return sign | infinity;
  CHECK_EQ(Round(x, dtype), x) << "is no " << NameOf(dtype);
  if (x == 0) return sign;
  const int exponent = Exponent(x, format.lowest_exponent);
  // The leading bit of a normal number adds one to the exponent.
  const auto fraction =
      static_cast<int64_t>(std::abs(x) * PowerOfTwo(format.fraction_bits - exponent));
  const int64_t bits =
      (static_cast<int64_t>(exponent - format.lowest_exponent) << format.fraction_bits) + fraction;
  return sign | static_cast<uint16_t>(bits);
}

double FromBits(uint16_t bits, DType dtype) {
  const Format format = FormatOf(dtype);
  const double sign = bits & 0x8000 ? -1 : 1;
  const int biased = (bits & 0x7fff) >> format.fraction_bits;
  const int fraction = bits & ((1 << format.fraction_bits) - 1);
  if (biased == format.highest_exponent - format.lowest_exponent + 2) {
    return fraction == 0 ? sign * std::numeric_limits<double>::infinity()
                         : std::numeric_limits<double>::quiet_NaN();
  }
  const int leading = biased == 0 ? 0 : 1 << format.fraction_bits;
  const int exponent = format.lowest_exponent + std::max(biased - 1, 0) - format.fraction_bits;
  return sign * (leading + fraction) * PowerOfTwo(exponent);
}

}  // namespace swinfleet::reference
