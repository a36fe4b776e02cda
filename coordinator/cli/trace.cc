#include "coordinator/cli/trace.h"

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <thread>

#include "coordinator/cli/client.h"
#include "coordinator/cli/exit_codes.h"
#include "coordinator/cli/format.h"
#include "coordinator/cli/show.h"
#include "coordinator/supervisor/escape.h"
#include "coordinator/supervisor/uuid.h"

namespace swinfleet {
namespace {

using Clock = std::chrono::steady_clock;

// A coordinator that is started again meanwhile is waited for, for so long.
constexpr auto kAway = std::chrono::seconds(60);
constexpr auto kPause = std::chrono::milliseconds(300);

template <typename Request>
using Method = grpc::Status (Coordinator::Stub::*)(grpc::ClientContext*, const Request&,
                                                   JobStatus*);

// Repeated while nobody answers: the request's id, or its nature, makes that safe.
template <typename Request>
grpc::Status CallPatiently(const Client& client, Method<Request> method, const Request& request,
                           Clock::duration patience, JobStatus* job) {
  const Clock::time_point deadline = Clock::now() + patience;
  for (;;) {
    const grpc::Status status = client.Call(method, request, job);
    if (!IsUnreachable(status) || Clock::now() >= deadline) return status;
    std::this_thread::sleep_for(kPause);
  }
}

// The events of one rank's file, behind those that are there already. Returns what went wrong.
std::string Append(const std::string& path, bool first, std::ofstream* out) {
  std::ifstream in(path);
  std::string line;
  if (!std::getline(in, line)) {
    return "can't read " + path + ": " + std::strerror(errno) +
           ". It is where the workers wrote it; run this where their filesystem can be seen, or "
           "copy it from there";
  }
  if (!line.ends_with("\"traceEvents\": [")) return path + " is no trace of this version";
  *out << (first ? line : ",");
  // Each event ends in what stands before the next one; the last one's line has nothing.
  while (std::getline(in, line) && line != "]}") *out << '\n' << line;
  return line == "]}" ? "" : path + " is cut off";
}

std::string RankLine(const RankTrace& trace, const Screen& screen) {
  std::string text = "rank " + std::to_string(trace.rank()) + ": ";
  if (!trace.error().empty()) return text + "no trace: " + Safe(trace.error(), screen) + "\n";
  const uint64_t last = trace.first_step() + trace.steps() - 1;
  text += trace.steps() == 1
              ? "step " + std::to_string(last)
              : "steps " + std::to_string(trace.first_step()) + " to " + std::to_string(last);
  return text + ", " + Safe(trace.path(), screen) + "\n";
}

}  // namespace

std::string JoinTraces(const TraceStatus& trace, const std::string& output) {
  const std::string part = output + ".part";
  std::ofstream out(part, std::ios::trunc);
  std::string fault;
  bool first = true;
  for (const RankTrace& rank : trace.ranks()) {
    if (rank.path().empty() || !fault.empty()) continue;
    fault = Append(rank.path(), first, &out);
    first = false;
  }
  out << "\n]}\n";
  out.close();
  if (fault.empty() && (!out || std::rename(part.c_str(), output.c_str()) != 0)) {
    fault = "can't write " + output + ": " + std::strerror(errno);
  }
  if (!fault.empty()) std::remove(part.c_str());
  return fault;
}

int RecordTrace(const CommonOptions& common, const TraceOptions& options) {
  const Client client(common.coordinator, common.credentials);
  const std::string subject = "job " + options.job_id;
  TraceJobRequest request;
  request.set_job_id(options.job_id);
  request.set_request_id(NewUuid());
  request.set_steps(options.steps);
  for (const uint32_t rank : options.ranks) request.add_ranks(rank);
  JobStatus job;
  grpc::Status status = CallPatiently<TraceJobRequest>(client, &Coordinator::Stub::TraceJob,
                                                       request, Clock::duration::zero(), &job);
  if (!status.ok()) return ReportFailure(status, client, subject);
  GetJobRequest get;
  get.set_job_id(options.job_id);
  while (job.trace().request_id() == request.request_id() && !job.trace().complete()) {
    std::this_thread::sleep_for(kPause);
    status = CallPatiently<GetJobRequest>(client, &Coordinator::Stub::GetJob, get, kAway, &job);
    if (!status.ok()) return ReportFailure(status, client, subject);
  }
  const TraceStatus& trace = job.trace();
  if (trace.request_id() != request.request_id()) {
    std::fprintf(stderr, "swinfleet: somebody else has asked for a newer trace meanwhile\n");
    return kExitRefused;
  }
  std::string text;
  bool all = true, any = false;
  for (const RankTrace& rank : trace.ranks()) {
    text += RankLine(rank, DetectScreen());
    any = any || !rank.path().empty();
    all = all && !rank.path().empty();
  }
  if (!Print(common.json ? ToJsonLine(trace) : text)) return kExitUsage;
  if (!any || options.output.empty()) return all ? kExitOk : kExitJobFailed;
  const std::string fault = JoinTraces(trace, options.output);
  if (fault.empty()) return all ? kExitOk : kExitJobFailed;
  std::fprintf(stderr, "swinfleet: %s\n", EscapeForTerminal(fault).c_str());
  return kExitUsage;
}

}  // namespace swinfleet
