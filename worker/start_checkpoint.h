// Given weights as the beginning of a run: a checkpoint of step 0.
#ifndef SWINFLEET_WORKER_START_CHECKPOINT_H_
#define SWINFLEET_WORKER_START_CHECKPOINT_H_

#include <string>

#include "core/checkpoint/weights_io.h"
#include "core/config/job_config.h"
#include "core/nn/parameters.h"

namespace swinfleet {

// Writes the checkpoint of step 0 of `config`'s run, with `weights` (skipped parameters as the
// job's seed has them) and a fresh optimizer, into
// config.run_dir, and returns its folder; the job's first attempt goes on from it. `spec_text` is
// the job's specification. Throws Error, with nothing left behind, when the run has begun already,
// when it has such a checkpoint and `force` is false, and when the weights can't be read or the
// checkpoint can't be written.
std::string WriteStartCheckpoint(const JobConfig& config, const std::string& spec_text,
                                 const ParameterTable& table, const WeightsFile& weights,
                                 bool force);

}  // namespace swinfleet

#endif  // SWINFLEET_WORKER_START_CHECKPOINT_H_
