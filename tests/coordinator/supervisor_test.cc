// `swinfleet fleet` with shell scripts in place of mpirun, and a coordinator that says what the
// test wants.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "coordinator/supervisor/process.h"
#include "coordinator/supervisor/record.h"
#include "coordinator/supervisor/uuid.h"
#include "proto/coordinator.grpc.pb.h"
#include "tests/coordinator/cli_subprocess.h"

namespace swinfleet {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::SizeIs;
using testing::StartsWith;

class FakeFleetService : public FleetService::Service {
 public:
  grpc::Status ReportLaunch(grpc::ServerContext*, const LaunchReport* request,
                            LaunchDirective* response) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    reports_.push_back(*request);
    if (request->state() == LAUNCH_ENDED && refusals_ > 0) {
      --refusals_;
      return grpc::Status(grpc::StatusCode::UNAVAILABLE, "busy");
    }
    *response = directive_;
    response->set_fenced(request->launch_id() == fenced_);
    response->set_ending(request->launch_id() == ending_);
    response->set_leaving(leaves_ && request->give_back());
    return grpc::Status::OK;
  }
  std::vector<LaunchReport> reports() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return reports_;
  }
  std::vector<LaunchReport> ended() const {
    std::vector<LaunchReport> ended;
    for (const LaunchReport& report : reports()) {
      if (report.state() == LAUNCH_ENDED) ended.push_back(report);
    }
    return ended;
  }
  // The launches that were reported as running, in order.
  std::vector<std::string> launches() const {
    std::vector<std::string> ids;
    for (const LaunchReport& report : reports()) {
      if (report.state() != LAUNCH_RUNNING) continue;
      if (std::find(ids.begin(), ids.end(), report.launch_id()) == ids.end()) {
        ids.push_back(report.launch_id());
      }
    }
    return ids;
  }
  bool WasGivenBack() const {
    const std::vector<LaunchReport> all = reports();
    return !all.empty() && all.back().give_back();
  }
  // Ranks have left the launch.
  void Left(const std::string& launch_id) {
    const std::lock_guard<std::mutex> lock(mutex_);
    ending_ = launch_id;
  }
  void Fence(const std::string& launch_id) {
    const std::lock_guard<std::mutex> lock(mutex_);
    fenced_ = launch_id;
  }

  mutable std::mutex mutex_;
  std::vector<LaunchReport> reports_;
  LaunchDirective directive_;
  std::string fenced_;
  std::string ending_;
  // Understands that a fleet is given back.
  bool leaves_ = false;
  int refusals_ = 0;
};

class SupervisorTest : public testing::Test {
 protected:
  SupervisorTest() { StartServer(); }
  ~SupervisorTest() override {
    supervisors_.clear();
    // Launches outlive their supervisors, by design.
    for (const std::string& id : AllLaunches()) {
      for (const ProcessIdentity& process : FindLaunchProcesses(id)) {
        SignalProcess(process, SIGKILL);
      }
    }
    StopServer();
  }

  void StartServer() {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:" + std::to_string(port_),
                             grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(&fake_);
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
  }
  void StopServer() {
    if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
    server_.reset();
  }

  // A supervisor of fleet "f" over a shell script that gets the appended arguments as "$@". Each
  // start of the script adds its launch id to the file "starts", with the time in nanoseconds.
  Subprocess* Start(const std::string& script, const std::vector<std::string>& options = {}) {
    std::vector<std::string> words = {
        SwinfleetProgram(), "fleet", "--name",        "f",
        "--state-dir",      state(), "--coordinator", "127.0.0.1:" + std::to_string(port_)};
    words.insert(words.end(), options.begin(), options.end());
    if (std::find(options.begin(), options.end(), "--backoff") == options.end()) {
      words.insert(words.end(), {"--backoff", "0.05"});
    }
    const std::string start = "echo \"$4 $(date +%s%N)\" >>" + path("starts") + "; ";
    for (const std::string& word : {std::string("--"), std::string("sh"), std::string("-c"),
                                    start + script, std::string("sh")}) {
      words.push_back(word);
    }
    supervisors_.push_back(std::make_unique<Subprocess>(words));
    return supervisors_.back().get();
  }

