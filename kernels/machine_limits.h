// What this machine, or a GPU, can do at most, measured: what the time of an operation is compared
// with.
#ifndef SWINFLEET_KERNELS_MACHINE_LIMITS_H_
#define SWINFLEET_KERNELS_MACHINE_LIMITS_H_

#include "kernels/tensor.h"

namespace swinfleet {

class Accelerator;

struct MachineLimits {
  // Of matrix products of the dtype, FLOP/s: the best of square ones of 1024 to 4096; on a GPU of
  // sizes that double until one takes long enough to be measured well.
  double flops = 0;
  // Of memory, bytes/s: y += x over arrays larger than the caches, reads and writes counted; the
  // upper quartile of many runs.
  double bandwidth = 0;
  // Seconds of a linear layer and of an addition of one element: the fixed cost of a call, on a GPU
  // of one that many others follow.
  double linear_call_seconds = 0;
  double add_call_seconds = 0;

  // Seconds that a line of the cache takes from the first thread to the last: several times as long
  // where they have no cache in common, which costs every operation that follows another one. 0 of
  // one thread, and of a GPU.
  double handover_seconds = 0;

  // The least time in which the work can be done.
  double SecondsOf(double matrix_flops, double bytes) const {
    const double computing = matrix_flops / flops, moving = bytes / bandwidth;
    return computing > moving ? computing : moving;
  }
};

// With that many threads; takes seconds, and 256 MiB of memory. With a GPU its own, and up to 2 GiB
// of its memory; throws Error where it does not have so much. Then products of float32 can be those
// in TF32.
MachineLimits MeasureMachineLimits(DType dtype, int threads, Accelerator* gpu = nullptr,
                                   bool tf32 = false);

}  // namespace swinfleet

#endif  // SWINFLEET_KERNELS_MACHINE_LIMITS_H_
