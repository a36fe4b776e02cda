// How much memory a rank will need: the step's own code, run dry.
#ifndef SWINFLEET_WORKER_MEMORY_PLAN_H_
#define SWINFLEET_WORKER_MEMORY_PLAN_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/config/job_config.h"
#include "core/data/dataset.h"
#include "core/data/loader.h"
#include "core/memory/memory_classes.h"
#include "distributed/communicator.h"
#include "distributed/zero_engine.h"
#include "kernels/ops.h"

namespace swinfleet {

// What only workers know: they see the data.
struct DataFacts {
  // Bytes of both splits that stay in memory: the pictures of idx files, the names of others.
  size_t held_bytes = 0;
  // Dataset::Decoding of each split.
  DecodingMemory train_decoding;
  DecodingMemory eval_decoding;
  // Pictures of the evaluation split; 0: not known.
  int64_t eval_pictures = 0;
};
DataFacts FactsOf(const Dataset& train, const Dataset& eval);

// What the process does besides training steps.
struct PlanOptions {
  bool evaluation = true;
  bool checkpoints = true;
  // Off: the caller holds one micro-batch itself.
  bool loader = true;
  // Where tensors are.
  Device device = Device::kCpu;
  DataFacts data;
};

struct MemoryPlan {
  // Dry-run arenas whose high-water marks are the plan.
  MemoryClasses memory = MemoryClasses::DryRun();
  // Of one step of this rank.
  WorkCount step;
  // Bytes that this rank sends in one step.
  Traffic traffic;
  // This rank's micro-batches of a step.
  int64_t leaves = 0;
  // Bytes of the copy that an asynchronous save is written from; 0 for a job without one.
  size_t save_copy_bytes = 0;
  // Micro-batches that were loaded and wait, for training and for evaluation.
  size_t loader_bytes = 0;
  // All threads of the loaders decoding at once. An estimate, see DecodingMemory.
  size_t decoding_bytes = 0;
  // DataFacts::held_bytes.
  size_t data_bytes = 0;
  // What messages between ranks pass through.
  size_t message_bytes = 0;
  // Tables that modules keep outside of the arenas: indices of position biases.
  size_t table_bytes = 0;
  // Code, libraries and what they allocate: measured, not planned.
  size_t program_bytes = 0;

  // Of offloaded state.
  DiskUse disk;

  // Every class of the host's memory with its bytes; they add up to PredictedProcessBytes.
  std::vector<std::pair<std::string, size_t>> Classes() const;
  // Those of a GPU's memory, which add up to memory.DeviceHighWater(); none without one.
  std::vector<std::pair<std::string, size_t>> GpuClasses() const;
  // What the process's largest resident size (VmHWM) will be, to within 5% and 150 MB; with a GPU,
  // without what the driver takes.
  size_t PredictedProcessBytes() const;
  // What a limit is held against: the GPU's memory, without one the process's.
  size_t LimitedBytes() const;
};

// Runs one training step and one batch of evaluation of rank `rank` of `ranks` on the dry-run
// device. Nothing of the model's size is allocated. `config` is valid.
//
// Of a step of many micro-batches two are run; what a further one adds (work, traffic) is what the
// second one did, and the classes of memory don't depend on it but for the gradients', which are
// taken before the first.
MemoryPlan PlanMemory(const JobConfig& config, int rank, int ranks,
                      const PlanOptions& options = {});

// The first of the ranks that have the most micro-batches of a step: the one to plan for.
int BusiestRank(const JobConfig& config, int ranks);

// A micro-batch for the dry run: nothing but masks, as pre-training draws them, is filled in.
Batch DryBatch(const JobConfig& config, int64_t pictures);

// "20.3 GiB", "112.0 MiB".
std::string BytesText(size_t bytes);

}  // namespace swinfleet

#endif  // SWINFLEET_WORKER_MEMORY_PLAN_H_
