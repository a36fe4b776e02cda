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
  // 2: the same, and of gradients too a rank keeps its shard alone.
  // 3: the same, and of parameters too; units are gathered before they are used, and freed after
  //    (GatheredUnits says when).
  int stage = 1;
  OptimizerConfig optimizer;
  // One a parameter.
  std::vector<ParameterHyper> hypers;
  // Micro-batches of all ranks in a step: the leaves of the summation tree. Which of them are a
  // rank's says ShardLayout::LeavesOf.
  int64_t micro_batches = 1;
  // Of the weights: float32, bfloat16 or float16.
  DType dtype = DType::kF32;
  // Split accumulation needs stage 1 or more, and stages 2 and 3 need it: the sums are the same.
  Accumulation accumulation = Accumulation::kPlain;
  // The library's goes with any form but low precision.
  Reduction reduction = Reduction::kReproducible;
  // Off: nothing is computed beside collectives. The same bits.
  bool overlap = true;
};

// What follows from the job.
ZeroOptions ZeroOptionsFor(const JobConfig& config, const ParameterTable& table);

// The reduced gradient of a step.
struct GradientNorm {
  // Global 2-norm, the same bits on every rank; but for low-precision accumulation, also for every
  // number of ranks that is a power of two.
  double norm = 0;
  // The first parameter, in the table's order, whose gradient is not finite; empty when all are.
  std::string first_nonfinite;
};

// All memory comes from `memory`, all of it in the constructor, which is collective. On dry-run
// memory nothing is touched.
//
// A step: BeginStep; for each of the rank's passes (ShardLayout::PassesOf) BeginMicroBatch,
// Forward, Backward; FinishReduction; Update; PublishParameters.
//
// Parameters. At stage 3 a rank of several keeps its shard, and two buffers of the largest unit's
// size; below, and alone, it has all of them. There Acquire exchanges with the other ranks: all of
// them acquire the same units in the same order, in training and in evaluation, also ranks without
// a micro-batch (worker/follow.h).
//
// Weights below float32. They are in 16 bits wherever they are; the rank that updates one keeps its
// float32 master beside the moments (of bfloat16 the 16 bits that rounding took away, of float16
// all of it), in the optimizer's class. Gradients of parameters are float32. Checkpoints hold
// masters, so that they don't depend on the dtype.
//
// Accumulation, for N elements on P ranks at stage 1 (stage 0 sends twice as much; above there
// is split alone), with M micro-batches of which a rank has L, R = ceil(M / P), and the largest
// unit of U elements:
//
//   form           bytes of gradients                  bytes of them that a rank sends in a step
//   plain          4 N (floor(log2 L) + 1)             4 N (P - 1) / P
//   split          4 N / P floor(log2(R + 1)) + 8 U    4 N R (P - 1) / P
//   low precision  4 N + 4 U                           2 N (P - 1) / P
//
// Plain: a rank's leaves are neighbours. They are summed along the binary tree as they come, unit
// by unit; with the last one each unit's reduction over ranks starts, under the rest of backward.
// Split: each unit is reduced at every leaf, under the backward of the next unit, and a rank sums
// its shard alone. In round k rank r has leaf k P + r. For a power of two ranks it is plain's tree,
// to the bit: these two give the same bits on 1, 2, 4, ... ranks (if M is a multiple of them).
// Low precision: leaves are added up one by one in bfloat16, while the rounding errors of the
// additions are carried along (in bfloat16 too); the ranks' sums are added in float32 and rounded
// once. The result is bfloat16, off by about 2^-9 of the largest partial sums. It has the same bits
// whenever the number of ranks is the same (at stages 0 and 1, with any number of threads, after a
// resume), but other bits on another number of ranks, because the leaves that a rank adds up are
// others.
class ZeroEngine : public ParameterAccess {
 public:
  ZeroEngine(const ParameterTable& table, Communicator* communicator, const ZeroOptions& options,
             MemoryClasses* memory, Context* context);
  ~ZeroEngine() override;

  // Initial weights (masters) as a function of the seed; optimizer state zero.
  void Initialize(uint64_t seed);

  // ParameterAccess. Values are of the options' dtype, gradients float32. One unit's gradient is in
  // use at a time: from Gradient to GradientReady of the same unit. At stage 3 so are its
  // parameters.
  TensorView Acquire(int unit) override;
  void Release(int unit) override;
  TensorView Gradient(int unit) override;
  void GradientReady(int unit) override;

  void BeginStep();
  // The rank's leaves are numbered from 0 and come in order, then the passes in which it has none:
  // there each unit's gradient stays as it is, zero.
  void BeginMicroBatch(int64_t leaf);
  // Waits for the reductions. Collective.
  GradientNorm FinishReduction();
  // One optimizer step on what this rank owns, on gradients times grad_scale, with a rate for each
  // parameter, in the table's order. `update` counts updates made before (0 for the first).
  void Update(std::span<const double> rates, int64_t update, float grad_scale);
  // From then on Acquire gives the new parameters. Collective: at stages 1 and 2 the exchange
  // starts, and Acquire waits for the unit's, so that it runs under the next forward pass.
  void PublishParameters();
  // The first parameter, in the table's order, with a weight that is infinite or NaN in the
  // options' dtype; empty when there is none. Before or after they are published. Nothing mends
  // such a weight, and Load refuses a checkpoint with one that float16 or bfloat16 can't hold.
  // Collective.
  std::string FirstNonfiniteWeight();

  // Between FinishReduction and Update: the unit's reduced gradient as this rank updates with it,
  // float32, (padded) at stage 0 and this rank's shard above. Valid until the next call.
  TensorView ReducedGradient(int unit);

  // This rank's share of the state, for a checkpoint: the shards of all ranks together are the
  // whole state once; parameters are float32 masters. Not between FinishReduction and Update, and
  // valid until the next BeginStep: bfloat16's masters are put together in the gradients' memory.
  // Of a dry run only the sizes mean something.
  std::vector<TensorPiece> OwnedState();
  // Sets parameters and optimizer state from a checkpoint of any number of ranks, any stage and any
  // dtype. Throws Error when it lacks a tensor, has another shape, or holds a weight that the dtype
  // can't.
  void Load(const CheckpointReader& reader);

  // Sets a parameter and its master from float32 values; to be called on all ranks alike. Throws
  // Error for a weight that the dtype can't hold.
  void SetParameter(int parameter, std::span<const float> values);
  // A parameter's values as the model computes with them (16 bits widened). Acquires its unit.
  void GetParameter(int parameter, std::span<float> values);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace swinfleet

#endif  // SWINFLEET_DISTRIBUTED_ZERO_ENGINE_H_
