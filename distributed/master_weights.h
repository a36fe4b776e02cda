// Weights in 16 bits and the float32 masters that updates work on (AdamWArgs says how both are
// kept), on host memory.
#ifndef SWINFLEET_DISTRIBUTED_MASTER_WEIGHTS_H_
#define SWINFLEET_DISTRIBUTED_MASTER_WEIGHTS_H_

#include <span>

#include "kernels/tensor.h"

namespace swinfleet {

// What is kept beside a weight of this dtype: uint16 for bfloat16, float32 for float16.
DType MasterDType(DType weights);

// values = masters, rounded. Returns false if a finite one is beyond what the dtype can hold (it
// has become infinite).
bool RoundWeights(std::span<const float> masters,
                  const TensorView& values);  // (n), float32, bfloat16 or float16

// kept = what `values` lack of the masters.
void KeepMasters(std::span<const float> masters,
                 const TensorView& kept);  // (n), uint16 or float32

// The masters, to the bit.
void RestoreMasters(const TensorView& values,  // (n), bfloat16 or float16
                    const TensorView& kept,    // (n)
                    std::span<float> masters);

// The values as they are, in float32.
void WidenWeights(const TensorView& values,  // (n), float32, bfloat16 or float16
                  std::span<float> out);

}  // namespace swinfleet

#endif  // SWINFLEET_DISTRIBUTED_MASTER_WEIGHTS_H_
