// The one table of tolerances between a backend and the reference.
#ifndef SWINFLEET_TESTS_REFERENCE_TOLERANCE_H_
#define SWINFLEET_TESTS_REFERENCE_TOLERANCE_H_

#include <cmath>
#include <cstdint>

#include "kernels/tensor.h"

namespace swinfleet::reference {

// Largest relative error of rounding to a dtype.
constexpr double UnitRoundoff(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return 0x1p-24;
    case DType::kF16:
      return 0x1p-11;
    case DType::kBF16:
      return 0x1p-8;
    case DType::kI32:
    case DType::kU16:
      break;
  }
  return 0;
}

// Allowed max|x - reference| / max|reference| of one tensor, for elements that are sums of `terms`
// products accumulated in float32. Sixteen roundings (1e-6 in float32) cover an operation without
// sums and the polynomial of an exponential. A sum of random terms loses about sqrt(terms) / 5
// roundings when added up one by one, relative to the largest of many such sums; sqrt(terms) leaves
// room for unlucky data, not for a wrong term.
//
// Outputs of 16 bits are computed in float32 from inputs that are what they are, and rounded once
// at the end. Two roundings (0.8% in bfloat16, 0.1% in float16, of the largest element) leave room
// for a second one where an output is added to.
//
// `amplification` is the condition number of what comes before, where it is known: a score of 100
// that is one rounding off changes its exponential by 100 roundings.
inline double Tolerance(DType dtype, double terms = 1, double amplification = 1) {
  const double rounding = dtype == DType::kF32 ? 0 : 2 * UnitRoundoff(dtype);
  return rounding + amplification * (16 + std::sqrt(terms)) * UnitRoundoff(DType::kF32);
}

}  // namespace swinfleet::reference

#endif  // SWINFLEET_TESTS_REFERENCE_TOLERANCE_H_