  std::string path(const std::string& name) const { return folder_.path() + "/" + name; }
  std::string state() const { return path("state"); }
  std::string Contents(const std::string& name) const {
    std::ostringstream text;
    text << std::ifstream(path(name)).rdbuf();
    return text.str();
  }
  nlohmann::json Record() const { return nlohmann::json::parse(Contents("state/f.json")); }
  struct ScriptStart {
    std::string launch_id;
    double seconds;
  };
  std::vector<ScriptStart> Starts() const {
    std::vector<ScriptStart> starts;
    std::istringstream lines(Contents("starts"));
    for (std::string id, time; lines >> id >> time;) starts.push_back({id, std::stod(time) * 1e-9});
    return starts;
  }
  std::vector<std::string> AllLaunches() const {
    std::vector<std::string> ids;
    for (const ScriptStart& start : Starts()) ids.push_back(start.launch_id);
    return ids;
  }
  bool WaitForStarts(size_t count) {
    return WaitUntil([&] { return Starts().size() >= count; });
  }
  bool WaitForEnded(size_t count) {
    return WaitUntil([&] { return fake_.ended().size() >= count; });
  }
  // Leaves a record as a supervisor would that was killed.
  void LeaveRecord(const std::string& boot_id, const ProcessIdentity& leader,
                   const std::string& host = HostName()) {
    LaunchRecord record;
    record.fleet = "f";
    record.host = host;
    record.boot_id = boot_id;
    record.launch_id = NewUuid();
    record.leader = leader;
    record.processes = {leader};
    RecordFile file;
    std::string error;
    ASSERT_TRUE(file.Open(state(), "f", &error)) << error;
    ASSERT_TRUE(file.Save(record, &error)) << error;
  }

  TemporaryFolder folder_;
  FakeFleetService fake_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
  std::vector<std::unique_ptr<Subprocess>> supervisors_;
};

TEST_F(SupervisorTest, AppendsTheContractAndReportsTheLaunch) {
  Subprocess* supervisor = Start("echo \"$@\" >" + path("arguments") + "; sleep 1000");
  ASSERT_TRUE(WaitForStarts(1));
  ASSERT_TRUE(WaitUntil([&] { return fake_.reports().size() >= 2; })) << "not repeated";
  const std::string id = Starts()[0].launch_id;
  EXPECT_EQ(Contents("arguments"), "--fleet f --launch-id " + id + " --supervised\n");
  const LaunchReport report = fake_.reports()[0];
  EXPECT_EQ(report.fleet(), "f");
  EXPECT_EQ(report.launch_id(), id);
  EXPECT_EQ(report.state(), LAUNCH_RUNNING);
  EXPECT_EQ(report.host(), HostName());
  EXPECT_EQ(report.protocol_version(), static_cast<uint32_t>(PROTOCOL_VERSION_CURRENT));

  supervisor->Signal(SIGTERM);
  EXPECT_EQ(supervisor->Wait(), 0);
  ASSERT_THAT(fake_.ended(), SizeIs(1));
  EXPECT_EQ(fake_.ended()[0].exit(), "the supervisor was stopped by signal 15");
  EXPECT_TRUE(FindLaunchProcesses(id).empty());
  EXPECT_EQ(Record()["acknowledged"], true);
  EXPECT_EQ(Starts().size(), 1u);
}

TEST_F(SupervisorTest, RecordIsThereBeforeTheCommandRuns) {
  Start("cp " + path("state/f.json") + " " + path("seen") + "; echo $$ >" + path("pid") +
        "; sleep 1000");
  ASSERT_TRUE(WaitUntil([&] { return !Contents("pid").empty(); }));
  const auto seen = nlohmann::json::parse(Contents("seen"));
  const pid_t pid = std::stoi(Contents("pid"));
  EXPECT_EQ(seen["launch_id"], Starts()[0].launch_id);
  EXPECT_EQ(seen["boot_id"], BootId());
  EXPECT_EQ(seen["leader"]["pid"], pid);
  EXPECT_EQ(seen["leader"]["start_time"], StartTimeOf(pid).value());
}

