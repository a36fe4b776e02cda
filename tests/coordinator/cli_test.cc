// The built `swinfleet` against a coordinator that says what the test wants.
#include <gmock/gmock.h>
#include <google/protobuf/util/json_util.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <pwd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <chrono>
#include <fstream>
#include <map>
#include <sstream>

#include "coordinator/check_limits.h"
#include "coordinator/supervisor/launch.h"
#include "proto/coordinator.grpc.pb.h"
#include "tests/coordinator/cli_subprocess.h"

namespace swinfleet {
namespace {

using testing::AllOf;
using testing::EndsWith;
using testing::HasSubstr;
using testing::MatchesRegex;
using testing::Not;
using testing::StartsWith;

JobStatus MakeJob(const std::string& id, JobState state) {
  JobStatus job;
  job.set_job_id(id);
  job.set_state(state);
  job.mutable_spec()->set_name("fashion");
  job.mutable_spec()->set_run_dir("/runs/one");
  job.set_attempt(2);
  job.set_restarts(1);
  job.set_fleet("local");
  job.set_submitted_at(1.7e9);
  job.set_started_at(1.7e9 + 5);
  job.set_last_checkpoint("/runs/one/checkpoints/attempt-001/step-00000500");
  job.set_last_checkpoint_step(500);
  Progress* progress = job.mutable_progress();
  progress->set_step(600);
  progress->set_total_steps(1000);
  progress->set_epoch(3);
  progress->set_epochs(5);
  progress->set_loss(0.43125);
  progress->set_learning_rate(0.0012);
  progress->set_images_per_second(812.3);
  progress->set_grad_norm(0.91);
  progress->set_top1(0.8691);
  progress->set_top5(0.996);
  progress->set_evaluated_step(500);
  progress->set_eta_seconds(192);
  for (uint32_t rank = 0; rank < 2; ++rank) {
    RankStatus* status = job.add_ranks();
    status->set_rank(rank);
    status->set_host("node" + std::to_string(rank));
    status->set_pid(100 + rank);
    status->set_phase("train");
    status->set_step(600);
  }
  return job;
}

class FakeCoordinator : public Coordinator::Service {
 public:
  grpc::Status SubmitJob(grpc::ServerContext* context, const SubmitJobRequest* request,
                         SubmitJobResponse* response) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    submission_patience_ = context->deadline() - std::chrono::system_clock::now();
    submissions_.push_back(*request);
    if (refusals_left_ > 0) {
      --refusals_left_;
      return refusal_;
    }
    response->set_job_id("7");
    *response->mutable_status() = MakeJob("7", QUEUED);
    return grpc::Status::OK;
  }
  grpc::Status GetJob(grpc::ServerContext*, const GetJobRequest* request,
                      JobStatus* response) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = jobs_.find(request->job_id());
    if (found == jobs_.end()) return NoSuchJob();
    *response = found->second;
    return grpc::Status::OK;
  }
  grpc::Status ListJobs(grpc::ServerContext*, const ListJobsRequest* request,
                        ListJobsResponse* response) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    listed_ = *request;
    for (const auto& [id, job] : jobs_) *response->add_jobs() = job;
    return grpc::Status::OK;
  }
  grpc::Status WatchJob(grpc::ServerContext* context, const GetJobRequest* request,
                        grpc::ServerWriter<JobStatus>* writer) override {
    std::string last;
    while (!context->IsCancelled() && !stopping_) {
      JobStatus job;
      {
        const std::lock_guard<std::mutex> lock(mutex_);
        const auto found = jobs_.find(request->job_id());
        if (found == jobs_.end()) return NoSuchJob();
        job = found->second;
      }
      const std::string now = job.SerializeAsString();
      if (now != last && !writer->Write(job)) break;
      last = now;
      if (job.state() >= SUCCEEDED) return grpc::Status::OK;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return grpc::Status(grpc::StatusCode::UNAVAILABLE, "ends");
  }
  grpc::Status CancelJob(grpc::ServerContext*, const CancelJobRequest* request,
                         JobStatus* response) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = jobs_.find(request->job_id());
    if (found == jobs_.end()) return NoSuchJob();
    if (found->second.state() >= SUCCEEDED) {
      return grpc::Status(grpc::StatusCode::FAILED_PRECONDITION, "the job has ended already");
    }
    found->second.set_state(CANCELLING);
    *response = found->second;
    return grpc::Status::OK;
  }
  // Its ranks answer with `traces_`, and only when the status is asked for.
  grpc::Status TraceJob(grpc::ServerContext*, const TraceJobRequest* request,
                        JobStatus* response) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = jobs_.find(request->job_id());
    if (found == jobs_.end()) return NoSuchJob();
    traced_ = *request;
    TraceStatus* trace = found->second.mutable_trace();
    trace->set_attempt(2);
    trace->set_request_id(request->request_id());
    trace->mutable_ranks()->Assign(traces_.begin(), traces_.end());
    *response = found->second;
    trace->set_complete(true);
    return grpc::Status::OK;
  }
  grpc::Status GetLogs(grpc::ServerContext*, const GetLogsRequest* request,
                       GetLogsResponse* response) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (jobs_.count(request->job_id()) == 0) return NoSuchJob();
    if (!logs_.empty() && log_refusals_left_ > 0) {
      --log_refusals_left_;
      return refusal_;
    }
    // Small pages, so that a client has to turn them.
    for (const LogLine& line : logs_) {
      if (line.sequence() > request->after() && response->lines_size() < 2) {
        *response->add_lines() = line;
      }
    }
    const uint64_t newest = logs_.empty() ? 0 : logs_.back().sequence();
    const uint64_t sent =
        response->lines_size() == 0 ? request->after() : response->lines().rbegin()->sequence();
    response->set_complete(logs_complete_ && sent >= newest);
    return grpc::Status::OK;
  }
  grpc::Status ListFleets(grpc::ServerContext*, const ListFleetsRequest*,
                          ListFleetsResponse* response) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const auto& [name, fleet] : fleets_) *response->add_fleets() = fleet;
    for (const HostStatus& host : hosts_) *response->add_hosts() = host;
    return grpc::Status::OK;
  }
  grpc::Status FenceFleet(grpc::ServerContext*, const FenceFleetRequest* request,
                          FleetStatus* response) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = fleets_.find(request->name());
    if (found == fleets_.end()) {
      return grpc::Status(grpc::StatusCode::NOT_FOUND, "");
    }
    found->second.set_state("fenced");
    *response = found->second;
    return grpc::Status::OK;
  }

  void SetJob(const JobStatus& job) {
    const std::lock_guard<std::mutex> lock(mutex_);
    jobs_[job.job_id()] = job;
  }
  void AddLog(uint64_t sequence, const std::string& text) {
    const std::lock_guard<std::mutex> lock(mutex_);
    LogLine line;
    line.set_sequence(sequence);
    line.set_time(1.7e9);
    line.set_severity("INFO");
    line.set_text(text);
    logs_.push_back(line);
  }
  void CompleteLogs() {
    const std::lock_guard<std::mutex> lock(mutex_);
    logs_complete_ = true;
  }
  std::vector<SubmitJobRequest> submissions() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return submissions_;
  }

  std::mutex mutex_;
  std::atomic<bool> stopping_{false};
  std::map<std::string, JobStatus> jobs_;
  std::map<std::string, FleetStatus> fleets_;
  std::vector<HostStatus> hosts_;
  std::vector<LogLine> logs_;
  bool logs_complete_ = false;
  std::vector<SubmitJobRequest> submissions_;
  // How long the last one would have waited for its answer.
  std::chrono::duration<double> submission_patience_{0};
  ListJobsRequest listed_;
  TraceJobRequest traced_;
  std::vector<RankTrace> traces_;
  int refusals_left_ = 0;
  // Of requests for logs.
  std::atomic<int> log_refusals_left_{0};
  grpc::Status refusal_;

 private:
  static grpc::Status NoSuchJob() {
    return grpc::Status(grpc::StatusCode::NOT_FOUND, "there is no such \x1b job");
  }
};

