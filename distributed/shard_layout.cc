#include "distributed/shard_layout.h"

#include <algorithm>
#include <bit>

#include "kernels/ops.h"

namespace swinfleet {

ShardLayout::ShardLayout(const ParameterTable& table, int ranks) : table_(table), ranks_(ranks) {
  CHECK_GE(ranks, 1);
  const int64_t multiple = ranks * kNormChunk;
  for (const Unit& unit : table.units()) {
    padded_.push_back((unit.size + multiple - 1) / multiple * multiple);
  }
}

int ShardLayout::ShardIndex(int rank, int ranks) {
  CHECK(rank >= 0 && rank < ranks) << rank << " of " << ranks;
  if (!std::has_single_bit(static_cast<unsigned>(ranks))) return rank;
  int index = 0;
  for (int bit = 1, mirrored = ranks / 2; bit < ranks; bit *= 2, mirrored /= 2) {
    if (rank & bit) index |= mirrored;
  }
  return index;
}

ShardLayout::Leaves ShardLayout::LeavesOf(Accumulation accumulation, int rank, int ranks,
                                          int64_t micro_batches) {
  CHECK(rank >= 0 && rank < ranks && ranks <= micro_batches)
      << "rank " << rank << " of " << ranks << ", " << micro_batches << " micro-batches";
  if (!SumsInRounds(accumulation)) {
    return {.first = LeafBegin(rank, ranks, micro_batches),
            .count = LeafCount(rank, ranks, micro_batches),
            .stride = 1};
  }
  return {.first = rank, .count = Rounds(ranks, micro_batches - rank), .stride = ranks};
}

std::vector<ShardLayout::Segment> ShardLayout::ShardSegments(int unit, int rank) const {
  return SegmentsIn(unit, ShardBegin(unit, rank), ShardSize(unit));
}

std::vector<ShardLayout::Segment> ShardLayout::UnitSegments(int unit) const {
  return SegmentsIn(unit, 0, PaddedSize(unit));
}

std::vector<ShardLayout::Segment> ShardLayout::SegmentsIn(int unit, int64_t begin,
                                                          int64_t size) const {
  std::vector<Segment> segments;
  for (const int index : table_.units()[unit].parameters) {
    const ParameterInfo& info = table_.parameters()[index];
    const int64_t first = std::max(begin, info.offset);
    const int64_t last = std::min(begin + size, info.offset + info.size());
    if (first >= last) continue;
    segments.push_back({index, first - info.offset, first, last - first});
  }
  return segments;
}

}  // namespace swinfleet
