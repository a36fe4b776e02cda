// Single transitions, each as a user or an operator would meet it. The simulator covers their
// combinations.
#include "coordinator/state_machine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/scheduling.h"
#include "coordinator/status_view.h"

namespace swinfleet::coordinator {
namespace {

using ::testing::HasSubstr;

class Machine : public ::testing::Test {
 protected:
  Effects Do(const Event& event) {
    Transition transition = Apply(std::move(state_), event, settings_, {wall_ + now_, now_});
    state_ = std::move(transition.state);
    CheckInvariants(state_);
    return std::move(transition.effects);
  }
  // Submits and stores; the job's id.
  std::string Submit(const std::string& run_dir, uint32_t ranks = 0) {
    const Effects effects = TrySubmit(run_dir, ranks, run_dir);
    EXPECT_TRUE(effects.reply->status.ok()) << effects.reply->status.error_message();
    Do(StoredEvent{effects.reply->job_id});
    return effects.reply->job_id;
  }
  Effects TrySubmit(const std::string& run_dir, uint32_t ranks, const std::string& submission) {
    JobSpec spec;
    spec.set_run_dir(run_dir);
    spec.mutable_parallel()->set_ranks(ranks);
    return TrySubmit(spec, submission);
  }
  Effects TrySubmit(const JobSpec& spec, const std::string& submission,
                    const std::string& user = "") {
    return Do(SubmitEvent{std::make_shared<JobSpec>(spec), submission, user, "abcd"});
  }
  // Submits and stores a job whose folder is its name; its id.
  std::string Submit(const std::string& name, const QueueSpec& queue, uint32_t ranks = 0,
                     const std::string& user = "") {
    const Effects effects = TrySubmit(Spec(name, queue, ranks), name, user);
    EXPECT_TRUE(effects.reply->status.ok()) << effects.reply->status.error_message();
    last_ = Do(StoredEvent{effects.reply->job_id});
    return effects.reply->job_id;
  }
  static JobSpec Spec(const std::string& name, const QueueSpec& queue, uint32_t ranks = 0) {
    JobSpec spec;
    spec.set_name(name);
    spec.set_run_dir("/" + name);
    spec.mutable_parallel()->set_ranks(ranks);
    *spec.mutable_schedule() = queue;
    return spec;
  }
  // Connects rank `rank` of `world`; its connection.
  uint64_t SayHello(const std::string& launch, uint32_t rank, uint32_t world,
                    const std::string& job = "", uint32_t attempt = 0) {
    HelloEvent event{next_stream_++, {}};
    event.hello.set_fleet(fleet_);
    event.hello.set_launch_id(launch);
    event.hello.set_rank(rank);
    event.hello.set_world_size(world);
    event.hello.set_host("node1");
    event.hello.set_pid(100 + rank);
    event.hello.set_job_id(job);
    event.hello.set_attempt(attempt);
    last_ = Do(event);
    return event.stream;
  }
  Effects Report(const std::string& launch, LaunchState state) {
    LaunchReportEvent event;
    event.report.set_fleet(fleet_);
    event.report.set_launch_id(launch);
    event.report.set_state(state);
    event.report.set_exit("exit code 137");
    return Do(event);
  }
  Effects GiveBack(const std::string& launch) {
    LaunchReportEvent event;
    event.report.set_fleet(fleet_);
    event.report.set_launch_id(launch);
    event.report.set_state(LAUNCH_RUNNING);
    event.report.set_give_back(true);
    return Do(event);
  }
  static int Shutdowns(const Effects& effects) {
    int count = 0;
    for (const Send& send : effects.sends) count += send.command.has_shutdown() ? 1 : 0;
    return count;
  }
  Effects End(uint64_t stream, const std::string& job, uint32_t attempt, AttemptOutcome outcome) {
    AttemptEndedEvent event{stream, {}};
    event.ended.set_job_id(job);
    event.ended.set_attempt(attempt);
    event.ended.set_outcome(outcome);
    event.ended.set_message("said the worker");
    return Do(event);
  }
  Effects ReportCheckpoint(uint64_t stream, const std::string& job, uint32_t attempt,
                           const std::string& path, uint64_t step) {
    CheckpointEvent event{stream, {}};
    event.checkpoint.set_job_id(job);
    event.checkpoint.set_attempt(attempt);
    event.checkpoint.set_path(path);
    event.checkpoint.set_step(step);
    return Do(event);
  }
  void Beat(uint64_t stream, const std::string& job, uint32_t attempt) {
    HeartbeatEvent event{stream, {}};
    event.heartbeat.set_job_id(job);
    event.heartbeat.set_attempt(attempt);
    last_ = Do(event);
  }
  const Job& job(const std::string& id) const { return state_.jobs.at(id); }
  std::string Reason(const std::string& id) const {
    return ViewJob(state_, settings_, job(id), nullptr, now_, RankDetail::kWithoutRanks).reason();
  }
  std::string FleetState() const { return FleetStateName(state_.fleets.at("f")); }
  // The rejection among the last effects, or "".
  std::string Rejection() const {
    for (const Send& send : last_.sends) {
      if (send.command.has_rejected()) return send.command.rejected().reason();
    }
    return "";
  }
  int Assignments(const Effects& effects) const {
    int count = 0;
    for (const Send& send : effects.sends) count += send.command.has_assignment() ? 1 : 0;
    return count;
  }
  // The launch dies and another one comes, after the pause that follows a death.
  void Restart(const std::string& old_launch, const std::string& new_launch) {
    Report(old_launch, LAUNCH_ENDED);
    Pass(4);
    stream_ = SayHello(new_launch, 0, 1);
  }
  void Pass(double seconds) {
    now_ += seconds;
    last_ = Do(TickEvent{});
  }
  // Passes in which the streams say something each second.
  void PassWith(const std::vector<uint64_t>& streams, double seconds) {
    for (double passed = 0; passed < seconds; ++passed) {
      now_ += 1;
      for (const uint64_t stream : streams) Do(AliveEvent{stream});
      last_ = Do(TickEvent{});
    }
  }
  // The coordinator is killed and started again.
  void RestartCoordinator(double down) {
    std::vector<Job> jobs;
    std::vector<Fleet> fleets;
    for (const auto& [id, job] : state_.jobs) jobs.push_back(job);
    for (const auto& [name, fleet] : state_.fleets) fleets.push_back(fleet);
    std::vector<Host> hosts;
    for (const auto& [name, host] : state_.hosts) hosts.push_back(host);
    now_ += down;
    state_ = Restore(std::move(jobs), std::move(fleets), std::move(hosts), {wall_ + now_, now_});
  }
  int Cancels(const Effects& effects) const {
    int count = 0;
    for (const Send& send : effects.sends) count += send.command.has_cancel() ? 1 : 0;
    return count;
  }

