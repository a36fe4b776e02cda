// The program itself: what survives kill -9, its exit codes, and that it stays small.
#include <arpa/inet.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "tests/coordinator/fake_worker.h"
#include "tests/coordinator/temporary_folder.h"

namespace swinfleet::coordinator {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;

// One run of the program.
class Program {
 public:
  // `file_limit`: bytes that a file may have, 0 for no limit.
  Program(const std::vector<std::string>& arguments, const std::string& errors,
          rlim_t file_limit = 0, const std::string& folder = SWINFLEET_BIN_DIR) {
    std::vector<std::string> command{folder + "/swinfleet-coordinator"};
    command.insert(command.end(), arguments.begin(), arguments.end());
    std::vector<char*> argv;
    for (std::string& one : command) argv.push_back(one.data());
    argv.push_back(nullptr);
    pid_ = fork();
    if (pid_ == 0) {
      const int file = open(errors.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
      dup2(file, STDERR_FILENO);
      dup2(file, STDOUT_FILENO);
      if (file_limit != 0) {
        const rlimit limit{file_limit, file_limit};
        setrlimit(RLIMIT_FSIZE, &limit);
      }
      execv(argv[0], argv.data());
      _exit(127);
    }
  }
  ~Program() {
    if (pid_ > 0) Kill(SIGKILL);
  }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  pid_t pid() const { return pid_; }
  // The wait status.
  int Wait() {
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = 0;
    return status;
  }
  int Kill(int signal) {
    kill(pid_, signal);
    return Wait();
  }

 private:
  pid_t pid_ = 0;
};

class Process : public ::testing::Test {
 protected:
  std::string store() const { return folder_.path() + "/" + store_name_; }
  std::string errors() const { return folder_.path() + "/errors"; }
  std::string Errors() const {
    std::ifstream file(errors());
    return {std::istreambuf_iterator<char>(file), {}};
  }
  // Starts the program, at the same port as before if there was one.
  void Start(rlim_t file_limit = 0) {
    const std::string port_file = folder_.path() + "/port";
    std::filesystem::remove(port_file);
    program_ = std::make_unique<Program>(
        std::vector<std::string>{"--store", store(), "--listen",
                                 "127.0.0.1:" + std::to_string(port_), "--port-file", port_file,
                                 "--lost-after", lost_after_, "--heartbeat", "0.2",
                                 "--check-timeout", check_timeout_},
        errors(), file_limit, program_folder_);
    for (int i = 0; i < 2000 && !std::filesystem::exists(port_file); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    std::ifstream(port_file) >> port_;
    ASSERT_NE(port_, 0) << Errors();
    user_ = std::make_unique<FakeUser>(address());
  }
  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }
  // Runs the program to its end; the exit code.
  int Run(const std::vector<std::string>& arguments, rlim_t file_limit = 0) {
    const int status = Program(arguments, errors(), file_limit).Wait();
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  // What is in a folder of the test.
  std::set<std::string> Files(const std::string& folder) const {
    std::set<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder_.path() + "/" + folder)) {
      names.insert(entry.path().filename().string());
    }
    return names;
  }

