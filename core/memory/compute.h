// Memory and a context to compute with, on the CPU or on a GPU.
#ifndef SWINFLEET_CORE_MEMORY_COMPUTE_H_
#define SWINFLEET_CORE_MEMORY_COMPUTE_H_

#include "core/config/job_config.h"
#include "core/memory/memory_classes.h"
#include "kernels/accelerator.h"
#include "kernels/ops.h"
#include "kernels/placement.h"

namespace swinfleet {

// A process's memory of tensors, and a context that computes on it. Neither moves.
class Compute {
 public:
  // Reserves what `planned` says, on the GPU or, where there is none, on the host. Throws Error.
  Compute(const MemoryClasses& planned, Accelerator* gpu, int threads, Matmul matmul);
  Compute(const Compute&) = delete;
  Compute& operator=(const Compute&) = delete;

  MemoryClasses memory;
  ConstantTables constants;
  Context context;
};

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_MEMORY_COMPUTE_H_