  Settings settings_;
  std::string fleet_ = "f";
  ControlState state_;
  double now_ = 100;
  // What the clock on the wall is ahead of the uptime.
  double wall_ = 1e9;
  uint64_t next_stream_ = 1;
  uint64_t stream_ = 0;
  Effects last_;
};

TEST_F(Machine, JobWaitsAndSaysWhyUntilAFleetComes) {
  const std::string id = Submit("/r");
  EXPECT_EQ(job(id).state, QUEUED);
  EXPECT_THAT(Reason(id), HasSubstr("none is registered"));
  SayHello("l1", 0, 2);
  EXPECT_EQ(job(id).state, QUEUED);
  EXPECT_THAT(Reason(id), HasSubstr("fleet f has 1 of 2 ranks connected"));
  SayHello("l1", 1, 2);
  EXPECT_EQ(job(id).state, RUNNING);
  EXPECT_EQ(job(id).attempt_ranks, 2u);
  EXPECT_EQ(Assignments(last_), 2);
  EXPECT_TRUE(last_.store_jobs.contains(id));
}

TEST_F(Machine, JobIsInvisibleAndUnscheduledUntilItIsStored) {
  SayHello("l1", 0, 1);
  const Effects effects = TrySubmit("/r", 0, "s");
  EXPECT_EQ(Assignments(effects), 0);
  EXPECT_TRUE(effects.store_jobs.contains(effects.reply->job_id));
  EXPECT_EQ(Do(CancelEvent{effects.reply->job_id}).reply->status.error_code(),
            grpc::StatusCode::NOT_FOUND);
  Do(NotStoredEvent{effects.reply->job_id});
  EXPECT_TRUE(state_.jobs.empty());
  EXPECT_EQ(Assignments(Do(StoredEvent{TrySubmit("/r", 0, "s").reply->job_id})), 1);
}

TEST_F(Machine, RepeatedSubmissionIsTheSameJob) {
  const std::string id = Submit("/r");
  EXPECT_EQ(TrySubmit("/r", 0, "/r").reply->job_id, id);
  EXPECT_EQ(state_.jobs.size(), 1u);
}

TEST_F(Machine, RunFolderBelongsToItsJobForever) {
  const std::string id = Submit("/r");
  const grpc::Status waiting = TrySubmit("/r", 0, "early").reply->status;
  EXPECT_EQ(waiting.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  const uint64_t stream = SayHello("l1", 0, 1);
  ReportCheckpoint(stream, id, 1, "/r/c1", 10);
  End(stream, id, 1, ATTEMPT_FAILED);
  EXPECT_EQ(job(id).state, FAILED);
  const grpc::Status status = TrySubmit("/r", 0, "other").reply->status;
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr(id));
}

TEST_F(Machine, RunFolderIsFreeAgainWhenItsJobEndedWithoutACheckpoint) {
  const std::string id = Submit("/r");
  Do(CancelEvent{id});
  const Effects effects = TrySubmit("/r", 0, "second");
  ASSERT_TRUE(effects.reply->status.ok()) << effects.reply->status.error_message();
  Do(StoredEvent{effects.reply->job_id});
  EXPECT_NE(effects.reply->job_id, id);
  EXPECT_EQ(TrySubmit("/r", 0, "third").reply->status.error_code(),
            grpc::StatusCode::FAILED_PRECONDITION);
}

TEST_F(Machine, TooManyRanksAreRefusedOnlyIfFleetsAreThere) {
  const std::string early = Submit("/early", 8);
  SayHello("l1", 0, 2);
  const grpc::Status status = TrySubmit("/r", 3, "s").reply->status;
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("largest fleet that is registered has 2 ranks"));
  EXPECT_THAT(Reason(early), HasSubstr("fleet of 8 ranks: the largest that is registered has 2"));
}

TEST_F(Machine, FirstInFirstOutAndPositions) {
  const std::string first = Submit("/1"), second = Submit("/2"), third = Submit("/3", 9);
  EXPECT_EQ(QueuePosition(state_, job(second)), 2u);
  const uint64_t stream = SayHello("l1", 0, 1);
  EXPECT_EQ(job(first).state, RUNNING);
  EXPECT_EQ(QueuePosition(state_, job(second)), 1u);
  End(stream, first, 1, ATTEMPT_SUCCEEDED);
  EXPECT_EQ(job(first).state, SUCCEEDED);
  EXPECT_EQ(job(second).state, RUNNING);
  EXPECT_EQ(job(third).state, QUEUED);
}

TEST_F(Machine, SilenceOnlyNamesARank) {
  const std::string id = Submit("/r");
  const uint64_t first = SayHello("l1", 0, 2);
  const uint64_t second = SayHello("l1", 1, 2);
  now_ += 4;
  Beat(first, id, 1);
  now_ += 2;
  EXPECT_EQ(Assignments(Do(TickEvent{})), 0);
  EXPECT_EQ(job(id).state, RUNNING);
  EXPECT_EQ(FleetState(), "lost");
  EXPECT_THAT(Reason(id), HasSubstr("rank 1 (node1, process 101) silent for 6 s"));
  now_ += 10;
  Do(TickEvent{});
  EXPECT_EQ(job(id).state, RECOVERING);
  EXPECT_TRUE(job(id).attempt_open);
  EXPECT_THAT(Reason(id), HasSubstr("swinfleet fence f"));
  Beat(second, id, 1);
  EXPECT_EQ(job(id).state, RUNNING);
  EXPECT_EQ(job(id).attempt, 1u);
}

class Faults : public Machine {
 protected:
  // Four ranks on a job.
  void Start() {
    id_ = Submit("/r");
    for (uint32_t r = 0; r < 4; ++r) streams_[r] = SayHello("l1", r, 4);
  }
  void BeatOf(uint32_t rank, uint64_t sequence, bool in_collective, double own_seconds = 0,
              uint64_t own_steps = 0) {
    HeartbeatEvent event{streams_[rank], {}};
    event.heartbeat.set_job_id(id_);
    event.heartbeat.set_attempt(1);
    event.heartbeat.set_phase("train");
    event.heartbeat.set_step(9);
    event.heartbeat.set_collective_sequence(sequence);
    event.heartbeat.set_collective("reduce-scatter u" + std::to_string(sequence));
    event.heartbeat.set_in_collective(in_collective);
    event.heartbeat.set_own_seconds(own_seconds);
    event.heartbeat.set_own_steps(own_steps);
    last_ = Do(event);
  }
  Effects SayStuck(uint32_t rank, uint64_t sequence) {
    StuckEvent event{streams_[rank], {}};
    event.report.set_job_id(id_);
    event.report.set_attempt(1);
    event.report.set_phase("train");
    event.report.set_step(9);
    event.report.set_collective_sequence(sequence);
    event.report.set_collective("reduce-scatter u" + std::to_string(sequence));
    event.report.set_waited_seconds(10.2);
    event.report.set_deadline_seconds(10);
    event.report.set_flight_recorder("/r/flight/attempt-001/rank-0000.json");
    return Do(event);
  }