  TemporaryFolder folder_;
  std::string store_name_ = "store";
  int port_ = 0;
  std::string lost_after_ = "2";
  std::string check_timeout_ = "20";
  std::string program_folder_ = SWINFLEET_BIN_DIR;
  std::unique_ptr<Program> program_;
  std::unique_ptr<FakeUser> user_;
};

TEST_F(Process, AcknowledgedSubmissionsSurviveKill9) {
  Start();
  std::atomic<bool> enough{false};
  std::atomic<int> answers{0};
  std::vector<std::vector<std::string>> acknowledged(4);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < acknowledged.size(); ++t) {
    threads.emplace_back([&, t] {
      FakeUser user(address());
      for (int i = 0; !enough; ++i) {
        SubmitJobResponse response;
        std::ostringstream run_dir;
        run_dir << "/runs/" << t << "/" << i;
        if (!user.Submit(FakeUser::Request(run_dir.str()), &response).ok()) return;
        acknowledged[t].push_back(response.job_id());
        ++answers;
      }
    });
  }
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (answers < 8 && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  program_->Kill(SIGKILL);
  enough = true;
  for (std::thread& thread : threads) thread.join();
  Start();
  size_t count = 0;
  std::set<std::string> ids;
  for (const auto& some : acknowledged) {
    for (const std::string& id : some) {
      EXPECT_EQ(user_->Get(id).state(), QUEUED);
      ids.insert(id);
      ++count;
    }
  }
  EXPECT_GT(count, 4u);
  EXPECT_EQ(ids.size(), count);
}

TEST_F(Process, WorkersTrainOnThroughKill9) {
  Start();
  const std::string id = user_->Submit("/r");
  FakeRank zero(address(), "f", "l1", 0, 2), one(address(), "f", "l1", 1, 2);
  for (FakeRank* rank : {&zero, &one}) {
    rank->Connect();
    ASSERT_TRUE(rank->Next().has_welcome());
  }
  for (FakeRank* rank : {&zero, &one}) {
    ASSERT_TRUE(rank->Next().has_assignment());
    rank->Beat(id, 1, 10);
  }
  zero.ReportCheckpoint(id, 1, "/r/c", 10);
  user_->Await(id, [](const JobStatus& job) { return job.last_checkpoint_step() == 10; });
  program_->Kill(SIGKILL);
  EXPECT_TRUE(zero.AwaitEnd());
  EXPECT_TRUE(one.AwaitEnd());

  Start();
  JobStatus job = user_->Get(id);
  EXPECT_EQ(job.state(), RUNNING);
  EXPECT_EQ(job.last_checkpoint(), "/r/c");
  for (FakeRank* rank : {&zero, &one}) {
    rank->Connect();
    EXPECT_TRUE(rank->Next().has_welcome());
    rank->Beat(id, 1, 20);
  }
  job = user_->Await(id, [](const JobStatus& status) {
    return status.ranks_size() == 2 && status.ranks(0).step() == 20 && status.ranks(1).step() == 20;
  });
  EXPECT_EQ(job.state(), RUNNING);
  // The end comes while the coordinator is away, and is told until somebody hears it.
  program_->Kill(SIGKILL);
  EXPECT_TRUE(zero.AwaitEnd());
  zero.hello.clear_job_id();
  Start();
  zero.Connect();
  EXPECT_TRUE(zero.Next().has_welcome());
  zero.End(id, 1, ATTEMPT_SUCCEEDED);
  EXPECT_TRUE(zero.Await(WorkerCommand::kEndAcknowledged).has_end_acknowledged());
  program_->Kill(SIGKILL);
  Start();
  job = user_->Get(id);
  EXPECT_EQ(job.state(), SUCCEEDED);
  EXPECT_EQ(job.attempt(), 1u);
  EXPECT_EQ(job.restarts(), 0u);
}

TEST_F(Process, FullDiskRefusesAndLosesNothing) {
  Start(512 << 10);
  std::vector<std::string> acknowledged;
  grpc::Status status;
  for (int i = 0; i < 2000 && status.ok(); ++i) {
    SubmitJobRequest request = FakeUser::Request("/runs/" + std::to_string(i));
    request.mutable_spec()->mutable_data()->set_path(std::string(4000, 'p'));
    SubmitJobResponse response;
    status = user_->Submit(request, &response);
    if (status.ok()) acknowledged.push_back(response.job_id());
  }
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("the job was not accepted"));
  EXPECT_THAT(status.error_message(), HasSubstr("full"));
  const size_t refused = acknowledged.size();
  ASSERT_GT(refused, 10u);
  // It still answers, and knows nothing of what it refused.
  ListJobsRequest list;
  list.set_limit(1000);
  ListJobsResponse jobs;
  grpc::ClientContext context;
  ASSERT_TRUE(user_->coordinator->ListJobs(&context, list, &jobs).ok());
  EXPECT_EQ(static_cast<size_t>(jobs.jobs_size()), refused);
  EXPECT_EQ(WEXITSTATUS(program_->Kill(SIGTERM)), 0);
  Start();
  for (const std::string& id : acknowledged) EXPECT_EQ(user_->Get(id).state(), QUEUED);
  user_->Submit("/runs/" + std::to_string(refused));
}

