// Jobs and fleets as text and as JSON.
#ifndef SWINFLEET_COORDINATOR_CLI_SHOW_H_
#define SWINFLEET_COORDINATOR_CLI_SHOW_H_

#include <google/protobuf/message.h>

#include <string>
#include <vector>

#include "coordinator/cli/format.h"
#include "proto/coordinator.pb.h"

namespace swinfleet {

// The message on one line of Protobuf's JSON: the schema's field names, defaults included, 64-bit
// integers as strings.
std::string ToJsonLine(const google::protobuf::Message& message);

// "RUNNING"; a number for a state that this program doesn't know.
std::string StateName(JobState state);

// The job has reached a state that it doesn't leave.
bool IsEnded(JobState state);

// `status`: all there is to know of a job, over some lines.
std::string StatusBlock(const JobStatus& job, const Screen& screen);
// `watch` on a terminal: lines of at most the screen's width.
std::vector<std::string> WatchBlock(const JobStatus& job, const Screen& screen);
// `watch` elsewhere: one line.
std::string WatchLine(const JobStatus& job, const Screen& screen);

std::string JobTable(const ListJobsResponse& jobs, const Screen& screen);
std::string FleetTable(const ListFleetsResponse& fleets, const Screen& screen);
// One log line, with its time, attempt, rank and severity.
std::string LogText(const LogLine& line, const Screen& screen);

}  // namespace swinfleet

#endif  // SWINFLEET_COORDINATOR_CLI_SHOW_H_
