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
#include <set>
#include <string>
#include <vector>

#include "coordinator/waiting_keys.h"
#include "proto/coordinator.pb.h"
#include "proto/job.pb.h"
#include "proto/queue.h"
#include "proto/roots.h"

namespace swinfleet::coordinator {

// Limits of everything that users and peers can make grow.
inline constexpr size_t kMaxFleets = 1000;
inline constexpr uint32_t kMaxWorldSize = 16384;
inline constexpr size_t kMaxClosedLaunches = 64;
// Deaths of attempts without a new checkpoint between them that fail a job.
inline constexpr uint32_t kMaxDeaths = 3;
// Of one trace.
inline constexpr size_t kMaxTracedRanks = 64;
inline constexpr uint32_t kMaxTracedSteps = 20;
// Hosts whose failures are remembered.
inline constexpr size_t kMaxHosts = 10000;

// The coordinator's settings that transitions depend on.
struct Settings {
  // Seconds of silence after which a rank is named lost.
  double lost_after = 4;
  // Seconds between two heartbeats of a rank.
  double heartbeat = 1;
  // Seconds for which a job waits for a free fleet with all of its ranks, before it goes on with
  // fewer (schedule.min_ranks) or a job of lower priority is asked to make room for it.
  double patience = 30;
  // What each user may have at once: ranks of jobs that run, and jobs that wait or run. 0: any
  // number.
  uint32_t max_user_ranks = 0;
  uint32_t max_user_jobs = 0;
  // Failures of a host, within about an hour, after which fleets are started without it. 0: they
  // never are.
  uint32_t host_failures = 2;
  // Jobs that may wait or run, streams of workers, and of people who watch jobs.
  uint32_t max_open_jobs = 10000;
  uint32_t max_workers = 20000;
  uint32_t max_watchers = 1000;
  // Where paths of jobs may lead; sent to the workers, who resolve them.
  PathRoots roots{};
};

// When an event happened.
struct Moment {
  // Seconds since 1970; only shown to people.
  double unix_time = 0;
  // Seconds on a clock that never jumps; silence is measured on it.
  double uptime = 0;
};

// Why an attempt was asked to save a checkpoint and to stop. Numbers are stored: never reuse one.
enum class Stop { kNone = 0, kCancelled = 1, kPreempted = 2, kRunTime = 3, kGivenBack = 4 };

struct Job {
  std::string id;
  // Order of submission, from 1.
  uint64_t number = 0;
  std::string submission_id;
  // Whose it is: the name of a token, or where there are none what the client said.
  std::string user;
  std::shared_ptr<const JobSpec> spec;
  // spec->schedule()
  QueueSettings queue;
  // The jobs that have to succeed before it starts, by id.
  std::vector<std::string> after;
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
  // Numbers to leave out before the next attempt, because the store was restored from a backup,
  // which may not know the last ones; and those that were left out so far.
  uint32_t attempt_gap = 0;
  uint32_t skipped_attempts = 0;
  // The open attempt was asked to stop; the job is then CANCELLING or STOPPING.
  Stop stop = Stop::kNone;
  // Deaths since the last new checkpoint, and since the beginning.
  uint32_t deaths = 0;
  uint32_t all_deaths = 0;
  // Hosts that counted a failure because of these deaths, since the last new checkpoint.
  std::vector<std::string> blamed;
  // How often it made room for a job of higher priority.
  uint32_t preemptions = 0;

  // Seconds that its attempts have taken: all before `clocked`, at which `clocked_uptime` was the
  // uptime. An open attempt goes on taking time.
  double run_seconds = 0;
  double clocked = 0;
  double clocked_uptime = 0;
  // Uptimes: since when nothing but fleets and other jobs have kept it waiting, and when its pause
  // after a death is over.
  double waits_since = 0;
  double restart_at = 0;

  std::string last_checkpoint;
  uint64_t last_checkpoint_step = 0;
  // The attempt that wrote it.
  uint32_t last_checkpoint_attempt = 0;

