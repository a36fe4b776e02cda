// Job files as the command-line tools read them.
#ifndef SWINFLEET_WORKER_JOB_FILE_H_
#define SWINFLEET_WORKER_JOB_FILE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "core/config/job_config.h"
#include "proto/job.pb.h"

namespace swinfleet {

// Reads and judges the job file at `path`, for `ranks` ranks (0: not known). `run_dir` replaces the
// file's unless it is empty. Returns everything that is wrong with it, each message beginning with
// the file's name; the results are only usable when nothing is.
std::vector<std::string> LoadJobFile(const std::string& path, const std::string& run_dir,
                                     int64_t ranks, JobSpec* spec, JobConfig* config);

// The same for a run without coordinator. Where the run folder is this job's already, settings
// without effect come as `warnings` instead: without them it would be another job. That a queue's
// settings mean nothing here is a warning too.
std::vector<std::string> LoadLocalJobFile(const std::string& path, const std::string& run_dir,
                                          int64_t ranks, JobSpec* spec, JobConfig* config,
                                          std::vector<std::string>* warnings);

// What makes a job without coordinator another one than its neighbours: not how it is run.
std::string IdentityText(JobSpec spec);

}  // namespace swinfleet

#endif  // SWINFLEET_WORKER_JOB_FILE_H_
