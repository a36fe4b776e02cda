// A pseudo-random permutation computed index by index, without a table.
#ifndef SWINFLEET_CORE_RNG_KEYED_PERMUTATION_H_
#define SWINFLEET_CORE_RNG_KEYED_PERMUTATION_H_

#include <array>
#include <cstdint>

#include "core/rng/counter_rng.h"

namespace swinfleet {

// A bijection of [0, count) onto itself, for every count > 0, chosen by the first numbers of a
// stream. It is a Feistel network over the smallest power of two that holds count; an image outside
// of [0, count) is mapped again until it lies within (fewer than two mappings on average).
class KeyedPermutation {
 public:
  KeyedPermutation(CounterRng rng, int64_t count);
  // The image of `position`, in [0, count).
  int64_t operator()(int64_t position) const;

 private:
  static constexpr int kRounds = 24;
  uint64_t Permute(uint64_t value) const;

  uint64_t count_;
  int low_bits_;
  int high_bits_;
  std::array<uint64_t, kRounds> keys_;
};

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_RNG_KEYED_PERMUTATION_H_
