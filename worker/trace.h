// Training steps as Chrome traces, for chrome://tracing and ui.perfetto.dev: the one way in which
// they are written, by swinfleet-bench and by ranks that are asked for one.
#ifndef SWINFLEET_WORKER_TRACE_H_
#define SWINFLEET_WORKER_TRACE_H_

#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

#include "distributed/communicator.h"
#include "kernels/machine_limits.h"
#include "kernels/profile.h"

namespace swinfleet {

// A whole step. Times are seconds since the profile was made.
struct TracedStep {
  // Of the job, 1 is the first.
  int64_t number = 0;
  double begin = 0;
  double seconds = 0;
};

struct Trace {
  const Profile* profile = nullptr;
  // When the profile was made, and the moment from which times in the file count: seconds since
  // 1970.
  double profile_start = 0;
  double origin = 0;
  // What the profile is of; empty: that is not said.
  std::vector<TracedStep> steps{};
  // Collectives, for a row of their own, and how many there were besides.
  std::vector<CollectiveRecord> collectives{};
  uint64_t collectives_left_out = 0;
  // Whose it is. Traces of different ranks can be laid together; the name is for people.
  int rank = 0;
  std::string process{};
  // What calls are held against; null: nothing.
  const MachineLimits* limits = nullptr;
};

// Modules, and in them the calls of operations with their tensors, FLOPs, bytes and limit; beside
// them the thread, or the GPU's stream, that works off collectives, if there are any. Of a GPU's
// profile they are where the GPU computed them, and once more on a row of the host, which shows
// when it started them. One event a line, between a line before all of them and "]}" after: so that
// files of several ranks can be joined line by line. The profile has been finished.
void WriteTrace(const Trace& trace, std::ostream* out);

// Where in a step a call was made.
struct ProfilePlace {
  // The outermost scope, such as "backward", and the innermost; empty without any.
  std::string pass;
  std::string module;
};
ProfilePlace PlaceOf(const Profile& profile, int scope);

}  // namespace swinfleet

#endif  // SWINFLEET_WORKER_TRACE_H_