class Cli : public testing::Test {
 protected:
  Cli() {
    StartServer(0);
    job_file_ = folder_.path() + "/job.yaml";
    std::ofstream(job_file_) << "name: fashion\n"
                                "run_dir: runs/one\n"
                                "model: {init_from: ../weights.safetensors}\n"
                                "data: {path: /data}\n";
  }
  ~Cli() override { StopServer(); }

  void StartServer(int port) {
    fake_.stopping_ = false;
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:" + std::to_string(port), grpc::InsecureServerCredentials(),
                             &port_);
    builder.RegisterService(&fake_);
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
  }
  void StopServer() {
    if (server_ == nullptr) return;
    fake_.stopping_ = true;
    server_->Shutdown(std::chrono::system_clock::now());
    server_.reset();
  }
  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }

  std::unique_ptr<Subprocess> Start(std::vector<std::string> arguments,
                                    Subprocess::Options options = {}) {
    arguments.insert(arguments.begin(), program_);
    options.environment.emplace_back("SWINFLEET_COORDINATOR", address());
    options.environment.emplace_back("TZ", "UTC");
    if (options.folder.empty()) options.folder = folder_.path();
    return std::make_unique<Subprocess>(arguments, options);
  }
  // Runs to the end and checks the exit code.
  std::unique_ptr<Subprocess> Run(const std::vector<std::string>& arguments, int code,
                                  const Subprocess::Options& options = {}) {
    auto process = Start(arguments, options);
    EXPECT_EQ(process->Wait(), code) << process->out() << process->err();
    return process;
  }

  // A folder with a copy of the program, and other programs beside it.
  void UseOwnBinFolder() {
    program_ = folder_.path() + "/bin/swinfleet";
    std::filesystem::create_directories(folder_.path() + "/bin");
    std::filesystem::copy_file(SwinfleetProgram(), program_);
  }
  void AddProgram(const std::string& name, const std::string& script) {
    const std::string path = folder_.path() + "/bin/" + name;
    std::ofstream(path) << "#!/bin/sh\n" << script << "\n";
    std::filesystem::permissions(path, std::filesystem::perms::owner_all);
  }

  TemporaryFolder folder_;
  std::string program_ = SwinfleetProgram();
  std::string job_file_;
  FakeCoordinator fake_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

template <typename T>
T FromJson(const std::string& text) {
  T message;
  const auto status = google::protobuf::util::JsonStringToMessage(text, &message);
  EXPECT_TRUE(status.ok()) << status.ToString() << text;
  return message;
}

// ---------------------------------------------------------------------------------------------
// Usage