TEST_F(SupervisorTest, RestartsWithBackOffUntilTheLimit) {
  Subprocess* supervisor = Start("exit 3", {"--backoff", "0.2", "--max-restarts", "3"});
  EXPECT_EQ(supervisor->Wait(), 1) << supervisor->err();
  const std::vector<ScriptStart> starts = Starts();
  ASSERT_THAT(starts, SizeIs(4));
  // 0.2, 0.4, 0.8 seconds.
  EXPECT_GE(starts[1].seconds - starts[0].seconds, 0.2);
  EXPECT_GE(starts[2].seconds - starts[1].seconds, 0.4);
  EXPECT_GE(starts[3].seconds - starts[2].seconds, 0.8);
  EXPECT_LT(starts[3].seconds - starts[0].seconds, 6);
  ASSERT_THAT(fake_.ended(), SizeIs(4));
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(fake_.ended()[i].launch_id(), starts[i].launch_id);
    EXPECT_EQ(fake_.ended()[i].exit(), "exit code 3");
  }
  EXPECT_NE(starts[0].launch_id, starts[1].launch_id);
  EXPECT_THAT(supervisor->err(), HasSubstr("gives up after 3 restarts"));
}

TEST_F(SupervisorTest, ExitWithZeroIsTheEnd) {
  Subprocess* supervisor = Start("exit 0");
  EXPECT_EQ(supervisor->Wait(), 0);
  ASSERT_THAT(fake_.ended(), SizeIs(1));
  EXPECT_EQ(fake_.ended()[0].exit(), "exit code 0");
  EXPECT_EQ(Starts().size(), 1u);
}

TEST_F(SupervisorTest, DeathBySignalIsNamedAndRestarted) {
  Start("kill -9 $$");
  ASSERT_TRUE(WaitForEnded(2));
  EXPECT_EQ(fake_.ended()[0].exit(), "killed by signal 9 (Killed)");
}

TEST_F(SupervisorTest, EndIsRepeatedUntilAcknowledgedAndOnlyThenStartedAnew) {
  fake_.refusals_ = 2;
  Start("[ -e " + path("once") + " ] || { touch " + path("once") + "; exit 3; }; sleep 1000");
  ASSERT_TRUE(WaitForStarts(2));
  const auto ended = fake_.ended();
  ASSERT_THAT(ended, SizeIs(3));
  for (const LaunchReport& report : ended) EXPECT_EQ(report.launch_id(), Starts()[0].launch_id);
}

TEST_F(SupervisorTest, OrphansAreEndedBeforeTheEndIsReported) {
  // One is found by its command line alone, one by its environment alone; both in sessions of
  // their own, as Open MPI's ranks are.
  Subprocess* supervisor =
      Start("touch " + path("orphans") + "; env -u SWINFLEET_LAUNCH_ID setsid sh -c 'echo $$ >>" +
                path("orphans") +
                "; sleep 1000; :' worker \"$@\" & "
                "setsid sh -c 'echo $$ >>" +
                path("orphans") +
                "; sleep 1000; :' & "
                "while [ $(wc -l <" +
                path("orphans") + ") -lt 2 ]; do sleep 0.01; done; kill -9 $$",
            {"--max-restarts", "0"});
  EXPECT_EQ(supervisor->Wait(), 1) << supervisor->err();
  EXPECT_THAT(fake_.ended(), SizeIs(1));
  std::istringstream orphans(Contents("orphans"));
  int count = 0;
  for (pid_t pid; orphans >> pid; ++count) EXPECT_FALSE(StartTimeOf(pid).has_value()) << pid;
  EXPECT_EQ(count, 2);
  EXPECT_THAT(supervisor->err(), HasSubstr("kills process"));
}

TEST_F(SupervisorTest, StubbornCommandIsKilledAfterTheGrace) {
  Subprocess* supervisor = Start("trap '' TERM; while :; do sleep 0.05; done", {"--grace", "0.3"});
  ASSERT_TRUE(WaitForStarts(1));
  supervisor->Signal(SIGINT);
  EXPECT_EQ(supervisor->Wait(), 130);
  EXPECT_TRUE(FindLaunchProcesses(Starts()[0].launch_id).empty());
  EXPECT_THAT(fake_.ended(), SizeIs(1));
}

