// Philox4x32-10 (Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3"): random numbers
// that are a function of a counter, so that nothing depends on what was drawn before.
#ifndef SWINFLEET_KERNELS_PHILOX_H_
#define SWINFLEET_KERNELS_PHILOX_H_

#include <array>
#include <cstdint>

namespace swinfleet {

struct Philox {
  static constexpr int kRounds = 10;
  static constexpr uint32_t kMultiplier0 = 0xD2511F53;
  static constexpr uint32_t kMultiplier1 = 0xCD9E8D57;
  static constexpr uint32_t kWeyl0 = 0x9E3779B9;
  static constexpr uint32_t kWeyl1 = 0xBB67AE85;
};

// One block. For a given key it is a bijection of the counter.
inline std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter,
                                          std::array<uint32_t, 2> key) {
  const auto low = [](uint64_t value) { return static_cast<uint32_t>(value); };
  const auto high = [](uint64_t value) { return static_cast<uint32_t>(value >> 32); };
  for (int round = 0; round < Philox::kRounds; ++round) {
    const uint64_t product0 = uint64_t{Philox::kMultiplier0} * counter[0];
    const uint64_t product1 = uint64_t{Philox::kMultiplier1} * counter[2];
    counter = {high(product1) ^ counter[1] ^ key[0], low(product1),
               high(product0) ^ counter[3] ^ key[1], low(product0)};
    key[0] += Philox::kWeyl0;
    key[1] += Philox::kWeyl1;
  }
  return counter;
}

// A run of 2^34 random numbers of 32 bits: number i is word i % 4 of the block of `key` and the
// counter (i / 4, counter[0], counter[1], counter[2]).
struct RandomStream {
  std::array<uint32_t, 2> key = {};
  std::array<uint32_t, 3> counter = {};
};

}  // namespace swinfleet

#endif  // SWINFLEET_KERNELS_PHILOX_H_