TEST_F(Cli, HelpAndVersion) {
  EXPECT_THAT(Run({"--help"}, 0)->out(), AllOf(HasSubstr("submit"), HasSubstr("Exit codes")));
  EXPECT_THAT(Run({"help"}, 0)->out(), HasSubstr("Exit codes"));
  EXPECT_THAT(Run({"help", "submit"}, 0)->out(), HasSubstr("--wait"));
  EXPECT_THAT(Run({"fleet", "--help"}, 0)->out(), HasSubstr("--launch-id"));
  EXPECT_THAT(Run({"--version"}, 0)->out(), StartsWith("swinfleet "));
  EXPECT_THAT(Run({}, 2)->err(), HasSubstr("submit"));
}

TEST_F(Cli, BadUsageExitsWith2) {
  EXPECT_THAT(Run({"status"}, 2)->err(), HasSubstr("JOB"));
  EXPECT_THAT(Run({"status", "1", "2"}, 2)->err(), HasSubstr("2"));
  EXPECT_THAT(Run({"list", "--state", "x"}, 2)->err(), HasSubstr("RUNNING"));
  Run({"list", "--limit", "-1"}, 2);
  Run({"--wrong"}, 2);
  for (const char* address :
       {"nohost", "a:0", "a:65536", "a:1x", ":1", "a b:1", "::1:7", "a/b:1"}) {
    EXPECT_THAT(Run({"list", "--coordinator", address}, 2)->err(), HasSubstr("HOST:PORT"));
  }
  EXPECT_THAT(Run({"fleet", "--name", "a"}, 2)->err(), HasSubstr("needs a command"));
  EXPECT_THAT(Run({"fleet", "--name", "../a", "--", "true"}, 2)->err(), HasSubstr("name"));
}

TEST_F(Cli, UnknownCommandNamesTheNearest) {
  EXPECT_THAT(Run({"sumbit", "x"}, 2)->err(), HasSubstr("did you mean \"submit\"?"));
  EXPECT_THAT(Run({"../../bin/sh"}, 2)->err(), HasSubstr("there is no command"));
  EXPECT_THAT(Run({"\x1b[31mred"}, 2)->err(), AllOf(HasSubstr("\\x1b"), Not(HasSubstr("\x1b"))));
}

TEST_F(Cli, RunsProgramsOfItsNameWithAllArguments) {
  UseOwnBinFolder();
  AddProgram("swinfleet-greet", "echo \"$@\"; exit 42");
  EXPECT_EQ(Run({"greet", "--check", "a b", "--", "-x"}, 42)->out(), "--check a b -- -x\n");
  EXPECT_THAT(Run({"gret"}, 2)->err(), HasSubstr("did you mean \"greet\"?"));
  EXPECT_EQ(Run({"help", "greet"}, 42)->out(), "--help\n");
  // A folder of PATH serves too, but what lies beside the program goes first.
  Subprocess::Options options;
  options.environment = {{"PATH", folder_.path() + "/bin:/usr/bin:/bin"}};
  program_ = SwinfleetProgram();
  EXPECT_EQ(Run({"greet", "hello"}, 42, options)->out(), "hello\n");
}

// ---------------------------------------------------------------------------------------------
// A coordinator that isn't there

TEST_F(Cli, UnreachableCoordinatorExitsWith3) {
  StopServer();
  for (const std::vector<std::string>& arguments :
       std::vector<std::vector<std::string>>{{"status", "1"},
                                             {"list"},
                                             {"watch", "1"},
                                             {"logs", "1"},
                                             {"logs", "1", "--follow"},
                                             {"cancel", "1"},
                                             {"fleets"},
                                             {"fence", "a"},
                                             {"submit", job_file_}}) {
    const auto start = std::chrono::steady_clock::now();
    EXPECT_THAT(Run(arguments, 3)->err(),
                AllOf(HasSubstr(address()), HasSubstr("refused"),
                      HasSubstr("swinfleet-coordinator"), HasSubstr("--coordinator")));
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
  }
}

TEST_F(Cli, PeerThatDoesNotSpeakIsGivenUp) {
  // A socket that accepts connections and says nothing.
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in name = {};
  name.sin_family = AF_INET;
  name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(bind(listener, reinterpret_cast<sockaddr*>(&name), sizeof(name)), 0);
  ASSERT_EQ(listen(listener, 5), 0);
  socklen_t size = sizeof(name);
  ASSERT_EQ(getsockname(listener, reinterpret_cast<sockaddr*>(&name), &size), 0);
  const std::string address = "127.0.0.1:" + std::to_string(ntohs(name.sin_port));
  const auto start = std::chrono::steady_clock::now();
  EXPECT_THAT(Run({"list", "--coordinator", address}, 3)->err(), HasSubstr("within 3 seconds"));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(6));
  close(listener);
}

// ---------------------------------------------------------------------------------------------
// submit

TEST_F(Cli, SubmitPrintsTheJobAndSendsAbsolutePaths) {
  EXPECT_EQ(Run({"submit", "job.yaml"}, 0)->out(), "7\n");
  ASSERT_EQ(fake_.submissions().size(), 1u);
  const SubmitJobRequest request = fake_.submissions()[0];
  const std::string folder = std::filesystem::canonical(folder_.path()).string();
  EXPECT_EQ(request.spec().run_dir(), folder + "/runs/one");
  EXPECT_EQ(request.spec().data().path(), "/data");
  EXPECT_EQ(request.spec().model().init_from(),
            std::filesystem::path(folder).parent_path().string() + "/weights.safetensors");
  EXPECT_EQ(request.protocol_version(), static_cast<uint32_t>(PROTOCOL_VERSION_CURRENT));
  EXPECT_THAT(request.submission_id(), MatchesRegex("[0-9a-f-]{36}"));
  EXPECT_EQ(request.user(), getpwuid(geteuid())->pw_name);
  const auto json = FromJson<SubmitJobResponse>(Run({"submit", "job.yaml", "--json"}, 0)->out());
  EXPECT_EQ(json.job_id(), "7");
  EXPECT_NE(fake_.submissions()[1].submission_id(), request.submission_id());
}

