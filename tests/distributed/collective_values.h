// What ranks give to collectives in tests.
#ifndef SWINFLEET_TESTS_DISTRIBUTED_COLLECTIVE_VALUES_H_
#define SWINFLEET_TESTS_DISTRIBUTED_COLLECTIVE_VALUES_H_

#include <bit>
#include <cstddef>
#include <cstdint>

namespace swinfleet {

// What rank `rank` gives: sums of these round, so their order shows.
inline float Value(int rank, size_t i) {
  const uint64_t x = (i * 2654435761u + rank * 40503u + 12345u) * 6364136223846793005ull;
  return static_cast<float>(static_cast<double>(x >> 33) * 0x1.0p-31 - 0.3) *
         (rank % 2 == 0 ? 1.0f : 1e-3f);
}

inline uint16_t Bf16Value(int rank, size_t i) {
  return static_cast<uint16_t>(std::bit_cast<uint32_t>(Value(rank, i)) >> 16);
}

}  // namespace swinfleet

#endif  // SWINFLEET_TESTS_DISTRIBUTED_COLLECTIVE_VALUES_H_
