#include "worker/coordinator_client.h"

#include <glog/logging.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "tests/worker/fake_coordinator.h"
#include "tests/worker/still_communicator.h"

namespace swinfleet {
namespace {

using testing::HasSubstr;
using namespace std::chrono_literals;
using Kind = WorkerEvent::Kind;

// ---- What to look for. ----

bool IsHello(const WorkerMessage& message) { return message.has_hello(); }
bool IsHeartbeat(const WorkerMessage& message) { return message.has_heartbeat(); }
bool IsEnded(const WorkerMessage& message) { return message.has_ended(); }
bool IsIdle(const WorkerMessage& message) {
  return message.has_heartbeat() && message.heartbeat().job_id().empty();
}
FakeCoordinator::Matcher HasLog(const std::string& text) {
  return [text](const WorkerMessage& message) {
    for (const LogLine& line : message.log().lines()) {
      if (line.text().find(text) != std::string::npos) return true;
    }
    return false;
  };
}

class ClientTest : public testing::Test {
 protected:
  ClientOptions Options() {
    ClientOptions options;
    options.coordinator = address_.empty() ? server_->address() : address_;
    options.identity = {"fleet-a", "launch-1", 2, 4, true};
    options.min_backoff_seconds = 0.02;
    options.max_backoff_seconds = 0.1;
    options.hello_timeout_seconds = 0.5;
    options.resend_seconds = 0.1;
    return options;
  }
  void Start() { Start(Options()); }
  void Start(const ClientOptions& options) {
    client_ = std::make_unique<CoordinatorClient>(options, [this](const std::string& reason) {
      const std::lock_guard lock(mutex_);
      rejection_ = reason;
    });
  }
  std::optional<std::string> Rejection() {
    const std::lock_guard lock(mutex_);
    return rejection_;
  }
  // Stops the server and starts another one on its port.
  void Restart() {
    const int port = server_->port();
    server_.reset();
    server_ = std::make_unique<FakeCoordinator>(port);
  }