TEST_F(Cli, BadJobFileIsNotSubmitted) {
  std::ofstream(job_file_) << "name: a\nwrong: 1\ntrain: {epochs: x}\n";
  EXPECT_THAT(Run({"submit", job_file_}, 2)->err(),
              AllOf(HasSubstr(job_file_ + ":2: unknown key"), HasSubstr(job_file_ + ":3: ")));
  EXPECT_THAT(Run({"submit", "none.yaml"}, 2)->err(), HasSubstr("No such file"));
  EXPECT_TRUE(fake_.submissions().empty());
}

TEST_F(Cli, PlanThatRefusesStopsTheSubmission) {
  UseOwnBinFolder();
  AddProgram("swinfleet-plan", "echo \"$1 $2: window 7 can't work\" >&2; exit 1");
  EXPECT_THAT(Run({"submit", "job.yaml"}, 2)->err(),
              HasSubstr("--check job.yaml: window 7 can't work"));
  EXPECT_TRUE(fake_.submissions().empty());
  AddProgram("swinfleet-plan", "echo fine");
  EXPECT_EQ(Run({"submit", "job.yaml"}, 0)->out(), "7\n");
}

TEST_F(Cli, PlanWithoutAVerdictDoesNotStopTheSubmission) {
  UseOwnBinFolder();
  AddProgram("swinfleet-plan", "kill -9 $$");
  const auto process = Run({"submit", "job.yaml"}, 0);
  EXPECT_EQ(process->out(), "7\n");
  EXPECT_THAT(process->err(), HasSubstr("gave no verdict"));
}

TEST_F(Cli, PlanIsBoundedInMemory) {
  UseOwnBinFolder();
  AddProgram("swinfleet-plan", "ulimit -v >&2; exit 1");
#ifndef __SANITIZE_ADDRESS__
  EXPECT_THAT(Run({"submit", "job.yaml"}, 2)->err(), StartsWith("4194304\n"));
#endif
}

TEST_F(Cli, RefusalIsShown) {
  fake_.refusals_left_ = 1;
  fake_.refusal_ =
      grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "run_dir belongs to \x1b job 3");
  EXPECT_THAT(Run({"submit", "job.yaml"}, 5)->err(), HasSubstr("run_dir belongs to \\x1b job 3"));
}

TEST_F(Cli, SubmitOutlastsTheCoordinatorsCheck) {
  Run({"submit", "job.yaml"}, 0);
  EXPECT_GT(fake_.submission_patience_, std::chrono::seconds(kMaxCheckSeconds));
}

TEST_F(Cli, CheckThatTookTooLongIsNoUnreachableCoordinator) {
  fake_.refusals_left_ = 1;
  fake_.refusal_ = grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED,
                                "swinfleet-plan --check took more than 120 s");
  EXPECT_THAT(Run({"submit", "job.yaml", "--wait", "20"}, 5)->err(),
              AllOf(HasSubstr("took more than 120 s"), Not(HasSubstr("no coordinator answers"))));
  EXPECT_EQ(fake_.submissions().size(), 1u) << "it would take as long again";
}

TEST_F(Cli, SubmitWaitsWithOneSubmissionId) {
  fake_.refusals_left_ = 2;
  fake_.refusal_ = grpc::Status(grpc::StatusCode::UNAVAILABLE, "starting");
  Run({"submit", "job.yaml"}, 3);
  fake_.refusals_left_ = 2;
  EXPECT_EQ(Run({"submit", "job.yaml", "--wait", "20"}, 0)->out(), "7\n");
  const auto submissions = fake_.submissions();
  ASSERT_EQ(submissions.size(), 4u);
  EXPECT_EQ(submissions[1].submission_id(), submissions[3].submission_id());
  EXPECT_NE(submissions[0].submission_id(), submissions[1].submission_id());
}

TEST_F(Cli, SubmitWaitsForACoordinatorThatComesLater) {
  StopServer();
  const auto process = Start({"submit", "job.yaml", "--wait", "30"});
  ASSERT_TRUE(process->WaitForErr("trying for 30s"));
  StartServer(port_);
  EXPECT_EQ(process->Wait(), 0);
  EXPECT_EQ(process->out(), "7\n");
}

TEST_F(Cli, SubmitAndWatch) {
  fake_.SetJob(MakeJob("7", SUCCEEDED));
  EXPECT_THAT(Run({"submit", "job.yaml", "--watch"}, 0)->out(),
              AllOf(StartsWith("7\n"), HasSubstr("SUCCEEDED")));
}

// ---------------------------------------------------------------------------------------------
// Answers