// The store on a real filesystem of its own, which the test fills.
class FullDisk : public Process {
 protected:
  void SetUp() override {
    disk_ = folder_.path() + "/disk";
    std::filesystem::create_directory(disk_);
    mounted_ = mount("swinfleet-test", disk_.c_str(), "tmpfs", 0, "size=4m") == 0;
    if (!mounted_) GTEST_SKIP() << "needs to mount a tmpfs: " << std::strerror(errno);
    store_name_ = "disk/store";
    // Nobody is silent for long while the test fills the disk.
    lost_after_ = "600";
  }
  void TearDown() override {
    program_.reset();
    if (!mounted_) return;
    EXPECT_EQ(umount2(disk_.c_str(), MNT_DETACH), 0) << std::strerror(errno);
  }
  // Until nothing more fits: pieces, then bytes.
  void Fill() const {
    std::ofstream file(disk_ + "/ballast", std::ios::binary);
    for (const std::string& piece : {std::string(4096, 'x'), std::string(1, 'x')}) {
      while (file.write(piece.data(), static_cast<std::streamsize>(piece.size())).flush()) {
      }
      file.clear();
    }
  }
  void MakeRoom() const { std::filesystem::remove(disk_ + "/ballast"); }
  grpc::Status TrySubmit(const std::string& name, std::string* id = nullptr) {
    SubmitJobRequest request = FakeUser::Request("/runs/" + name);
    // Larger than what is left in the pages that SQLite has.
    request.mutable_spec()->mutable_data()->set_path(std::string(4000, 'p'));
    SubmitJobResponse response;
    const grpc::Status status = user_->Submit(request, &response);
    if (status.ok() && id != nullptr) *id = response.job_id();
    return status;
  }

  std::string disk_;
  bool mounted_ = false;
};

TEST_F(FullDisk, NothingThatWasAcknowledgedIsLostAndAllGoesOnWithRoom) {
  Start();
  const std::string running = user_->Submit("/running"), waiting = user_->Submit("/waiting");
  FakeRank rank(address(), "f", "l1", 0, 1);
  rank.Connect();
  ASSERT_TRUE(rank.Await(WorkerCommand::kAssignment).has_assignment());
  Fill();
  std::vector<std::string> acknowledged{running, waiting};
  grpc::Status status;
  for (int i = 0; i < 2000 && status.ok(); ++i) {
    std::string id;
    status = TrySubmit("n" + std::to_string(i), &id);
    if (status.ok()) acknowledged.push_back(id);
  }
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("the job was not accepted"));
  EXPECT_THAT(status.error_message(), HasSubstr("the disk or quota is full, make room on it"));

  // Users are answered, a cancellation with what keeps it from being one; the rank is heard.
  const grpc::Status cancelled = user_->Cancel(waiting);
  EXPECT_EQ(cancelled.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(cancelled.error_message(), HasSubstr("make room"));
  rank.Beat(running, 1, 7);
  user_->Await(running, [](const JobStatus& job) {
    return job.ranks_size() == 1 && job.ranks(0).step() == 7;
  });
  // What it has to say for good is kept for it, and acknowledged only when it is durable.
  rank.End(running, 1, ATTEMPT_SUCCEEDED);
  EXPECT_FALSE(rank.Await(WorkerCommand::kEndAcknowledged, 2).has_end_acknowledged());
  MakeRoom();
  EXPECT_TRUE(rank.Await(WorkerCommand::kEndAcknowledged).has_end_acknowledged());
  std::string again;
  ASSERT_TRUE(TrySubmit("again", &again).ok());
  acknowledged.push_back(again);

  program_->Kill(SIGKILL);
  Start();
  JobStatus job;
  for (const std::string& id : acknowledged) EXPECT_TRUE(user_->TryGet(id, &job).ok()) << id;
  EXPECT_EQ(user_->Get(running).state(), SUCCEEDED);
  // The audit log has all of it, also what was refused for want of room.
  std::filesystem::remove(errors());
  EXPECT_EQ(Run({"--store", store(), "audit", "--last", "1000"}), 0);
  for (const std::string& id : acknowledged) EXPECT_THAT(Errors(), HasSubstr("submit " + id));
  EXPECT_THAT(Errors(), ContainsRegex("submit j[0-9]+-[0-9a-f]+: the job was not accepted"));
}