TEST_F(SupervisorTest, SecondSignalKillsAtOnce) {
  Subprocess* supervisor = Start("trap '' TERM; while :; do sleep 0.05; done", {"--grace", "1000"});
  ASSERT_TRUE(WaitForStarts(1));
  supervisor->Signal(SIGTERM);
  ASSERT_TRUE(supervisor->WaitForErr("stops the fleet"));
  supervisor->Signal(SIGTERM);
  EXPECT_EQ(supervisor->Wait(), 0);
  EXPECT_TRUE(FindLaunchProcesses(Starts()[0].launch_id).empty());
}

TEST_F(SupervisorTest, TwoSignalsTogetherKillAtOnce) {
  Subprocess* supervisor = Start("trap '' TERM; while :; do sleep 0.05; done", {"--grace", "1000"});
  ASSERT_TRUE(WaitForStarts(1));
  // Stopped meanwhile, the supervisor finds both when it goes on.
  supervisor->Signal(SIGSTOP);
  supervisor->Signal(SIGTERM);
  supervisor->Signal(SIGINT);
  supervisor->Signal(SIGCONT);
  EXPECT_TRUE(supervisor->Wait().has_value()) << supervisor->err();
  EXPECT_TRUE(FindLaunchProcesses(Starts()[0].launch_id).empty());
}

TEST_F(SupervisorTest, AFleetIsGivenBackBeforeItIsEnded) {
  fake_.leaves_ = true;
  Subprocess* supervisor = Start("trap 'touch " + path("terminated") + "' TERM; until [ -e " +
                                 path("dismissed") + " ]; do sleep 0.02; done; exit 0");
  ASSERT_TRUE(WaitForStarts(1));
  ASSERT_TRUE(WaitUntil([&] { return !fake_.reports().empty(); }));
  EXPECT_FALSE(fake_.WasGivenBack());
  supervisor->Signal(SIGTERM);
  ASSERT_TRUE(WaitUntil([&] { return fake_.WasGivenBack(); }));
  std::ofstream(path("dismissed")) << "by the coordinator";
  EXPECT_EQ(supervisor->Wait(), 0) << supervisor->err();
  ASSERT_THAT(fake_.ended(), SizeIs(1));
  EXPECT_EQ(fake_.ended()[0].exit(), "exit code 0");
  EXPECT_FALSE(std::filesystem::exists(path("terminated")));
  EXPECT_EQ(Starts().size(), 1u);
}

TEST_F(SupervisorTest, AFleetThatTakesTooLongToLeaveIsEnded) {
  fake_.leaves_ = true;
  Subprocess* supervisor = Start("sleep 1000", {"--save-grace", "0.3"});
  ASSERT_TRUE(WaitForStarts(1));
  supervisor->Signal(SIGTERM);
  EXPECT_EQ(supervisor->Wait(), 0);
  EXPECT_THAT(supervisor->err(), HasSubstr("the fleet does not end by itself"));
  ASSERT_THAT(fake_.ended(), SizeIs(1));
  EXPECT_EQ(fake_.ended()[0].exit(), "the supervisor was stopped by signal 15");
}

TEST_F(SupervisorTest, SecondSignalKillsAFleetThatLeaves) {
  fake_.leaves_ = true;
  Subprocess* supervisor = Start("sleep 1000", {"--save-grace", "1000"});
  ASSERT_TRUE(WaitForStarts(1));
  supervisor->Signal(SIGTERM);
  ASSERT_TRUE(WaitUntil([&] { return fake_.WasGivenBack(); }));
  supervisor->Signal(SIGTERM);
  EXPECT_EQ(supervisor->Wait(), 0);
  EXPECT_TRUE(FindLaunchProcesses(Starts()[0].launch_id).empty());
}

TEST_F(SupervisorTest, AFleetWithoutAJobIsGivenBackAfterAWhile) {
  fake_.leaves_ = true;
  fake_.directive_.set_idle_seconds(7);
  Subprocess* patient = Start("sleep 1000", {"--max-idle", "8", "--save-grace", "0"});
  ASSERT_TRUE(WaitUntil([&] { return fake_.reports().size() >= 2; }));
  EXPECT_FALSE(fake_.WasGivenBack());
  patient->Signal(SIGTERM);
  EXPECT_EQ(patient->Wait(), 0);
  Subprocess* supervisor =
      Start("until [ -e " + path("dismissed") + " ]; do sleep 0.02; done", {"--max-idle", "7"});
  ASSERT_TRUE(WaitUntil([&] { return fake_.WasGivenBack(); }));
  std::ofstream(path("dismissed")) << "by the coordinator";
  EXPECT_EQ(supervisor->Wait(), 0) << supervisor->err();
}