TEST_F(Cli, StatusShowsTheJob) {
  JobStatus job = MakeJob("7", RUNNING);
  job.set_reason("after a \x1b[2J crash\n");
  fake_.SetJob(job);
  EXPECT_THAT(
      Run({"status", "7"}, 0)->out(),
      AllOf(HasSubstr("7, fashion"), HasSubstr("RUNNING, attempt 2 on fleet local (2 ranks)"),
            HasSubstr("after a \\x1b[2J crash\\n"), HasSubstr("60.0%"), HasSubstr("step 600/1000"),
            HasSubstr("ETA 3m12s"), HasSubstr("loss 0.4313"), HasSubstr("top-1 86.91%"),
            HasSubstr("2023-11-14 22:13:20"), HasSubstr("node1"), Not(HasSubstr("\x1b"))));
  const std::string text = Run({"status", "7", "--json"}, 0)->out();
  EXPECT_THAT(text, AllOf(HasSubstr("\"job_id\":\"7\""), HasSubstr("\"queue_position\":0"),
                          EndsWith("}\n")));
  EXPECT_EQ(FromJson<JobStatus>(text).reason(), job.reason());
}

TEST_F(Cli, StatusAndListTellOfTheQueue) {
  JobStatus job = MakeJob("7", STOPPING);
  QueueSpec* queue = job.mutable_spec()->mutable_schedule();
  queue->set_priority(-5);
  queue->set_preemptible(true);
  queue->set_max_run_time("12h");
  queue->set_min_ranks(2);
  queue->set_max_restarts(1);
  job.add_after("j1-ab12");
  job.set_user("ann\x1b");
  job.set_run_seconds(3720);
  job.set_preemptions(1);
  fake_.SetJob(job);
  EXPECT_THAT(Run({"status", "7"}, 0)->out(),
              AllOf(HasSubstr("STOPPING, priority -5, attempt 2"),
                    HasSubstr("priority -5, preemptible, after job j1-ab12, at least 2 ranks, at "
                              "most 1 restart after deaths, has run for 1h02m of at most 12h\n"),
                    HasSubstr("1; made room for others 1 time\n"), HasSubstr(" by ann\\x1b\n")));
  EXPECT_THAT(Run({"list"}, 0)->out(), AllOf(HasSubstr("PRIORITY"), HasSubstr("ann\\x1b  -5")));
  const auto json = FromJson<JobStatus>(Run({"status", "7", "--json"}, 0)->out());
  EXPECT_EQ(json.spec().schedule().priority(), -5);
  EXPECT_EQ(json.after(0), "j1-ab12");
  Run({"list", "--state", "stopping"}, 0);
}

TEST_F(Cli, StatusTellsOfReplacedPictures) {
  JobStatus job = MakeJob("7", RUNNING);
  fake_.SetJob(job);
  EXPECT_THAT(Run({"status", "7"}, 0)->out(), Not(HasSubstr("replaced")));
  job.mutable_progress()->set_replaced_pictures(12);
  job.mutable_progress()->set_eval_replaced_pictures(1);
  fake_.SetJob(job);
  EXPECT_THAT(Run({"status", "7"}, 0)->out(),
              AllOf(HasSubstr("12 pictures replaced (broken)"),
                    HasSubstr("at step 500 (1 broken picture replaced)")));
}

TEST_F(Cli, UnknownJobsAndFleetsExitWith4) {
  for (const std::vector<std::string>& arguments :
       std::vector<std::vector<std::string>>{{"status", "no\x1b"},
                                             {"watch", "no\x1b"},
                                             {"logs", "no\x1b"},
                                             {"cancel", "no\x1b"},
                                             {"trace", "no\x1b"}}) {
    EXPECT_THAT(Run(arguments, 4)->err(), HasSubstr("swinfleet: there is no such \\x1b job\n"));
  }
  EXPECT_THAT(Run({"fence", "nofleet"}, 4)->err(), HasSubstr("there is no fleet nofleet"));
}

TEST_F(Cli, ListShowsATable) {
  EXPECT_THAT(Run({"list"}, 0)->out(), HasSubstr("no jobs"));
  fake_.SetJob(MakeJob("7", RUNNING));
  fake_.SetJob(MakeJob("12345", FAILED));
  const std::string out =
      Run({"list", "--state", "running", "--state", "FAILED", "--limit", "3"}, 0)->out();
  std::istringstream lines(out);
  std::string heading, first, second;
  std::getline(lines, heading);
  std::getline(lines, first);
  std::getline(lines, second);
  EXPECT_EQ(heading.find("STATE"), first.find("FAILED")) << out;
  EXPECT_EQ(heading.find("STATE"), second.find("RUNNING")) << out;
  EXPECT_EQ(fake_.listed_.limit(), 3u);
  ASSERT_EQ(fake_.listed_.states_size(), 2);
  EXPECT_EQ(fake_.listed_.states(0), RUNNING);
  EXPECT_EQ(FromJson<ListJobsResponse>(Run({"list", "--json"}, 0)->out()).jobs_size(), 2);
}

TEST_F(Cli, FleetsTellOfHostsThatFail) {
  FleetStatus fleet;
  fleet.set_name("local");
  fake_.fleets_["local"] = fleet;
  EXPECT_THAT(Run({"fleets"}, 0)->out(), Not(HasSubstr("LEFT OUT")));
  HostStatus host;
  host.set_name("node\x1b");
  host.set_failures(1.5);
  host.set_left_out(true);
  host.set_last("attempt 2 of job j1-ab12");
  fake_.hosts_ = {host};
  EXPECT_THAT(Run({"fleets"}, 0)->out(),
              AllOf(HasSubstr("HOST      FAILURES  LEFT OUT  LAST"),
                    HasSubstr("node\\x1b  1.5       yes       attempt 2 of job j1-ab12")));
  EXPECT_TRUE(
      FromJson<ListFleetsResponse>(Run({"fleets", "--json"}, 0)->out()).hosts(0).left_out());
}

