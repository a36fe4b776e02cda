#include "core/memory/compute.h"

namespace swinfleet {

Compute::Compute(const MemoryClasses& planned, Accelerator* gpu, int threads, Matmul matmul)
    : memory(gpu == nullptr ? MemoryClasses::OnHost(planned)
                            : MemoryClasses::OnDevice(planned, gpu)),
      constants(&memory.parameters),
      context(ContextOn(gpu, threads, &memory.workspace)) {
  context.constants = &constants;
  context.tf32 = matmul == Matmul::kTf32;
}

}  // namespace swinfleet
