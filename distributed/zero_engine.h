// The ZeRO engine: parameters, gradients and optimizer state over ranks (Rajbhandari et al. 2020,
// "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models").
#ifndef SWINFLEET_DISTRIBUTED_ZERO_ENGINE_H_
#define SWINFLEET_DISTRIBUTED_ZERO_ENGINE_H_

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/checkpoint/checkpoint.h"
#include "core/config/job_config.h"
#include "core/memory/memory_classes.h"
#include "core/nn/parameters.h"
#include "core/optim/parameter_groups.h"
#include "distributed/communicator.h"
#include "distributed/shard_layout.h"
#include "kernels/ops.h"

namespace swinfleet {

struct ZeroOptions {
  // 0: gradients are all-reduced and every rank keeps the optimizer state of everything.
  // 1: gradients are reduce-scattered, a rank updates its shard, and parameters are all-gathered.
  int stage = 1;
  OptimizerConfig optimizer;
  // One a parameter.
  std::vector<ParameterHyper> hypers;
  // This rank's micro-batches in a step: its contiguous leaves of the summation tree.
  int64_t leaves = 1;
};

// The reduced gradient of a step.
struct GradientNorm {
  // Global 2-norm, the same bits on every rank and for every number of ranks that is a power of
  // two.
  double norm = 0;
  // The first parameter, in the table's order, whose gradient is not finite; empty when all are.
  std::string first_nonfinite;
};

// All memory comes from `memory`, all of it in the constructor. On dry-run memory nothing is
// touched.
//
// A step: BeginStep; for each leaf BeginMicroBatch, Forward, Backward; FinishReduction; Update;
// PublishParameters. Leaf gradients are summed along the binary tree as they come, unit by unit
// (a binary counter: at most log2(leaves) + 1 full gradients wait); with the last leaf each unit's
// reduction over ranks starts at once, under the rest of backward.
class ZeroEngine : public ParameterAccess {
 public:
  ZeroEngine(const ParameterTable& table, Communicator* communicator, const ZeroOptions& options,
             MemoryClasses* memory, Context* context);
  ~ZeroEngine() override;

  // Initial weights as a function of the seed; optimizer state zero.
  void Initialize(uint64_t seed);

  // ParameterAccess.
  TensorView Acquire(int unit) override;
  void Release(int unit) override;
  TensorView Gradient(int unit) override;
  void GradientReady(int unit) override;

  void BeginStep();
  // Leaves are numbered from 0 on each rank and come in order.
  void BeginMicroBatch(int64_t leaf);
  // Waits for the reductions. Collective.
  GradientNorm FinishReduction();
  // One optimizer step on what this rank owns, on gradients times grad_scale. `update` counts
  // updates made before (0 for the first). Every parameter's lr_scale must be 1.
  void Update(double base_rate, int64_t update, float grad_scale);
  // The same with a rate for each parameter, in the table's order.
  void Update(std::span<const double> rates, int64_t update, float grad_scale);
  // Afterwards every rank has all new parameters. Collective.
  void PublishParameters();

  // This rank's share of the state, for a checkpoint: the shards of all ranks together are the
  // whole state once. Valid until the next Update. Of a dry run only the sizes mean something.
  std::vector<TensorPiece> OwnedState() const;
  // Sets parameters and optimizer state from a checkpoint of any number of ranks and any stage.
  // Throws Error when it lacks a tensor or has another shape.
  void Load(const CheckpointReader& reader);
  // A parameter's values, for export and for loading weights.
  std::span<float> ParameterValues(int parameter);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace swinfleet

#endif  // SWINFLEET_DISTRIBUTED_ZERO_ENGINE_H_
