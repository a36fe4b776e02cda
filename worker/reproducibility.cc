#include "worker/reproducibility.h"

#include "kernels/ops.h"

namespace swinfleet {

ReproducibilityKey MakeReproducibilityKey(const JobConfig& config) {
  ReproducibilityKey key;
  key.program_version = SWINFLEET_VERSION;
  key.instruction_set = CpuInstructionSet();
  key.threads_per_rank = config.parallel.threads_per_rank;
  key.micro_batch_size = config.train.micro_batch;
  key.micro_batches = config.train.micro_batches();
  return key;
}

}  // namespace swinfleet
