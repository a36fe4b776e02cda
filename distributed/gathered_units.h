// Whole units of a model of which every rank keeps a shard alone (ZeRO stage 3).
#ifndef SWINFLEET_DISTRIBUTED_GATHERED_UNITS_H_
#define SWINFLEET_DISTRIBUTED_GATHERED_UNITS_H_

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/nn/parameters.h"
#include "distributed/communicator.h"
#include "distributed/shard_layout.h"
#include "kernels/arena.h"
#include "kernels/ops.h"

namespace swinfleet {

// A unit is gathered into one of two buffers: while one unit is used in the first, the unit that
// will be used next is gathered into the second. What comes next is what came next the last time,
// so the order of use need not be known; in the first pass nothing is gathered ahead. A unit that
// is still in a buffer (where backward begins, and where it ends) is not gathered again.
//
// Ranks acquire the same units in the same order, also those that have nothing to compute
// (worker/follow.h): then their gathers come in the same order too.
class GatheredUnits {
 public:
  // `shards`: this rank's part of each unit, all of one dtype; what they hold may change, see
  // Forget. `wait_for_shard` is called before a unit's is read, and may throw. Takes the two
  // buffers, each as large as the largest unit with padding, from `memory`. Everything outlives
  // this.
  GatheredUnits(const ParameterTable& table, const ShardLayout& layout,
                std::vector<TensorView> shards,  // (shard) each
                std::function<void(int unit)> wait_for_shard, Communicator* communicator,
                Context* context, Arena* memory);

  // The whole unit, (padded), valid until Release. One unit is in use at a time. Collective.
  TensorView Acquire(int unit);
  void Release(int unit);
  // The shards are about to change: what was gathered of them is of no use any more. No unit is in
  // use.
  void Forget();

 private:
  struct Buffer {
    TensorView memory;  // (largest padded)
    // The unit in it; -1: none.
    int unit = -1;
    bool in_use = false;
    // Of the gather, until somebody waits for it.
    std::unique_ptr<CollectiveHandle> handle;
  };

  // The buffer with the unit; null when none has it.
  Buffer* Find(int unit);
  // Starts the gather of a unit into the buffer that is not in use, and was not used last.
  Buffer* Start(int unit);
  void GatherNext(const Buffer& used);
  // Notes in which order units are used.
  void Note(int unit);
  static void Land(Buffer* buffer);

  const ShardLayout& layout_;
  const std::vector<TensorView> shards_;
  const std::function<void(int unit)> wait_for_shard_;
  Communicator* communicator_;
  Context* context_;
  std::vector<std::string> names_;
  std::array<Buffer, 2> buffers_;
  // The buffer of the unit that was acquired last.
  int last_ = 0;
  // The unit that is or was in use, and the other one before; -1: none.
  int unit_ = -1;
  int before_ = -1;
  // The unit that came next, by the last two: what comes next differs between forward and backward.
  std::map<std::pair<int, int>, int> next_;
};

}  // namespace swinfleet

#endif  // SWINFLEET_DISTRIBUTED_GATHERED_UNITS_H_