  std::unique_ptr<FakeCoordinator> server_ = std::make_unique<FakeCoordinator>();
  std::string address_;
  std::mutex mutex_;
  std::optional<std::string> rejection_;
  std::unique_ptr<CoordinatorClient> client_;
};

TEST_F(ClientTest, SaysWhoItIs) {
  Start();
  WorkerMessage message;
  ASSERT_TRUE(server_->WaitFor(IsHello, 0, &message));
  const Hello& hello = message.hello();
  EXPECT_EQ(hello.protocol_version(), static_cast<uint32_t>(PROTOCOL_VERSION_CURRENT));
  EXPECT_EQ(hello.fleet(), "fleet-a");
  EXPECT_EQ(hello.launch_id(), "launch-1");
  EXPECT_EQ(hello.rank(), 2u);
  EXPECT_EQ(hello.world_size(), 4u);
  EXPECT_TRUE(hello.supervised());
  EXPECT_EQ(hello.pid(), static_cast<uint32_t>(getpid()));
  EXPECT_FALSE(hello.host().empty());
  EXPECT_FALSE(hello.software_version().empty());
  EXPECT_EQ(hello.job_id(), "");
}

TEST_F(ClientTest, AWorkerThatIsNeverLetInEnds) {
  server_->Refuse({grpc::StatusCode::UNAUTHENTICATED, "no token was sent"});
  Start();
  for (int i = 0; i < 2000 && !Rejection(); ++i) std::this_thread::sleep_for(5ms);
  EXPECT_EQ(Rejection(), "no token was sent");
}

TEST_F(ClientTest, ATokenThatLapsesLeavesTheWorkerTraining) {
  Start();
  client_->BeginAttempt("job-1", 3);
  ASSERT_TRUE(server_->WaitFor(IsHeartbeat));
  server_->Refuse({grpc::StatusCode::UNAUTHENTICATED, "the token of lab has expired"});
  size_t mark = server_->Mark();
  server_->Drop();
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(server_->WaitFor(IsHello, mark));
    mark = server_->Mark();
  }
  EXPECT_FALSE(Rejection());
  // It has a new one.
  server_->Refuse(grpc::Status::OK);
  EXPECT_TRUE(server_->WaitFor(IsHeartbeat, mark));
}

TEST_F(ClientTest, AFileThatCantBeReadIsWaitedFor) {
  ClientOptions options = Options();
  options.connection.token_file = testing::TempDir() + "/token-" + std::to_string(getpid());
  Start(options);
  EXPECT_FALSE(Rejection());
  EXPECT_EQ(server_->Mark(), 0u);
  std::ofstream(options.connection.token_file + ".new") << "swinfleet_0123\n";
  ASSERT_EQ(chmod((options.connection.token_file + ".new").c_str(), 0600), 0);
  ASSERT_EQ(rename((options.connection.token_file + ".new").c_str(),
                   options.connection.token_file.c_str()),
            0);
  EXPECT_TRUE(server_->WaitFor(IsHello));
  unlink(options.connection.token_file.c_str());
}

TEST_F(ClientTest, HeartbeatsGoOnWhateverTheTrainingThreadDoes) {
  Start();
  StillCommunicator communicator(/*in_progress=*/true);
  client_->BeginAttempt("job-1", 3);
  client_->SetCommunicator(&communicator);
  client_->SetPhase(Phase::kEvaluate);
  client_->SetStep(41);
  const auto busy = [](const WorkerMessage& message) {
    const Heartbeat& beat = message.heartbeat();
    return beat.job_id() == "job-1" && beat.attempt() == 3 && beat.phase() == "evaluate" &&
           beat.step() == 41 && beat.collective_sequence() == 17 &&
           beat.collective() == "reduce-scatter head" && beat.memory_bytes() > 0;
  };
  ASSERT_TRUE(server_->WaitFor(busy));
  const size_t mark = server_->Mark();
  std::this_thread::sleep_for(600ms);
  const int beats = server_->Count(busy, mark);
  EXPECT_GE(beats, 5);
  EXPECT_LE(beats, 13);
  client_->EndAttempt(nullptr);
  EXPECT_TRUE(server_->WaitFor(IsIdle, mark));
}

TEST_F(ClientTest, EveryAssignmentComesOnce) {
  Start();
  ASSERT_TRUE(server_->WaitFor(IsHeartbeat));
  server_->SendAssignment("job-1", 2, JobSpec(), 4);
  server_->SendAssignment("job-1", 2, JobSpec(), 4);
  server_->SendAssignment("job-1", 1, JobSpec(), 4);
  server_->SendAssignment("job-2", 1, JobSpec(), 3);
  server_->SendAssignment("job-1", 3, JobSpec(), 4);
  WorkerEvent event = client_->WaitForEvent();
  EXPECT_EQ(event.assignment.job_id(), "job-1");
  EXPECT_EQ(event.assignment.attempt(), 2u);
  event = client_->WaitForEvent();
  EXPECT_EQ(event.assignment.job_id(), "job-2");
  EXPECT_EQ(event.assignment.ranks(), 3u);
  event = client_->WaitForEvent();
  EXPECT_EQ(event.assignment.job_id(), "job-1");
  EXPECT_EQ(event.assignment.attempt(), 3u);
}

TEST_F(ClientTest, CancellationIsOfOneAttempt) {
  Start();
  ASSERT_TRUE(server_->WaitFor(IsHeartbeat));
  client_->BeginAttempt("job-1", 2);
  const auto cancel = [this](const std::string& job_id, uint32_t attempt) {
    WorkerCommand command;
    command.mutable_cancel()->set_job_id(job_id);
    command.mutable_cancel()->set_attempt(attempt);
    server_->Send(command);
  };
  // The assignment behind them shows that the cancellations before it were heard.
  cancel("job-1", 1);
  cancel("job-2", 2);
  server_->SendAssignment("job-9", 1, JobSpec(), 4);
  client_->WaitForEvent();
  EXPECT_FALSE(client_->CancelRequested());
  cancel("job-1", 2);
  server_->SendAssignment("job-9", 2, JobSpec(), 4);
  client_->WaitForEvent();
  EXPECT_TRUE(client_->CancelRequested());
  client_->EndAttempt(nullptr);
  client_->BeginAttempt("job-1", 3);
  EXPECT_FALSE(client_->CancelRequested());
}

TEST_F(ClientTest, ATraceIsAskedForOnceHoweverOftenItIsTold) {
  Start();
  ASSERT_TRUE(server_->WaitFor(IsHeartbeat));
  client_->BeginAttempt("job-1", 2);
  uint32_t assignments = 0;
  // An assignment behind it shows that it was heard.
  const auto tell = [&](const std::string& job_id, uint32_t attempt, const std::string& request) {
    WorkerCommand command;
    TraceAttempt* trace = command.mutable_trace();
    trace->set_job_id(job_id);
    trace->set_attempt(attempt);
    trace->set_request_id(request);
    trace->set_steps(3);
    trace->set_ranks(2);
    trace->set_origin(1000.5);
    server_->Send(command);
    server_->SendAssignment("job-9", ++assignments, JobSpec(), 4);
    client_->WaitForEvent();
  };
  EXPECT_FALSE(client_->TakeTraceRequest().has_value());
  tell("job-1", 1, "old");
  EXPECT_FALSE(client_->TakeTraceRequest().has_value());
  tell("job-2", 2, "other");
  EXPECT_FALSE(client_->TakeTraceRequest().has_value());
  tell("job-1", 2, "a");
  tell("job-1", 2, "a");
  const std::optional<TraceRequest> request = client_->TakeTraceRequest();
  ASSERT_TRUE(request.has_value());
  EXPECT_EQ(request->id, "a");
  EXPECT_EQ(request->steps, 3);
  EXPECT_EQ(request->ranks, 2);
  EXPECT_EQ(request->origin, 1000.5);
  tell("job-1", 2, "a");
  EXPECT_FALSE(client_->TakeTraceRequest().has_value());
  tell("job-1", 2, "b");
  ASSERT_TRUE(client_->TakeTraceRequest().has_value());
  client_->ReportTrace({.request_id = "b", .path = "/r/b", .first_step = 12, .steps = 3});
  const auto is_report = [](const WorkerMessage& m) { return m.has_trace(); };
  WorkerMessage message;
  ASSERT_TRUE(server_->WaitFor(is_report, 0, &message));
  EXPECT_EQ(message.trace().job_id(), "job-1");
  EXPECT_EQ(message.trace().attempt(), 2u);
  EXPECT_EQ(message.trace().request_id(), "b");
  EXPECT_EQ(message.trace().trace().path(), "/r/b");
  EXPECT_EQ(message.trace().trace().first_step(), 12u);
  EXPECT_EQ(message.trace().trace().steps(), 3u);
  Restart();
  EXPECT_TRUE(server_->WaitFor(is_report));
}

TEST_F(ClientTest, TheEndIsRepeatedUntilAcknowledged) {
  Start();
  client_->BeginAttempt("job-1", 2);
  AttemptResult result;
  result.outcome = Outcome::kFailed;
  result.message = "no data";
  result.progress.step = 12;
  client_->EndAttempt(&result);
  WorkerMessage message;
  ASSERT_TRUE(server_->WaitFor(IsEnded, 0, &message));
  EXPECT_EQ(message.ended().job_id(), "job-1");
  EXPECT_EQ(message.ended().attempt(), 2u);
  EXPECT_EQ(message.ended().outcome(), ATTEMPT_FAILED);
  EXPECT_EQ(message.ended().message(), "no data");
  EXPECT_EQ(message.ended().progress().step(), 12u);
  std::this_thread::sleep_for(450ms);
  EXPECT_GE(server_->Count(IsEnded), 3);
  EXPECT_FALSE(client_->Flush(0.05));
  server_->Acknowledge("job-1", 2);
  ASSERT_TRUE(server_->WaitFor(IsIdle));
  const size_t mark = server_->Mark();
  EXPECT_TRUE(client_->Flush(1));
  std::this_thread::sleep_for(300ms);
  EXPECT_EQ(server_->Count(IsEnded, mark), 0);
}

TEST_F(ClientTest, RidesOutACoordinatorThatGoesAway) {
  Start();
  client_->BeginAttempt("job-1", 2);
  ASSERT_TRUE(server_->WaitFor(IsHeartbeat));
  TrainingProgress progress;
  progress.step = 7;
  client_->ReportProgress(progress);
  client_->ReportCheckpoint("/run/c7", 7);
  ASSERT_TRUE(server_->WaitFor([](const WorkerMessage& m) { return m.has_progress(); }));
  Restart();
  WorkerMessage message;
  ASSERT_TRUE(server_->WaitFor(IsHello, 0, &message));
  EXPECT_EQ(message.hello().job_id(), "job-1");
  EXPECT_EQ(message.hello().attempt(), 2u);
  EXPECT_TRUE(server_->WaitFor([](const WorkerMessage& m) {
    return m.progress().progress().step() == 7 && m.progress().attempt() == 2;
  }));
  EXPECT_TRUE(server_->WaitFor([](const WorkerMessage& m) {
    return m.checkpoint().path() == "/run/c7" && m.checkpoint().step() == 7 &&
           m.checkpoint().job_id() == "job-1";
  }));
  // Its end, too, is told to whichever coordinator is there.
  const int port = server_->port();
  server_.reset();
  AttemptResult result;
  client_->EndAttempt(&result);
  std::this_thread::sleep_for(100ms);
  server_ = std::make_unique<FakeCoordinator>(port);
  ASSERT_TRUE(server_->WaitFor(IsEnded, 0, &message));
  EXPECT_EQ(message.ended().outcome(), ATTEMPT_SUCCEEDED);
}

TEST_F(ClientTest, ABrokenConnectionIsMadeAgain) {
  Start();
  ASSERT_TRUE(server_->WaitFor(IsHeartbeat));
  for (int i = 0; i < 5; ++i) {
    const size_t mark = server_->Mark();
    server_->Drop();
    ASSERT_TRUE(server_->WaitFor(IsHello, mark));
    ASSERT_TRUE(server_->WaitFor(IsHeartbeat, mark));
  }
}

TEST_F(ClientTest, WorkersMayStartFirst) {
  address_ = server_->address();
  const int port = server_->port();
  server_.reset();
  Start();
  std::this_thread::sleep_for(300ms);
  server_ = std::make_unique<FakeCoordinator>(port);
  EXPECT_TRUE(server_->WaitFor(IsHeartbeat));
}

TEST_F(ClientTest, ASilentCoordinatorIsAskedAgain) {
  server_->AnswerHello(WorkerCommand());
  Start();
  ASSERT_TRUE(server_->WaitFor(IsHello));
  ASSERT_TRUE(server_->WaitFor(IsHello, 1));
  EXPECT_EQ(server_->Count(IsHeartbeat), 0);
  server_->AnswerHello(FakeCoordinator::Welcome(0.05));
  EXPECT_TRUE(server_->WaitFor(IsHeartbeat));
}

TEST_F(ClientTest, ARefusedWorkerDoesNotComeBack) {
  WorkerCommand command;
  command.mutable_rejected()->set_reason("protocol version 1, but I speak 2");
  server_->AnswerHello(command);
  Start();
  ASSERT_TRUE(server_->WaitFor(IsHello));
  std::this_thread::sleep_for(400ms);
  EXPECT_EQ(Rejection(), "protocol version 1, but I speak 2");
  EXPECT_EQ(server_->Count(IsHello), 1);
}

TEST_F(ClientTest, ForwardsLogLinesOfAttempts) {
  Start();
  ASSERT_TRUE(server_->WaitFor(IsHeartbeat));
  LOG(INFO) << "line outside";
  client_->BeginAttempt("job-1", 2);
  LOG(WARNING) << "line inside";
  WorkerMessage message;
  ASSERT_TRUE(server_->WaitFor(HasLog("line inside"), 0, &message));
  EXPECT_EQ(message.log().job_id(), "job-1");
  EXPECT_EQ(message.log().attempt(), 2u);
  const LogLine& line = message.log().lines(message.log().lines_size() - 1);
  EXPECT_EQ(line.rank(), 2u);
  EXPECT_EQ(line.severity(), "WARNING");
  EXPECT_GT(line.time(), 1.6e9);
  EXPECT_THAT(line.text(), HasSubstr("coordinator_client_test.cc:"));
  const int port = server_->port();
  server_.reset();
  // What is written before the loss is noticed is lost with the connection.
  std::this_thread::sleep_for(300ms);
  LOG(INFO) << "line while away";
  client_->EndAttempt(nullptr);
  LOG(INFO) << "line after it";
  server_ = std::make_unique<FakeCoordinator>(port);
  ASSERT_TRUE(server_->WaitFor(HasLog("line while away")));
  EXPECT_EQ(server_->Count(HasLog("line outside")), 0);
  EXPECT_EQ(server_->Count(HasLog("line after it")), 0);
}

TEST_F(ClientTest, ShutdownAndStopAreEvents) {
  Start();
  ASSERT_TRUE(server_->WaitFor(IsHeartbeat));
  WorkerCommand command;
  command.mutable_shutdown()->set_reason("maintenance");
  server_->Send(command);
  const WorkerEvent event = client_->WaitForEvent();
  EXPECT_EQ(event.kind, Kind::kShutdown);
  EXPECT_EQ(event.reason, "maintenance");
  EXPECT_FALSE(client_->StopRequested());
  std::thread stopper([this] {
    std::this_thread::sleep_for(50ms);
    client_->Stop();
  });
  EXPECT_EQ(client_->WaitForEvent().kind, Kind::kStop);
  stopper.join();
  EXPECT_TRUE(client_->StopRequested());
}

TEST_F(ClientTest, ClosingTakesMomentsWhateverTheOtherSideDoes) {
  const auto closes_in = [this] {
    const auto start = std::chrono::steady_clock::now();
    client_->Close();
    return std::chrono::steady_clock::now() - start;
  };
  Start();
  ASSERT_TRUE(server_->WaitFor(IsHeartbeat));
  EXPECT_LT(closes_in(), 500ms);
  server_->AnswerHello(WorkerCommand());
  ClientOptions options = Options();
  options.hello_timeout_seconds = 60;
  const size_t mark = server_->Mark();
  Start(options);
  ASSERT_TRUE(server_->WaitFor(IsHello, mark));
  EXPECT_LT(closes_in(), 500ms);
  server_.reset();
  address_ = options.coordinator;
  Start(Options());
  std::this_thread::sleep_for(50ms);
  EXPECT_LT(closes_in(), 500ms);
}

TEST_F(ClientTest, APortThatSpeaksNothingHoldsNobodyUp) {
  // Connections to a socket that listens but never accepts are made and then hear nothing.
  const int socket_fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr address{};
  address.sa_family = AF_INET;
  ASSERT_EQ(bind(socket_fd, &address, sizeof(address)), 0);
  ASSERT_EQ(listen(socket_fd, 1), 0);
  socklen_t size = sizeof(address);
  ASSERT_EQ(getsockname(socket_fd, &address, &size), 0);
  const auto* bytes = reinterpret_cast<const unsigned char*>(address.sa_data);
  address_ = "127.0.0.1:" + std::to_string(bytes[0] * 256 + bytes[1]);
  Start();
  client_->BeginAttempt("job-1", 1);
  client_->ReportCheckpoint("/run/c", 1);
  std::this_thread::sleep_for(100ms);
  const auto flushed = std::chrono::steady_clock::now();
  EXPECT_FALSE(client_->Flush(5));
  EXPECT_LT(std::chrono::steady_clock::now() - flushed, 1s);
  const auto start = std::chrono::steady_clock::now();
  client_.reset();
  EXPECT_LT(std::chrono::steady_clock::now() - start, 3s);
  close(socket_fd);
}

[[noreturn]] void DieOnDuty(const ClientOptions& options) {
  CoordinatorClient client(options, [](const std::string&) {});
  client.BeginAttempt("job-1", 1);
  std::this_thread::sleep_for(1s);
  LOG(FATAL) << "these are the last words";
}

// The last words of a process that dies of a broken invariant reach the job's log.
TEST_F(ClientTest, AFailedCheckIsForwarded) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  // The child is a process of its own, with a server of its own: it is told the parent's address.
  setenv("SWINFLEET_TEST_ADDRESS", server_->address().c_str(), 0);
  ClientOptions options = Options();
  options.coordinator = getenv("SWINFLEET_TEST_ADDRESS");
  EXPECT_DEATH(DieOnDuty(options), "these are the last words");
  unsetenv("SWINFLEET_TEST_ADDRESS");
  EXPECT_TRUE(server_->WaitFor(HasLog("these are the last words")));
}

}  // namespace
}  // namespace swinfleet
