// A rank's part in passes that others make and it doesn't.
#ifndef SWINFLEET_WORKER_FOLLOW_H_
#define SWINFLEET_WORKER_FOLLOW_H_

#include "core/config/job_config.h"
#include "core/nn/model.h"
#include "core/nn/parameters.h"

namespace swinfleet {

// Where ranks exchange something within a pass over the model (gradients that are summed split,
// parameters at ZeRO stage 3), those that have fewer micro-batches than others, or batches of an
// evaluation, take part in the others' exchanges. They come in the order in which the model uses
// its units, so the model itself runs, on the dry-run device, and `parameters` is told of each unit
// that it acquires, releases and has a gradient of. That gradient is zero.
void FollowTraining(const JobConfig& config, Model* model, ParameterAccess* parameters);
void FollowEvaluation(const JobConfig& config, Model* model, ParameterAccess* parameters);

}  // namespace swinfleet

#endif  // SWINFLEET_WORKER_FOLLOW_H_
