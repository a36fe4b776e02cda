// A world in one thread and in made-up time: a coordinator (the real state machine and the rules of
// the control loop for durability), users, fleets with mpiruns, supervisors, an operator, and a
// network. A seed decides what crashes, is lost, delayed, repeated or overtaken, and when. After a
// while the faults cease; then everything must come to its end.
#ifndef SWINFLEET_TESTS_COORDINATOR_SIMULATOR_H_
#define SWINFLEET_TESTS_COORDINATOR_SIMULATOR_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <queue>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/control_state.h"
#include "coordinator/state_machine.h"

namespace swinfleet::coordinator {

// Wrong rules, made around the state machine, that the invariants must catch.
enum class Mutation {
  kNone,
  // Silence of all ranks counts as the launch's end.
  kSilenceEndsLaunches,
  // A new launch of a fleet counts as the end of the old one.
  kNewcomerSupersedes,
  // What an older attempt says is taken for the present one's word.
  kOldAttemptsAreHeard,
  // Answers and commands go out before the store has what they rest on.
  kSpeaksBeforeStored,
  // The start of an attempt is not stored.
  kAttemptsNotStored,
  // A rank that comes back idle is not told its assignment again.
  kAssignmentNotRepeated,
  // What a job's schedule says, or a quota, is not heeded.
  kPrioritiesIgnored,
  kDependenciesIgnored,
  kRunTimeIgnored,
  kRunTimeCutShort,
  kRestartsUnlimited,
  kPausesIgnored,
  kMinRanksIgnored,
  kRankQuotaIgnored,
  kJobQuotaIgnored,
  // Jobs that do not allow it make room; jobs make room for others of the same priority.
  kUnwillingMakeRoom,
  kEqualsMakeRoom,
  // Who made room takes its fleet back at once, and so has to make room again.
  kYieldersJumpTheQueue,
  // What a job has saved when it made room is forgotten.
  kYieldersLoseTheirCheckpoint,
  // Fleets that are given back get jobs like any other.
  kLeavingIgnored,
  // Hosts are left out even if a job then has no fleet that is large enough.
  kHostsLeftOutRegardless,
  // A rank whose connection is new is not told again of the trace that it is asked for.
  kTraceNotRepeated,
  // Traces of attempts that are over stay open.
  kTracesStayOpen,
  // A request for a trace that comes again is another one.
  kTraceRequestsNotKnownAgain,
  // Requests for traces are not stored.
  kTracesNotStored,
};

class Simulator {
 public:
  Simulator(uint64_t seed, Mutation mutation);
  // Empty when every invariant held and every job came to its end; otherwise what went wrong.
  std::string Run();
  // Events that were applied, to judge the cost.
  uint64_t events() const { return events_; }
  // How often something worth mentioning happened ("death", "fence", "coordinator crash", ...).
  const std::map<std::string, int>& counts() const { return counts_; }

 private:
  struct Launch;
  // The connection of one rank, as both ends see it.
  struct Connection {
    uint64_t id = 0;
    uint64_t life = 0;  // of the coordinator
    Launch* launch = nullptr;
    uint32_t rank = 0;
    double made_at = 0;
    bool broken = false;
    double to_server_at = 0;
    double to_client_at = 0;
  };
  using Link = std::shared_ptr<Connection>;
  struct RankProcess {
    bool alive = true;
    Link link;
    // What it works on.
    std::string job;
    uint32_t attempt = 0;
    bool cancelled = false;
    std::map<std::string, uint32_t> taken;  // newest attempt of each job that it took on
    // The trace that it was asked for last, how many ranks were, and whether it has been recorded.
    std::string trace;
    uint32_t trace_ranks = 0;
    bool traced = false;
    WorkerMessage trace_report;  // What came of the last one; told again after reconnecting.
  };
  struct Launch {
    std::string id;
    std::string fleet;
    bool supervised = false;
    bool killed = false;
    // Cut off from the coordinator, alive and at work.
    double cut_off_until = 0;
    std::vector<RankProcess> ranks;
    // The attempt under way on it, of its first `gang_ranks` ranks.
    std::string resume_from;
    uint32_t gang_ranks = 0;
    bool training = false;
    int step = 0;
    WorkerMessage checkpoint;  // The last one; told again after reconnecting.
    WorkerMessage ended;       // Set until it is acknowledged.
    bool dead() const;
  };
  struct FleetWorld {
    std::string name;
    bool supervised = true;
    bool supervisor_up = true;
    uint32_t world_size = 2;
    // Its present launch is to end (a batch job's time is over), and it comes again later.
    bool gives_back = false;
    Launch* current = nullptr;
    bool starting = false;
  };
  struct UserJob {
    std::string submission_id;
    std::shared_ptr<JobSpec> spec;
    std::string id;  // once acknowledged
    std::string user;
    int steps = 0;
    // The job that it comes after; null: none.
    const UserJob* after = nullptr;
    // It can't be submitted any more, because that one has failed.
    bool gave_up = false;
    bool wants_cancel = false;
    bool cancel_acknowledged = false;
    // Of its ranks: of the first one alone, or of all.
    bool wants_trace = false;
    bool of_first_rank = false;
    bool trace_acknowledged = false;
  };
  using Answer = std::function<void(const Reply&)>;

  // ---- Chance and time ----
  bool Chance(double probability);
  double Uniform(double low, double high);
  bool Faulty() const;
  bool Fault(double probability) { return Faulty() && Chance(probability); }
  void At(double delay, std::function<void()> action);
  void Every(double period, std::function<void()> action);
  void Violation(const std::string& what);

