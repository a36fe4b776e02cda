#include "worker/job_file.h"

#include "core/checkpoint/run_folder.h"
#include "kernels/error.h"
#include "proto/job_yaml.h"
#include "worker/config_from_proto.h"
#include "worker/ineffective_settings.h"

namespace swinfleet {
namespace {

// Messages about the file's text name the file and the line already.
std::vector<std::string> Read(const std::string& path, const std::string& run_dir, JobSpec* spec) {
  std::vector<std::string> problems = ReadJobFile(path, spec).messages;
  if (problems.empty() && !run_dir.empty()) spec->set_run_dir(run_dir);
  return problems;
}

void NameFile(const std::string& path, std::vector<std::string>* messages) {
  for (std::string& message : *messages) message = path + ": " + message;
}

}  // namespace

std::vector<std::string> LoadJobFile(const std::string& path, const std::string& run_dir,
                                     int64_t ranks, JobSpec* spec, JobConfig* config) {
  std::vector<std::string> problems = Read(path, run_dir, spec);
  if (!problems.empty()) return problems;
  problems = ConfigFromProto(*spec, ranks, config);
  NameFile(path, &problems);
  return problems;
}

std::vector<std::string> LoadLocalJobFile(const std::string& path, const std::string& run_dir,
                                          int64_t ranks, JobSpec* spec, JobConfig* config,
                                          std::vector<std::string>* warnings) {
  warnings->clear();
  std::vector<std::string> problems = Read(path, run_dir, spec);
  if (!problems.empty()) return problems;
  problems = ConfigFromProto(*spec, ranks, config);
  try {
    // The folder is only asked where its answer matters.
    if (!problems.empty() && OwnsRunFolder(spec->run_dir(), kLocalJobId, IdentityText(*spec))) {
      problems = ConfigOfStartedJob(*spec, ranks, config);
      if (problems.empty()) *warnings = IneffectiveSettings(*spec, *config);
    }
  } catch (const Error& error) {
    problems.push_back(error.what());
  }
  if (problems.empty() && spec->has_schedule()) {
    warnings->push_back(
        "schedule is for the queue of a coordinator; this run has none, and goes by none of it");
  }
  NameFile(path, &problems);
  NameFile(path, warnings);
  return problems;
}

std::string IdentityText(JobSpec spec) {
  spec.clear_parallel();
  spec.clear_checkpoint();
  spec.clear_memory();
  spec.clear_schedule();
  spec.clear_metrics();
  spec.mutable_data()->clear_loader_threads();
  spec.mutable_data()->clear_prefetch();
  spec.mutable_train()->clear_log_every_steps();
  spec.mutable_train()->clear_eval_batch();
  spec.mutable_train()->clear_allow_emulation();
  return JobToYaml(spec);
}

}  // namespace swinfleet
