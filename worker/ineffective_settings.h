// Settings that a job file has and the job has no use for.
#ifndef SWINFLEET_WORKER_INEFFECTIVE_SETTINGS_H_
#define SWINFLEET_WORKER_INEFFECTIVE_SETTINGS_H_

#include <string>
#include <vector>

#include "core/config/job_config.h"
#include "proto/job.pb.h"

namespace swinfleet {

// A message for each setting of `spec` that changes nothing in the job that `config`, made from it,
// describes: the key, why, and what would work. Only what the user has set counts, not what a
// preset or a default brings; a value that says what happens anyway (pretrain.group_size 0 with
// simmim) is in order. What the validation of core/config refuses (a model's settings of another
// architecture, layer_decay and mix in pre-training) is not repeated here. model.init_skip without
// init_from is in order as well: swinfleet-import goes by it.
std::vector<std::string> IneffectiveSettings(const JobSpec& spec, const JobConfig& config);

}  // namespace swinfleet

#endif  // SWINFLEET_WORKER_INEFFECTIVE_SETTINGS_H_
