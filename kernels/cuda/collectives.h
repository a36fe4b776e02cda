// Collectives by NCCL, beside a stream that computes.
#ifndef SWINFLEET_KERNELS_CUDA_COLLECTIVES_H_
#define SWINFLEET_KERNELS_CUDA_COLLECTIVES_H_

#include <atomic>
#include <memory>

#include "kernels/accelerator.h"
#include "kernels/cuda/gpu.h"

namespace swinfleet::cuda {

// Throws Error.
CollectivesId NewNcclId();

// What DeviceCollectives know of their GPU.
struct CollectivesSetting {
  int gpu = 0;  // its number
  cudaStream_t computing = nullptr;
  // Set by Abort, before anything that waited goes on.
  std::atomic<bool>* aborted = nullptr;
};

// As Accelerator::Join.
std::unique_ptr<DeviceCollectives> JoinNccl(const CollectivesSetting& setting,
                                            const CollectivesId& id, int place, int processes);

}  // namespace swinfleet::cuda

#endif  // SWINFLEET_KERNELS_CUDA_COLLECTIVES_H_
