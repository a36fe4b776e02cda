// Job files: YAML mapped onto the JobSpec message by its own descriptor, so that a new field of the
// schema is a new key of the file and nothing else needs to be changed.
#ifndef SWINFLEET_PROTO_JOB_YAML_H_
#define SWINFLEET_PROTO_JOB_YAML_H_

#include <string>
#include <vector>

#include "proto/job.pb.h"

namespace swinfleet {

// What is wrong with a job file: every fault found, each as "FILE:LINE: what, and what is allowed".
struct JobFileErrors {
  std::vector<std::string> messages;
  bool ok() const { return messages.empty(); }
  // All messages, one a line.
  std::string ToString() const;
};

// Reads `text` (the contents of a job file) into `spec`.
//
// Keys are the schema's field names. A number where a list of numbers is expected stands for a list
// of one. Unknown and repeated keys, values of the wrong type, numbers outside the field's range,
// and text that is not YAML are errors that name their line; all of them are collected, and an
// unknown key is answered with the nearest known one. `file_name` is only used in the messages.
// `spec` is untouched when there is an error.
JobFileErrors ParseJobYaml(const std::string& text, const std::string& file_name, JobSpec* spec);

// Reads the file at `path` and parses it. A file that can't be read, or is larger than 1 MiB, is an
// error too.
JobFileErrors ReadJobFile(const std::string& path, JobSpec* spec);

// The inverse, for showing a job to people: only fields that are set.
std::string JobToYaml(const JobSpec& spec);

}  // namespace swinfleet

#endif  // SWINFLEET_PROTO_JOB_YAML_H_
