// Where the paths of a job really lead.
#ifndef SWINFLEET_WORKER_CONFINEMENT_H_
#define SWINFLEET_WORKER_CONFINEMENT_H_

#include <string>

#include "core/config/job_config.h"
#include "proto/roots.h"

namespace swinfleet {

// `path` without symbolic links, as far as it exists; what does not exist yet is kept as it is.
// Throws Error for a link that leads nowhere (whoever writes there would make its target),
// FileError where it can't be told.
std::string ResolvePath(const std::string& path);

// Throws Error if a path of the job, or of the checkpoint that it resumes from, leads out of
// `roots` once symbolic links are resolved; FileError where that can't be told now. The coordinator
// has looked at the paths' text. A link that is made later is not seen.
void CheckConfined(const JobConfig& config, const std::string& resume_from, const PathRoots& roots);

}  // namespace swinfleet

#endif  // SWINFLEET_WORKER_CONFINEMENT_H_
