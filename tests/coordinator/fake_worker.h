// Peers of the coordinator for tests: one rank on a real stream, and what users call.
#ifndef SWINFLEET_TESTS_COORDINATOR_FAKE_WORKER_H_
#define SWINFLEET_TESTS_COORDINATOR_FAKE_WORKER_H_

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "proto/connection.h"
#include "proto/coordinator.grpc.pb.h"

namespace swinfleet::coordinator {

// One rank of a launch. It says what it is told to say and keeps what it hears.
class FakeRank {
 public:
  FakeRank(std::string address, const std::string& fleet, const std::string& launch, uint32_t rank,
           uint32_t world_size, const Credentials& credentials = Credentials());
  ~FakeRank();
  FakeRank(const FakeRank&) = delete;
  FakeRank& operator=(const FakeRank&) = delete;

  // Sent by Connect; tests may change it.
  Hello hello;

  // Opens a stream and says Hello.
  void Connect();
  // Breaks the stream off.
  void Drop();
  void Say(const WorkerMessage& message);
  void Beat(const std::string& job_id, uint32_t attempt, uint64_t step);
  void ReportProgress(const std::string& job_id, uint32_t attempt, uint64_t step, double loss);
  void ReportCheckpoint(const std::string& job_id, uint32_t attempt, const std::string& path,
                        uint64_t step);
  void Log(const std::string& job_id, uint32_t attempt, const std::string& text);
  void End(const std::string& job_id, uint32_t attempt, AttemptOutcome outcome);

  // The next command; one without content when none comes for `seconds` or the stream has ended.
  WorkerCommand Next(double seconds = 10);
  // Skips commands until one that fits; without content when none comes.
  WorkerCommand Await(WorkerCommand::CommandCase wanted, double seconds = 10);
  // Waits for the end of the stream.
  bool AwaitEnd(double seconds = 10);
  // How the stream ended, after AwaitEnd.
  grpc::Status Finish();

 private:
  void Join();

  const std::string address_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<grpc::ClientContext> context_;
  std::unique_ptr<grpc::ClientReaderWriter<WorkerMessage, WorkerCommand>> stream_;
  std::thread reader_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<WorkerCommand> commands_;
  bool ended_ = false;
};

// A user at the command line, roughly.
class FakeUser {
 public:
  explicit FakeUser(const std::string& address, const Credentials& credentials = Credentials());

  // A request that works, apart from what the test changes.
  static SubmitJobRequest Request(const std::string& run_dir);
  grpc::Status Submit(const SubmitJobRequest& request, SubmitJobResponse* response);
  // Submits and expects that it works; the job's id.
  std::string Submit(const std::string& run_dir);
  grpc::Status TryGet(const std::string& job_id, JobStatus* status);
  JobStatus Get(const std::string& job_id);
  // Polls until the condition holds; the last status in any case.
  JobStatus Await(const std::string& job_id, const std::function<bool(const JobStatus&)>& condition,
                  double seconds = 10);
  JobStatus Await(const std::string& job_id, JobState state, double seconds = 10);
  grpc::Status Cancel(const std::string& job_id);
  grpc::Status Fence(const std::string& fleet);
  FleetStatus Fleet(const std::string& name);
  grpc::Status Report(const std::string& fleet, const std::string& launch, LaunchState state,
                      LaunchDirective* directive);

  std::unique_ptr<Coordinator::Stub> coordinator;
  std::unique_ptr<FleetService::Stub> fleets;
};

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_TESTS_COORDINATOR_FAKE_WORKER_H_
