// Where the elements of a buffer go in collectives.
#ifndef SWINFLEET_DISTRIBUTED_HALVING_H_
#define SWINFLEET_DISTRIBUTED_HALVING_H_

#include <bit>
#include <cstddef>
#include <span>

namespace swinfleet {

// Rounds of recursive halving for so many ranks; -1 where they are no power of two.
inline int HalvingRounds(int ranks) {
  const auto count = static_cast<unsigned>(ranks);
  return std::has_single_bit(count) ? std::countr_zero(count) : -1;
}

// The part of `data` that is a rank's after `rounds` halvings, nearest rank first.
template <typename T>
std::span<T> Halved(std::span<T> data, int rounds, int rank) {
  for (int round = 0; round < rounds; ++round) {
    const size_t half = data.size() / 2;
    data = (rank >> round) & 1 ? data.subspan(half) : data.first(half);
  }
  return data;
}

// A rank's shard: what halving leaves with it, or else the ranks' shards one after the other. Where
// they can't be equal they differ by one element.
template <typename T>
std::span<T> ShardOf(std::span<T> data, int rank, int ranks) {
  const int rounds = HalvingRounds(ranks);
  if (rounds >= 0) return Halved(data, rounds, rank);
  const size_t begin = data.size() * rank / ranks;
  return data.subspan(begin, data.size() * (rank + 1) / ranks - begin);
}

}  // namespace swinfleet

#endif  // SWINFLEET_DISTRIBUTED_HALVING_H_
