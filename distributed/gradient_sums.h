// How the gradients of a step's micro-batches become one sum over all ranks: the forms of
// accumulation (zero_engine.h compares them).
#ifndef SWINFLEET_DISTRIBUTED_GRADIENT_SUMS_H_
#define SWINFLEET_DISTRIBUTED_GRADIENT_SUMS_H_

#include <cstdint>
#include <memory>
#include <string>

#include "core/config/job_config.h"
#include "core/memory/memory_classes.h"
#include "core/nn/parameters.h"
#include "distributed/communicator.h"
#include "distributed/shard_layout.h"
#include "kernels/ops.h"

namespace swinfleet {

// What the forms share. Everything outlives them.
struct GradientSetting {
  const ParameterTable* table = nullptr;
  const ShardLayout* layout = nullptr;
  Communicator* communicator = nullptr;
  Context* context = nullptr;
  int stage = 1;
  // Of all ranks in a step.
  int64_t micro_batches = 1;
};

// Padded below: the unit's elements with padding for the number of ranks; shard: those of them that
// are this rank's. One unit is open at a time. All memory is taken in the constructor, from the
// gradients' class.
class GradientSums {
 public:
  virtual ~GradientSums() = default;

  // Where the unit's gradient of this rank's leaf number `leaf`, or of a round in which it has
  // none, is to be added up: float32, (padded), zero.
  virtual TensorView Open(int unit, int64_t leaf) = 0;
  // That gradient is complete. Starts the unit's exchange with the other ranks when it's due.
  virtual void Close(int unit, int64_t leaf) = 0;
  // After the last leaf: waits until every unit is reduced. Collective.
  virtual void Finish() = 0;

  // The reduced gradient, float32 or bfloat16, (shard).
  virtual TensorView OwnShard(int unit) const = 0;
  // The reduced gradient that this rank updates with, in the same dtype: (padded) at stage 0,
  // (shard) above. It stays until the next step's first Open.
  virtual TensorView Reduced(int unit) const = 0;

  // Float32 memory that is free between steps, for one unit at a time, (padded).
  virtual TensorView Staging(int unit) = 0;
};

std::unique_ptr<GradientSums> MakeGradientSums(Accumulation accumulation,
                                               const GradientSetting& setting,
                                               MemoryClasses* memory);

}  // namespace swinfleet

#endif  // SWINFLEET_DISTRIBUTED_GRADIENT_SUMS_H_