TEST_F(Cli, FleetsAndFence) {
  EXPECT_THAT(Run({"fleets"}, 0)->out(), HasSubstr("No fleet has registered"));
  FleetStatus fleet;
  fleet.set_name("local");
  fleet.set_state("busy");
  fleet.set_world_size(4);
  fleet.set_connected_ranks(3);
  fleet.set_last_exit("exit code 137");
  fake_.fleets_["local"] = fleet;
  EXPECT_THAT(Run({"fleets"}, 0)->out(),
              AllOf(HasSubstr("local"), HasSubstr("3/4"), HasSubstr("exit code 137")));
  EXPECT_EQ(FromJson<ListFleetsResponse>(Run({"fleets", "--json"}, 0)->out()).fleets_size(), 1);
  EXPECT_EQ(Run({"fence", "local"}, 0)->out(), "fleet local is fenced\n");
  EXPECT_EQ(FromJson<FleetStatus>(Run({"fence", "local", "--json"}, 0)->out()).state(), "fenced");
}

TEST_F(Cli, CancelIsAnsweredOrRefused) {
  fake_.SetJob(MakeJob("7", RUNNING));
  EXPECT_THAT(Run({"cancel", "7"}, 0)->out(), HasSubstr("CANCELLING"));
  fake_.SetJob(MakeJob("7", SUCCEEDED));
  EXPECT_THAT(Run({"cancel", "7"}, 5)->err(), HasSubstr("the job has ended already"));
}

// The trace of one rank, as a worker writes it, of these events.
RankTrace WriteTrace(const std::string& path, uint32_t rank,
                     const std::vector<std::string>& events) {
  std::ofstream file(path);
  file << R"({"displayTimeUnit": "ms", "otherData": {}, "traceEvents": [)";
  for (size_t i = 0; i < events.size(); ++i) file << (i == 0 ? "\n" : ",\n") << events[i];
  file << "\n]}\n";
  RankTrace trace;
  trace.set_rank(rank);
  trace.set_path(path);
  trace.set_first_step(12);
  trace.set_steps(3);
  return trace;
}

TEST_F(Cli, TraceWaitsForTheRanksAndJoinsTheirFiles) {
  fake_.SetJob(MakeJob("7", RUNNING));
  const std::string output = folder_.path() + "/all.json";
  fake_.traces_ = {WriteTrace(folder_.path() + "/0", 0, {R"({"pid": 1})", R"({"pid": 11})"}),
                   WriteTrace(folder_.path() + "/1", 1, {R"({"pid": 2})"})};
  EXPECT_EQ(Run({"trace", "7", "--steps", "3", "--rank", "0", "--rank", "1", "--output", output}, 0)
                ->out(),
            "rank 0: steps 12 to 14, " + folder_.path() + "/0\nrank 1: steps 12 to 14, " +
                folder_.path() + "/1\n");
  EXPECT_EQ(fake_.traced_.steps(), 3u);
  EXPECT_THAT(fake_.traced_.ranks(), testing::ElementsAre(0, 1));
  EXPECT_GE(fake_.traced_.request_id().size(), 32u);
  std::stringstream text;
  text << std::ifstream(output).rdbuf();
  EXPECT_EQ(text.str(),
            "{\"displayTimeUnit\": \"ms\", \"otherData\": {}, \"traceEvents\": [\n{\"pid\": 1},\n"
            "{\"pid\": 11},\n{\"pid\": 2}\n]}\n");
  EXPECT_THAT(Run({"status", "7"}, 0)->out(),
              HasSubstr("attempt 2, of 2 of 2 ranks: " + folder_.path() + "/0\n"));
  const auto json = FromJson<TraceStatus>(Run({"trace", "7", "--json"}, 0)->out());
  EXPECT_EQ(json.ranks(1).path(), folder_.path() + "/1");
  EXPECT_EQ(fake_.traced_.steps(), 1u);
  EXPECT_TRUE(fake_.traced_.ranks().empty());
}

TEST_F(Cli, TraceSaysWhatIsMissing) {
  fake_.SetJob(MakeJob("7", RUNNING));
  const std::string output = folder_.path() + "/all.json";
  RankTrace none;
  none.set_rank(1);
  none.set_error("no room \x1b");
  fake_.traces_ = {WriteTrace(folder_.path() + "/0", 0, {"{}"}), none};
  EXPECT_THAT(Run({"trace", "7", "--output", output}, 1)->out(),
              HasSubstr("rank 1: no trace: no room \\x1b\n"));
  EXPECT_TRUE(std::filesystem::exists(output));
  EXPECT_THAT(Run({"status", "7"}, 0)->out(), HasSubstr("of 1 of 2 ranks: "));
  EXPECT_THAT(Run({"status", "7"}, 0)->out(), HasSubstr("; rank 1: no room \\x1b\n"));
  // Files that can't be read from here, that are cut off, and that are something else.
  std::filesystem::remove(output);
  std::filesystem::remove(folder_.path() + "/0");
  const std::vector<std::string> command = {"trace", "7", "--output", output};
  EXPECT_THAT(Run(command, 2)->err(), HasSubstr("where their filesystem can be seen"));
  std::ofstream(folder_.path() + "/0") << "nonsense\n";
  EXPECT_THAT(Run(command, 2)->err(), HasSubstr("no trace of this version"));
  std::ofstream(folder_.path() + "/0") << "{\"traceEvents\": [\n{},\n";
  EXPECT_THAT(Run(command, 2)->err(), HasSubstr("is cut off"));
  for (const auto& entry : std::filesystem::directory_iterator(folder_.path())) {
    EXPECT_THAT(entry.path().string(), Not(HasSubstr("all.json")));
  }
  EXPECT_THAT(Run({"trace", "7", "--steps", "21"}, 2)->err(), HasSubstr("--steps"));
}