  // ---- Coordinator ----
  void StartCoordinator();
  void CrashCoordinator();
  void Deliver(Event event, Answer answer);
  void ApplyMutated(const Event& event, const Answer& answer);
  void Collect(Effects* effects, const Event& event, const Answer& answer);
  void Settle();
  bool WriteStore(std::vector<std::string>* stored);
  void StoreFailed();
  void Release();
  void CheckDurable();

  // ---- Scheduling: what users asked for, held against what the state machine does ----
  void MakeJobs();
  std::shared_ptr<JobSpec> MutatedSpec(const UserJob& user) const;
  const UserJob& Truth(const Job& job) const;
  // In the coordinator's state; null if it isn't there.
  const Job* JobOf(const UserJob& user) const;
  void MutateQueue(const Event& event);
  bool IsEligible(const Job& job) const;
  bool Fits(const Job& job, uint32_t world_size, bool fewer, const Job* leaving) const;
  void CheckScheduling();
  void CheckStart(const Job& job);
  void CheckStop(const Job& job);
  void CheckLoads();
  void CheckWorkingRanks();
  void CheckLeftOut(const std::string& fleet, LaunchDirective* directive);
  bool MayHaveFailed(const Job& job) const;
  // A request and its answer, each of which may be lost, late or repeated.
  void Call(const Event& event, const Answer& answer);

  // ---- Workers ----
  Launch* StartLaunch(FleetWorld* fleet, bool supervised);
  void KillRank(Launch* launch, uint32_t rank);
  void Connect(Launch* launch, uint32_t rank);
  void Break(const Link& link);
  void ToServer(const Link& link, const WorkerMessage& message);
  void Receive(const Link& link, const WorkerMessage& message);
  void ToClient(const Link& link, const WorkerCommand& command);
  void Obey(const Link& link, const WorkerCommand& command);
  void TakeAssignment(Launch* launch, uint32_t rank, const Assignment& assignment);
  void Beat(Launch* launch, uint32_t rank);
  void Train(Launch* launch);
  // Reports it too; its path.
  std::string SaveCheckpoint(Launch* launch);
  void GiveUp(Launch* launch);
  void TakeTrace(RankProcess* process, const TraceAttempt& asked);
  // At a step: the ranks record once all that are asked know of it.
  void RecordTraces(Launch* launch);
  void CheckTraceIsNotStuck(const Launch& launch);
  void AskForTrace(UserJob* user);
  void EndAttempt(Launch* launch, AttemptOutcome outcome);
  void CheckGangs(const std::string& job, const Launch* launch, uint32_t attempt);

  // ---- Supervisors, operator, users ----
  void Supervise(FleetWorld* fleet);
  void Operate();
  void Use(UserJob* job);
  void InjectFaults();
  bool Finished();

  const Mutation mutation_;
  std::mt19937_64 random_;
  // How likely a rank dies between two looks of InjectFaults.
  double death_rate_ = 0;
  double now_ = 0;
  uint64_t order_ = 0;
  uint64_t events_ = 0;
  std::map<std::string, int> counts_;
  std::string violation_;
  struct Scheduled {
    double time;
    uint64_t order;
    std::function<void()> action;
    bool operator<(const Scheduled& other) const {
      return std::pair(other.time, other.order) < std::pair(time, order);
    }
  };
  std::priority_queue<Scheduled> queue_;

  // What the disk holds.
  std::map<std::string, Job> durable_jobs_;
  std::map<std::string, Fleet> durable_fleets_;
  std::map<std::string, Host> durable_hosts_;
  // What the coordinator's process holds.
  Settings settings_{.lost_after = 30, .heartbeat = 10, .patience = 20};
  bool up_ = false;
  uint64_t life_ = 0;
  ControlState state_;
  std::map<uint64_t, Link> links_;
  std::set<std::string> dirty_jobs_, dirty_fleets_, dirty_hosts_;
  std::vector<Send> sends_;
  std::vector<uint64_t> closes_;
  std::vector<std::pair<Reply, Answer>> replies_;
  bool settle_scheduled_ = false;
  uint64_t next_stream_ = 1;

  std::vector<std::unique_ptr<Launch>> launches_;
  std::vector<std::unique_ptr<FleetWorld>> fleets_;
  std::vector<std::unique_ptr<UserJob>> users_;
  std::map<std::string, int> checkpoints_;  // path -> step
  // The truth: which attempt of a job was assigned where, and which finished it.
  std::map<std::string, std::map<uint32_t, std::string>> assigned_;
  std::map<std::string, uint32_t> finished_;
  // What was last seen of each job's place in the state.
  struct Seen {
    uint32_t attempt = 0;
    bool open = false;
    Stop stop = Stop::kNone;
  };
  std::map<std::string, Seen> seen_;
  // When the coordinator learnt of a job's last death, when its first attempt began, how long its
  // attempts have trained, and what each saved when it was asked to stop.
  std::map<std::string, double> died_at_, begun_at_, trained_;
  std::map<std::pair<std::string, uint32_t>, std::string> saved_at_stop_;
  std::set<std::string> ran_too_long_;
  // Launches that are given back, as far as this life of the coordinator knows.
  std::set<std::string> given_back_;
  // How often a job has stopped for that.
  std::map<std::string, uint32_t> gave_back_;
  // Traces that were recorded, by rank and request.
  std::set<std::pair<uint32_t, std::string>> traced_;
};

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_TESTS_COORDINATOR_SIMULATOR_H_
