#include "core/memory/compute.h"

namespace swinfleet {

Compute::Compute(const MemoryClasses& planned, Accelerator* gpu, int threads)
    : memory(gpu == nullptr ? MemoryClasses::OnHost(planned)
                            : MemoryClasses::OnDevice(planned, gpu)),
      constants(&memory.parameters),
      context{.ops = gpu == nullptr ? &CpuOps() : &gpu->ops(),
              .workspace = &memory.workspace,
              .threads = threads,
              .stream = gpu == nullptr ? nullptr : gpu->stream(),
              .device = memory.device,
              .accelerator = gpu,
              .constants = &constants,
              .count = nullptr} {}

}  // namespace swinfleet
