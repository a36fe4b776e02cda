#include "worker/serve.h"

#include <glog/logging.h>

#include <vector>

#include "proto/job_yaml.h"
#include "worker/config_from_proto.h"
#include "worker/exit_codes.h"

namespace swinfleet {
namespace {

// How long an idle worker that is told to leave tries to get its last report out.
constexpr double kLeaveSeconds = 5;
// MPI guarantees tags up to 32767; the last one belongs to MpiRuntime::World.
constexpr uint32_t kTags = 32767;

// The same on every rank, and different for attempts that follow each other.
int TagOf(const Assignment& assignment) {
  uint32_t hash = 2166136261u;
  for (const char c : assignment.job_id() + "#" + std::to_string(assignment.attempt())) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 16777619u;
  }
  return static_cast<int>(hash % kTags);
}

std::vector<std::string> CheckAssignment(const Assignment& assignment, int world_size,
                                         JobConfig* config) {
  const uint32_t ranks = assignment.ranks();
  if (ranks < 1 || ranks > static_cast<uint32_t>(world_size)) {
    return {"the assignment is for " + std::to_string(ranks) + " ranks, but this launch has " +
            std::to_string(world_size)};
  }
  JobSpec spec = assignment.spec();
  // The coordinator may have found fewer ranks than the job asks for, if the job allows that.
  if (spec.schedule().has_min_ranks() && ranks >= spec.schedule().min_ranks() &&
      ranks < spec.parallel().ranks()) {
    spec.mutable_parallel()->set_ranks(ranks);
  }
  // A run with a checkpoint, or with an attempt that was lost, has been in order before: a job that
  // is not fails at its first.
  if (!assignment.resume_from().empty() || assignment.attempt() > 1) {
    return ConfigOfStartedJob(spec, ranks, config);
  }
  return ConfigFromProto(spec, ranks, config);
}

// Lets the watchdog, and with it heartbeats, know the position of a communicator as long as it
// lives, also when the attempt ends with an exception.
class PositionSource {
 public:
  PositionSource(Watchdog* watchdog, Communicator* communicator) : watchdog_(watchdog) {
    watchdog_->SetCommunicator(communicator);
  }
  ~PositionSource() { watchdog_->SetCommunicator(nullptr); }
  PositionSource(const PositionSource&) = delete;
  PositionSource& operator=(const PositionSource&) = delete;

 private:
  Watchdog* const watchdog_;
};

AttemptResult Run(const ServeEnvironment& environment, const Assignment& assignment,
                  CoordinatorClient* client) {
  AttemptOptions options;
  const std::vector<std::string> problems =
      CheckAssignment(assignment, environment.world_size, &options.config);
  if (!problems.empty()) {
    // All ranks find the same, without a word between them.
    AttemptResult result;
    result.outcome = Outcome::kFailed;
    result.message = "the job can't run:\n" + JoinLines(problems);
    return result;
  }
  options.spec_text = JobToYaml(assignment.spec());
  options.identity_text = options.spec_text;
  options.job_id = assignment.job_id();
  options.attempt = assignment.attempt();
  options.resume_from = assignment.resume_from();
  options.roots.run.assign(assignment.run_roots().begin(), assignment.run_roots().end());
  options.roots.data.assign(assignment.data_roots().begin(), assignment.data_roots().end());
  WatchdogOptions watch;
  watch.run_dir = options.config.run_dir;
  watch.attempt = options.attempt;
  watch.rank = environment.rank;
  watch.on_stuck = environment.on_stuck;
  Watchdog watchdog(watch, client);
  const std::unique_ptr<Communicator> group =
      environment.make_group(static_cast<int>(assignment.ranks()), TagOf(assignment));
  const PositionSource position(&watchdog, group.get());
  const AttemptResult result = environment.run_attempt(options, group.get(), &watchdog);
  // mpirun ends all ranks as soon as one has left: the last checkpoint must be reported before.
  if (result.outcome == Outcome::kStopped) client->Flush(kLeaveSeconds);
  // Rank 0 reports the end only when all ranks are idle again.
  group->Barrier("end of the attempt");
  return result;
}

void LogEnd(const Assignment& assignment, const AttemptResult& result) {
  const std::string name =
      "attempt " + std::to_string(assignment.attempt()) + " of job " + assignment.job_id();
  switch (result.outcome) {
    case Outcome::kSucceeded:
      LOG(INFO) << name << " succeeded";
      break;
    case Outcome::kFailed:
      LOG(ERROR) << name << " failed: " << result.message;
      break;
    case Outcome::kCancelled:
      LOG(WARNING) << name << " was stopped by the coordinator; its last checkpoint: "
                   << (result.last_checkpoint.empty() ? "none" : result.last_checkpoint);
      break;
    case Outcome::kStopped:
      LOG(WARNING) << name
                   << " was left, because this process was told to end; its last checkpoint: "
                   << (result.last_checkpoint.empty() ? "none" : result.last_checkpoint);
      break;
  }
}

}  // namespace

int Serve(const ServeEnvironment& environment, CoordinatorClient* client) {
  while (true) {
    const WorkerEvent event = client->WaitForEvent();
    if (event.kind == WorkerEvent::Kind::kShutdown) {
      LOG(INFO) << "the coordinator ends this worker: " << event.reason;
      client->Flush(kLeaveSeconds);
      return kExitSuccess;
    }
    if (event.kind == WorkerEvent::Kind::kStop) {
      client->Flush(kLeaveSeconds);
      return kExitSuccess;
    }
    const Assignment& assignment = event.assignment;
    if (static_cast<int64_t>(environment.rank) >= static_cast<int64_t>(assignment.ranks()) &&
        environment.rank != 0) {
      LOG(INFO) << "idle during attempt " << assignment.attempt() << " of job "
                << assignment.job_id() << ", which takes " << assignment.ranks() << " ranks";
      continue;
    }
    client->BeginAttempt(assignment.job_id(), assignment.attempt());
    LOG(INFO) << "attempt " << assignment.attempt() << " of job " << assignment.job_id() << " on "
              << assignment.ranks() << " ranks, "
              << (assignment.resume_from().empty() ? "from the beginning"
                                                   : "from " + assignment.resume_from());
    const AttemptResult result = Run(environment, assignment, client);
    if (environment.rank == 0) LogEnd(assignment, result);
    if (result.outcome == Outcome::kStopped) {
      client->Flush(kLeaveSeconds);
      return kExitStopped;
    }
    client->EndAttempt(environment.rank == 0 ? &result : nullptr);
  }
}

}  // namespace swinfleet
