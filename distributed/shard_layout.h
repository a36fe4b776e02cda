// Which rank owns which part of each unit: pure arithmetic.
#ifndef SWINFLEET_DISTRIBUTED_SHARD_LAYOUT_H_
#define SWINFLEET_DISTRIBUTED_SHARD_LAYOUT_H_

#include <cstdint>
#include <vector>

#include "core/config/job_config.h"
#include "core/nn/parameters.h"

namespace swinfleet {

// Every unit is padded to ranks * (whole chunks of kNormChunk elements), so that shards are equal
// and cut at chunks: the chunks' sums, and so the norm, do not depend on the number of ranks.
class ShardLayout {
 public:
  ShardLayout(const ParameterTable& table, int ranks);

  int ranks() const { return ranks_; }
  // Elements of the unit with padding for this number of ranks.
  int64_t PaddedSize(int unit) const { return padded_[unit]; }
  int64_t ShardSize(int unit) const { return padded_[unit] / ranks_; }
  // First element of the rank's shard within the unit.
  int64_t ShardBegin(int unit, int rank) const {
    return ShardIndex(rank, ranks_) * ShardSize(unit);
  }

  // The place of a rank's shard: what recursive halving, nearest rank first, leaves with it (the
  // rank's bits reversed) when `ranks` is a power of two; the rank itself otherwise.
  static int ShardIndex(int rank, int ranks);

  // A rank's micro-batches of a step, leaves of the summation tree: number i of them is leaf
  // first + i * stride.
  struct Leaves {
    int64_t first = 0;
    int64_t count = 0;
    int64_t stride = 1;
    int64_t operator[](int64_t i) const { return first + i * stride; }
  };
  // Of `micro_batches` leaves. Contiguous in rank order, so that each rank sums a subtree; where
  // sums are made in rounds one leaf of each round in turn, so that the ranks' leaves of a round
  // are a subtree. With a power of two ranks (at most as many as leaves) both are the same tree.
  static Leaves LeavesOf(Accumulation accumulation, int rank, int ranks, int64_t micro_batches);
  // Rounds in which ranks take a leaf each: what the rank with the most leaves has of them.
  static int64_t Rounds(int ranks, int64_t micro_batches) {
    return (micro_batches + ranks - 1) / ranks;
  }

  // Passes over the model that a rank takes part in: its leaves, and where sums are made in rounds
  // all of them, where it exchanges with ranks that have a leaf in the last one.
  static int64_t PassesOf(Accumulation accumulation, int rank, int ranks, int64_t micro_batches) {
    return SumsInRounds(accumulation) ? Rounds(ranks, micro_batches)
                                      : LeavesOf(accumulation, rank, ranks, micro_batches).count;
  }

  // A rank's part of `leaves` things: [begin, end), contiguous, in rank order.
  static int64_t LeafBegin(int rank, int ranks, int64_t leaves) { return rank * leaves / ranks; }
  static int64_t LeafCount(int rank, int ranks, int64_t leaves) {
    return LeafBegin(rank + 1, ranks, leaves) - LeafBegin(rank, ranks, leaves);
  }

  // The part of a parameter that lies in [begin, begin + size) of its unit.
  struct Segment {
    int parameter = 0;
    // Elements from the start of the parameter, and of the unit.
    int64_t parameter_begin = 0;
    int64_t unit_begin = 0;
    int64_t size = 0;
  };
  // The parts of parameters in a rank's shard of a unit, in order; padding is in none.
  std::vector<Segment> ShardSegments(int unit, int rank) const;
  // The same for the whole unit.
  std::vector<Segment> UnitSegments(int unit) const;

 private:
  std::vector<Segment> SegmentsIn(int unit, int64_t begin, int64_t size) const;

  const ParameterTable& table_;
  int ranks_;
  std::vector<int64_t> padded_;
};

}  // namespace swinfleet

#endif  // SWINFLEET_DISTRIBUTED_SHARD_LAYOUT_H_
