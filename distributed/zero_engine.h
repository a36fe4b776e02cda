// The ZeRO engine: parameters, gradients and optimizer state over ranks (Rajbhandari et al. 2020,
// "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models").
#ifndef SWINFLEET_DISTRIBUTED_ZERO_ENGINE_H_
#define SWINFLEET_DISTRIBUTED_ZERO_ENGINE_H_

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/checkpoint/checkpoint.h"
#include "core/config/job_config.h"
#include "core/memory/memory_classes.h"
#include "core/nn/parameters.h"
#include "core/optim/parameter_groups.h"
#include "distributed/communicator.h"
#include "distributed/offload_files.h"
#include "distributed/offloaded_state.h"
#include "distributed/pinned_state.h"
#include "distributed/shard_layout.h"
#include "kernels/ops.h"

namespace swinfleet {

// Where the optimizer's state is kept, if not with the weights.
struct OffloadOptions {
  // kHost (PinnedState): of weights on a GPU. kDisk (OffloadedState).
  Offload kind = Offload::kNone;
  // The pieces that pass through memory in an update.
  int64_t piece_elements = kPieceElements;
  // The rest is kDisk's. OffloadRunFolder's; in a dry run any name will do.
  std::string run_folder = {};
  int64_t attempt = 1;
  // CheckpointPlace's: what checkpoints will take is counted where it is the same disk.
  std::string run_dir = {};
  int64_t kept_checkpoints = 0;
  // Saves run beside updates.
  bool asynchronous_saves = true;
  FileOps* ops = &FileOps::System();
};

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
  // Forms that sum in rounds need stage 1 or more, and stages 2 and 3 need one of them.
  Accumulation accumulation = Accumulation::kPlain;
  // The library's goes with sums in float32.
  Reduction reduction = Reduction::kReproducible;
  // Off: nothing is computed beside collectives, nor beside updates on a disk. The same bits.
  bool overlap = true;
  OffloadOptions offload = {};
  // The job's, by which moments in bfloat16 are rounded (MomentRounding).
  uint64_t seed = 0;
};

// What follows from the job. The attempt of offloaded state is the caller's to set.
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
// memory nothing is touched. On GPUs NCCL exchanges tensors.
//
// A step: BeginStep; for each of the rank's passes (ShardLayout::PassesOf) BeginMicroBatch,
// Forward, Backward; FinishReduction; Update; PublishParameters.
//
// Errors of the disk of offloaded state are thrown by whatever waits for its update (Update says
// what does), and by all that reads or sets state. The engine is of no further use then.
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
// Offload. Moments and what 16-bit weights lack of their masters are in files of this rank's or,
// beside a GPU, in pinned memory of the host, and of the optimizer's class only the buffers are
// left that they stream through in an update. The bits are the same, unless moments are kept in
// bfloat16: these too depend on nothing but the job. An update runs beside what comes next, the
// forward pass of the next step: that needs the first units when these are updated, while the disk
// or the link is busy with the later ones.
//
// Accumulation, for N elements on P ranks at stage 1 (stage 0 sends twice as much; above there
// are the two that split), with M micro-batches of which a rank has L, R = ceil(M / P), and the
// largest unit of U elements:
//
//   form                 bytes of gradients                     bytes that a rank sends in a step
//   plain                4 N (floor(log2 L) + 1)                4 N (P - 1) / P
//   split                4 N / P floor(log2(R + 1)) + 8 U       4 N R (P - 1) / P
//   low precision        4 N + 4 U                              2 N (P - 1) / P
//   split low precision  2 N / P (4 N / P where R > 1) + 6 U    2 N R (P - 1) / P
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
// Split low precision: split's rounds. A leaf is rounded to bfloat16, the ranks' leaves of a round
// are added in float32 and rounded once, and rounds are added up as low precision adds up leaves.
// With the same number of ranks it has the same bits at stages 1 to 3.
class ZeroEngine : public ParameterAccess {
 public:
  // Throws Error when state is to be kept on a disk that has not the room, or whose folder can't be
  // used.
  ZeroEngine(const ParameterTable& table, Communicator* communicator, const ZeroOptions& options,
             MemoryClasses* memory, Context* context);
  ~ZeroEngine() override;

  // By which the engine's ranks exchange everything: what it was given or, on GPUs, one that has it
  // for the small things. Whoever exchanges something beside the engine does so by this one, whose
  // position tells of both.
  Communicator* communicator();

  // Initial weights (masters) as a function of the seed; optimizer state zero. Either this or Load
  // comes first.
  void Initialize(uint64_t seed);

  // ParameterAccess. Values are of the options' dtype, gradients float32. One unit's gradient is in
  // use at a time: from Gradient to GradientReady of the same unit. At stage 3 so are its
  // parameters.
  TensorView Acquire(int unit) override;
  void Release(int unit) override;
  TensorView Gradient(int unit) override;
  bool TakeUnwritten(int parameter) override;
  void GradientReady(int unit) override;

  void BeginStep();
  // The rank's leaves are numbered from 0 and come in order, then the passes in which it has none:
  // there each unit's gradient stays as it is, zero.
  void BeginMicroBatch(int64_t leaf);
  // Waits for the reductions. Collective.
  GradientNorm FinishReduction();
  // One optimizer step on what this rank owns, on gradients times grad_scale, with a rate for each
  // parameter, in the table's order. `update` counts updates made before (0 for the first). With
  // offloaded state the update is only started (without overlap it is also waited for): Acquire and
  // PublishParameters wait for the unit's, Gradient and all that reads or sets state for all of it.
  void Update(std::span<const double> rates, int64_t update, float grad_scale);
  // Waits until an update that was started is over.
  void FinishUpdate();
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
  // whole state once; parameters are float32 masters, those of 16-bit weights put together when
  // they are read. Valid until the next Update. Of a dry run only the sizes mean something. Of
  // offloaded state only the parameters are here.
  std::vector<TensorPiece> OwnedState();
  // A copy of it as it is now, in a buffer that is large enough (CHECK); of use, to one other
  // thread too, as long as the buffer is not changed. On a GPU this returns before the copy is
  // there: it is made beside what comes next, as far as the next Update, and the buffer is pinned
  // (Accelerator::Pin). Pieces wait for it when they are read, and throw Error when it failed.
  // Throws Error.
  std::vector<TensorPiece> CopyState(std::span<float> buffer);
  // Offloaded moments for a checkpoint, as they are now: what comes after writes other files.
  // Nothing where there are none, or where another rank has them to give.
  std::optional<SharedShard> PinState();
  // Sets parameters and optimizer state from a checkpoint of any number of ranks, any stage and any
  // dtype. Throws Error when it lacks a tensor, has another shape, or holds a weight that the dtype
  // can't.
  void Load(const CheckpointReader& reader);

  // Of offloaded state, else zero. And the time that others have waited for its updates so far.
  DiskUse disk_use() const;
  double disk_wait_seconds() const;

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