// A shared state folder, and a batch system that knows that the other host's launch is gone.
TEST_F(SupervisorTest, ALaunchOnAnotherHostIsGoneIfSomebodySaysSo) {
  LeaveRecord("its-boot", {1, StartTimeOf(1).value()}, "elsewhere");
  Subprocess* refused = Start("sleep 1000");
  EXPECT_EQ(refused->Wait(), 2);
  EXPECT_THAT(refused->err(), HasSubstr("is of a launch on host elsewhere"));
  EXPECT_TRUE(fake_.reports().empty());
  Start("sleep 1000", {"--earlier-is-gone"});
  ASSERT_TRUE(WaitForStarts(1));
  ASSERT_THAT(fake_.ended(), SizeIs(1));
  EXPECT_THAT(fake_.ended()[0].exit(), HasSubstr("on another host (--earlier-is-gone)"));
  EXPECT_NE(fake_.ended()[0].launch_id(), Starts()[0].launch_id);
}

TEST_F(SupervisorTest, SecondSupervisorIsRefused) {
  Start("sleep 1000");
  ASSERT_TRUE(WaitForStarts(1));
  Subprocess* second = Start("sleep 1000");
  EXPECT_EQ(second->Wait(), 2);
  EXPECT_THAT(second->err(), HasSubstr("has a supervisor already"));
  EXPECT_EQ(Starts().size(), 1u);
}

TEST_F(SupervisorTest, LaunchSurvivesItsSupervisorAndIsAdopted) {
  Subprocess* first = Start("echo $$ >" + path("pid") + "; sleep 1000; :");
  ASSERT_TRUE(WaitForStarts(1));
  ASSERT_TRUE(WaitUntil([&] { return !Contents("pid").empty(); }));
  const pid_t pid = std::stoi(Contents("pid"));
  first->Signal(SIGKILL);
  EXPECT_EQ(first->Wait(), -SIGKILL);
  const size_t before = fake_.reports().size();
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  ASSERT_TRUE(StartTimeOf(pid).has_value()) << "died with its supervisor";

  Subprocess* second = Start("sleep 1000");
  ASSERT_TRUE(second->WaitForErr("adopted"));
  ASSERT_TRUE(WaitUntil([&] { return fake_.reports().size() > before; }));
  EXPECT_EQ(fake_.reports().back().state(), LAUNCH_RUNNING);
  EXPECT_EQ(fake_.reports().back().launch_id(), Starts()[0].launch_id);
  EXPECT_EQ(Starts().size(), 1u) << "started a second launch beside the first";

  kill(pid, SIGKILL);
  ASSERT_TRUE(WaitForStarts(2));
  ASSERT_THAT(fake_.ended(), SizeIs(1));
  EXPECT_EQ(fake_.ended()[0].launch_id(), Starts()[0].launch_id);
  EXPECT_EQ(fake_.ended()[0].exit(), "ended, exit code unknown");
}

TEST_F(SupervisorTest, AdoptedLaunchCanBeStopped) {
  Subprocess* first = Start("sleep 1000; :");
  ASSERT_TRUE(WaitForStarts(1));
  first->Signal(SIGKILL);
  EXPECT_EQ(first->Wait(), -SIGKILL);
  Subprocess* second = Start("sleep 1000");
  ASSERT_TRUE(second->WaitForErr("adopted"));
  second->Signal(SIGTERM);
  EXPECT_EQ(second->Wait(), 0);
  EXPECT_TRUE(FindLaunchProcesses(Starts()[0].launch_id).empty());
  EXPECT_THAT(fake_.ended(), SizeIs(1));
  EXPECT_EQ(Starts().size(), 1u);
}

