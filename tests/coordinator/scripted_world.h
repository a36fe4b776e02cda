// Users, supervisors and ranks that live through a script beside a real coordinator, which may be
// killed at any moment. Like the real ones they start again what was not answered: submissions with
// their ids, connections with what the rank works on, reports until they are acknowledged. What
// they are told is held against what they were told before.
#ifndef SWINFLEET_TESTS_COORDINATOR_SCRIPTED_WORLD_H_
#define SWINFLEET_TESTS_COORDINATOR_SCRIPTED_WORLD_H_

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "proto/coordinator.pb.h"
#include "tests/coordinator/fake_worker.h"
#include "tests/coordinator/kill_point.h"
#include "tests/coordinator/nursery.h"

namespace swinfleet::coordinator {

class ScriptedWorld {
 public:
  // `nursery` starts coordinators on the store that is its argument, and its line is their address.
  // One that dies at `point` is started again, once.
  ScriptedWorld(Nursery* nursery, KillPoint* point, std::string store);
  // Kills the coordinator.
  ~ScriptedWorld();
  ScriptedWorld(const ScriptedWorld&) = delete;
  ScriptedWorld& operator=(const ScriptedWorld&) = delete;

  // ---- The script. Jobs are called by their names. Each returns when its effect is certain. ----
  void Start();
  // Stops the coordinator as an operator does, and starts it again.
  void Restart();
  // Into the run folder `folder`.
  void Submit(const std::string& name, const std::string& folder,
              const std::function<void(JobSpec*)>& change);
  void Cancel(const std::string& name);
  // A supervised launch of a fleet, all ranks of which connect.
  void Launch(const std::string& fleet, const std::string& launch, uint32_t ranks);
  // One rank of the fleet dies, the others with it, and the supervisor reports that.
  void Die(const std::string& fleet, uint32_t first);
  // The ranks of the fleet take on this attempt of the job.
  void AwaitAttempt(const std::string& name, uint32_t attempt, const std::string& fleet);
  // They are asked to stop.
  void AwaitStop(const std::string& fleet);
  void Progress(const std::string& fleet, uint64_t step);
  void Checkpoint(const std::string& fleet, uint64_t step);
  // The job's ranks are asked for a trace, and say what came of it.
  void Trace(const std::string& name, const std::string& fleet);
  void End(const std::string& fleet, AttemptOutcome outcome);
  void AwaitState(const std::string& name, JobState state);
  // A rank of an old launch comes back.
  void ExpectTurnedAway(const std::string& fleet, const std::string& launch);

  // Jobs and fleets as users see them, without times and random parts of ids.
  std::string Summary();
  // The first thing that went wrong; empty: nothing.
  const std::string& fault() const { return fault_; }

 private:
  struct Rank {
    std::string fleet, launch;
    uint32_t number = 0, world_size = 0;
    std::unique_ptr<FakeRank> link;
    // What it works on.
    std::string job;
    uint32_t attempt = 0;
    bool stopping = false;
    std::set<std::pair<std::string, uint32_t>> taken;
    // Of rank 0: told again on each new connection.
    std::optional<WorkerMessage> progress, checkpoint, ended;
    // The trace that it is asked for, and what it has said of it.
    std::string asked;
    std::optional<WorkerMessage> trace;
  };

  void Fail(const std::string& what);
  // Does `act` until it says that it is done, with the next coordinator if this one dies.
  void Insist(const std::string& what, const std::function<bool()>& act);
  // It has died at the point, or is about to.
  bool IsKilled() const { return point_->at != 0 && point_->writes >= point_->at; }
  // False: it has not died.
  bool Revive();
  bool Begin();
  // All ranks, and then what they have to tell again.
  bool ConnectAll();
  bool Connect(Rank* rank);
  // The next command; one without content when there will be none.
  WorkerCommand Hear(FakeRank* link) const;
  void CheckNothingLost();
  // Repeats `look` at the job until it is as wanted.
  void AwaitJob(const std::string& name, const std::function<bool(const JobStatus&)>& wanted);
  // Reads and obeys the rank's next command.
  bool Obey(Rank* rank);
  void TakeAssignment(Rank* rank, const Assignment& assignment);
  Rank& RankZero(const std::string& fleet);
  std::vector<Rank*> RanksOf(const std::string& fleet);
  // With names in place of ids.
  std::string WithNames(std::string text) const;

  Nursery* const nursery_;
  KillPoint* const point_;
  const std::string store_;
  bool alive_ = false;
  std::string address_;
  std::unique_ptr<FakeUser> user_;
  std::vector<std::unique_ptr<Rank>> ranks_;
  std::string fault_;

  // What was said: ids of jobs by name, on which launch each attempt is, and the last that was seen
  // of each job.
  std::map<std::string, std::string> acknowledged_;
  std::map<std::string, std::map<uint32_t, std::string>> assigned_;
  std::map<std::string, JobStatus> seen_;
};

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_TESTS_COORDINATOR_SCRIPTED_WORLD_H_
