// The services over real connections, with workers, supervisors and users made up here.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <chrono>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "coordinator/server.h"
#include "tests/coordinator/fake_worker.h"
#include "tests/coordinator/temporary_folder.h"

namespace swinfleet::coordinator {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class Service : public ::testing::Test {
 protected:
  void Start() {
    options_.store = folder_.path() + "/store";
    options_.listen = {"127.0.0.1", 0};
    if (options_.admission.program.empty()) SetPlan("exit 0");
    grpc::Status status = Server::OpenStore(options_, &server_);
    ASSERT_TRUE(status.ok()) << status.error_message();
    status = server_->Listen();
    ASSERT_TRUE(status.ok()) << status.error_message();
    user_ = std::make_unique<FakeUser>(address());
  }
  // What `swinfleet-plan --check FILE` does in this test.
  void SetPlan(const std::string& script) {
    options_.admission.program = folder_.path() + "/plan";
    std::ofstream(options_.admission.program) << "#!/bin/sh\n" << script << "\n";
    chmod(options_.admission.program.c_str(), 0700);
  }
  std::string address() const { return server_->address().ToString(); }
  std::unique_ptr<FakeRank> Rank(const std::string& launch, uint32_t rank, uint32_t world_size) {
    auto fake = std::make_unique<FakeRank>(address(), "f", launch, rank, world_size);
    fake->Connect();
    EXPECT_TRUE(fake->Next().has_welcome());
    return fake;
  }
  grpc::Status Refusal(const SubmitJobRequest& request) {
    SubmitJobResponse response;
    return user_->Submit(request, &response);
  }
  GetLogsResponse Logs(const std::string& job_id) {
    grpc::ClientContext context;
    GetLogsRequest request;
    GetLogsResponse response;
    request.set_job_id(job_id);
    EXPECT_TRUE(user_->coordinator->GetLogs(&context, request, &response).ok());
    return response;
  }