  double submitted_at = 0;
  double started_at = 0;
  double ended_at = 0;

  // The last trace that was asked for; at most one of a job is not complete. Once its attempt is
  // over, what ranks have written may still be reported until this uptime.
  std::optional<TraceStatus> trace;
  double trace_closes_at = 0;
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
  // The job with an open attempt on this launch; empty: none. Since this uptime it had none.
  std::string job_id;
  double idle_since = 0;
  // Its supervisor gives it back: no job starts on it, and its ranks are to end. Not stored, for
  // each report says it anew.
  bool leaving = false;
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

// A host that launches have lately failed on.
struct Host {
  std::string name;
  // Launches that ended because of a rank on it; halved each hour. As of `counted_at` (unix time).
  double failures = 0;
  double counted_at = 0;
  // Fleets are started without it, until its failures have come down to less than one.
  bool left_out = false;
  // The last of them, for people.
  std::string last;
};

inline QueueKey KeyOf(const Job& job) { return {job.queue.priority, job.number}; }

// What a user has now.
struct UserLoad {
  // That have not ended.
  uint32_t jobs = 0;
  // Of open attempts.
  uint32_t ranks = 0;
};

struct ControlState {
  std::map<std::string, Job> jobs;                 // by id
  std::map<uint64_t, std::string> job_order;       // number -> id, all jobs
  std::map<QueueKey, std::string> open_jobs;       // -> id, jobs that have not ended
  WaitingKeys waiting;                             // of the jobs that wait (IsWaiting)
  std::map<std::string, std::string> submissions;  // submission id -> job id
  std::map<std::string, std::string> run_dirs;     // normal form -> job id
  std::map<std::string, Fleet> fleets;             // by name
  std::map<uint64_t, RankAddress> streams;         // connections that said Hello
  std::map<std::string, UserLoad> users;           // by name, those that have something
  std::map<std::string, Host> hosts;               // by name, those that have failed lately
  std::set<std::string> traced;                    // jobs whose trace is not complete
  uint64_t next_number = 1;
};

// Succeeded, failed or cancelled: final.
bool IsEnded(JobState state);

// The job waits for a fleet: it may be started at once.
bool IsWaiting(const Job& job);

// Of the jobs that have to succeed before this one, the first that has not; null if all have.
const Job* AwaitedJob(const ControlState& state, const Job& job);

// Seconds that the job's attempts have taken until now.
double RunSeconds(const Job& job, double uptime);

// The pause after a death, by how many came without a new checkpoint. Seconds.
double RestartPause(const Job& job);

// The host's failures by now.
double HostFailures(const Host& host, double unix_time);

// Brings ControlState::waiting up to the job's present state.
void UpdateWaiting(ControlState* state, const Job& job);

// Adds to what a user has.
void ChangeLoad(ControlState* state, const std::string& user, int64_t jobs, int64_t ranks);

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

// Some rank's silence is still to be noticed, or a trace to be closed: Tick events are needed.
bool NeedsTicks(const ControlState& state);

// Seconds after an attempt's end in which its ranks may still say what they have traced.
inline constexpr double kTraceGrace = 5;

// The entry of a rank that has not said what came of the trace that the job's open attempt is asked
// for; null: there is none.
const RankTrace* AwaitedTrace(const Job& job, uint32_t rank);

// Its run folder is this job's for good. One that failed or was cancelled before its first
// checkpoint holds nothing that another job could harm.
bool HoldsRunFolder(const Job& job);

// The state after a start of the coordinator, from what the store holds. Open attempts stay open:
// their workers are expected to come back, and have worked meanwhile: their run time goes on from
// the clock of the wall. Pauses and patience begin anew.
ControlState Restore(std::vector<Job> jobs, std::vector<Fleet> fleets, std::vector<Host> hosts,
                     Moment now);

// Dies with a CHECK if the state contradicts itself.
void CheckInvariants(const ControlState& state);

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_COORDINATOR_CONTROL_STATE_H_
