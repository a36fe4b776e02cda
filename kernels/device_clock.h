// A GPU's own clock, for profiles.
#ifndef SWINFLEET_KERNELS_DEVICE_CLOCK_H_
#define SWINFLEET_KERNELS_DEVICE_CLOCK_H_

#include <cstddef>

namespace swinfleet {

// Notes moments of what a GPU does, without anybody waiting for them. To be used by the
// accelerator's thread, and not longer than the accelerator. Every call throws Error when the GPU
// has failed.
class DeviceClock {
 public:
  virtual ~DeviceClock() = default;

  // Notes when all that was put on the stream so far, the accelerator's or its collectives', is
  // done. A number that no other moment has at present.
  virtual size_t Note(void* stream) = 0;
  // Seconds from a moment that has come by then to another one, for which the host waits. As exact
  // as the GPU's clock, which is about half a microsecond.
  virtual double SecondsBetween(size_t from, size_t to) = 0;
  // Nobody asks for this moment any more.
  virtual void Forget(size_t moment) = 0;
};

}  // namespace swinfleet

#endif  // SWINFLEET_KERNELS_DEVICE_CLOCK_H_