TEST_F(Cli, LogsTurnPagesAndEscape) {
  fake_.SetJob(MakeJob("7", RUNNING));
  for (int i = 1; i <= 5; ++i) fake_.AddLog(i, "line " + std::to_string(i) + " \x1b[31m\xc2\x9b");
  const std::string out = Run({"logs", "7"}, 0)->out();
  EXPECT_THAT(
      out, AllOf(HasSubstr("line 1 \\x1b[31m\\x9b"), HasSubstr("line 5"), Not(HasSubstr("\x1b"))));
  EXPECT_EQ(std::count(out.begin(), out.end(), '\n'), 5);
  const std::string json = Run({"logs", "7", "--json"}, 0)->out();
  EXPECT_EQ(std::count(json.begin(), json.end(), '\n'), 5);
  EXPECT_EQ(FromJson<LogLine>(json.substr(0, json.find('\n'))).text(), "line 1 \x1b[31m\xc2\x9b");
}

TEST_F(Cli, LogsFollowToTheEndAcrossARestart) {
  fake_.SetJob(MakeJob("7", RUNNING));
  fake_.AddLog(1, "first");
  const auto process = Start({"logs", "7", "--follow"});
  ASSERT_TRUE(process->WaitForOut("first"));
  StopServer();
  ASSERT_TRUE(process->WaitForErr("trying again"));
  fake_.AddLog(2, "second");
  fake_.CompleteLogs();
  StartServer(port_);
  EXPECT_EQ(process->Wait(), 0);
  EXPECT_THAT(process->out(), MatchesRegex(".*first\n.*second\n"));
}

TEST_F(Cli, LogsFollowOnWhenARequestIsCancelledByACoordinatorThatStops) {
  fake_.SetJob(MakeJob("7", RUNNING));
  fake_.AddLog(1, "first");
  fake_.refusal_ = grpc::Status(grpc::StatusCode::CANCELLED, "stopping");
  const auto process = Start({"logs", "7", "--follow"});
  ASSERT_TRUE(process->WaitForOut("first"));
  fake_.log_refusals_left_ = 1;
  ASSERT_TRUE(process->WaitForErr("trying again"));
  fake_.AddLog(2, "second");
  fake_.CompleteLogs();
  EXPECT_EQ(process->Wait(), 0);
  EXPECT_THAT(process->out(), MatchesRegex(".*first\n.*second\n"));
}

TEST_F(Cli, AnswerThatCantBeWrittenIsAnError) {
  const Subprocess process(
      {"/bin/sh", "-c",
       SwinfleetProgram() + " list --coordinator " + address() + " >/dev/full; echo code $?"});
  auto& running = const_cast<Subprocess&>(process);
  running.Wait();
  EXPECT_EQ(process.out(), "code 2\n");
  EXPECT_THAT(process.err(), HasSubstr("can't write"));
}

// ---------------------------------------------------------------------------------------------
// watch

TEST_F(Cli, WatchPrintsALineAChangeAndTheJobsEndIsTheExitCode) {
  JobStatus job = MakeJob("7", RUNNING);
  fake_.SetJob(job);
  const auto process = Start({"watch", "7"});
  ASSERT_TRUE(process->WaitForOut("step 600/1000"));
  job.mutable_progress()->set_step(700);
  fake_.SetJob(job);
  ASSERT_TRUE(process->WaitForOut("step 700/1000"));
  // A change that nobody needs to read about.
  job.mutable_ranks(0)->set_seconds_since_heartbeat(3);
  fake_.SetJob(job);
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  job.set_state(FAILED);
  job.set_reason("three deaths");
  fake_.SetJob(job);
  EXPECT_EQ(process->Wait(), 1);
  const std::string out = process->out();
  EXPECT_EQ(std::count(out.begin(), out.end(), '\n'), 3) << out;
  EXPECT_THAT(out, AllOf(HasSubstr("FAILED"), HasSubstr(": three deaths\n")));
}

TEST_F(Cli, WatchExitCodes) {
  fake_.SetJob(MakeJob("7", SUCCEEDED));
  Run({"watch", "7"}, 0);
  fake_.SetJob(MakeJob("7", CANCELLED));
  Run({"watch", "7"}, 6);
  const auto json = FromJson<JobStatus>(Run({"watch", "7", "--json"}, 6)->out());
  EXPECT_EQ(json.state(), CANCELLED);
}

TEST_F(Cli, WatchRidesOutACoordinatorThatGoesAway) {
  JobStatus job = MakeJob("7", RUNNING);
  fake_.SetJob(job);
  const auto process = Start({"watch", "7"});
  ASSERT_TRUE(process->WaitForOut("step 600/1000"));
  StopServer();
  ASSERT_TRUE(process->WaitForOut("doesn't answer; the job goes on"));
  std::this_thread::sleep_for(std::chrono::milliseconds(1500));
  StartServer(port_);
  ASSERT_TRUE(process->WaitForOut("answers again"));
  job.set_state(SUCCEEDED);
  fake_.SetJob(job);
  EXPECT_EQ(process->Wait(), 0);
  const std::string out = process->out();
  EXPECT_EQ(out.find("doesn't answer"), out.rfind("doesn't answer")) << "said more than once";
}

