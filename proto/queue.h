// What a job file's section `schedule` says.
#ifndef SWINFLEET_PROTO_QUEUE_H_
#define SWINFLEET_PROTO_QUEUE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "proto/job.pb.h"

namespace swinfleet {

// QueueSpec with its defaults; job.proto explains each.
struct QueueSettings {
  int32_t priority = 0;
  bool preemptible = false;
  // Seconds; 0: no limit.
  double max_run_seconds = 0;
  std::optional<uint32_t> max_restarts;
  // Seconds.
  double restart_pause = 1;
  // 0: the ranks that the job asks for have to be there.
  uint32_t min_ranks = 0;
};

// Returns a message for each fault of the section, naming its key and what is allowed; `settings`
// has the default in that place.
std::vector<std::string> ReadQueueSettings(const JobSpec& spec, QueueSettings* settings);

// "90s", "45m", "12h", "1d12h": whole numbers, each with its unit, largest first. False for
// anything else, and for more than ten years.
bool ParseDuration(const std::string& text, double* seconds);

}  // namespace swinfleet

#endif  // SWINFLEET_PROTO_QUEUE_H_
