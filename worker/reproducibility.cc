#include "worker/reproducibility.h"

#include "kernels/accelerator.h"
#include "kernels/ops.h"

namespace swinfleet {
namespace {

// As safetensors name them.
const char* StoredName(DType dtype) {
  if (dtype == DType::kF32) return "F32";
  return dtype == DType::kBF16 ? "BF16" : "F16";
}

}  // namespace

ReproducibilityKey MakeReproducibilityKey(const JobConfig& config, const Accelerator* gpu) {
  ReproducibilityKey key;
  key.program_version = SWINFLEET_VERSION;
  key.instruction_set = gpu == nullptr ? CpuInstructionSet() : gpu->name();
  if (config.train.matmul == Matmul::kTf32) key.instruction_set += " in TF32";
  key.threads_per_rank = config.parallel.threads_per_rank;
  key.micro_batch_size = config.train.micro_batch;
  key.micro_batches = config.train.micro_batches();
  key.dtype = StoredName(config.train.dtype);
  key.moments = StoredName(config.train.optimizer.moments);
  if (config.train.accumulation == Accumulation::kLowPrecision) key.accumulation = "low precision";
  if (config.train.accumulation == Accumulation::kSplitLowPrecision) {
    key.accumulation = "split low precision";
  }
  if (config.parallel.reduction == Reduction::kLibrary) key.accumulation = "library";
  // A budget that nothing was chosen for yet leaves them open.
  if (config.memory.budget > 0 && config.memory.sequential_windows.empty()) return key;
  for (int stage = 0; stage < config.model.num_stages(); ++stage) {
    key.sequential_windows.push_back(config.memory.StageSequentialWindows(stage));
  }
  return key;
}

}  // namespace swinfleet
