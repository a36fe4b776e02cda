#include "core/rng/keyed_permutation.h"

#include <glog/logging.h>

#include <bit>

namespace swinfleet {
namespace {

// The finaliser of SplitMix64: every bit of the input moves every bit of the output.
uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

uint64_t Mask(int bits) { return (uint64_t{1} << bits) - 1; }

}  // namespace

KeyedPermutation::KeyedPermutation(CounterRng rng, int64_t count) {
  CHECK_GT(count, 0);
  count_ = static_cast<uint64_t>(count);
  const int bits = std::bit_width(count_ - 1);
  high_bits_ = bits / 2;
  low_bits_ = bits - high_bits_;
  for (uint64_t& key : keys_) key = rng.NextU64();
}

uint64_t KeyedPermutation::Permute(uint64_t value) const {
  uint64_t high = value >> low_bits_;
  uint64_t low = value & Mask(low_bits_);
  for (int round = 0; round < kRounds; round += 2) {
    high ^= Mix(low + keys_[round]) & Mask(high_bits_);
    low ^= Mix(high + keys_[round + 1]) & Mask(low_bits_);
  }
  return high << low_bits_ | low;
}

int64_t KeyedPermutation::operator()(int64_t position) const {
  CHECK_GE(position, 0);
  CHECK_LT(static_cast<uint64_t>(position), count_);
  uint64_t value = static_cast<uint64_t>(position);
  do {
    value = Permute(value);
  } while (value >= count_);
  return static_cast<int64_t>(value);
}

}  // namespace swinfleet
