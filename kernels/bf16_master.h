// A float32 number as a bfloat16 weight and the 16 bits that rounding takes away (AdamWArgs in
// kernels/ops.h says why). Halfway cases go away from zero: only then do 16 more bits give the
// number back.
#ifndef SWINFLEET_KERNELS_BF16_MASTER_H_
#define SWINFLEET_KERNELS_BF16_MASTER_H_

#include <cstdint>

namespace swinfleet {

// Of the bits of a float32 number.
inline uint16_t Bf16OfMaster(uint32_t master) {
  return static_cast<uint16_t>((master + 0x8000) >> 16);
}
inline uint16_t RemainderOfMaster(uint32_t master) { return static_cast<uint16_t>(master); }

// (bf16 << 16 | remainder), less one of the upper half where that was rounded up.
inline uint32_t JoinMaster(uint16_t bf16, uint16_t remainder) {
  return (uint32_t{bf16} << 16 | remainder) - ((uint32_t{remainder} & 0x8000) << 1);
}

}  // namespace swinfleet

#endif  // SWINFLEET_KERNELS_BF16_MASTER_H_
