// `swinfleet trace`: asks a job's ranks for a trace, waits for it and fetches it.
#ifndef SWINFLEET_COORDINATOR_CLI_TRACE_H_
#define SWINFLEET_COORDINATOR_CLI_TRACE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "coordinator/cli/commands.h"
#include "proto/coordinator.pb.h"

namespace swinfleet {

struct TraceOptions {
  std::string job_id;
  // Empty: all.
  std::vector<uint32_t> ranks;
  uint32_t steps = 1;
  // The files of all ranks together are written here; empty: they are only named.
  std::string output;
};

// Exit code kExitJobFailed: a rank has no trace.
int RecordTrace(const CommonOptions& common, const TraceOptions& options);

// Joins the files of the ranks that have one, as swinfleet-worker writes them, into `output`, which
// is there only when all of it is. Returns what went wrong, or an empty text.
std::string JoinTraces(const TraceStatus& trace, const std::string& output);

}  // namespace swinfleet

#endif  // SWINFLEET_COORDINATOR_CLI_TRACE_H_
