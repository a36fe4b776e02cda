#include "worker/job_file.h"

#include "proto/job_yaml.h"
#include "worker/config_from_proto.h"

namespace swinfleet {

std::vector<std::string> LoadJobFile(const std::string& path, const std::string& run_dir,
                                     int64_t ranks, JobSpec* spec, JobConfig* config) {
  std::vector<std::string> problems = ReadJobFile(path, spec).messages;
  // Messages about the file's text name the file and the line already.
  if (!problems.empty()) return problems;
  if (!run_dir.empty()) spec->set_run_dir(run_dir);
  problems = ConfigFromProto(*spec, ranks, config);
  for (std::string& problem : problems) problem = path + ": " + problem;
  return problems;
}

}  // namespace swinfleet
