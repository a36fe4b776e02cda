// Numbers of 16 bits, computed from their definition with double precision.
#ifndef SWINFLEET_TESTS_REFERENCE_ROUNDING_H_
#define SWINFLEET_TESTS_REFERENCE_ROUNDING_H_

#include <cstdint>

#include "kernels/tensor.h"

namespace swinfleet::reference {

// The number of a floating dtype that is nearest to x, of two the even one; infinity beyond the
// largest.
double Round(double x, DType dtype);

// The bits of a number that bfloat16 or float16 holds exactly.
uint16_t ToBits(double x, DType dtype);
// The number that bits of bfloat16 or float16 mean.
double FromBits(uint16_t bits, DType dtype);

}  // namespace swinfleet::reference

#endif  // SWINFLEET_TESTS_REFERENCE_ROUNDING_H_