TEST_F(SupervisorTest, LaunchThatIsGoneIsReportedAndFollowedByANewOne) {
  Subprocess* first = Start("setsid sleep 1000 & sleep 1000; :");
  ASSERT_TRUE(WaitForStarts(1));
  const std::string id = Starts()[0].launch_id;
  ASSERT_TRUE(WaitUntil([&] { return FindLaunchProcesses(id).size() >= 3; }));
  first->Signal(SIGKILL);
  EXPECT_EQ(first->Wait(), -SIGKILL);
  // Everything dies but one orphan.
  kill(-Record()["leader"]["pid"].get<pid_t>(), SIGKILL);
  ASSERT_TRUE(WaitUntil([&] { return FindLaunchProcesses(id).size() == 1; }));

  Start("sleep 1000");
  ASSERT_TRUE(WaitForStarts(2));
  ASSERT_THAT(fake_.ended(), SizeIs(1));
  EXPECT_EQ(fake_.ended()[0].launch_id(), id);
  EXPECT_EQ(fake_.ended()[0].exit(), "gone, exit code unknown");
  EXPECT_TRUE(FindLaunchProcesses(id).empty()) << "the orphan lives";
}

TEST_F(SupervisorTest, LaunchOfAnEarlierBootIsGoneWhateverHasItsNumber) {
  Subprocess bystander({"/bin/sleep", "1000"});
  LeaveRecord("an-earlier-boot", {bystander.pid(), StartTimeOf(bystander.pid()).value()});
  Start("sleep 1000");
  ASSERT_TRUE(WaitForStarts(1));
  ASSERT_THAT(fake_.ended(), SizeIs(1));
  EXPECT_EQ(fake_.ended()[0].exit(), "gone after a reboot");
  EXPECT_FALSE(bystander.Wait(0.05).has_value());
}

TEST_F(SupervisorTest, ReusedProcessNumberIsNotAdopted) {
  Subprocess bystander({"/bin/sleep", "1000"});
  LeaveRecord(BootId(), {bystander.pid(), StartTimeOf(bystander.pid()).value() - 1});
  Start("sleep 1000");
  ASSERT_TRUE(WaitForStarts(1));
  ASSERT_THAT(fake_.ended(), SizeIs(1));
  EXPECT_EQ(fake_.ended()[0].exit(), "gone, exit code unknown");
  EXPECT_FALSE(bystander.Wait(0.05).has_value());
}

TEST_F(SupervisorTest, EndThatNobodyHeardIsReportedByTheNextSupervisor) {
  StopServer();
  Subprocess* first = Start("sleep 1000");
  ASSERT_TRUE(WaitForStarts(1));
  first->Signal(SIGTERM);
  EXPECT_EQ(first->Wait(), 0);
  EXPECT_EQ(Record()["acknowledged"], false);
  StartServer();
  Start("sleep 1000");
  ASSERT_TRUE(WaitForStarts(2));
  ASSERT_THAT(fake_.ended(), SizeIs(1));
  EXPECT_EQ(fake_.ended()[0].launch_id(), Starts()[0].launch_id);
  EXPECT_EQ(fake_.ended()[0].exit(), "the supervisor was stopped by signal 15");
}

TEST_F(SupervisorTest, FencedLaunchIsKilledAndFollowedByANewOne) {
  Subprocess* supervisor = Start("setsid sleep 1000 & sleep 1000; :");
  ASSERT_TRUE(WaitUntil([&] { return fake_.launches().size() == 1; }));
  const std::string id = fake_.launches()[0];
  fake_.Fence(id);
  ASSERT_TRUE(WaitForStarts(2));
  EXPECT_TRUE(FindLaunchProcesses(id).empty());
  ASSERT_THAT(fake_.ended(), SizeIs(1));
  EXPECT_EQ(fake_.ended()[0].launch_id(), id);
  EXPECT_EQ(fake_.ended()[0].exit(), "fenced by an operator");
  ASSERT_TRUE(WaitUntil([&] { return fake_.launches().size() == 2; }));
  EXPECT_FALSE(supervisor->Wait(0.1).has_value());
}

