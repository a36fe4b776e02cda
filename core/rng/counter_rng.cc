#include "core/rng/counter_rng.h"

#include <glog/logging.h>

#include <cmath>

namespace swinfleet {
namespace {

uint32_t Low(uint64_t value) { return static_cast<uint32_t>(value); }
uint32_t High(uint64_t value) { return static_cast<uint32_t>(value >> 32); }

// Natural logarithm of a normal positive number, from the series of artanh.
double Log(double x) {
  constexpr double kLn2 = 0.693147180559945309417;
  constexpr double kSqrtHalf = 0.70710678118654752440;
  int exponent = 0;
  double mantissa = std::frexp(x, &exponent);
  if (mantissa < kSqrtHalf) {
    mantissa *= 2;
    --exponent;
  }
  const double s = (mantissa - 1) / (mantissa + 1);
  const double s2 = s * s;
  // s2 is at most 0.0295, so that the terms after s^25 are below the precision of a double.
  double sum = 0;
  for (int k = 25; k >= 1; k -= 2) sum = sum * s2 + 1.0 / k;
  return exponent * kLn2 + 2 * s * sum;
}

// Polynomial with the coefficient of the highest power first.
template <size_t N>
double Polynomial(const double (&coefficients)[N], double x) {
  double sum = 0;
  for (double coefficient : coefficients) sum = sum * x + coefficient;
  return sum;
}

// The rational approximations of Wichura's algorithm AS 241 (PPND16), Applied Statistics 37, 1988:
// around the median, in the tails, and in the far tails.
constexpr double kCentralNumerator[] = {
    2509.0809287301226727, 33430.575583588128105, 67265.770927008700853, 45921.953931549871457,
    13731.693765509461125, 1971.5909503065514427, 133.14166789178437745, 3.387132872796366608};
constexpr double kCentralDenominator[] = {
    5226.495278852545925,  28729.085735721942674, 39307.89580009271061,  21213.794301586595867,
    5394.1960214247511077, 687.1870074920579083,  42.313330701600911252, 1.0};
constexpr double kTailNumerator[] = {7.7454501427834140764e-4, .0227238449892691845833,
                                     .24178072517745061177,    1.27045825245236838258,
                                     3.64784832476320460504,   5.7694972214606914055,
                                     4.6303378461565452959,    1.42343711074968357734};
constexpr double kTailDenominator[] = {1.05075007164441684324e-9, 5.475938084995344946e-4,
                                       .0151986665636164571966,   .14810397642748007459,
                                       .68976733498510000455,     1.6763848301838038494,
                                       2.05319162663775882187,    1.0};
constexpr double kFarNumerator[] = {2.01033439929228813265e-7, 2.71155556874348757815e-5,
                                    .0012426609473880784386,   .026532189526576123093,
                                    .29656057182850489123,     1.7848265399172913358,
                                    5.4637849111641143699,     6.6579046435011037772};
constexpr double kFarDenominator[] = {2.04426310338993978564e-15, 1.4215117583164458887e-7,
                                      1.8463183175100546818e-5,   7.868691311456132591e-4,
                                      .0148753612908506148525,    .13692988092273580531,
                                      .59983220655588793769,      1.0};

}  // namespace

double NormalQuantile(double p) {
  CHECK(p > 0 && p < 1) << p;
  const double q = p - 0.5;
  if (std::fabs(q) <= 0.425) {
    const double r = 0.180625 - q * q;
    return q * Polynomial(kCentralNumerator, r) / Polynomial(kCentralDenominator, r);
  }
  const double r = std::sqrt(-Log(q < 0 ? p : 1 - p));
  const double x = r <= 5
                       ? Polynomial(kTailNumerator, r - 1.6) / Polynomial(kTailDenominator, r - 1.6)
                       : Polynomial(kFarNumerator, r - 5) / Polynomial(kFarDenominator, r - 5);
  return q < 0 ? -x : x;
}

CounterRng::CounterRng(uint64_t seed, RandomPurpose purpose, uint64_t a, uint32_t b, uint32_t c) {
  const auto hash = Philox4x32({Low(a), High(a), b, c}, {Low(seed), High(seed)});
  key_ = {hash[0], hash[1]};
  counter_ = {0, static_cast<uint32_t>(purpose), hash[2], hash[3]};
}

uint32_t CounterRng::NextU32() {
  if (used_ == 4) {
    block_ = Philox4x32(counter_, key_);
    ++counter_[0];
    CHECK_NE(counter_[0], 0U) << "a stream of random numbers is used up";
    used_ = 0;
  }
  return block_[used_++];
}

uint64_t CounterRng::NextU64() {
  const uint64_t high = NextU32();
  return high << 32 | NextU32();
}

uint64_t CounterRng::Below(uint64_t bound) {
  CHECK_GT(bound, 0U);
  // Lemire 2019, "Fast Random Integer Generation in an Interval": products whose low half is below
  // 2^64 mod bound are drawn again, so that each result has equally many products.
  using Wide = unsigned __int128;
  Wide product = static_cast<Wide>(NextU64()) * bound;
  if (static_cast<uint64_t>(product) < bound) {
    const uint64_t threshold = -bound % bound;
    while (static_cast<uint64_t>(product) < threshold) {
      product = static_cast<Wide>(NextU64()) * bound;
    }
  }
  return static_cast<uint64_t>(product >> 64);
}

double CounterRng::Uniform() { return static_cast<double>(NextU64() >> 11) * 0x1p-53; }

double CounterRng::Normal() {
  // The middle of one of 2^52 equal intervals: exact, symmetric, and never 0 or 1.
  return NormalQuantile((static_cast<double>(NextU64() >> 12) + 0.5) * 0x1p-52);
}

}  // namespace swinfleet
