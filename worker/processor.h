// What this processor can do for a job.
#ifndef SWINFLEET_WORKER_PROCESSOR_H_
#define SWINFLEET_WORKER_PROCESSOR_H_

#include <string>

#include "kernels/tensor.h"

namespace swinfleet {

// Throws Error, which ends in `remedy`, for a dtype that this processor would only emulate, unless
// that is allowed.
void RequireNative(DType dtype, bool allow_emulation, const std::string& remedy);

}  // namespace swinfleet

#endif  // SWINFLEET_WORKER_PROCESSOR_H_
