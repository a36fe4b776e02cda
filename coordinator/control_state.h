// The whole control state: jobs, fleets, launches and ranks, as plain values.
//
// Nouns: a fleet is a named group of machines; a launch is one mpirun on it; an attempt puts a job
// on ranks of a launch. A job's attempt is *open* from the moment that it is decided until it is
// certain that none of its processes works on the job: rank 0 said so, or the launch ended or was
// fenced. Only a job without an open attempt may get a new one.
#ifndef SWINFLEET_COORDINATOR_CONTROL_STATE_H_
#define SWINFLEET_COORDINATOR_CONTROL_STATE_H_

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "proto/coordinator.pb.h"
#include "proto/job.pb.h"

namespace swinfleet::coordinator {

// Limits of everything that users and peers can make grow.
inline constexpr size_t kMaxOpenJobs = 10000;
inline constexpr size_t kMaxFleets = 1000;
inline constexpr uint32_t kMaxWorldSize = 16384;
inline constexpr size_t kMaxClosedLaunches = 64;
// Deaths of attempts without a new checkpoint between them that fail a job.
inline constexpr uint32_t kMaxDeaths = 3;

// The coordinator's settings that transitions depend on.
struct Settings {
  // Seconds of silence after which a rank is named lost.
  double lost_after = 4;
  // Seconds between two heartbeats of a rank.
  double heartbeat = 1;
};

// When an event happened.
struct Moment {
  // Seconds since 1970; only shown to people.
  double unix_time = 0;
  // Seconds on a clock that never jumps; silence is measured on it.
  double uptime = 0;
};

struct Job {
  std::string id;
  // Order of submission, from 1.
  uint64_t number = 0;
  std::string submission_id;
  std::shared_ptr<const JobSpec> spec;
  // spec->run_dir() in a normal form, by which two jobs' folders are compared.
  std::string run_dir;
  // Ranks that the job takes; 0 means all of its fleet.
  uint32_t wanted_ranks = 0;
  // False until the store has the job; until then nobody sees it and it isn't scheduled.
  bool durable = false;

  JobState state = QUEUED;
  // Why it is in this state, as far as the job itself knows; WaitingReason (status_view.h) says
  // what a waiting job waits for.
  std::string reason;

  // The last attempt's number, 0 before the first one, and where it runs or ran.
  uint32_t attempt = 0;
  bool attempt_open = false;
  std::string fleet;
  std::string launch_id;
  uint32_t attempt_ranks = 0;
  // Deaths since the last new checkpoint.
  uint32_t deaths = 0;

  std::string last_checkpoint;
  uint64_t last_checkpoint_step = 0;
  // The attempt that wrote it.
  uint32_t last_checkpoint_attempt = 0;

  double submitted_at = 0;
  double started_at = 0;
  double ended_at = 0;
};

// A rank's own work in a step, taken over windows of time.
struct OwnWork {
  // The beginning of the window: uptime, and what the rank reported then.
  double since = 0;
  double seconds = 0;
  uint64_t steps = 0;
  // Seconds a step in the last whole window; 0: there was none.
  double mean = 0;
  // Windows in a row in which it was far above the other ranks'.
  uint32_t above = 0;
  bool straggler = false;
};

struct Rank {
  // The connection; 0 when there is none.
  uint64_t stream = 0;
  std::string host;
  uint32_t pid = 0;
  // Heard of since this coordinator started.
  bool heard = false;
  // Uptime of its last message (before the first one: since when one is waited for).
  double heard_at = 0;
  // Silent for too long. That names the rank for people and has no other consequence.
  bool lost = false;
  // Uptime at which its connection broke last.
  double gone_at = 0;
  OwnWork own;
  // It waited in a collective past the deadline, and leaves.
  std::optional<StuckReport> stuck;
  // Its last heartbeat. job_id and attempt in it are what the rank says that it works on.
  Heartbeat report;
};

// Numbers are stored: never reuse one.
enum class LaunchPhase { kLive = 0, kEnded = 1, kFenced = 2 };

struct Launch {
  std::string id;
  LaunchPhase phase = LaunchPhase::kLive;
  // 0 as long as only the supervisor has spoken.
  uint32_t world_size = 0;
  bool supervised = false;
  // How it ended, for people.
  std::string exit;
  // The job with an open attempt on this launch; empty: none.
  std::string job_id;
  // Which rank is stuck and where, as far as is known, once ranks have waited for it past their
  // deadline. They leave the launch, which therefore ends. Empty: nothing of the kind.
  std::string stuck;
  std::vector<Rank> ranks;  // (world_size)
};

// A launch that is known to run no more; its ranks are turned away should they still speak.
struct ClosedLaunch {
  std::string id;
  LaunchPhase phase = LaunchPhase::kEnded;
};

struct Fleet {
  std::string name;
  // Heard of since this coordinator started (it may be known from the store alone).
  bool heard = false;
  // The current launch, or the last one.
  Launch launch;
  std::deque<ClosedLaunch> closed;  // oldest first, at most kMaxClosedLaunches
};

struct RankAddress {
  std::string fleet;
  uint32_t rank = 0;
};

struct ControlState {
  std::map<std::string, Job> jobs;                 // by id
  std::map<uint64_t, std::string> job_order;       // number -> id, all jobs
  std::map<uint64_t, std::string> open_jobs;       // number -> id, jobs that have not ended
  std::map<std::string, std::string> submissions;  // submission id -> job id
  std::map<std::string, std::string> run_dirs;     // normal form -> job id
  std::map<std::string, Fleet> fleets;             // by name
  std::map<uint64_t, RankAddress> streams;         // connections that said Hello
  uint64_t next_number = 1;
};

// Succeeded, failed or cancelled: final.
bool IsEnded(JobState state);

// The job waits for a fleet: it may be started at once.
bool IsWaiting(const Job& job);

// A launch that can take a job now: all of its ranks are connected, heard and idle.
bool IsAssignable(const Launch& launch);

// A fleet that counts among "the fleets that there are": heard of since the coordinator started,
// and more than a name that once was connected.
bool IsRegistered(const Fleet& fleet);

// Ranks of the launch with a connection.
uint32_t ConnectedRanks(const Launch& launch);

// The rank's word names this attempt.
bool WorksOn(const Rank& rank, const std::string& job_id, uint32_t attempt);

// The job if the connection `stream` speaks for a rank of the launch of its attempt `attempt`, and
// that is the job's last attempt; null otherwise: then what it says is to be ignored.
const Job* AttemptOfStream(const ControlState& state, uint64_t stream, const std::string& job_id,
                           uint32_t attempt);

// Some rank's silence is still to be noticed: Tick events are needed.
bool NeedsTicks(const ControlState& state);

// Its run folder is this job's for good. One that failed or was cancelled before its first
// checkpoint holds nothing that another job could harm.
bool HoldsRunFolder(const Job& job);

// The state after a start of the coordinator, from what the store holds. Open attempts stay open:
// their workers are expected to come back.
ControlState Restore(std::vector<Job> jobs, std::vector<Fleet> fleets, double uptime);

// Dies with a CHECK if the state contradicts itself.
void CheckInvariants(const ControlState& state);

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_COORDINATOR_CONTROL_STATE_H_