  TemporaryFolder folder_;
  ServerOptions options_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<FakeUser> user_;
};

TEST_F(Service, LifeOfAJob) {
  Start();
  const std::string id = user_->Submit("/runs/a/../b/");
  JobStatus job = user_->Get(id);
  EXPECT_EQ(job.state(), QUEUED);
  EXPECT_EQ(job.queue_position(), 1u);
  EXPECT_EQ(job.spec().run_dir(), "/runs/b");
  EXPECT_THAT(job.reason(), HasSubstr("none is registered"));

  const auto zero = Rank("l1", 0, 2);
  EXPECT_EQ(user_->Fleet("f").state(), "connecting");
  const auto one = Rank("l1", 1, 2);
  for (FakeRank* rank : {zero.get(), one.get()}) {
    const WorkerCommand command = rank->Next();
    ASSERT_TRUE(command.has_assignment()) << command.ShortDebugString();
    EXPECT_EQ(command.assignment().job_id(), id);
    EXPECT_EQ(command.assignment().attempt(), 1u);
    EXPECT_EQ(command.assignment().ranks(), 2u);
    EXPECT_EQ(command.assignment().spec().name(), "test");
    rank->Beat(id, 1, 5);
  }
  zero->ReportProgress(id, 1, 6, 2.25);
  zero->ReportCheckpoint(id, 1, "/runs/b/c", 6);
  zero->Log(id, 1, "hello\nworld");
  one->Log(id, 1, "from the other");
  job = user_->Await(id, [](const JobStatus& status) {
    return status.last_checkpoint_step() == 6 && status.ranks_size() == 2 &&
           status.ranks(1).step() == 5;
  });
  EXPECT_EQ(job.state(), RUNNING);
  EXPECT_EQ(job.progress().loss(), 2.25);
  EXPECT_EQ(job.last_checkpoint(), "/runs/b/c");
  EXPECT_EQ(job.ranks(1).host(), "node1");
  EXPECT_EQ(job.ranks(1).phase(), "train");
  EXPECT_EQ(user_->Fleet("f").state(), "busy");
  EXPECT_FALSE(Logs(id).complete());

  zero->End(id, 1, ATTEMPT_SUCCEEDED);
  EXPECT_EQ(zero->Next().end_acknowledged().job_id(), id);
  job = user_->Get(id);
  EXPECT_EQ(job.state(), SUCCEEDED);
  EXPECT_EQ(job.restarts(), 0u);
  EXPECT_EQ(job.progress().step(), 6u);
  EXPECT_GT(job.ended_at(), 1e9);
  const GetLogsResponse logs = Logs(id);
  ASSERT_EQ(logs.lines_size(), 2);
  EXPECT_TRUE(logs.complete());
  std::vector<std::string> texts{logs.lines(0).text(), logs.lines(1).text()};
  EXPECT_THAT(texts, ::testing::UnorderedElementsAre("hello world", "from the other"));
  one->Beat("", 0, 0);
  const std::string next = user_->Submit("/runs/next");
  EXPECT_EQ(one->Next().assignment().job_id(), next);
}

TEST_F(Service, WatcherSeesChangesAndTheEnd) {
  Start();
  const std::string id = user_->Submit("/r");
  grpc::ClientContext context;
  GetJobRequest request;
  request.set_job_id(id);
  const auto reader = user_->coordinator->WatchJob(&context, request);
  JobStatus status;
  ASSERT_TRUE(reader->Read(&status));
  EXPECT_EQ(status.state(), QUEUED);
  const auto rank = Rank("l1", 0, 1);
  while (reader->Read(&status) && status.state() == QUEUED) {
  }
  EXPECT_EQ(status.state(), RUNNING);
  rank->ReportProgress(id, 1, 77, 1);
  while (status.progress().step() != 77 && reader->Read(&status)) {
  }
  EXPECT_EQ(status.progress().step(), 77u);
  rank->End(id, 1, ATTEMPT_FAILED);
  while (reader->Read(&status)) {
  }
  EXPECT_EQ(status.state(), FAILED);
  EXPECT_TRUE(reader->Finish().ok());

  grpc::ClientContext other;
  request.set_job_id("j99-none");
  const auto none = user_->coordinator->WatchJob(&other, request);
  EXPECT_FALSE(none->Read(&status));
  EXPECT_EQ(none->Finish().error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(Service, LostConnectionDisturbsNothing) {
  Start();
  const std::string id = user_->Submit("/r");
  const auto rank = Rank("l1", 0, 1);
  ASSERT_TRUE(rank->Next().has_assignment());
  rank->Beat(id, 1, 1);
  rank->Connect();
  EXPECT_TRUE(rank->Next().has_welcome());
  EXPECT_EQ(rank->Next(0.3).command_case(), 0);
  EXPECT_EQ(user_->Get(id).state(), RUNNING);
  rank->End(id, 1, ATTEMPT_SUCCEEDED);
  EXPECT_TRUE(rank->Next().has_end_acknowledged());
  // It may repeat itself as often as it likes.
  rank->End(id, 1, ATTEMPT_SUCCEEDED);
  EXPECT_TRUE(rank->Next().has_end_acknowledged());
  EXPECT_EQ(user_->Get(id).state(), SUCCEEDED);
}

TEST_F(Service, SilenceIsNamedAndTheSupervisorsWordStartsTheNextAttempt) {
  options_.settings = {.lost_after = 0.4, .heartbeat = 0.1};
  Start();
  // The ranks of this test are silent again before a pause would be over.
  SubmitJobRequest request = FakeUser::Request("/r");
  request.mutable_spec()->mutable_schedule()->set_restart_pause("0s");
  SubmitJobResponse response;
  ASSERT_TRUE(user_->Submit(request, &response).ok());
  const std::string id = response.job_id();
  LaunchDirective directive;
  ASSERT_TRUE(user_->Report("f", "l1", LAUNCH_RUNNING, &directive).ok());
  auto rank = Rank("l1", 0, 1);
  ASSERT_TRUE(rank->Next().has_assignment());
  rank->Beat(id, 1, 8);
  rank->ReportCheckpoint(id, 1, "/r/c", 8);
  user_->Await(id, [](const JobStatus& job) { return job.last_checkpoint_step() == 8; });
  rank->Drop();
  JobStatus job = user_->Await(id, RECOVERING);
  EXPECT_THAT(job.reason(), HasSubstr("rank 0 (node0, process 1000) silent"));
  EXPECT_EQ(user_->Fleet("f").state(), "lost");
  // Another launch is not let in before that.
  FakeRank early(address(), "f", "l2", 0, 1);
  early.Connect();
  EXPECT_THAT(early.Next().rejected().reason(), HasSubstr("swinfleet fence f"));
  EXPECT_TRUE(early.AwaitEnd());

  ASSERT_TRUE(user_->Report("f", "l1", LAUNCH_ENDED, &directive).ok());
  EXPECT_THAT(user_->Get(id).reason(), HasSubstr("exit code 137"));
  EXPECT_EQ(user_->Fleet("f").state(), "down");
  rank = Rank("l3", 0, 1);
  const WorkerCommand command = rank->Next();
  EXPECT_EQ(command.assignment().attempt(), 2u);
  EXPECT_EQ(command.assignment().resume_from(), "/r/c");
  job = user_->Get(id);
  EXPECT_EQ(job.state(), RUNNING);
  EXPECT_EQ(job.restarts(), 1u);
}

TEST_F(Service, FenceLetsTheNextLaunchIn) {
  Start();
  const std::string id = user_->Submit("/r");
  auto rank = Rank("l1", 0, 1);
  FenceFleetRequest request;
  request.set_name("f");
  FleetStatus fleet;
  {
    grpc::ClientContext context;
    const grpc::Status status = user_->coordinator->FenceFleet(&context, request, &fleet);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
    EXPECT_THAT(status.error_message(), HasSubstr("stop its mpirun first"));
  }
  rank->Drop();
  while (user_->Fleet("f").state() != "lost") std::this_thread::yield();
  {
    grpc::ClientContext context;
    ASSERT_TRUE(user_->coordinator->FenceFleet(&context, request, &fleet).ok());
  }
  EXPECT_EQ(fleet.state(), "fenced");
  rank->Connect();
  EXPECT_THAT(rank->Next().rejected().reason(), HasSubstr("was fenced"));
  LaunchDirective directive;
  ASSERT_TRUE(user_->Report("f", "l1", LAUNCH_RUNNING, &directive).ok());
  EXPECT_TRUE(directive.fenced());
  rank = Rank("l2", 0, 1);
  EXPECT_EQ(rank->Next().assignment().attempt(), 2u);
}

TEST_F(Service, CancelReachesTheRanks) {
  Start();
  const std::string id = user_->Submit("/r");
  const auto rank = Rank("l1", 0, 1);
  ASSERT_TRUE(rank->Next().has_assignment());
  grpc::ClientContext context;
  CancelJobRequest request;
  request.set_job_id(id);
  JobStatus job;
  ASSERT_TRUE(user_->coordinator->CancelJob(&context, request, &job).ok());
  EXPECT_EQ(job.state(), CANCELLING);
  EXPECT_EQ(rank->Next().cancel().job_id(), id);
  rank->End(id, 1, ATTEMPT_CANCELLED);
  user_->Await(id, CANCELLED);
}

TEST_F(Service, AJobMakesRoomForOneOfHigherPriority) {
  options_.settings.patience = 0;
  Start();
  const auto submit = [this](const std::string& run_dir, int32_t priority) {
    SubmitJobRequest request = FakeUser::Request(run_dir);
    request.set_user("ann");
    request.mutable_spec()->mutable_schedule()->set_priority(priority);
    request.mutable_spec()->mutable_schedule()->set_preemptible(true);
    SubmitJobResponse response;
    EXPECT_TRUE(user_->Submit(request, &response).ok());
    return response.job_id();
  };
  const std::string low = submit("/low", 1);
  const auto rank = Rank("l1", 0, 1);
  EXPECT_EQ(rank->Next().assignment().job_id(), low);
  const std::string high = submit("/high", 2);
  EXPECT_EQ(rank->Await(WorkerCommand::kCancel).cancel().job_id(), low);
  EXPECT_EQ(user_->Get(low).state(), STOPPING);
  rank->ReportCheckpoint(low, 1, "/low/c", 9);
  rank->End(low, 1, ATTEMPT_CANCELLED);
  EXPECT_EQ(rank->Await(WorkerCommand::kAssignment).assignment().job_id(), high);
  JobStatus job = user_->Get(low);
  EXPECT_EQ(job.state(), QUEUED);
  EXPECT_EQ(job.preemptions(), 1u);
  EXPECT_EQ(job.user(), "ann");
  EXPECT_EQ(job.queue_position(), 1u);
  rank->End(high, 1, ATTEMPT_SUCCEEDED);
  const WorkerCommand command = rank->Await(WorkerCommand::kAssignment);
  EXPECT_EQ(command.assignment().job_id(), low);
  EXPECT_EQ(command.assignment().resume_from(), "/low/c");
}

TEST_F(Service, OtherProtocolVersionsAreRefused) {
  Start();
  SubmitJobRequest request = FakeUser::Request("/r");
  request.set_protocol_version(7);
  grpc::Status status = Refusal(request);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("version 7, the coordinator speaks 1"));
  FakeRank rank(address(), "f", "l1", 0, 1);
  rank.hello.set_protocol_version(7);
  rank.Connect();
  EXPECT_THAT(rank.Next().rejected().reason(), HasSubstr("version 7, the coordinator speaks 1"));
  EXPECT_TRUE(rank.AwaitEnd());
  grpc::ClientContext context;
  LaunchDirective directive;
  status = user_->fleets->ReportLaunch(&context, {}, &directive);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
}

TEST_F(Service, BadSubmissionsAreRefused) {
  Start();
  const auto expect = [this](const std::function<void(SubmitJobRequest*)>& change,
                             const std::string& text) {
    SubmitJobRequest request = FakeUser::Request("/r");
    change(&request);
    const grpc::Status status = Refusal(request);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << text;
    EXPECT_THAT(status.error_message(), HasSubstr(text));
  };
  using R = SubmitJobRequest*;
  expect([](R r) { r->mutable_spec()->clear_run_dir(); }, "run_dir is not set");
  expect([](R r) { r->mutable_spec()->set_run_dir("runs/a"); }, "must be an absolute path");
  expect([](R r) { r->mutable_spec()->set_run_dir("/a/.."); }, "root folder");
  expect([](R r) { r->mutable_spec()->set_run_dir("/a\nb"); }, "run_dir contains a control");
  expect([](R r) { r->clear_submission_id(); }, "submission id is empty");
  expect([](R r) { r->mutable_spec()->set_name(std::string(200, 'n')); }, "name has more than");
  expect([](R r) { r->mutable_spec()->mutable_data()->set_path(std::string(5000, 'p')); },
         "data.path has 5000 bytes");
  expect(
      [](R r) {
        for (int i = 0; i < 2000; ++i) r->mutable_spec()->mutable_model()->add_depths(1);
      },
      "model.depths has 2000 entries");
  expect([](R r) { r->mutable_spec()->mutable_schedule()->set_priority(1001); },
         "schedule.priority is 1001, but must lie between -1000 and 1000");
  expect([](R r) { r->mutable_spec()->mutable_schedule()->set_max_run_time("3 days"); },
         "schedule.max_run_time is \"3 days\"");
  expect([](R r) { r->mutable_spec()->mutable_schedule()->set_restart_pause("2d"); },
         "schedule.restart_pause is \"2d\", but must be a time up to a day");
  expect([](R r) { r->mutable_spec()->mutable_schedule()->set_min_ranks(0); },
         "schedule.min_ranks must be at least 1");
  expect([](R r) { r->mutable_spec()->mutable_schedule()->add_after(""); },
         "schedule.after has an entry of 0 bytes");
  expect([](R r) { r->mutable_spec()->mutable_schedule()->add_after("a\nb"); },
         "schedule.after contains a control");
  expect([](R r) { r->set_user("a\nb"); }, "the user's name contains a control");
  ListJobsResponse jobs;
  grpc::ClientContext context;
  ASSERT_TRUE(user_->coordinator->ListJobs(&context, {}, &jobs).ok());
  EXPECT_EQ(jobs.jobs_size(), 0);
  JobStatus job;
  EXPECT_EQ(user_->TryGet("j1-none", &job).error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(user_->TryGet("", &job).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(Service, PlanRefusesJobs) {
  SetPlan(
      "grep -q 'run_dir: /bad' \"$2\" || exit 0; echo \"$2: window 3 cannot work\" >&2; exit 2");
  Start();
  const grpc::Status status = Refusal(FakeUser::Request("/bad"));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(status.error_message(), "job: window 3 cannot work");
  user_->Submit("/good");
  // A repeated submission is answered without a second check.
  SetPlan("exit 2");
  user_->Submit("/good");
}

TEST_F(Service, PlanThatHangsOrCrashesRefuses) {
  options_.admission.seconds = 0.3;
  SetPlan("sleep 60 & wait");
  Start();
  grpc::Status status = Refusal(FakeUser::Request("/r"));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(),
              AllOf(HasSubstr("took more than 0.3 s"), HasSubstr("--check-timeout")));
  SetPlan("kill -SEGV $$");
  status = Refusal(FakeUser::Request("/r"));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_THAT(status.error_message(), HasSubstr("signal 11"));
}

#if !defined(__SANITIZE_ADDRESS__)
TEST_F(Service, PlanHasAMemoryLimit) {
  options_.admission.memory = uint64_t{512} << 20;
  SetPlan("ulimit -v >&2; exit 2");
  Start();
  EXPECT_EQ(Refusal(FakeUser::Request("/r")).error_message(), "524288");
}
#endif

TEST_F(Service, StopsWhileAPlanHangsAndPeersAreConnected) {
  SetPlan("sleep 60");
  Start();
  const auto rank = Rank("l1", 0, 1);
  grpc::Status status;
  std::thread submitter([&] { status = Refusal(FakeUser::Request("/r")); });
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  const auto before = std::chrono::steady_clock::now();
  server_->Stop();
  EXPECT_LT(std::chrono::steady_clock::now() - before, std::chrono::seconds(3));
  submitter.join();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(rank->AwaitEnd());
  // Being stopped is no reason for a worker to end.
  EXPECT_EQ(rank->Next(0.1).command_case(), 0);
}

TEST_F(Service, MessageBeforeHelloEndsTheConnection) {
  Start();
  grpc::ClientContext context;
  const auto stream = user_->fleets->ConnectWorker(&context);
  WorkerMessage message;
  message.mutable_heartbeat();
  stream->Write(message);
  WorkerCommand command;
  ASSERT_TRUE(stream->Read(&command));
  EXPECT_THAT(command.rejected().reason(), HasSubstr("not Hello"));
  EXPECT_FALSE(stream->Read(&command));
  stream->Finish();
}

TEST_F(Service, ListsNewestFirstByState) {
  Start();
  const std::string first = user_->Submit("/1"), second = user_->Submit("/2");
  grpc::ClientContext cancel_context;
  CancelJobRequest cancel;
  cancel.set_job_id(first);
  JobStatus job;
  ASSERT_TRUE(user_->coordinator->CancelJob(&cancel_context, cancel, &job).ok());
  const auto list = [this](const ListJobsRequest& request) {
    grpc::ClientContext context;
    ListJobsResponse response;
    EXPECT_TRUE(user_->coordinator->ListJobs(&context, request, &response).ok());
    std::vector<std::string> ids;
    for (const JobStatus& one : response.jobs()) ids.push_back(one.job_id());
    return ids;
  };
  ListJobsRequest request;
  EXPECT_THAT(list(request), ::testing::ElementsAre(second, first));
  request.set_limit(1);
  EXPECT_THAT(list(request), ::testing::ElementsAre(second));
  request.add_states(CANCELLED);
  EXPECT_THAT(list(request), ::testing::ElementsAre(first));
}

}  // namespace
}  // namespace swinfleet::coordinator