TEST_F(FullDisk, ACoordinatorThatStartsOnItServesWhatItHas) {
  Start();
  const std::string id = user_->Submit("/r");
  program_->Kill(SIGKILL);
  Fill();
  Start();
  EXPECT_EQ(user_->Get(id).state(), QUEUED);
  const grpc::Status refused = TrySubmit("new");
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(refused.error_message(), HasSubstr("make room"));
  MakeRoom();
  // Tried again every second.
  for (int i = 0; i < 100 && !TrySubmit("new").ok(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  EXPECT_TRUE(TrySubmit("new").ok());
}

TEST_F(Process, ACoordinatorOnABackupGoesOn) {
  // Nobody is silent for long.
  lost_after_ = "600";
  Start();
  SubmitJobRequest request = FakeUser::Request("/running");
  request.mutable_spec()->mutable_schedule()->set_restart_pause("0s");
  SubmitJobResponse response;
  ASSERT_TRUE(user_->Submit(request, &response).ok());
  const std::string running = response.job_id(), waiting = user_->Submit("/waiting");
  FakeRank rank(address(), "f", "l1", 0, 1);
  rank.hello.set_supervised(true);
  rank.Connect();
  ASSERT_TRUE(rank.Await(WorkerCommand::kAssignment).has_assignment());
  rank.ReportCheckpoint(running, 1, "/running/c", 10);
  user_->Await(running, [](const JobStatus& job) { return job.last_checkpoint_step() == 10; });
  std::filesystem::create_directory(folder_.path() + "/backups");
  const std::string file = folder_.path() + "/backups/jobs";
  ASSERT_EQ(Run({"backup", file, "--store", store()}), 0) << Errors();
  EXPECT_EQ(Files("backups"), std::set<std::string>{"jobs"});
  const std::string later = user_->Submit("/later");
  program_->Kill(SIGKILL);
  EXPECT_TRUE(rank.AwaitEnd());

  // The store is lost.
  store_name_ = "restored";
  std::filesystem::create_directory(store());
  std::filesystem::copy_file(file, store() + "/jobs.sqlite");
  Start();
  JobStatus job;
  EXPECT_EQ(user_->TryGet(later, &job).error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(user_->Get(waiting).state(), QUEUED);
  EXPECT_EQ(user_->Submit("/waiting"), waiting);
  job = user_->Get(running);
  EXPECT_EQ(job.state(), RUNNING);
  EXPECT_EQ(job.attempt(), 1u);
  EXPECT_EQ(job.last_checkpoint(), "/running/c");
  // Its rank is still at work.
  FakeRank same(address(), "f", "l1", 0, 1);
  same.hello.set_job_id(running);
  same.hello.set_attempt(1);
  same.Connect();
  EXPECT_TRUE(same.Next().has_welcome());
  same.Drop();
  LaunchDirective directive;
  ASSERT_TRUE(user_->Report("f", "l1", LAUNCH_ENDED, &directive).ok());
  FakeRank next(address(), "f", "l2", 0, 1);
  next.Connect();
  // The lost store may have seen further attempts, so none of their numbers comes again.
  const Assignment assignment = next.Await(WorkerCommand::kAssignment).assignment();
  EXPECT_EQ(assignment.job_id(), running);
  EXPECT_EQ(assignment.attempt(), 1002u);
  EXPECT_EQ(assignment.resume_from(), "/running/c");
  EXPECT_EQ(user_->Get(running).restarts(), 1u);
}

TEST_F(Process, BackupsHaveAllThatWasAcknowledgedBefore) {
  Start();
  std::atomic<bool> enough{false};
  std::atomic<int> answers{0};
  std::thread submitter([&] {
    FakeUser user(address());
    for (; !enough && answers < 900; ++answers) user.Submit("/runs/" + std::to_string(answers));
  });
  const std::string file = folder_.path() + "/backup";
  int before = 0;
  for (int i = 1; i <= 5; ++i) {
    while (answers < 5 * i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    before = answers;
    EXPECT_EQ(Run({"backup", file, "--store", store(), "--force"}), 0) << Errors();
  }
  enough = true;
  submitter.join();
  program_->Kill(SIGKILL);
  store_name_ = "restored";
  std::filesystem::create_directory(store());
  std::filesystem::copy_file(file, store() + "/jobs.sqlite");
  Start();
  ListJobsRequest list;
  list.set_limit(1000);
  ListJobsResponse jobs;
  grpc::ClientContext context;
  ASSERT_TRUE(user_->coordinator->ListJobs(&context, list, &jobs).ok());
  EXPECT_GE(jobs.jobs_size(), before);
}

TEST_F(Process, BackupsThatCanNotBeMadeLeaveNothing) {
  EXPECT_EQ(Run({"backup", folder_.path() + "/b", "--store", store()}), 3);
  EXPECT_THAT(Errors(), HasSubstr("there is no store in " + store()));
  Start();
  for (int i = 0; i < 20; ++i) user_->Submit("/runs/" + std::to_string(i));
  std::filesystem::create_directory(folder_.path() + "/backups");
  const std::string file = folder_.path() + "/backups/jobs";
  // No file may be so large.
  EXPECT_EQ(Run({"backup", file, "--store", store()}, 16 << 10), 3);
  EXPECT_THAT(Errors(), HasSubstr("the disk or quota is full"));
  EXPECT_EQ(Files("backups"), std::set<std::string>{});
  std::ofstream(file) << "something else";
  EXPECT_EQ(Run({"backup", file, "--store", store()}), 3);
  EXPECT_THAT(Errors(), HasSubstr(file + " exists already"));
  EXPECT_EQ(std::filesystem::file_size(file), 14u);
  EXPECT_EQ(Run({"backup", file, "--store", store(), "--force"}), 0);
  EXPECT_GT(std::filesystem::file_size(file), 14u);
  EXPECT_EQ(Files("backups"), std::set<std::string>{"jobs"});
  EXPECT_EQ(Run({"backup", "/proc/nowhere", "--store", store()}), 3);
  EXPECT_EQ(Run({"backup", "--store", store()}), 2);
}

TEST_F(Process, SecondCoordinatorOnTheSameStoreIsRefused) {
  Start();
  EXPECT_EQ(Run({"--store", store(), "--listen", "127.0.0.1:0"}), 3);
  EXPECT_THAT(Errors(), HasSubstr("another coordinator uses the store " + store() + " (process " +
                                  std::to_string(program_->pid()) + ")"));
}

TEST_F(Process, PortInUseIsAClearError) {
  const int other = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in place{};
  place.sin_family = AF_INET;
  place.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(bind(other, reinterpret_cast<sockaddr*>(&place), sizeof(place)), 0);
  ASSERT_EQ(listen(other, 1), 0);
  socklen_t size = sizeof(place);
  getsockname(other, reinterpret_cast<sockaddr*>(&place), &size);
  const std::string address = "127.0.0.1:" + std::to_string(ntohs(place.sin_port));
  EXPECT_EQ(Run({"--store", store(), "--listen", address}), 1);
  EXPECT_THAT(Errors(), HasSubstr("can't listen on " + address + ": Address already in use"));
  close(other);
  // Nor do two coordinators share a port.
  Start();
  EXPECT_EQ(Run({"--store", store() + "2", "--listen", this->address()}), 1);
}

TEST_F(Process, UsageErrors) {
  EXPECT_EQ(Run({"--store", store(), "--listen", "0.0.0.0:0"}), 2);
  EXPECT_THAT(Errors(), HasSubstr("--insecure"));
  EXPECT_EQ(Run({"--store", store(), "--listen", "7077"}), 2);
  EXPECT_EQ(Run({"--store", store(), "--listen", "127.0.0.1:70000"}), 2);
  EXPECT_EQ(Run({"--store", store(), "--no-such-flag"}), 2);
  EXPECT_EQ(Run({"--store", store(), "--lost-after", "1", "--heartbeat", "1"}), 2);
  EXPECT_EQ(Run({"--store", "/proc/nowhere/store", "--listen", "127.0.0.1:0"}), 3);
  for (const char* seconds : {"0", "3601", "x"}) {
    EXPECT_EQ(Run({"--store", store(), "--check-timeout", seconds}), 2) << seconds;
  }
  EXPECT_EQ(Run({"--help"}), 0);
  EXPECT_THAT(Errors(), ContainsRegex("--check-timeout [^\n]*=120\n"));
}

TEST_F(Process, SecurityThatCantWorkIsAUsageError) {
  const auto expect = [this](const std::vector<std::string>& options, const std::string& words) {
    std::vector<std::string> arguments = {"--store", store()};
    if (options[0] != "--listen") arguments.insert(arguments.end(), {"--listen", "127.0.0.1:0"});
    arguments.insert(arguments.end(), options.begin(), options.end());
    std::filesystem::remove(errors());
    EXPECT_EQ(Run(arguments), 2);
    EXPECT_THAT(Errors(), HasSubstr(words));
  };
  expect({"--listen", "0.0.0.0:0"}, "give --tls-cert FILE and --tls-key FILE");
  expect({"--tls-cert", "x"}, "belong together");
  expect({"--tls-client-ca", "x"}, "--tls-client-ca is of no use");
  expect({"--tls-cert", "/none", "--tls-key", "/none"}, "can't read /none");
  const std::string garbage = folder_.path() + "/garbage";
  std::ofstream(garbage) << "garbage";
  std::filesystem::permissions(garbage, std::filesystem::perms(0600));
  expect({"--tls-cert", garbage, "--tls-key", garbage}, garbage + " has no certificate");
  expect({"--run-root", "runs"}, "--run-root runs must be an absolute path");
  expect({"--data-root", "data"}, "--data-root data must be an absolute path");
  for (const char* option : {"--max-message-bytes", "--max-open-jobs", "--max-workers",
                             "--max-watchers", "--max-log-lines", "--max-log-mib"}) {
    expect({option, "0"}, option);
  }
  expect({"--max-request-rate", "-1"}, "--max-request-rate");
  EXPECT_FALSE(std::filesystem::exists(store()));
}

TEST_F(Process, TokensAreMadeListedAndRevokedBesideIt) {
  Start();
  const std::string file = folder_.path() + "/sam.token";
  const std::vector<std::string> add = {"token", "add", "sam",     "--role", "submitter",
                                        "--out", file,  "--store", store()};
  EXPECT_EQ(Run(add), 0) << Errors();
  EXPECT_THAT(Errors(), HasSubstr("the token of sam (submitter), for the store " + store()));
  EXPECT_EQ(std::filesystem::status(file).permissions(), std::filesystem::perms(0600));
  EXPECT_EQ(Run(add), 1);
  EXPECT_THAT(Errors(), HasSubstr("File exists"));
  EXPECT_EQ(Run({"--store", store(), "token", "add", "sam", "--role", "admin"}), 1);
  EXPECT_THAT(Errors(), HasSubstr("there is a token of sam (submitter) already"));
  EXPECT_EQ(Run({"--store", store(), "token", "add", "a b", "--role", "admin"}), 2);
  EXPECT_EQ(Run({"--store", store(), "token", "add", "tom", "--role", "root"}), 2);
  EXPECT_EQ(Run({"--store", store(), "token", "add", "tom"}), 2);
  EXPECT_EQ(Run({"--store", store(), "token"}), 2);
  EXPECT_EQ(Run({"--store", store(), "token", "revoke", "tom"}), 1);
  EXPECT_THAT(Errors(), HasSubstr("there is no token of tom"));
  std::filesystem::remove(errors());
  EXPECT_EQ(Run({"--store", store(), "token", "add", "ann", "--role", "viewer", "--expires", "9"}),
            0);
  // Printed, this once.
  EXPECT_THAT(Errors(), ContainsRegex("\nswinfleet_[0-9a-f]+\n"));
  std::filesystem::remove(errors());
  EXPECT_EQ(Run({"--store", store(), "token", "revoke", "sam"}), 0);
  EXPECT_EQ(Run({"--store", store(), "token", "list"}), 0);
  EXPECT_THAT(Errors(), ContainsRegex("sam +submitter +revoked "));
  EXPECT_THAT(Errors(), ContainsRegex("ann +viewer +valid "));
  EXPECT_EQ(Errors().find("swinfleet_"), std::string::npos);
  EXPECT_EQ(Run({"--store", store(), "token", "list", "--json"}), 0);
  EXPECT_THAT(Errors(), HasSubstr("\"name\":\"ann\""));
  std::filesystem::remove(errors());
  EXPECT_EQ(Run({"--store", store(), "audit", "--last", "1"}), 0);
  EXPECT_THAT(Errors(), HasSubstr("(operator) from this machine: token revoke sam: ok\n"));
  EXPECT_EQ(Errors().find("token add"), std::string::npos);
  EXPECT_EQ(Run({"--store", store(), "audit", "--json"}), 0);
  EXPECT_THAT(Errors(), HasSubstr("\"action\":\"token add\""));
}

TEST_F(Process, TheAuditLogSurvivesKill9) {
  Start();
  const std::string id = user_->Submit("/r");
  program_->Kill(SIGKILL);
  std::filesystem::remove(errors());
  EXPECT_EQ(Run({"--store", store(), "audit"}), 0);
  EXPECT_THAT(Errors(), HasSubstr("submit " + id + ": ok"));
}

TEST_F(Process, TextsThatAreNotUtf8DoNotFillTheLog) {
  Start();
  SubmitJobRequest request = FakeUser::Request("/r");
  request.set_user("\xff");
  SubmitJobResponse response;
  for (int i = 0; i < 50; ++i) EXPECT_FALSE(user_->Submit(request, &response).ok());
  user_->Submit("/r");
  const std::string log = Errors();
  size_t lines = 0;
  for (size_t at = 0; (at = log.find("UTF-8", at)) != std::string::npos; ++at) ++lines;
  EXPECT_GE(lines, 1u);
  // Each has "UTF-8" once; a slow machine may take longer than ten seconds.
  EXPECT_LT(lines, 10u);
}

TEST_F(Process, ACheckOverTheTimeLimitRefusesTheJob) {
  // The program asks the swinfleet-plan beside it.
  program_folder_ = folder_.path() + "/bin";
  std::filesystem::create_directories(program_folder_);
  std::filesystem::copy_file(std::string(SWINFLEET_BIN_DIR) + "/swinfleet-coordinator",
                             program_folder_ + "/swinfleet-coordinator");
  const std::string plan = program_folder_ + "/swinfleet-plan";
  std::ofstream(plan) << "#!/bin/sh\nsleep 60\n";
  std::filesystem::permissions(plan, std::filesystem::perms::owner_all);
  check_timeout_ = "0.4";
  Start();
  SubmitJobResponse response;
  const grpc::Status status = user_->Submit(FakeUser::Request("/r"), &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("took more than 0.4 s"));
}

TEST_F(Process, ManyIdleRanksNeedFewThreadsAndLittleTime) {
  // These ranks never beat, and are still to be free when the job comes.
  lost_after_ = "600";
  Start();
  std::vector<std::unique_ptr<FakeRank>> ranks;
  constexpr uint32_t kRanks = 200;
  for (uint32_t r = 0; r < kRanks; ++r) {
    ranks.push_back(std::make_unique<FakeRank>(address(), "f", "l1", r, kRanks));
    ranks.back()->Connect();
  }
  for (const auto& rank : ranks) ASSERT_TRUE(rank->Next().has_welcome());
  const std::string proc = "/proc/" + std::to_string(program_->pid());
  const auto tasks = std::filesystem::directory_iterator(proc + "/task");
  EXPECT_LT(std::distance(begin(tasks), end(tasks)), 100);
  const std::string id = user_->Submit("/r");
  for (const auto& rank : ranks) ASSERT_TRUE(rank->Next().has_assignment());
  EXPECT_EQ(user_->Get(id).ranks_size(), static_cast<int>(kRanks));
  const auto before = std::chrono::steady_clock::now();
  EXPECT_EQ(WEXITSTATUS(program_->Kill(SIGTERM)), 0);
  EXPECT_LT(std::chrono::steady_clock::now() - before, std::chrono::seconds(4));
}

}  // namespace
}  // namespace swinfleet::coordinator
