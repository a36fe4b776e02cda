#include "tests/coordinator/fake_worker.h"

#include <gtest/gtest.h>

#include <utility>

namespace swinfleet::coordinator {
namespace {

std::chrono::system_clock::time_point After(double seconds) {
  return std::chrono::system_clock::now() +
         std::chrono::duration_cast<std::chrono::system_clock::duration>(
             std::chrono::duration<double>(seconds));
}

std::shared_ptr<grpc::Channel> OwnChannel(const std::string& address,
                                          const Credentials& credentials) {
  grpc::ChannelArguments arguments;
  // Otherwise all ranks of a test would share one connection.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 50);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 200);
  return credentials.Connect(address, arguments);
}

}  // namespace

FakeRank::FakeRank(std::string address, const std::string& fleet, const std::string& launch,
                   uint32_t rank, uint32_t world_size, const Credentials& credentials)
    : address_(std::move(address)), channel_(OwnChannel(address_, credentials)) {
  hello.set_protocol_version(PROTOCOL_VERSION_CURRENT);
  hello.set_fleet(fleet);
  hello.set_launch_id(launch);
  hello.set_rank(rank);
  hello.set_world_size(world_size);
  hello.set_host("node" + std::to_string(rank));
  hello.set_pid(1000 + rank);
}

FakeRank::~FakeRank() { Drop(); }

void FakeRank::Join() {
  if (reader_.joinable()) reader_.join();
  if (stream_ != nullptr) stream_->Finish();
  stream_.reset();
}

void FakeRank::Drop() {
  if (context_ != nullptr) context_->TryCancel();
  Join();
}

void FakeRank::Connect() {
  Drop();
  context_ = std::make_unique<grpc::ClientContext>();
  context_->set_wait_for_ready(true);
  commands_.clear();
  ended_ = false;
  stream_ = FleetService::NewStub(channel_)->ConnectWorker(context_.get());
  reader_ = std::thread([this] {
    WorkerCommand command;
    while (stream_->Read(&command)) {
      std::lock_guard lock(mutex_);
      commands_.push_back(command);
      changed_.notify_all();
    }
    std::lock_guard lock(mutex_);
    ended_ = true;
    changed_.notify_all();
  });
  WorkerMessage message;
  *message.mutable_hello() = hello;
  Say(message);
}

void FakeRank::Say(const WorkerMessage& message) { stream_->Write(message); }

void FakeRank::Beat(const std::string& job_id, uint32_t attempt, uint64_t step) {
  hello.set_job_id(job_id);
  hello.set_attempt(attempt);
  WorkerMessage message;
  message.mutable_heartbeat()->set_job_id(job_id);
  message.mutable_heartbeat()->set_attempt(attempt);
  message.mutable_heartbeat()->set_phase(job_id.empty() ? "idle" : "train");
  message.mutable_heartbeat()->set_step(step);
  Say(message);
}

void FakeRank::ReportProgress(const std::string& job_id, uint32_t attempt, uint64_t step,
                              double loss) {
  WorkerMessage message;
  message.mutable_progress()->set_job_id(job_id);
  message.mutable_progress()->set_attempt(attempt);
  message.mutable_progress()->mutable_progress()->set_step(step);
  message.mutable_progress()->mutable_progress()->set_loss(loss);
  Say(message);
}

void FakeRank::ReportCheckpoint(const std::string& job_id, uint32_t attempt,
                                const std::string& path, uint64_t step) {
  WorkerMessage message;
  message.mutable_checkpoint()->set_job_id(job_id);
  message.mutable_checkpoint()->set_attempt(attempt);
  message.mutable_checkpoint()->set_path(path);
  message.mutable_checkpoint()->set_step(step);
  Say(message);
}

void FakeRank::Log(const std::string& job_id, uint32_t attempt, const std::string& text) {
  WorkerMessage message;
  message.mutable_log()->set_job_id(job_id);
  message.mutable_log()->set_attempt(attempt);
  message.mutable_log()->add_lines()->set_text(text);
  Say(message);
}

void FakeRank::End(const std::string& job_id, uint32_t attempt, AttemptOutcome outcome) {
  hello.clear_job_id();
  hello.clear_attempt();
  WorkerMessage message;
  message.mutable_ended()->set_job_id(job_id);
  message.mutable_ended()->set_attempt(attempt);
  message.mutable_ended()->set_outcome(outcome);
  Say(message);
}

WorkerCommand FakeRank::Next(double seconds) {
  std::unique_lock lock(mutex_);
  changed_.wait_until(lock, After(seconds), [this] { return ended_ || !commands_.empty(); });
  if (commands_.empty()) return {};
  WorkerCommand command = commands_.front();
  commands_.pop_front();
  return command;
}

WorkerCommand FakeRank::Await(WorkerCommand::CommandCase wanted, double seconds) {
  while (true) {
    WorkerCommand command = Next(seconds);
    if (command.command_case() == wanted || command.command_case() == 0) return command;
  }
}

bool FakeRank::AwaitEnd(double seconds) {
  std::unique_lock lock(mutex_);
  return changed_.wait_until(lock, After(seconds), [this] { return ended_; });
}

grpc::Status FakeRank::Finish() {
  if (reader_.joinable()) reader_.join();
  const grpc::Status status = stream_->Finish();
  stream_.reset();
  return status;
}

FakeUser::FakeUser(const std::string& address, const Credentials& credentials) {
  const auto channel = OwnChannel(address, credentials);
  coordinator = Coordinator::NewStub(channel);
  fleets = FleetService::NewStub(channel);
}

SubmitJobRequest FakeUser::Request(const std::string& run_dir) {
  SubmitJobRequest request;
  request.set_protocol_version(PROTOCOL_VERSION_CURRENT);
  request.set_submission_id("s" + std::to_string(std::hash<std::string>()(run_dir)));
  request.mutable_spec()->set_name("test");
  request.mutable_spec()->set_run_dir(run_dir);
  // A job that the real plan check accepts; nobody looks at the data here.
  request.mutable_spec()->mutable_data()->set_path("/data");
  request.mutable_spec()->mutable_train()->set_global_batch(512);
  return request;
}

grpc::Status FakeUser::Submit(const SubmitJobRequest& request, SubmitJobResponse* response) {
  grpc::ClientContext context;
  context.set_deadline(After(20));
  return coordinator->SubmitJob(&context, request, response);
}

std::string FakeUser::Submit(const std::string& run_dir) {
  SubmitJobResponse response;
  const grpc::Status status = Submit(Request(run_dir), &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response.job_id();
}

grpc::Status FakeUser::TryGet(const std::string& job_id, JobStatus* status) {
  grpc::ClientContext context;
  context.set_deadline(After(20));
  GetJobRequest request;
  request.set_job_id(job_id);
  return coordinator->GetJob(&context, request, status);
}

JobStatus FakeUser::Get(const std::string& job_id) {
  JobStatus job;
  const grpc::Status status = TryGet(job_id, &job);
  EXPECT_TRUE(status.ok()) << job_id << ": " << status.error_message();
  return job;
}

JobStatus FakeUser::Await(const std::string& job_id,
                          const std::function<bool(const JobStatus&)>& condition, double seconds) {
  const auto deadline = After(seconds);
  while (true) {
    JobStatus job = Get(job_id);
    if (condition(job)) return job;
    if (std::chrono::system_clock::now() > deadline) {
      ADD_FAILURE() << "waited in vain: " << job.ShortDebugString();
      return job;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

JobStatus FakeUser::Await(const std::string& job_id, JobState state, double seconds) {
  return Await(
      job_id, [state](const JobStatus& job) { return job.state() == state; }, seconds);
}

grpc::Status FakeUser::Cancel(const std::string& job_id) {
  grpc::ClientContext context;
  context.set_deadline(After(20));
  CancelJobRequest request;
  request.set_job_id(job_id);
  JobStatus status;
  return coordinator->CancelJob(&context, request, &status);
}

grpc::Status FakeUser::Fence(const std::string& fleet) {
  grpc::ClientContext context;
  context.set_deadline(After(20));
  FenceFleetRequest request;
  request.set_name(fleet);
  FleetStatus status;
  return coordinator->FenceFleet(&context, request, &status);
}

FleetStatus FakeUser::Fleet(const std::string& name) {
  grpc::ClientContext context;
  context.set_deadline(After(20));
  ListFleetsResponse response;
  const grpc::Status status = coordinator->ListFleets(&context, {}, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  for (const FleetStatus& fleet : response.fleets()) {
    if (fleet.name() == name) return fleet;
  }
  return {};
}

grpc::Status FakeUser::Report(const std::string& fleet, const std::string& launch,
                              LaunchState state, LaunchDirective* directive) {
  grpc::ClientContext context;
  context.set_deadline(After(20));
  LaunchReport report;
  report.set_protocol_version(PROTOCOL_VERSION_CURRENT);
  report.set_fleet(fleet);
  report.set_launch_id(launch);
  report.set_state(state);
  report.set_exit("exit code 137");
  return fleets->ReportLaunch(&context, report, directive);
}

}  // namespace swinfleet::coordinator
