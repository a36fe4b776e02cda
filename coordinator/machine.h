// Inside of state_machine.h: the handlers of events, on a state that Apply owns.
#ifndef SWINFLEET_COORDINATOR_MACHINE_H_
#define SWINFLEET_COORDINATOR_MACHINE_H_

#include <string>
#include <vector>

#include "coordinator/control_state.h"
#include "coordinator/state_machine.h"

namespace swinfleet::coordinator {

class Machine {
 public:
  Machine(ControlState* state, Effects* effects, const Settings& settings, Moment now)
      : state_(*state), effects_(*effects), settings_(settings), now_(now) {}

  // Requests of users (machine_jobs.cc).
  void On(const SubmitEvent& event);
  void On(const StoredEvent& event);
  void On(const NotStoredEvent& event);
  void On(const CancelEvent& event);
  // Traces of attempts (machine_traces.cc).
  void On(const TraceEvent& event);
  void On(const TraceReportEvent& event);
  // What the ranks of an attempt say (machine_jobs.cc).
  void On(const CheckpointEvent& event);
  void On(const AttemptEndedEvent& event);
  // Fleets, launches and ranks (machine_fleets.cc).
  void On(const FenceEvent& event);
  void On(const HelloEvent& event);
  void On(const HeartbeatEvent& event);
  void On(const StuckEvent& event);
  void On(const AliveEvent& event);
  void On(const StreamClosedEvent& event);
  void On(const LaunchReportEvent& event);
  void On(const TickEvent& event);

 private:
  // ---- Jobs ----
  // What speaks against the submission; OK: nothing.
  grpc::Status CheckRunFolder(const JobSpec& spec) const;
  grpc::Status CheckQuota(const Job& job) const;
  grpc::Status CheckRanks(const Job& job) const;
  // The jobs that schedule.after names.
  grpc::Status FindAfter(const JobSpec& spec, std::vector<std::string>* after) const;
  void Schedule();
  void StartAttempt(Job& job, Fleet& fleet, uint32_t ranks);
  // Asks the open attempt to save a checkpoint and to stop.
  void StopAttempt(Job& job, Stop stop, const std::string& reason);
  // The attempt is over because it was asked to stop (`what` it did); its job waits for its turn.
  void Yield(Job& job, const std::string& what);
  void CheckRunTime(Job& job);
  void SendAssignment(const Job& job, uint64_t stream);
  void SendCancel(const Job& job, uint64_t stream);
  // What a rank has to know that says that it has not been told, or whose connection is new.
  void SendTrace(const Job& job, uint32_t rank, uint64_t stream);
  void CloseTraceIfComplete(Job& job);
  // Nobody will say any more what became of it.
  void GiveUpTrace(Job& job);
  void GiveUpTraces();
  // The attempt's launch is over, with it the attempt.
  void AttemptDied(Job& job, const std::string& why);
  // Also ends jobs that wait for the success of this one in vain.
  void End(Job& job, JobState state, const std::string& reason);
  void EndAlone(Job& job, JobState state, const std::string& reason);
  void CloseAttempt(Job& job);
  void TakeOutcome(Job& job, const AttemptEnded& ended);
  // RUNNING while some rank of the open attempt is heard, RECOVERING when all are silent.
  void UpdateVisibility(Job& job);

  // ---- Fleets ----
  Rank* Sender(uint64_t stream);
  Fleet& FleetOfStream(uint64_t stream);
  void Heard(uint64_t stream, Rank& rank);
  // Makes `launch_id` the fleet's current launch if that is possible; otherwise says why not.
  std::string AdoptLaunch(Fleet& fleet, const std::string& launch_id);
  std::string CheckHello(const Fleet& fleet, const Hello& hello) const;
  void Connect(Fleet& fleet, const HelloEvent& event);
  void Disconnect(uint64_t stream);
  void Reject(uint64_t stream, const std::string& reason);
  // `faulty`: what is known of the ranks tells whose fault the end was.
  void CloseLaunch(Fleet& fleet, LaunchPhase phase, const std::string& exit, bool faulty);
  // Counts a failure of each host that the attempt's death points to.
  void BlameHosts(const Launch& launch, Job& job);
  void CountFailure(const std::string& name, double failures, const std::string& what);
  // The job has failed wherever it ran: its hosts are not to blame.
  void AcquitHosts(Job& job);
  void ForgiveHosts();
  void RememberClosed(Fleet& fleet, const std::string& launch_id, LaunchPhase phase);
  // The fleet of that name, made if it is new; null when there are too many.
  Fleet* FindOrMakeFleet(const std::string& name);
  // What has come of a second's heartbeats (or of their absence).
  void CheckSilence(Fleet& fleet);
  void CheckStragglers(Launch& launch);
  void ReportEnded(Fleet& fleet, const LaunchReport& report);
  void ReportRunning(Fleet& fleet, const LaunchReport& report);
  // The launch is given back: its job stops, and once there is none its ranks are told to end.
  void Leave(Fleet& fleet);
  void Dismiss(const Launch& launch);

  // ---- Effects ----
  void Store(const Job& job);
  void Store(const Fleet& fleet);
  void Changed(const Job& job) { effects_.changed_jobs.insert(job.id); }
  void Say(const std::string& text) { effects_.notes.push_back({false, text}); }
  void Warn(const std::string& text) { effects_.notes.push_back({true, text}); }
  // The same, and in the log of the job that runs on the launch, if the rank has a part in it.
  void WarnOf(const Launch& launch, uint32_t rank, const std::string& text);
  void Answer(grpc::StatusCode code, const std::string& message);
  void AnswerJob(const std::string& job_id);

  ControlState& state_;
  Effects& effects_;
  const Settings& settings_;
  const Moment now_;
};

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_COORDINATOR_MACHINE_H_
