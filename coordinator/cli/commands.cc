#include "coordinator/cli/commands.h"

#include <glog/logging.h>
#include <pwd.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <sstream>
#include <system_error>
#include <thread>

#include "coordinator/check_limits.h"
#include "coordinator/cli/client.h"
#include "coordinator/cli/exit_codes.h"
#include "coordinator/cli/programs.h"
#include "coordinator/cli/show.h"
#include "coordinator/cli/watch.h"
#include "coordinator/supervisor/escape.h"
#include "coordinator/supervisor/record.h"
#include "coordinator/supervisor/uuid.h"
#include "proto/job_yaml.h"

namespace swinfleet {
namespace {

// One unary call of the coordinator; the overload set of a stub's method can't be deduced.
template <typename Request, typename Response>
using Method = grpc::Status (Coordinator::Stub::*)(grpc::ClientContext*, const Request&, Response*);

int Finish(bool written) { return written ? kExitOk : kExitUsage; }

// Shows text of another program line by line, escaped.
void ShowLines(const std::string& text) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::fprintf(stderr, "%s\n", EscapeForTerminal(line).c_str());
  }
}

bool MakeAbsolute(std::string* path) {
  if (path->empty()) return true;
  std::error_code failure;
  const std::filesystem::path absolute = std::filesystem::absolute(*path, failure);
  if (failure) {
    std::fprintf(stderr,
                 "swinfleet: the current folder can't be told (%s), so that %s stays "
                 "without a place; write it as an absolute path\n",
                 failure.message().c_str(), EscapeForTerminal(*path).c_str());
    return false;
  }
  *path = absolute.lexically_normal().string();
  return true;
}

// Workers run elsewhere, in other folders: paths are meant as the user sees them here.
bool MakePathsAbsolute(JobSpec* spec) {
  if (!MakeAbsolute(spec->mutable_run_dir())) return false;
  if (spec->has_data() && !MakeAbsolute(spec->mutable_data()->mutable_path())) return false;
  return !spec->model().has_init_from() || MakeAbsolute(spec->mutable_model()->mutable_init_from());
}

// Whose quota a job counts against: the name of this process's user, or the number where there is
// no name.
std::string UserName() {
  const passwd* entry = getpwuid(geteuid());
  return entry == nullptr ? std::to_string(geteuid()) : entry->pw_name;
}

// Asks swinfleet-plan, which knows the model, whether the job can work. Only its word counts: if it
// can't give one, the coordinator, which asks too, decides.
bool PassesCheck(const std::string& job_file) {
  const std::string plan = FindSibling("swinfleet-plan");
  if (plan.empty()) return true;
  const ProgramResult result = RunBounded({plan, "--check", job_file}, kCheckSeconds, kCheckMemory);
  if (result.kind == ProgramResult::Kind::kExited && result.code == 0) return true;
  if (result.kind == ProgramResult::Kind::kExited && result.code < 126) {
    ShowLines(result.output);
    std::fprintf(stderr, "swinfleet: this job can't work; nothing was submitted\n");
    return false;
  }
  ShowLines(result.output);
  std::fprintf(stderr, "swinfleet: %s gave no verdict (%s); the coordinator decides\n",
               plan.c_str(),
               result.kind == ProgramResult::Kind::kTimedOut    ? "it took too long"
               : result.kind == ProgramResult::Kind::kSignalled ? "it was killed"
                                                                : "it can't be run");
  return true;
}

// The coordinator has every job checked, one after the other: time for the longest check that it
// may allow, and as much for those before it.
constexpr int kSubmitSeconds = 2 * kMaxCheckSeconds;

// Repeats with the same submission_id, so that an answer that got lost makes no second job.
grpc::Status SubmitPatiently(const Client& client, const SubmitJobRequest& request,
                             double wait_seconds, SubmitJobResponse* response) {
  const Method<SubmitJobRequest, SubmitJobResponse> method = &Coordinator::Stub::SubmitJob;
  const auto deadline =
      std::chrono::steady_clock::now() + std::chrono::duration<double>(wait_seconds);
  bool told = false;
  for (;;) {
    const grpc::Status status = client.Call(method, request, response, kSubmitSeconds);
    if (!IsUnreachable(status) || std::chrono::steady_clock::now() >= deadline) return status;
    if (!std::exchange(told, true)) {
      std::fprintf(stderr, "swinfleet: no coordinator answers at %s; trying for %s\n",
                   client.address().c_str(), FormatDuration(wait_seconds).c_str());
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
  }
}

}  // namespace