// Such an mpirun waits for a host that is out of reach, and does not listen to SIGTERM either.
TEST_F(SupervisorTest, LaunchThatRanksHaveLeftIsKilledUnlessItEndsByItself) {
  Start("if [ -e " + path("second") + " ]; then sleep 2; exit 4; fi; touch " + path("second") +
        "; trap '' TERM; while :; do sleep 0.1; done");
  ASSERT_TRUE(WaitForStarts(1));
  fake_.Left(Starts()[0].launch_id);
  ASSERT_TRUE(WaitForStarts(2));
  EXPECT_THAT(fake_.ended()[0].exit(), HasSubstr("mpirun did not end by itself"));
  EXPECT_TRUE(FindLaunchProcesses(Starts()[0].launch_id).empty());
  fake_.Left(Starts()[1].launch_id);
  ASSERT_TRUE(WaitForEnded(2));
  EXPECT_EQ(fake_.ended()[1].exit(), "exit code 4");
}

TEST_F(SupervisorTest, FleetRunsWithoutACoordinator) {
  StopServer();
  Subprocess* supervisor = Start("sleep 1000");
  ASSERT_TRUE(WaitForStarts(1));
  ASSERT_TRUE(supervisor->WaitForErr("doesn't answer; the fleet goes on"));
  StartServer();
  ASSERT_TRUE(WaitUntil([&] { return !fake_.reports().empty(); }));
  EXPECT_EQ(fake_.reports()[0].launch_id(), Starts()[0].launch_id);
  EXPECT_EQ(Starts().size(), 1u);
}

TEST_F(SupervisorTest, ExcludedHostsReachTheNextStart) {
  fake_.directive_.add_exclude_hosts("bad1");
  fake_.directive_.add_exclude_hosts("bad2");
  Start("echo \"<$SWINFLEET_EXCLUDE_HOSTS>\" >>" + path("excluded") + "; exit 1");
  ASSERT_TRUE(WaitForStarts(2));
  ASSERT_TRUE(WaitUntil([&] { return Contents("excluded").size() > 4; }));
  EXPECT_THAT(Contents("excluded"), StartsWith("<>\n<bad1,bad2>\n"));
}

TEST_F(SupervisorTest, OutputGoesToALogAndIsCopied) {
  Subprocess* supervisor = Start("echo hello; echo oops >&2; sleep 1000");
  EXPECT_TRUE(supervisor->WaitForOut("hello\noops\n"));
  EXPECT_EQ(Contents("state/f.log"), "hello\noops\n");
}

TEST_F(SupervisorTest, CommandGoesOnWhenNobodyReadsTheOutput) {
  const std::string script = SwinfleetProgram() + " fleet --name f --state-dir " + state() +
                             " --coordinator 127.0.0.1:" + std::to_string(port_) +
                             " -- sh -c 'echo $4 0 >>" + path("starts") +
                             "; while :; do echo x; sleep 0.01; done' sh | head -n 1";
  Subprocess shell({"/bin/sh", "-c", script});
  ASSERT_TRUE(WaitForStarts(1));
  ASSERT_TRUE(WaitUntil([&] { return Contents("state/f.log").size() > 100; }));
  ASSERT_TRUE(WaitUntil([&] { return fake_.reports().size() >= 2; }));
  EXPECT_EQ(Starts().size(), 1u);
  const std::string owner = Contents("state/f.lock");
  kill(std::stoi(owner), SIGTERM);
  EXPECT_EQ(shell.Wait(), 0);
}

TEST_F(SupervisorTest, BadStartsAreRefused) {
  std::vector<std::string> words = {SwinfleetProgram(), "fleet", "--name", "f",
                                    "--state-dir",      state(), "--",     "no-such-mpirun"};
  Subprocess missing(words);
  EXPECT_EQ(missing.Wait(), 2);
  EXPECT_THAT(missing.err(), HasSubstr("there is no program no-such-mpirun"));
  std::filesystem::create_directories(state());
  std::ofstream(path("state/f.json")) << "{";
  Subprocess* damaged = Start("sleep 1000");
  EXPECT_EQ(damaged->Wait(), 2);
  EXPECT_THAT(damaged->err(), AllOf(HasSubstr("is damaged"), HasSubstr("swinfleet fence f")));
  EXPECT_TRUE(Starts().empty());
  Subprocess unwritable(
      {SwinfleetProgram(), "fleet", "--name", "f", "--state-dir", "/proc/none", "--", "true"});
  EXPECT_EQ(unwritable.Wait(), 2);
  EXPECT_THAT(unwritable.err(), HasSubstr("--state-dir"));
}

}  // namespace
}  // namespace swinfleet
