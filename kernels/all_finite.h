#ifndef SWINFLEET_KERNELS_ALL_FINITE_H_
#define SWINFLEET_KERNELS_ALL_FINITE_H_

#include "kernels/tensor.h"

namespace swinfleet {

// Whether no value is infinite or NaN; in memory of the CPU, looked through by so many threads.
bool CpuAllFinite(const TensorView& values,  // (n), float32, bfloat16 or float16
                  int threads);

}  // namespace swinfleet

#endif  // SWINFLEET_KERNELS_ALL_FINITE_H_