int Submit(const CommonOptions& common, const SubmitOptions& options) {
  JobSpec spec;
  const JobFileErrors errors = ReadJobFile(options.job_file, &spec);
  if (!errors.ok()) {
    ShowLines(errors.ToString());
    return kExitUsage;
  }
  if (!MakePathsAbsolute(&spec) || !PassesCheck(options.job_file)) return kExitUsage;

  const Client client(common.coordinator);
  SubmitJobRequest request;
  *request.mutable_spec() = spec;
  request.set_submission_id(NewUuid());
  request.set_protocol_version(PROTOCOL_VERSION_CURRENT);
  request.set_user(UserName());
  SubmitJobResponse response;
  const grpc::Status status = SubmitPatiently(client, request, options.wait_seconds, &response);
  if (!status.ok()) return ReportFailure(status, client, "such job");
  const bool written =
      Print(common.json ? ToJsonLine(response) : Safe(response.job_id(), DetectScreen()) + "\n");
  if (!written || !options.watch) return Finish(written);
  return WatchJob(client, response.job_id(), common.json);
}

int ShowStatus(const CommonOptions& common, const std::string& job_id) {
  const Client client(common.coordinator);
  GetJobRequest request;
  request.set_job_id(job_id);
  JobStatus job;
  const Method<GetJobRequest, JobStatus> method = &Coordinator::Stub::GetJob;
  const grpc::Status status = client.Call(method, request, &job);
  if (!status.ok()) return ReportFailure(status, client, "job " + job_id);
  return Finish(Print(common.json ? ToJsonLine(job) : StatusBlock(job, DetectScreen())));
}

int Watch(const CommonOptions& common, const std::string& job_id) {
  return WatchJob(Client(common.coordinator), job_id, common.json);
}

int ListJobs(const CommonOptions& common, const std::vector<std::string>& states, uint32_t limit) {
  const Client client(common.coordinator);
  ListJobsRequest request;
  request.set_limit(limit);
  for (const std::string& name : states) {
    JobState state;
    // The command line has offered only the schema's own names.
    CHECK(JobState_Parse(name, &state)) << name;
    request.add_states(state);
  }
  ListJobsResponse jobs;
  const Method<ListJobsRequest, ListJobsResponse> method = &Coordinator::Stub::ListJobs;
  const grpc::Status status = client.Call(method, request, &jobs);
  if (!status.ok()) return ReportFailure(status, client, "");
  return Finish(Print(common.json ? ToJsonLine(jobs) : JobTable(jobs, DetectScreen())));
}

int Logs(const CommonOptions& common, const std::string& job_id, bool follow) {
  return ShowLogs(Client(common.coordinator), job_id, follow, common.json);
}

int Cancel(const CommonOptions& common, const std::string& job_id) {
  const Client client(common.coordinator);
  CancelJobRequest request;
  request.set_job_id(job_id);
  JobStatus job;
  const Method<CancelJobRequest, JobStatus> method = &Coordinator::Stub::CancelJob;
  const grpc::Status status = client.Call(method, request, &job);
  if (!status.ok()) return ReportFailure(status, client, "job " + job_id);
  const Screen screen = DetectScreen();
  return Finish(Print(common.json ? ToJsonLine(job) : WatchLine(job, screen) + "\n"));
}

int ListFleets(const CommonOptions& common) {
  const Client client(common.coordinator);
  ListFleetsResponse fleets;
  const Method<ListFleetsRequest, ListFleetsResponse> method = &Coordinator::Stub::ListFleets;
  const grpc::Status status = client.Call(method, ListFleetsRequest(), &fleets);
  if (!status.ok()) return ReportFailure(status, client, "");
  return Finish(Print(common.json ? ToJsonLine(fleets) : FleetTable(fleets, DetectScreen())));
}

int Fence(const CommonOptions& common, const std::string& fleet) {
  const Client client(common.coordinator);
  FenceFleetRequest request;
  request.set_name(fleet);
  FleetStatus answer;
  const Method<FenceFleetRequest, FleetStatus> method = &Coordinator::Stub::FenceFleet;
  const grpc::Status status = client.Call(method, request, &answer);
  if (!status.ok()) return ReportFailure(status, client, "fleet " + fleet);
  const Screen screen = DetectScreen();
  return Finish(Print(common.json ? ToJsonLine(answer)
                                  : "fleet " + Safe(answer.name(), screen) + " is " +
                                        Safe(answer.state(), screen) + "\n"));
}

int RunFleet(const CommonOptions& common, const SupervisorOptions& options) {
  // Before the first thread, which the channel starts.
  BlockStopSignals();
  FLAGS_logtostderr = true;
  google::InitGoogleLogging("swinfleet fleet");
  const Client client(common.coordinator);
  switch (Supervisor(options, client.channel()).Run()) {
    case SupervisorResult::kStopped:
      return kExitOk;
    case SupervisorResult::kInterrupted:
      return kExitInterrupted;
    case SupervisorResult::kGaveUp:
      return kExitJobFailed;
    case SupervisorResult::kRefused:
      break;
  }
  return kExitUsage;
}

}  // namespace swinfleet