TEST_F(Cli, WatchIsInterrupted) {
  fake_.SetJob(MakeJob("7", RUNNING));
  const auto process = Start({"watch", "7"});
  ASSERT_TRUE(process->WaitForOut("step 600/1000"));
  process->Signal(SIGINT);
  EXPECT_EQ(process->Wait(5), 130);
  EXPECT_THAT(process->err(), HasSubstr("job 7 goes on"));
  // Also while there is nobody to watch.
  const auto second = Start({"watch", "7"});
  ASSERT_TRUE(second->WaitForOut("step 600/1000"));
  StopServer();
  ASSERT_TRUE(second->WaitForOut("doesn't answer"));
  second->Signal(SIGINT);
  EXPECT_EQ(second->Wait(5), 130);
}

// The screen that a terminal shows after `text`: enough of one for what `watch` sends.
std::vector<std::string> Screenful(const std::string& text) {
  std::vector<std::string> rows(1);
  size_t row = 0, column = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\r') {
      column = 0;
    } else if (c == '\n') {
      if (++row == rows.size()) rows.emplace_back();
      column = 0;
    } else if (c == '\x1b') {
      EXPECT_EQ(text[i + 1], '[');
      size_t end = i + 2;
      while (isdigit(text[end]) != 0) ++end;
      const size_t count = end == i + 2 ? 0 : std::stoul(text.substr(i + 2));
      if (text[end] == 'A') {
        EXPECT_LE(count, row);
        row -= std::min(count, row);
      } else if (text[end] == 'K') {
        rows[row].resize(std::min(rows[row].size(), column));
      } else if (text[end] == 'J') {
        rows.resize(row + 1);
        rows[row].resize(std::min(rows[row].size(), column));
      } else {
        ADD_FAILURE() << "unexpected escape " << text[end];
      }
      i = end;
    } else {
      if (rows[row].size() <= column) rows[row].resize(column + 1, ' ');
      rows[row][column++] = c;
    }
  }
  return rows;
}

size_t CountRowsWith(const std::vector<std::string>& rows, const std::string& text) {
  return static_cast<size_t>(std::count_if(rows.begin(), rows.end(), [&](const std::string& row) {
    return row.find(text) != std::string::npos;
  }));
}

TEST_F(Cli, WatchRepaintsOneBlockOnATerminal) {
  JobStatus job = MakeJob("7", RUNNING);
  job.mutable_spec()->set_name("fashion \x1b[31m");
  fake_.SetJob(job);
  Subprocess::Options options;
  options.terminal_width = 60;
  options.environment = {{"TERM", "xterm"}, {"LC_ALL", "C"}};
  const auto process = Start({"watch", "7"}, options);
  ASSERT_TRUE(process->WaitForOut("step 600/1000"));
  job.mutable_progress()->set_step(700);
  job.clear_reason();
  fake_.SetJob(job);
  ASSERT_TRUE(process->WaitForOut("step 700/1000"));
  const std::vector<std::string> rows = Screenful(process->out());
  EXPECT_EQ(CountRowsWith(rows, "step 700/1000"), 1u);
  EXPECT_EQ(CountRowsWith(rows, "step 600/1000"), 0u);
  EXPECT_EQ(CountRowsWith(rows, "###"), 1u);
  EXPECT_EQ(CountRowsWith(rows, "loss 0.4313"), 1u);
  EXPECT_EQ(CountRowsWith(rows, "ETA 3m12s"), 1u);
  EXPECT_EQ(CountRowsWith(rows, "fashion \\x1b[31m"), 1u);
  for (const std::string& row : rows) EXPECT_LT(row.size(), 60u) << row;

  process->Resize(30);
  job.mutable_progress()->set_step(800);
  fake_.SetJob(job);
  ASSERT_TRUE(process->WaitForOut("step 800/1000"));
  job.set_state(SUCCEEDED);
  job.set_reason("all epochs are done, and this is a long explanation of that fact");
  fake_.SetJob(job);
  EXPECT_EQ(process->Wait(), 0);
  EXPECT_THAT(process->out(), HasSubstr("SUCCEEDED: all epochs are done, and this is a long "
                                        "explanation of that fact"));
}

TEST_F(Cli, WatchOnATerminalSaysThatTheCoordinatorIsAway) {
  JobStatus job = MakeJob("7", RUNNING);
  fake_.SetJob(job);
  Subprocess::Options options;
  options.terminal_width = 100;
  options.environment = {{"TERM", "xterm"}, {"LC_ALL", "C.UTF-8"}};
  const auto process = Start({"watch", "7"}, options);
  ASSERT_TRUE(process->WaitForOut("█"));
  StopServer();
  ASSERT_TRUE(process->WaitForOut("doesn't answer"));
  EXPECT_EQ(CountRowsWith(Screenful(process->out()), "doesn't answer"), 1u);
  StartServer(port_);
  job.mutable_progress()->set_step(900);
  fake_.SetJob(job);
  ASSERT_TRUE(process->WaitForOut("step 900/1000"));
  // The rest of that screen may still be on its way.
  const auto rows = [&] { return CountRowsWith(Screenful(process->out()), "doesn't answer"); };
  for (int tries = 0; tries < 100 && rows() > 0; ++tries) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  EXPECT_EQ(rows(), 0u);
  process->Signal(SIGINT);
  EXPECT_EQ(process->Wait(5), 130);
}

}  // namespace
}  // namespace swinfleet
