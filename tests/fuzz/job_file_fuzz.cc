// Job files: any text is either refused with messages that people can read, or becomes a job that
// says the same when it is written down and read again.
#include <glog/logging.h>

#include <string>

#include "proto/job_yaml.h"
#include "proto/queue.h"
#include "proto/text.h"
#include "tests/fuzz/fuzz_target.h"

namespace swinfleet {
namespace {

// All faults of a file, and one line that says that there are more.
constexpr size_t kMaxMessages = 101;

void CheckMessage(const std::string& message) {
  CHECK_EQ(message.rfind("job.yaml:", 0), 0u) << message;
  for (size_t position = 0; position < message.size();) {
    const int32_t code = NextCodePoint(message, &position);
    CHECK(code >= 0 && !IsControlCharacter(code)) << message;
  }
}

void ReadBack(const JobSpec& spec) {
  JobSpec again;
  const JobFileErrors errors = ParseJobYaml(JobToYaml(spec), "again.yaml", &again);
  CHECK(errors.ok()) << errors.ToString() << JobToYaml(spec);
  CHECK_EQ(again.SerializeAsString(), spec.SerializeAsString()) << JobToYaml(spec);
}

}  // namespace
}  // namespace swinfleet

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using swinfleet::JobSpec;
  const std::string text(reinterpret_cast<const char*>(data), size);
  JobSpec spec;
  const swinfleet::JobFileErrors errors = swinfleet::ParseJobYaml(text, "job.yaml", &spec);
  CHECK_LE(errors.messages.size(), swinfleet::kMaxMessages);
  for (const std::string& message : errors.messages) swinfleet::CheckMessage(message);
  if (!errors.ok()) {
    CHECK_EQ(spec.ByteSizeLong(), 0u) << "touched by a file with errors";
    return 0;
  }
  swinfleet::ReadBack(spec);
  swinfleet::QueueSettings queue;
  swinfleet::ReadQueueSettings(spec, &queue);
  return 0;
}
