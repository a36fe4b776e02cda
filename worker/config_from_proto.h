// From the wire's job specification to the plain structs that everything below the worker sees.
#ifndef SWINFLEET_WORKER_CONFIG_FROM_PROTO_H_
#define SWINFLEET_WORKER_CONFIG_FROM_PROTO_H_

#include <cstdint>
#include <string>
#include <vector>

#include "core/config/job_config.h"
#include "proto/job.pb.h"

namespace swinfleet {

// Turns `spec` into `config`: the preset first, then what the specification sets itself; what
// neither sets keeps the defaults of core/config/job_config.h. Returns everything that is wrong
// with the job, ValidateJob's findings and settings without effect included, each message naming
// the job file's key and what is allowed; empty when the job can run. `ranks` is the number of
// ranks it is to run on, 0 when not yet known. `config` is only usable when nothing is wrong.
std::vector<std::string> ConfigFromProto(const JobSpec& spec, int64_t ranks, JobConfig* config);

// The same for a job that has begun already: it works, and nobody can change it any more, so
// settings without effect, and a normalisation that new jobs have to say, are no fault of it.
std::vector<std::string> ConfigOfStartedJob(const JobSpec& spec, int64_t ranks, JobConfig* config);

// The model alone, without the rest of the job: what a checkpoint's specification describes.
std::vector<std::string> ModelFromProto(const ModelSpec& spec, ModelConfig* model);

// "800MiB", "20 GiB", "1.5GB", "1000000" (bytes). False for what is no size above 0.
bool ParseBytes(const std::string& text, int64_t* bytes);

// "a\nb\nc", for messages that name all problems at once.
std::string JoinLines(const std::vector<std::string>& lines);

}  // namespace swinfleet

#endif  // SWINFLEET_WORKER_CONFIG_FROM_PROTO_H_
