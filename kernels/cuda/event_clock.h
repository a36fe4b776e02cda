// A clock of events.
#ifndef SWINFLEET_KERNELS_CUDA_EVENT_CLOCK_H_
#define SWINFLEET_KERNELS_CUDA_EVENT_CLOCK_H_

#include <cstddef>
#include <memory>

#include "kernels/device_clock.h"

namespace swinfleet::cuda {

// As Accelerator::MakeClock.
std::unique_ptr<DeviceClock> MakeEventClock(size_t moments);

}  // namespace swinfleet::cuda

#endif  // SWINFLEET_KERNELS_CUDA_EVENT_CLOCK_H_