  std::string id_;
  uint64_t streams_[4] = {};
};

TEST_F(Faults, ASilentRankIsStuckIfOthersWaitForIt) {
  Start();
  for (uint32_t r = 0; r < 4; ++r) BeatOf(r, 41, true);
  now_ += 4.5;
  for (const uint32_t r : {0, 1, 3}) BeatOf(r, 41, true);
  Effects effects = Do(TickEvent{});
  ASSERT_EQ(effects.job_lines.size(), 1u);
  EXPECT_EQ(effects.job_lines[0].job_id, id_);
  EXPECT_EQ(effects.job_lines[0].attempt, 1u);
  EXPECT_EQ(effects.job_lines[0].rank, 2u);
  EXPECT_THAT(effects.job_lines[0].text,
              HasSubstr("silent for 4.5 s in collective 41 reduce-scatter u41 (step 9, train)"));
  now_ += 6;
  EXPECT_FALSE(Report("l1", LAUNCH_RUNNING).reply->directive.ending());
  effects = SayStuck(0, 41);
  ASSERT_EQ(effects.job_lines.size(), 1u);
  EXPECT_EQ(effects.job_lines[0].rank, 2u);
  const std::string who =
      "rank 2 (node1, process 102), silent for 10 s, is stuck in collective 41 reduce-scatter u41 "
      "(step 9, train); ";
  EXPECT_THAT(Reason(id_), HasSubstr(who + "rank 0 waited in collective 41 reduce-scatter u41 "
                                           "(step 9, train) past the deadline of 10 s; last "
                                           "collectives in /r/flight/attempt-001"));
  EXPECT_TRUE(Report("l1", LAUNCH_RUNNING).reply->directive.ending());
  SayStuck(1, 41);
  SayStuck(3, 41);
  EXPECT_THAT(Reason(id_), HasSubstr(who + "ranks 0, 1 and 3 waited"));
  EXPECT_EQ(job(id_).state, RUNNING);
  Report("l1", LAUNCH_ENDED);
  EXPECT_EQ(job(id_).state, RECOVERING);
  EXPECT_THAT(Reason(id_),
              HasSubstr("attempt 1 died: its launch on fleet f ended (exit code 137); " + who));
}

// It beats, but does not come: as when it waits for a disk.
TEST_F(Faults, ARankThatIsBehindIsStuck) {
  Start();
  for (uint32_t r = 0; r < 4; ++r) BeatOf(r, 41, r != 3);
  SayStuck(1, 41);
  EXPECT_THAT(Reason(id_), HasSubstr("rank 3 (node1, process 103) is stuck after collective 41 "));
  // A rank that was ended because rank 1 left is not to blame.
  Do(StreamClosedEvent{streams_[0]});
  SayStuck(2, 41);
  EXPECT_THAT(Reason(id_), HasSubstr("rank 3 (node1, process 103) is stuck after collective 41 "));
  EXPECT_THAT(Reason(id_), HasSubstr("; ranks 1 and 2 waited in collective 41 "));
}

TEST_F(Faults, AllInTheSameCollective) {
  Start();
  for (uint32_t r = 0; r < 4; ++r) BeatOf(r, 41, true);
  for (uint32_t r = 0; r < 4; ++r) SayStuck(r, 41);
  EXPECT_THAT(Reason(id_), HasSubstr("look at the network between their hosts"));
}

TEST_F(Faults, WordsOfAnOlderAttemptAreIgnored) {
  Start();
  StuckEvent event{streams_[0], {}};
  event.report.set_job_id(id_);
  event.report.set_attempt(7);
  EXPECT_TRUE(Do(event).job_lines.empty());
  EXPECT_FALSE(Report("l1", LAUNCH_RUNNING).reply->directive.ending());
}

TEST_F(Faults, WhoLeftFirstIsNamedWhenTheLaunchEnds) {
  Start();
  for (uint32_t r = 0; r < 4; ++r) BeatOf(r, 40 + r, r == 1);
  for (const uint32_t r : {1, 0, 3, 2}) {
    now_ += 0.01;
    Do(StreamClosedEvent{streams_[r]});
  }
  const Effects effects = Report("l1", LAUNCH_ENDED);
  const std::string why =
      "attempt 1 died: its launch on fleet f ended (exit code 137); the first to leave was rank 1 "
      "(node1, process 101) in collective 41 reduce-scatter u41 (step 9, train)";
  EXPECT_THAT(Reason(id_), HasSubstr(why));
  ASSERT_FALSE(effects.job_lines.empty());
  EXPECT_EQ(effects.job_lines.back().text, why);
}

TEST_F(Faults, StragglersAreNamedWhenTheyPersist) {
  Start();
  double own[4] = {};
  uint64_t steps = 0;
  int lines = 0;
  // A second, of ten steps; rank 1's take so many times as long as the others'.
  const auto second = [&](double slower) {
    now_ += 1;
    steps += 10;
    for (uint32_t r = 0; r < 4; ++r) {
      own[r] += 10 * 0.04 * (r == 1 ? slower : 1 + 0.01 * r);
      BeatOf(r, 41, false, own[r], steps);
    }
    lines += static_cast<int>(Do(TickEvent{}).job_lines.size());
  };
  const auto stragglers = [&] {
    const JobStatus status =
        ViewJob(state_, settings_, job(id_), nullptr, now_, RankDetail::kWithRanks);
    for (uint32_t r = 0; r < 4; ++r) {
      EXPECT_EQ(status.ranks(static_cast<int>(r)).straggler(), r == 1 && status.stragglers_size());
    }
    return std::vector<std::string>(status.stragglers().begin(), status.stragglers().end());
  };
  const auto seconds = [&](int count, double slower) {
    for (int i = 0; i < count; ++i) second(slower);
  };
  seconds(12, 1.2);
  EXPECT_TRUE(stragglers().empty());
  // A hiccup of one window.
  seconds(5, 2);
  seconds(10, 1);
  EXPECT_TRUE(stragglers().empty());
  EXPECT_EQ(lines, 0);
  seconds(16, 1.5);
  ASSERT_EQ(stragglers().size(), 1u);
  EXPECT_THAT(stragglers()[0], HasSubstr("rank 1 (node1, process 101): its own work takes 0.06 s a "
                                         "step, the median of the ranks 0.041 s"));
  EXPECT_EQ(lines, 1);
  // Nearly as fast as the others is not fast enough to be taken back at once.
  seconds(15, 1.25);
  EXPECT_EQ(stragglers().size(), 1u);
  seconds(15, 1);
  EXPECT_TRUE(stragglers().empty());
  EXPECT_EQ(lines, 1);
}

TEST_F(Machine, DeadLaunchMakesANewAttemptFromTheLastCheckpoint) {
  const std::string id = Submit("/r");
  stream_ = SayHello("l1", 0, 1);
  ReportCheckpoint(stream_, id, 1, "/r/c1", 10);
  Report("l1", LAUNCH_ENDED);
  EXPECT_EQ(job(id).state, RECOVERING);
  EXPECT_THAT(Reason(id), HasSubstr("exit code 137"));
  EXPECT_EQ(FleetState(), "down");
  Pass(1);
  SayHello("l2", 0, 1);
  EXPECT_EQ(job(id).state, RUNNING);
  EXPECT_EQ(job(id).attempt, 2u);
  for (const Send& send : last_.sends) {
    if (send.command.has_assignment()) {
      EXPECT_EQ(send.command.assignment().resume_from(), "/r/c1");
    }
  }
}

TEST_F(Machine, ThreeDeathsWithoutACheckpointFailTheJob) {
  const std::string id = Submit("/r");
  stream_ = SayHello("l1", 0, 1);
  Restart("l1", "l2");
  Restart("l2", "l3");
  // A checkpoint in between: counting starts anew.
  ReportCheckpoint(stream_, id, 3, "/r/c", 10);
  Restart("l3", "l4");
  Restart("l4", "l5");
  EXPECT_EQ(job(id).state, RUNNING);
  // The same step again is no progress.
  ReportCheckpoint(stream_, id, 5, "/r/other", 10);
  Restart("l5", "l6");
  EXPECT_EQ(job(id).state, FAILED);
  EXPECT_THAT(job(id).reason, HasSubstr("3 attempts died without a new checkpoint"));
  EXPECT_THAT(job(id).reason, HasSubstr("exit code 137"));
}

TEST_F(Machine, OlderAttemptsAreIgnored) {
  const std::string id = Submit("/r");
  stream_ = SayHello("l1", 0, 1);
  Restart("l1", "l2");
  ASSERT_EQ(job(id).attempt, 2u);
  ReportCheckpoint(stream_, id, 1, "/r/old", 99);
  EXPECT_EQ(job(id).last_checkpoint, "");
  const Effects effects = End(stream_, id, 1, ATTEMPT_SUCCEEDED);
  EXPECT_EQ(job(id).state, RUNNING);
  ASSERT_EQ(effects.sends.size(), 1u);
  EXPECT_EQ(effects.sends[0].command.end_acknowledged().attempt(), 1u);
}

TEST_F(Machine, EndIsIdempotent) {
  const std::string id = Submit("/r");
  stream_ = SayHello("l1", 0, 1);
  End(stream_, id, 1, ATTEMPT_FAILED);
  EXPECT_EQ(job(id).state, FAILED);
  EXPECT_EQ(job(id).reason, "said the worker");
  const Effects again = End(stream_, id, 1, ATTEMPT_SUCCEEDED);
  EXPECT_EQ(job(id).state, FAILED);
  EXPECT_TRUE(again.store_jobs.empty());
  EXPECT_TRUE(again.sends.at(0).command.has_end_acknowledged());
}

TEST_F(Machine, NewLaunchIsTurnedAwayWhileAnAttemptMayRunOnTheOldOne) {
  const std::string id = Submit("/r");
  const uint64_t stream = SayHello("l1", 0, 1);
  Do(StreamClosedEvent{stream});
  now_ += 100;
  Do(TickEvent{});
  SayHello("l2", 0, 1);
  EXPECT_THAT(Rejection(), HasSubstr("swinfleet fence f"));
  EXPECT_THAT(Rejection(), HasSubstr(id));
  EXPECT_EQ(job(id).launch_id, "l1");
}

TEST_F(Machine, IdleLaunchThatIsGoneIsReplacedSilently) {
  const uint64_t stream = SayHello("l1", 0, 1);
  SayHello("l2", 0, 1);
  EXPECT_THAT(Rejection(), HasSubstr("launch l1 of fleet f is not known to have ended"));
  Do(StreamClosedEvent{stream});
  SayHello("l2", 0, 1);
  EXPECT_EQ(Rejection(), "");
  EXPECT_EQ(state_.fleets.at("f").launch.id, "l2");
}

TEST_F(Machine, FenceIsRefusedWhileARankIsHeard) {
  const std::string id = Submit("/r");
  const uint64_t stream = SayHello("l1", 0, 1);
  const grpc::Status refused = Do(FenceEvent{"f"}).reply->status;
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(refused.error_message(), HasSubstr("process 100 on node1"));
  // A lost connection alone is not silence: the rank may come back at any moment.
  Do(StreamClosedEvent{stream});
  EXPECT_FALSE(Do(FenceEvent{"f"}).reply->status.ok());
  now_ += 100;
  Do(TickEvent{});
  EXPECT_TRUE(Do(FenceEvent{"f"}).reply->status.ok());
  EXPECT_EQ(job(id).state, RECOVERING);
  EXPECT_FALSE(job(id).attempt_open);
  EXPECT_EQ(FleetState(), "fenced");
  SayHello("l1", 0, 1, id, 1);
  EXPECT_THAT(Rejection(), HasSubstr("was fenced"));
  EXPECT_TRUE(Report("l1", LAUNCH_RUNNING).reply->directive.fenced());
  Pass(1);
  SayHello("l2", 0, 1);
  EXPECT_EQ(job(id).attempt, 2u);
  EXPECT_FALSE(Report("l2", LAUNCH_RUNNING).reply->directive.fenced());
  EXPECT_EQ(Do(FenceEvent{"g"}).reply->status.error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(Machine, RestartOfTheCoordinatorDisturbsNothing) {
  const std::string id = Submit("/r");
  SayHello("l1", 0, 2);
  SayHello("l1", 1, 2);
  std::vector<Job> jobs{job(id)};
  std::vector<Fleet> fleets{state_.fleets.at("f")};
  state_ = Restore(jobs, fleets, {}, {wall_ + now_, now_});
  EXPECT_EQ(job(id).state, RUNNING);
  SayHello("l1", 0, 2, id, 1);
  EXPECT_EQ(Assignments(last_), 0);
  // This one never got its assignment.
  SayHello("l1", 1, 2);
  EXPECT_EQ(Assignments(last_), 1);
  EXPECT_EQ(job(id).attempt, 1u);
  EXPECT_EQ(FleetState(), "busy");
}

TEST_F(Machine, ReconnectionReplacesTheOlderConnection) {
  const uint64_t first = SayHello("l1", 0, 1);
  const uint64_t second = SayHello("l1", 0, 1);
  EXPECT_THAT(last_.closes, ::testing::ElementsAre(first));
  EXPECT_EQ(Rejection(), "");
  // The late end of the older one changes nothing.
  Do(StreamClosedEvent{first});
  EXPECT_EQ(state_.fleets.at("f").launch.ranks[0].stream, second);
}

TEST_F(Machine, OtherProcessWithTheSameRankIsTurnedAway) {
  SayHello("l1", 0, 1);
  HelloEvent event{next_stream_++, {}};
  event.hello.set_fleet("f");
  event.hello.set_launch_id("l1");
  event.hello.set_world_size(1);
  event.hello.set_host("node2");
  last_ = Do(event);
  EXPECT_THAT(Rejection(), HasSubstr("already registered as process 100 on node1"));
  SayHello("l1", 0, 3);
  EXPECT_THAT(Rejection(), HasSubstr("has 1 ranks, but this rank says 3"));
}

TEST_F(Machine, CancelOfQueuedAndOfRunning) {
  const std::string queued = Submit("/q", 5);
  EXPECT_EQ(Do(CancelEvent{queued}).reply->job_id, queued);
  EXPECT_EQ(job(queued).state, CANCELLED);
  const std::string running = Submit("/r");
  const uint64_t stream = SayHello("l1", 0, 1);
  const Effects effects = Do(CancelEvent{running});
  ASSERT_EQ(effects.sends.size(), 1u);
  EXPECT_EQ(effects.sends[0].command.cancel().attempt(), 1u);
  EXPECT_EQ(job(running).state, CANCELLING);
  // Told again after a reconnection.
  SayHello("l1", 0, 1, running, 1);
  EXPECT_TRUE(last_.sends.back().command.has_cancel());
  End(stream + 1, running, 1, ATTEMPT_CANCELLED);
  EXPECT_EQ(job(running).state, CANCELLED);
  EXPECT_TRUE(Do(CancelEvent{running}).reply->status.ok());
}

TEST_F(Machine, DeathDuringCancellationCancels) {
  const std::string id = Submit("/r");
  SayHello("l1", 0, 1);
  Do(CancelEvent{id});
  Report("l1", LAUNCH_ENDED);
  EXPECT_EQ(job(id).state, CANCELLED);
  EXPECT_EQ(Do(CancelEvent{"j9-none"}).reply->status.error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(Machine, CancelAfterTheEndIsRefused) {
  const std::string id = Submit("/r");
  stream_ = SayHello("l1", 0, 1);
  End(stream_, id, 1, ATTEMPT_SUCCEEDED);
  EXPECT_EQ(Do(CancelEvent{id}).reply->status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
}

TEST_F(Machine, RankThatWorksOnSomethingElseIsLeftInPeace) {
  SayHello("l1", 0, 1, "j7-beef", 3);
  EXPECT_EQ(Rejection(), "");
  EXPECT_EQ(FleetState(), "busy");
  const std::string id = Submit("/r");
  EXPECT_EQ(job(id).state, QUEUED);
  EXPECT_THAT(Reason(id), HasSubstr("still works on attempt 3 of job j7-beef"));
  End(next_stream_ - 1, "j7-beef", 3, ATTEMPT_SUCCEEDED);
  EXPECT_EQ(job(id).state, RUNNING);
}

TEST_F(Machine, LateHelloWithAnOldAttemptStillGetsItsAssignment) {
  const std::string first = Submit("/1"), second = Submit("/2");
  const uint64_t zero = SayHello("l1", 0, 2);
  SayHello("l1", 1, 2);
  ASSERT_EQ(job(first).state, RUNNING);
  End(zero, first, 1, ATTEMPT_SUCCEEDED);
  ASSERT_EQ(job(second).state, RUNNING);
  // Rank 1 had said this before the end, on a connection that was slow.
  const uint64_t late = SayHello("l1", 1, 2, first, 1);
  EXPECT_EQ(Assignments(last_), 0);
  Beat(late, "", 0);
  EXPECT_EQ(Assignments(last_), 1);
}

TEST_F(Machine, JobsChooseTheFleetThatFits) {
  for (const auto& [name, world] : {std::pair<std::string, uint32_t>{"a", 3}, {"b", 2}}) {
    for (uint32_t r = 0; r < world; ++r) {
      HelloEvent event{next_stream_++, {}};
      event.hello.set_fleet(name);
      event.hello.set_launch_id(name);
      event.hello.set_rank(r);
      event.hello.set_world_size(world);
      Do(event);
    }
  }
  EXPECT_EQ(job(Submit("/small", 2)).fleet, "b");
  EXPECT_EQ(job(Submit("/all")).fleet, "a");
}

// ---- Scheduling ----

QueueSpec Priority(int32_t priority, bool preemptible = false) {
  QueueSpec queue;
  queue.set_priority(priority);
  queue.set_preemptible(preemptible);
  return queue;
}

QueueSpec After(const std::string& name) {
  QueueSpec queue;
  queue.add_after(name);
  return queue;
}

TEST_F(Machine, HigherPriorityStartsFirstAndEqualOnesInOrder) {
  const std::string low = Submit("low", Priority(-1)), first = Submit("first", Priority(0));
  const std::string second = Submit("second", Priority(0)), high = Submit("high", Priority(7));
  EXPECT_EQ(QueuePosition(state_, job(high)), 1u);
  EXPECT_EQ(QueuePosition(state_, job(low)), 4u);
  stream_ = SayHello("l1", 0, 1);
  for (const std::string& id : {high, first, second, low}) {
    EXPECT_EQ(job(id).state, RUNNING) << id;
    End(stream_, id, 1, ATTEMPT_SUCCEEDED);
  }
}

TEST_F(Machine, AJobComesAfterAnother) {
  stream_ = SayHello("l1", 0, 1);
  const std::string before = Submit("pretrain", QueueSpec());
  const std::string by_name = Submit("tune", After("pretrain"));
  const std::string by_id = Submit("eval", After(by_name));
  EXPECT_THAT(Reason(by_name), HasSubstr("success of job " + before + " (pretrain), which is RUN"));
  EXPECT_EQ(job(by_id).after, std::vector<std::string>{by_name});
  End(stream_, before, 1, ATTEMPT_SUCCEEDED);
  EXPECT_EQ(job(by_name).state, RUNNING);
  RestartCoordinator(1);
  EXPECT_EQ(job(by_id).state, QUEUED);
  EXPECT_THAT(Reason(by_id), HasSubstr("(tune), which is RUNNING"));
}

TEST_F(Machine, AJobFailsWithThatItComesAfter) {
  stream_ = SayHello("l1", 0, 1);
  const std::string before = Submit("a", QueueSpec());
  const std::string next = Submit("b", After("a")), last = Submit("c", After("b"));
  const Effects effects = End(stream_, before, 1, ATTEMPT_FAILED);
  EXPECT_TRUE(effects.store_jobs.contains(next) && effects.store_jobs.contains(last));
  EXPECT_EQ(job(next).state, FAILED);
  EXPECT_THAT(job(next).reason,
              HasSubstr("after job " + before + " (a), which is FAILED: said the worker"));
  EXPECT_EQ(job(last).state, FAILED);
  EXPECT_THAT(job(last).reason, HasSubstr("after job " + next + " (b), which is FAILED"));
  const grpc::Status late = TrySubmit(Spec("d", After("a")), "d").reply->status;
  EXPECT_EQ(late.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(late.error_message(), HasSubstr("which is FAILED and will not succeed"));
  const grpc::Status none = TrySubmit(Spec("d", After("zzz")), "d").reply->status;
  EXPECT_THAT(none.error_message(), HasSubstr("names zzz, but there is no job of that id or name"));
}

TEST_F(Machine, ACancelledJobFailsThoseAfterIt) {
  const std::string before = Submit("a", QueueSpec()), next = Submit("b", After("a"));
  Do(CancelEvent{before});
  EXPECT_EQ(job(next).state, FAILED);
  EXPECT_THAT(job(next).reason, HasSubstr("which is CANCELLED"));
  // Of several of a name the newest counts; one that nobody was told of doesn't.
  const std::string again = Submit("a2", QueueSpec());
  const Effects unstored = TrySubmit(Spec("a2x", {}), "x");
  EXPECT_FALSE(TrySubmit(Spec("c", After("a2x")), "c").reply->status.ok());
  Do(NotStoredEvent{unstored.reply->job_id});
}

TEST_F(Machine, AJobMayFailWithAnotherBeforeItIsStored) {
  Submit("a", QueueSpec());
  const std::string stored = TrySubmit(Spec("b", After("a")), "b", "ann").reply->job_id;
  const std::string refused = TrySubmit(Spec("c", After("a")), "c", "ann").reply->job_id;
  Do(CancelEvent{job(stored).after.at(0)});
  EXPECT_EQ(job(stored).state, FAILED);
  Do(StoredEvent{stored});
  EXPECT_EQ(job(stored).state, FAILED);
  Do(NotStoredEvent{refused});
  EXPECT_TRUE(state_.users.empty());
}

TEST_F(Machine, RunTimeIsCountedOverAttemptsAndEndsTheJob) {
  QueueSpec queue;
  queue.set_max_run_time("20s");
  const std::string id = Submit("r", queue);
  stream_ = SayHello("l1", 0, 1);
  PassWith({stream_}, 12);
  Restart("l1", "l2");
  EXPECT_NEAR(RunSeconds(job(id), now_), 12, 1e-6);
  PassWith({stream_}, 4);
  // The workers went on while the coordinator was away.
  RestartCoordinator(3);
  stream_ = SayHello("l2", 0, 1, id, 2);
  EXPECT_NEAR(RunSeconds(job(id), now_), 19, 1e-6);
  PassWith({stream_}, 1);
  EXPECT_EQ(Cancels(last_), 1);
  EXPECT_EQ(job(id).state, STOPPING);
  EXPECT_TRUE(last_.store_jobs.contains(id));
  EXPECT_THAT(Reason(id), HasSubstr("20s that schedule.max_run_time allows; waits until"));
  End(stream_, id, 2, ATTEMPT_CANCELLED);
  EXPECT_EQ(job(id).state, FAILED);
  EXPECT_THAT(job(id).reason, HasSubstr("20s that schedule.max_run_time allows"));
}

TEST_F(Machine, RunTimePausesAndSilenceDoNotHeedJumpsOfTheClock) {
  QueueSpec queue;
  queue.set_max_run_time("100s");
  queue.set_restart_pause("10s");
  const std::string id = Submit("r", queue);
  stream_ = SayHello("l1", 0, 1);
  for (const double jump : {-1e8, 2e8, -1e8}) {
    wall_ += jump;
    PassWith({stream_}, 10);
    EXPECT_EQ(job(id).state, RUNNING);
    EXPECT_FALSE(state_.fleets.at("f").launch.ranks[0].lost);
  }
  EXPECT_EQ(RunSeconds(job(id), now_), 30);
  // Back while the coordinator was away: what the attempt has taken is not known any more.
  wall_ -= 1e8;
  RestartCoordinator(5);
  EXPECT_EQ(RunSeconds(job(id), now_), 0);
  stream_ = SayHello("l1", 0, 1, id, 1);
  Report("l1", LAUNCH_ENDED);
  wall_ += 1e9;
  SayHello("l2", 0, 1);
  Pass(3);
  EXPECT_EQ(job(id).state, RECOVERING);
  Do(AliveEvent{next_stream_ - 1});
  Pass(3);
  Do(AliveEvent{next_stream_ - 1});
  Pass(3.5);
  Do(AliveEvent{next_stream_ - 1});
  Pass(1);
  EXPECT_EQ(job(id).state, RUNNING);
}

TEST_F(Machine, DeathOrCancellationOfAJobThatRanTooLong) {
  QueueSpec queue;
  queue.set_max_run_time("2s");
  const std::string dies = Submit("dies", queue), cancelled = Submit("cancelled", queue);
  stream_ = SayHello("l1", 0, 1);
  PassWith({stream_}, 2);
  Restart("l1", "l2");
  EXPECT_EQ(job(dies).state, FAILED);
  EXPECT_THAT(job(dies).reason, HasSubstr("schedule.max_run_time allows; its launch"));
  PassWith({stream_}, 2);
  ASSERT_EQ(job(cancelled).state, STOPPING);
  Do(CancelEvent{cancelled});
  EXPECT_EQ(job(cancelled).state, CANCELLING);
  End(stream_, cancelled, 1, ATTEMPT_CANCELLED);
  EXPECT_EQ(job(cancelled).state, CANCELLED);
}

TEST_F(Machine, PausesDoubleWithDeathsAndCheckpointsForgetThem) {
  QueueSpec queue;
  queue.set_restart_pause("10s");
  const std::string id = Submit("r", queue);
  stream_ = SayHello("l1", 0, 1);
  Report("l1", LAUNCH_ENDED);
  stream_ = SayHello("l2", 0, 1);
  EXPECT_EQ(job(id).state, RECOVERING);
  EXPECT_THAT(Reason(id), HasSubstr("starts again in 10 s at the earliest"));
  PassWith({stream_}, 9);
  EXPECT_EQ(job(id).attempt, 1u);
  PassWith({stream_}, 1);
  EXPECT_EQ(job(id).attempt, 2u);
  Report("l2", LAUNCH_ENDED);
  EXPECT_EQ(RestartPause(job(id)), 20);
  // Begins anew with the coordinator.
  RestartCoordinator(15);
  stream_ = SayHello("l3", 0, 1);
  PassWith({stream_}, 19);
  EXPECT_EQ(job(id).attempt, 2u);
  PassWith({stream_}, 1);
  EXPECT_EQ(job(id).attempt, 3u);
  ReportCheckpoint(stream_, id, 3, "/r/c", 10);
  Report("l3", LAUNCH_ENDED);
  EXPECT_EQ(RestartPause(job(id)), 10);
}

TEST_F(Machine, RestartsHaveALimit) {
  QueueSpec queue;
  queue.set_max_restarts(1);
  const std::string id = Submit("r", queue);
  stream_ = SayHello("l1", 0, 1);
  ReportCheckpoint(stream_, id, 1, "/r/c1", 10);
  Restart("l1", "l2");
  ReportCheckpoint(stream_, id, 2, "/r/c2", 20);
  EXPECT_EQ(job(id).state, RUNNING);
  Restart("l2", "l3");
  EXPECT_EQ(job(id).state, FAILED);
  EXPECT_THAT(job(id).reason, HasSubstr("schedule.max_restarts allows 1 restarts after deaths"));
  EXPECT_THAT(job(id).reason, HasSubstr("attempt 2 died"));
}

TEST_F(Machine, QuotaOfJobs) {
  settings_.max_user_jobs = 2;
  const std::string first = Submit("1", {}, 0, "ann");
  Submit("2", {}, 0, "ann");
  const grpc::Status status = TrySubmit(Spec("3", {}), "3", "ann").reply->status;
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("user ann has 2 jobs that wait or run"));
  EXPECT_EQ(TrySubmit(Spec("3", {}), "3").reply->status.error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  Submit("other", {}, 0, "bob");
  // The same submission again is no other job.
  EXPECT_EQ(TrySubmit(Spec("1", {}), "1", "ann").reply->job_id, first);
  Do(CancelEvent{first});
  Submit("3", {}, 0, "ann");
}

TEST_F(Machine, QuotaOfRanks) {
  settings_.max_user_ranks = 3;
  const grpc::Status status = TrySubmit(Spec("big", {}, 4), "big", "ann").reply->status;
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("a user may have 3 at once"));
  const std::string first = Submit("1", {}, 2, "ann"), second = Submit("2", {}, 2, "ann");
  const std::string other = Submit("3", {}, 2, "bob"), all = Submit("4", {}, 0, "bob");
  std::map<std::string, uint64_t> zero;
  for (const std::string fleet : {"a", "b", "c"}) {
    fleet_ = fleet;
    zero[fleet] = SayHello(fleet, 0, 4);
    for (uint32_t r = 1; r < 4; ++r) SayHello(fleet, r, 4);
  }
  EXPECT_EQ(job(first).fleet, "a");
  EXPECT_EQ(job(other).fleet, "b");
  EXPECT_EQ(job(second).state, QUEUED);
  EXPECT_THAT(Reason(second),
              HasSubstr("ann may have 3 ranks at once and has 2, this job takes 2"));
  EXPECT_THAT(Reason(all), HasSubstr("bob may have 3 ranks at once and has 2, this job takes 3"));
  End(zero["a"], first, 1, ATTEMPT_SUCCEEDED);
  EXPECT_EQ(job(second).state, RUNNING);
  RestartCoordinator(1);
  EXPECT_EQ(state_.users.at("ann").ranks, 2u);
  EXPECT_EQ(state_.users.at("bob").jobs, 2u);
}

TEST_F(Machine, ALowJobMakesRoomAndComesBackToItsPlace) {
  settings_.patience = 5;
  const std::string low = Submit("low", Priority(1, true));
  stream_ = SayHello("l1", 0, 1);
  const std::string behind = Submit("behind", Priority(1));
  const std::string high = Submit("high", Priority(2));
  PassWith({stream_}, 4);
  EXPECT_EQ(job(low).state, RUNNING);
  PassWith({stream_}, 1);
  ASSERT_EQ(job(low).state, STOPPING);
  EXPECT_EQ(Cancels(last_), 1);
  EXPECT_THAT(Reason(low), HasSubstr("makes room for job " + high + " (high) of priority 2"));
  // Told again after a reconnection, and after a crash.
  RestartCoordinator(1);
  stream_ = SayHello("l1", 0, 1, low, 1);
  EXPECT_EQ(Cancels(last_), 1);
  ReportCheckpoint(stream_, low, 1, "/low/c", 7);
  End(stream_, low, 1, ATTEMPT_CANCELLED);
  EXPECT_EQ(job(low).state, QUEUED);
  EXPECT_EQ(job(low).preemptions, 1u);
  EXPECT_EQ(job(low).deaths, 0u);
  EXPECT_THAT(Reason(low), HasSubstr("goes on from /low/c"));
  EXPECT_EQ(job(high).state, RUNNING);
  EXPECT_EQ(QueuePosition(state_, job(low)), 1u);
  PassWith({stream_}, 20);
  EXPECT_EQ(job(high).state, RUNNING);
  const Effects effects = End(stream_, high, 1, ATTEMPT_SUCCEEDED);
  EXPECT_EQ(job(low).attempt, 2u);
  EXPECT_EQ(effects.sends.back().command.assignment().resume_from(), "/low/c");
  EXPECT_EQ(job(behind).state, QUEUED);
}

TEST_F(Machine, AFleetThatIsGivenBackHasItsJobSavedAndItsRanksEnd) {
  const std::string id = Submit("/r");
  SayHello("l1", 1, 2);
  stream_ = SayHello("l1", 0, 2);
  Effects effects = GiveBack("l1");
  EXPECT_TRUE(effects.reply->directive.leaving());
  EXPECT_EQ(Cancels(effects), 2);
  EXPECT_EQ(Shutdowns(effects), 0);
  EXPECT_EQ(job(id).state, STOPPING);
  EXPECT_THAT(Reason(id), HasSubstr("its fleet f is given back; waits until its ranks have saved"));
  EXPECT_EQ(FleetState(), "leaving");
  // Said again: nobody is asked twice.
  EXPECT_EQ(Cancels(GiveBack("l1")), 0);
  ReportCheckpoint(stream_, id, 1, "/r/c", 7);
  effects = End(stream_, id, 1, ATTEMPT_CANCELLED);
  EXPECT_EQ(Shutdowns(effects), 2);
  EXPECT_EQ(job(id).state, QUEUED);
  EXPECT_EQ(job(id).deaths, 0u);
  EXPECT_EQ(job(id).preemptions, 0u);
  EXPECT_THAT(Reason(id), HasSubstr("gave back its fleet; goes on from /r/c; waits for its turn: "
                                    "fleet f is given back"));
  Report("l1", LAUNCH_ENDED);
  SayHello("l2", 0, 1);
  EXPECT_EQ(job(id).attempt, 2u);
  EXPECT_EQ(last_.sends.back().command.assignment().resume_from(), "/r/c");
}

TEST_F(Machine, AnIdleFleetThatIsGivenBackEndsAtOnceAndGetsNoJob) {
  SayHello("l1", 0, 1);
  EXPECT_EQ(Shutdowns(GiveBack("l1")), 1);
  const std::string id = Submit("/r");
  Pass(1);
  EXPECT_EQ(job(id).attempt, 0u);
  // A rank that was not connected then is told with the next report.
  RestartCoordinator(0);
  SayHello("l1", 0, 1);
  ASSERT_EQ(job(id).attempt, 1u);
  EXPECT_EQ(Cancels(GiveBack("l1")), 1);
}

TEST_F(Machine, AnEndOfAFleetThatIsGivenBackIsNoDeath) {
  const std::string id = Submit("/r"), other = Submit("/s");
  SayHello("l1", 0, 1);
  GiveBack("l1");
  Report("l1", LAUNCH_ENDED);
  EXPECT_EQ(job(id).state, QUEUED);
  EXPECT_EQ(job(id).deaths, 0u);
  EXPECT_THAT(Reason(id), HasSubstr("ended before it had stopped: its launch on fleet f ended"));
  SayHello("l2", 0, 1);
  EXPECT_EQ(job(id).attempt, 2u);
  GiveBack("l2");
  Do(CancelEvent{id});
  EXPECT_EQ(job(id).state, CANCELLING);
  Report("l2", LAUNCH_ENDED);
  EXPECT_EQ(job(id).state, CANCELLED);
}

TEST_F(Machine, NobodyWaitsForAFleetThatIsGivenBack) {
  settings_.patience = 0;
  const std::string first = Submit("first", Priority(5)), low = Submit("low", Priority(1, true));
  const uint64_t leaving = SayHello("l1", 0, 1);
  fleet_ = "g";
  const uint64_t staying = SayHello("g1", 0, 1);
  EXPECT_EQ(job(low).fleet, "g");
  fleet_ = "f";
  GiveBack("l1");
  const std::string high = Submit("high", Priority(2));
  PassWith({leaving, staying}, 1);
  EXPECT_EQ(job(low).state, STOPPING);
  EXPECT_THAT(Reason(low), HasSubstr("makes room for job " + high));
}

TEST_F(Machine, SupervisorsLearnHowLongTheirFleetHasHadNoJob) {
  const auto idle = [this] { return Report("l1", LAUNCH_RUNNING).reply->directive.idle_seconds(); };
  idle();
  stream_ = SayHello("l1", 0, 1);
  PassWith({stream_}, 7);
  EXPECT_EQ(idle(), 7);
  const std::string id = Submit("/r");
  PassWith({stream_}, 7);
  EXPECT_EQ(idle(), 0);
  End(stream_, id, 1, ATTEMPT_SUCCEEDED);
  PassWith({stream_}, 2);
  EXPECT_EQ(idle(), 2);
  // What came before a restart of the coordinator does not count.
  RestartCoordinator(1000);
  EXPECT_EQ(idle(), 0);
}

TEST_F(Machine, AJobThatDoesNotAllowItMakesNoRoom) {
  settings_.patience = 0;
  const std::string unwilling = Submit("unwilling", Priority(0));
  stream_ = SayHello("l1", 0, 1);
  Submit("high", Priority(9));
  PassWith({stream_}, 5);
  EXPECT_EQ(job(unwilling).state, RUNNING);
}

TEST_F(Machine, NobodyMakesRoomForAnEqualOrForAJobThatCouldNotStart) {
  settings_.patience = 0;
  const std::string low = Submit("low", Priority(3, true));
  const std::string large = Submit("large", Priority(9), 2);
  stream_ = SayHello("l1", 0, 1);
  Submit("equal", Priority(3));
  QueueSpec blocked = Priority(8);
  blocked.add_after("low");
  Submit("blocked", blocked);
  PassWith({stream_}, 3);
  EXPECT_EQ(job(low).state, RUNNING);
  EXPECT_EQ(job(large).state, QUEUED);
}

TEST_F(Machine, ASilentLaunchIsNotAskedToMakeRoomAndAConnectingOneIsWaitedFor) {
  settings_.patience = 0;
  const std::string low = Submit("low", Priority(3, true));
  stream_ = SayHello("l1", 0, 1);
  Pass(6);
  const std::string high = Submit("high", Priority(9));
  EXPECT_NE(job(low).stop, Stop::kPreempted);
  fleet_ = "g";
  const uint64_t first = SayHello("g1", 0, 2);
  Do(AliveEvent{stream_});
  EXPECT_EQ(job(low).state, RUNNING);
  PassWith({stream_, first}, 3);
  EXPECT_EQ(job(low).state, RUNNING);
  SayHello("g1", 1, 2);
  EXPECT_EQ(job(high).fleet, "g");
}

TEST_F(Machine, OneJobMakesRoomForOneAndTheLeastImportantDoes) {
  settings_.patience = 0;
  const std::string low = Submit("low", Priority(1, true)),
                    lower = Submit("lower", Priority(0, true));
  std::map<std::string, uint64_t> zero;
  for (const std::string fleet : {"a", "b"}) {
    fleet_ = fleet;
    zero[fleet] = SayHello(fleet, 0, 1);
  }
  const std::string high = Submit("high", Priority(5));
  EXPECT_EQ(job(lower).state, STOPPING);
  PassWith({zero["a"], zero["b"]}, 10);
  EXPECT_EQ(job(low).state, RUNNING);
  const std::string second = Submit("second", Priority(4));
  EXPECT_EQ(job(low).state, STOPPING);
  // The launch dies before it has stopped: a death like any other.
  fleet_ = "b";
  Report("b", LAUNCH_ENDED);
  EXPECT_EQ(job(lower).state, RECOVERING);
  EXPECT_EQ(job(lower).deaths, 1u);
  End(zero["a"], low, 1, ATTEMPT_CANCELLED);
  EXPECT_EQ(job(high).fleet, "a");
  EXPECT_EQ(job(second).state, QUEUED);
}

// ---- Traces ----

class Traces : public Machine {
 protected:
  // A job under way on two ranks, with its connections.
  void SetUp() override {
    id_ = Submit("/r");
    for (uint32_t r = 0; r < 2; ++r) streams_.push_back(SayHello("l1", r, 2));
    ASSERT_EQ(job(id_).state, RUNNING);
    for (const uint64_t stream : streams_) Beat(stream, id_, 1);
  }
  Effects Ask(const std::string& request, std::set<uint32_t> ranks = {}) {
    return Do(TraceEvent{id_, request, std::move(ranks), 3});
  }
  std::string Refusal(const std::string& request, std::set<uint32_t> ranks = {}) {
    const Effects effects = Ask(request, std::move(ranks));
    EXPECT_TRUE(effects.sends.empty());
    return effects.reply->status.error_message();
  }
  Effects ReportTrace(uint64_t stream, const std::string& request, const std::string& path,
                      const std::string& error = "", uint32_t attempt = 1) {
    TraceReportEvent event{stream, {}};
    event.report.set_job_id(id_);
    event.report.set_attempt(attempt);
    event.report.set_request_id(request);
    event.report.mutable_trace()->set_path(path);
    event.report.mutable_trace()->set_error(error);
    event.report.mutable_trace()->set_rank(77);
    return Do(event);
  }
  static std::vector<uint64_t> Asked(const Effects& effects) {
    std::vector<uint64_t> streams;
    for (const Send& send : effects.sends) {
      if (send.command.has_trace()) streams.push_back(send.stream);
    }
    return streams;
  }
  const TraceStatus& trace() const { return *job(id_).trace; }
  // The launch dies, and the job's next attempt is on another one.
  void Relaunch() {
    Report("l1", LAUNCH_ENDED);
    Pass(2);
    for (uint32_t r = 0; r < 2; ++r) streams_[r] = SayHello("l2", r, 2);
    ASSERT_EQ(job(id_).attempt, 2u);
  }

  std::string id_;
  std::vector<uint64_t> streams_;
};

TEST_F(Traces, AllRanksAreAskedAndTheirAnswersComplete) {
  const Effects effects = Ask("t");
  EXPECT_TRUE(effects.reply->status.ok());
  // Durable before anybody is told.
  EXPECT_TRUE(effects.store_jobs.contains(id_));
  EXPECT_EQ(Asked(effects), streams_);
  const TraceAttempt& asked = effects.sends[0].command.trace();
  EXPECT_EQ(asked.job_id(), id_);
  EXPECT_EQ(asked.attempt(), 1u);
  EXPECT_EQ(asked.request_id(), "t");
  EXPECT_EQ(asked.steps(), 3u);
  EXPECT_EQ(asked.ranks(), 2u);
  EXPECT_EQ(asked.origin(), wall_ + now_);
  EXPECT_TRUE(ReportTrace(streams_[1], "t", "/t1").store_jobs.contains(id_));
  EXPECT_FALSE(trace().complete());
  ReportTrace(streams_[0], "t", "", "no room");
  EXPECT_TRUE(trace().complete());
  EXPECT_EQ(trace().ranks(0).error(), "no room");
  EXPECT_EQ(trace().ranks(1).path(), "/t1");
  EXPECT_EQ(trace().ranks(1).rank(), 1u);
  // Told again on another connection; of another trace; of another attempt.
  EXPECT_TRUE(ReportTrace(streams_[1], "t", "/t1").store_jobs.empty());
  EXPECT_TRUE(ReportTrace(streams_[1], "x", "/x").store_jobs.empty());
  EXPECT_TRUE(ReportTrace(streams_[1], "t", "/x", "", 2).store_jobs.empty());
  EXPECT_EQ(trace().ranks(1).path(), "/t1");
  const JobStatus status =
      ViewJob(state_, settings_, job(id_), nullptr, now_, RankDetail::kWithRanks);
  EXPECT_EQ(status.trace().ranks_size(), 2);
  EXPECT_EQ(ViewJob(state_, settings_, job(id_), nullptr, now_, RankDetail::kWithoutRanks)
                .trace()
                .ranks_size(),
            0);
}

TEST_F(Traces, ARepeatedRequestIsOneTrace) {
  Ask("t");
  const Effects again = Ask("t");
  EXPECT_TRUE(again.reply->status.ok());
  EXPECT_TRUE(again.sends.empty());
  EXPECT_TRUE(again.store_jobs.empty());
  EXPECT_THAT(Refusal("u"), HasSubstr("is being recorded already"));
  for (const uint64_t stream : streams_) ReportTrace(stream, "t", "/t");
  EXPECT_TRUE(Ask("t").sends.empty());
  EXPECT_EQ(Asked(Ask("u")), streams_);
}

TEST_F(Traces, WhatCannotBeRecordedIsRefused) {
  EXPECT_THAT(Refusal("t", {1, 2}), HasSubstr("there is no rank 2"));
  EXPECT_EQ(Asked(Ask("t", {1})), std::vector<uint64_t>{streams_[1]});
  ReportTrace(streams_[1], "t", "/t");
  EXPECT_TRUE(trace().complete());
  Do(StreamClosedEvent{streams_[0]});
  EXPECT_THAT(Refusal("u"), HasSubstr("rank 0 can't be reached"));
  EXPECT_EQ(Do(TraceEvent{"j9-none", "u", {}, 1}).reply->status.error_code(),
            grpc::StatusCode::NOT_FOUND);
  Do(CancelEvent{id_});
  EXPECT_THAT(Refusal("u"), HasSubstr("is CANCELLING"));
}

TEST_F(Traces, ALargeAttemptNamesItsRanks) {
  fleet_ = "large";
  std::vector<uint64_t> streams;
  for (uint32_t r = 0; r < 65; ++r) streams.push_back(SayHello("l9", r, 65));
  id_ = Submit("/large", 65);
  ASSERT_EQ(job(id_).state, RUNNING);
  EXPECT_THAT(Refusal("t"), HasSubstr("has 65 ranks, and one trace is of at most 64"));
  EXPECT_EQ(Asked(Ask("t", {64})), std::vector<uint64_t>{streams[64]});
}

TEST_F(Traces, ARankThatComesBackIsAskedAgainUntilItHasAnswered) {
  Ask("t");
  ReportTrace(streams_[0], "t", "/t0");
  for (uint32_t r = 0; r < 2; ++r) streams_[r] = SayHello("l1", r, 2, id_, 1);
  EXPECT_EQ(Asked(last_), std::vector<uint64_t>{streams_[1]});
  RestartCoordinator(1);
  streams_[0] = SayHello("l1", 0, 2, id_, 1);
  EXPECT_TRUE(Asked(last_).empty());
  streams_[1] = SayHello("l1", 1, 2, id_, 1);
  EXPECT_EQ(Asked(last_), std::vector<uint64_t>{streams_[1]});
  ReportTrace(streams_[1], "t", "/t1");
  EXPECT_TRUE(trace().complete());
}

TEST_F(Traces, LastWordsCountAndThenTheTraceIsClosed) {
  Ask("t");
  End(streams_[0], id_, 1, ATTEMPT_SUCCEEDED);
  EXPECT_EQ(job(id_).state, SUCCEEDED);
  EXPECT_FALSE(trace().complete());
  ReportTrace(streams_[1], "t", "/t1");
  now_ += kTraceGrace - 1;
  Do(TickEvent{});
  EXPECT_FALSE(trace().complete());
  EXPECT_TRUE(NeedsTicks(state_));
  now_ += 2;
  const Effects effects = Do(TickEvent{});
  EXPECT_TRUE(effects.store_jobs.contains(id_));
  EXPECT_TRUE(trace().complete());
  EXPECT_THAT(trace().ranks(0).error(), HasSubstr("attempt 1 ended before"));
  EXPECT_EQ(trace().ranks(1).path(), "/t1");
}

TEST_F(Traces, ATraceEndsWithItsAttempt) {
  Ask("t");
  Relaunch();
  // Nobody is asked for a trace of an attempt that is over.
  EXPECT_TRUE(Asked(last_).empty());
  RestartCoordinator(1);
  Pass(kTraceGrace - 1);
  EXPECT_FALSE(trace().complete());
  Pass(2);
  EXPECT_TRUE(trace().complete());
  EXPECT_TRUE(last_.store_jobs.contains(id_));
}

TEST_F(Traces, ANewAttemptNeedNotWaitForWordsOfTheOldOne) {
  Ask("t");
  Relaunch();
  EXPECT_EQ(Asked(Ask("u")), streams_);
  EXPECT_EQ(trace().request_id(), "u");
  EXPECT_EQ(trace().attempt(), 2u);
}

TEST_F(Machine, FewerRanksAfterAWhileIfTheJobAllowsIt) {
  settings_.patience = 10;
  QueueSpec queue;
  queue.set_min_ranks(2);
  const std::string id = Submit("elastic", queue, 8), fixed = Submit("fixed", {}, 8);
  fleet_ = "a";
  std::vector<uint64_t> streams;
  for (uint32_t r = 0; r < 3; ++r) streams.push_back(SayHello("a1", r, 3));
  PassWith(streams, 9);
  EXPECT_EQ(job(id).state, QUEUED);
  PassWith(streams, 1);
  ASSERT_EQ(job(id).state, RUNNING);
  EXPECT_EQ(job(id).attempt_ranks, 2u) << "the largest power of two";
  EXPECT_THAT(Reason(id), HasSubstr("on 2 ranks of fleet a, fewer than the 8 it asks for"));
  EXPECT_EQ(job(fixed).state, QUEUED);
  const grpc::Status status = TrySubmit(Spec("x", {}, 8), "x").reply->status;
  EXPECT_THAT(status.error_message(), HasSubstr("parallel.ranks is 8, but the largest"));
  queue.set_min_ranks(4);
  EXPECT_THAT(TrySubmit(Spec("x", queue, 8), "x").reply->status.error_message(),
              HasSubstr("schedule.min_ranks is 4, but the largest"));
}

TEST_F(Machine, AFencedFleetsJobGoesToAnother) {
  const std::string id = Submit("r", {}, 2);
  for (const std::string fleet : {"a", "b"}) {
    fleet_ = fleet;
    SayHello(fleet, 0, 2);
    SayHello(fleet, 1, 2);
  }
  ASSERT_EQ(job(id).fleet, "a");
  const std::vector<uint64_t> b = {next_stream_ - 2, next_stream_ - 1};
  PassWith(b, 6);
  EXPECT_EQ(job(id).state, RECOVERING);
  EXPECT_EQ(job(id).fleet, "a") << "silence ends nothing";
  EXPECT_TRUE(Do(FenceEvent{"a"}).reply->status.ok());
  PassWith(b, 1);
  EXPECT_EQ(job(id).state, RUNNING);
  EXPECT_EQ(job(id).fleet, "b");
  EXPECT_EQ(job(id).attempt, 2u);
}

// ---- Hosts ----

class Hosts : public Machine {
 protected:
  // A launch of three ranks on hosts a, b and c, which ends because that of `host` leaves.
  LaunchDirective Die(const std::string& launch, const std::string& host, bool fault = true) {
    std::map<std::string, uint64_t> streams;
    uint32_t rank = 0;
    for (const std::string name : {"a", "b", "c"}) {
      HelloEvent event{next_stream_++, {}};
      event.hello.set_fleet("f");
      event.hello.set_launch_id(launch);
      event.hello.set_world_size(3);
      event.hello.set_host(name);
      event.hello.set_rank(rank++);
      event.hello.set_supervised(true);
      last_ = Do(event);
      streams[name] = event.stream;
    }
    Do(StreamClosedEvent{streams[host]});
    now_ += 0.1;
    LaunchReportEvent report;
    report.report.set_fleet("f");
    report.report.set_launch_id(launch);
    report.report.set_state(LAUNCH_ENDED);
    report.report.set_no_fault(!fault);
    LaunchDirective directive = Do(report).reply->directive;
    Pass(4);
    return directive;
  }
  double Failures(const std::string& host) {
    const auto found = state_.hosts.find(host);
    return found == state_.hosts.end() ? 0 : HostFailures(found->second, wall_ + now_);
  }
  static std::vector<std::string> LeftOut(const LaunchDirective& directive) {
    return {directive.exclude_hosts().begin(), directive.exclude_hosts().end()};
  }
};

TEST_F(Hosts, AHostThatFailsAgainIsLeftOutForAWhile) {
  const std::string id = Submit("r", {}, 1);
  EXPECT_TRUE(LeftOut(Die("l1", "a")).empty());
  EXPECT_NEAR(Failures("a"), 1, 0.01);
  ASSERT_EQ(job(id).deaths, 1u);
  RestartCoordinator(1);
  // The pause has begun anew.
  Pass(1);
  EXPECT_EQ(LeftOut(Die("l2", "a")), std::vector<std::string>{"a"});
  EXPECT_TRUE(state_.hosts.at("a").left_out);
  EXPECT_THAT(state_.hosts.at("a").last, HasSubstr("attempt 2 of job " + id));
  Pass(3000);
  EXPECT_TRUE(state_.hosts.at("a").left_out);
  Pass(700);
  EXPECT_FALSE(state_.hosts.at("a").left_out);
  EXPECT_TRUE(last_.store_hosts.contains("a"));
  Pass(6 * 3600);
  EXPECT_TRUE(state_.hosts.empty());
  EXPECT_TRUE(last_.store_hosts.contains("a"));
}

TEST_F(Hosts, AClockThatIsPutBackKeepsNoHostOutForLonger) {
  Submit("r", {}, 1);
  Die("l1", "a");
  EXPECT_EQ(LeftOut(Die("l2", "a")), std::vector<std::string>{"a"});
  wall_ -= 1e8;
  Pass(1);
  EXPECT_TRUE(state_.hosts.at("a").left_out);
  EXPECT_TRUE(last_.store_hosts.contains("a"));
  Pass(3700);
  EXPECT_FALSE(state_.hosts.at("a").left_out);
}

TEST_F(Hosts, WhoStopsALaunchBlamesNoHost) {
  Submit("r", {}, 1);
  Die("l1", "a", /*fault=*/false);
  EXPECT_TRUE(state_.hosts.empty());
}

TEST_F(Hosts, AJobThatFailsByThreeDeathsTakesTheBlame) {
  settings_.host_failures = 4;
  const std::string id = Submit("r", {}, 2);
  Die("l1", "a");
  Die("l2", "b");
  EXPECT_NEAR(Failures("b"), 1, 0.01);
  Die("l3", "a");
  EXPECT_EQ(job(id).state, FAILED);
  EXPECT_NEAR(Failures("a"), 0, 0.01);
  EXPECT_NEAR(Failures("b"), 0, 0.01);
}

TEST_F(Hosts, NoHostIsLeftOutIfAJobNeedsAllOfThem) {
  const std::string id = Submit("r", {}, 3);
  Die("l1", "a");
  EXPECT_TRUE(LeftOut(Die("l2", "a")).empty());
  EXPECT_TRUE(state_.hosts.at("a").left_out) << "it is shown all the same";
  Do(CancelEvent{id});
  EXPECT_EQ(LeftOut(Report("l2", LAUNCH_ENDED).reply->directive), std::vector<std::string>{"a"});
}

}  // namespace
}  // namespace swinfleet::coordinator
