// What a checkpoint records so that a resumed run can tell whether it will give the same bits.
#ifndef SWINFLEET_WORKER_REPRODUCIBILITY_H_
#define SWINFLEET_WORKER_REPRODUCIBILITY_H_

#include "core/checkpoint/manifest.h"
#include "core/config/job_config.h"

namespace swinfleet {

class Accelerator;

// Of this program on this machine, or on this GPU, for this job with what its memory budget led to.
ReproducibilityKey MakeReproducibilityKey(const JobConfig& config,
                                          const Accelerator* gpu = nullptr);

}  // namespace swinfleet

#endif  // SWINFLEET_WORKER_REPRODUCIBILITY_H_
