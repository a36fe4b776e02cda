// The supervisor's parts, each alone.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <fstream>
#include <sstream>
#include <thread>

#include "coordinator/supervisor/hosts.h"
#include "coordinator/supervisor/launch.h"
#include "coordinator/supervisor/leftovers.h"
#include "coordinator/supervisor/process.h"
#include "coordinator/supervisor/record.h"
#include "coordinator/supervisor/uuid.h"
#include "tests/coordinator/cli_subprocess.h"

namespace swinfleet {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::MatchesRegex;
using testing::Not;

std::string Contents(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

TEST(Uuid, IsRandomAndWellFormed) {
  const std::string first = NewUuid();
  EXPECT_THAT(first, MatchesRegex("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-"
                                  "[0-9a-f]{12}"));
  EXPECT_NE(first, NewUuid());
}

// ---------------------------------------------------------------------------------------------
// Processes

TEST(Process, IdentityTellsUsersOfANumberApart) {
  const auto start = StartTimeOf(getpid());
  ASSERT_TRUE(start.has_value());
  EXPECT_TRUE(IsAlive({getpid(), *start}));
  EXPECT_FALSE(IsAlive({getpid(), *start + 1}));
  EXPECT_FALSE(IsAlive({0, 0}));
}

TEST(Process, ZombieIsNotAlive) {
  const pid_t pid = fork();
  if (pid == 0) _exit(0);
  siginfo_t info;
  ASSERT_EQ(waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOWAIT), 0);
  EXPECT_FALSE(StartTimeOf(pid).has_value());
  waitpid(pid, nullptr, 0);
}

TEST(Process, NameWithParenthesesIsRead) {
  TemporaryFolder folder;
  const std::string program = folder.path() + "/a) 1 2 (b";
  std::filesystem::copy_file("/bin/sleep", program);
  Subprocess process({program, "100"});
  ASSERT_TRUE(WaitUntil([&] {
    return ReadWhole("/proc/" + std::to_string(process.pid()) + "/comm") == "a) 1 2 (b\n";
  }));
  const auto start = StartTimeOf(process.pid());
  ASSERT_TRUE(start.has_value());
  EXPECT_GE(*start, *StartTimeOf(getpid()));
}

TEST(Process, LaunchIsFoundByOptionAndByEnvironmentOnly) {
  const std::string id = NewUuid();
  const auto sleeper = [&](const std::vector<std::string>& extra) {
    std::vector<std::string> words = {"/bin/sh", "-c", "sleep 100; :", "sh"};
    words.insert(words.end(), extra.begin(), extra.end());
    return words;
  };
  Subprocess option(sleeper({"--launch-id", id, "--supervised"}));
  Subprocess joined(sleeper({"--launch-id=" + id}));
  Subprocess bystander(sleeper({"grep", id}));
  Subprocess::Options inherited;
  inherited.environment = {{kLaunchIdVariable, id}};
  Subprocess environment({"/bin/sleep", "100"}, inherited);
  const auto pids = [&] {
    std::vector<pid_t> found;
    for (const ProcessIdentity& process : FindLaunchProcesses(id)) found.push_back(process.pid);
    return found;
  };
  // The two shells have a child each.
  EXPECT_TRUE(WaitUntil([&] { return pids().size() >= 5; }));
  EXPECT_THAT(pids(), testing::IsSupersetOf({option.pid(), joined.pid(), environment.pid()}));
  EXPECT_THAT(pids(), Not(Contains(bystander.pid())));
  EXPECT_THAT(FindLaunchProcesses(NewUuid()), IsEmpty());
  EXPECT_THAT(FindLaunchProcesses(""), IsEmpty());
  for (const ProcessIdentity& process : FindLaunchProcesses(id)) SignalProcess(process, SIGKILL);
  EXPECT_EQ(option.Wait(), -SIGKILL);
  EXPECT_FALSE(bystander.Wait(0.05).has_value());
}

TEST(Process, SignalSparesTheNextUserOfANumber) {
  Subprocess process({"/bin/sleep", "100"});
  SignalProcess({process.pid(), StartTimeOf(process.pid()).value() + 1}, SIGKILL);
  EXPECT_FALSE(process.Wait(0.1).has_value());
}

// ---------------------------------------------------------------------------------------------
// Launch

TEST(LaunchStart, CommandWaitsForItsRecord) {
  TemporaryFolder folder;
  const std::string mark = folder.path() + "/mark";
  const int output = open("/dev/null", O_WRONLY | O_CLOEXEC);
  std::string error;
  auto launch = Launch::Start(
      {{"sh", "-c", "echo \"$WORD\" >" + mark}, {{"WORD", "told"}}, output},
      [&](const ProcessIdentity& leader, std::string*) {
        EXPECT_TRUE(IsAlive(leader));
        EXPECT_TRUE(WaitUntil([&] { return getsid(leader.pid) == leader.pid; }));
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
        EXPECT_FALSE(std::filesystem::exists(mark)) << "ran before it was recorded";
        return true;
      },
      &error);
  ASSERT_NE(launch, nullptr) << error;
  ASSERT_TRUE(WaitUntil([&] { return launch->HasEnded(); }));
  EXPECT_EQ(launch->exit(), "exit code 0");
  EXPECT_TRUE(launch->exited_with_zero());
  EXPECT_EQ(Contents(mark), "told\n");
  close(output);
}

TEST(LaunchStart, NothingRunsWhenTheRecordFails) {
  TemporaryFolder folder;
  const std::string mark = folder.path() + "/mark";
  std::string error;
  pid_t pid = 0;
  EXPECT_EQ(Launch::Start(
                {{"touch", mark}, {}, STDERR_FILENO},
                [&](const ProcessIdentity& leader, std::string* failure) {
                  pid = leader.pid;
                  *failure = "disk full";
                  return false;
                },
                &error),
            nullptr);
  EXPECT_EQ(error, "disk full");
  EXPECT_FALSE(StartTimeOf(pid).has_value());
  EXPECT_FALSE(std::filesystem::exists(mark));
}

TEST(LaunchStart, NothingRunsWhenTheSupervisorDiesBefore) {
  TemporaryFolder folder;
  const std::string mark = folder.path() + "/mark";
  const std::string number = folder.path() + "/pid";
  const pid_t supervisor = fork();
  if (supervisor == 0) {
    std::string error;
    Launch::Start(
        {{"touch", mark}, {}, STDERR_FILENO},
        [&](const ProcessIdentity& leader, std::string*) {
          std::ofstream(number) << leader.pid;
          kill(getpid(), SIGKILL);
          return true;
        },
        &error);
    _exit(0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(supervisor, &status, 0), supervisor);
  ASSERT_TRUE(WIFSIGNALED(status));
  const pid_t child = std::stoi(Contents(number));
  EXPECT_TRUE(WaitUntil([&] { return !StartTimeOf(child); }));
  EXPECT_FALSE(std::filesystem::exists(mark));
}

TEST(LaunchStart, FailuresAreNamed) {
  TemporaryFolder folder;
  const auto yes = [](const ProcessIdentity&, std::string*) { return true; };
  std::string error;
  EXPECT_EQ(Launch::Start({{"no-such-program"}, {}, STDERR_FILENO}, yes, &error), nullptr);
  EXPECT_THAT(error, HasSubstr("no-such-program"));
  const std::string broken = folder.path() + "/broken";
  std::ofstream(broken) << "not a program";
  std::filesystem::permissions(broken, std::filesystem::perms::owner_all);
  EXPECT_EQ(Launch::Start({{broken}, {}, STDERR_FILENO}, yes, &error), nullptr);
  EXPECT_THAT(error, HasSubstr("Exec format error"));
}

// ---------------------------------------------------------------------------------------------
// Record

LaunchRecord MakeRecord() {
  LaunchRecord record;
  record.fleet = "a";
  record.host = HostName();
  record.boot_id = BootId();
  record.launch_id = NewUuid();
  record.leader = {123, 456};
  record.processes = {{123, 456}, {124, 789}};
  record.shared_memory = {"/dev/shm/vader_segment.x"};
  record.exit = "exit code 1";
  return record;
}

TEST(Record, SurvivesAndIsLocked) {
  TemporaryFolder folder;
  const LaunchRecord record = MakeRecord();
  std::string error;
  {
    RecordFile file;
    ASSERT_TRUE(file.Open(folder.path() + "/deep/er", "a", &error)) << error;
    EXPECT_FALSE(file.found().has_value());
    ASSERT_TRUE(file.Save(record, &error)) << error;
    RecordFile second;
    EXPECT_FALSE(second.Open(folder.path() + "/deep/er", "a", &error));
    EXPECT_THAT(error, AllOf(HasSubstr("has a supervisor already"),
                             HasSubstr("process " + std::to_string(getpid()))));
    RecordFile other;
    EXPECT_TRUE(other.Open(folder.path() + "/deep/er", "b", &error)) << error;
  }
  RecordFile file;
  ASSERT_TRUE(file.Open(folder.path() + "/deep/er", "a", &error)) << error;
  ASSERT_TRUE(file.found().has_value());
  EXPECT_EQ(file.found()->launch_id, record.launch_id);
  EXPECT_EQ(file.found()->leader, record.leader);
  EXPECT_EQ(file.found()->processes, record.processes);
  EXPECT_EQ(file.found()->shared_memory, record.shared_memory);
  EXPECT_EQ(file.found()->exit, record.exit);
  EXPECT_FALSE(file.found()->acknowledged);
}

TEST(Record, DamageIsRefusedWithARemedy) {
  TemporaryFolder folder;
  for (const char* text : {"", "{", "{}", "[]", "{\"version\": 2}", "{\"version\": \"1\"}"}) {
    std::ofstream(folder.path() + "/a.json") << text;
    RecordFile file;
    std::string error;
    EXPECT_FALSE(file.Open(folder.path(), "a", &error)) << text;
    EXPECT_THAT(error, AllOf(HasSubstr("a.json is damaged"), HasSubstr("delete the file")));
  }
}

TEST(Record, OfAnotherHostIsRefusedUnlessSettled) {
  TemporaryFolder folder;
  LaunchRecord record = MakeRecord();
  record.host = "elsewhere";
  record.boot_id = "another";
  std::string error;
  for (const bool acknowledged : {false, true}) {
    record.acknowledged = acknowledged;
    {
      std::filesystem::remove(folder.path() + "/a.json");
      RecordFile file;
      ASSERT_TRUE(file.Open(folder.path(), "a", &error)) << error;
      ASSERT_TRUE(file.Save(record, &error)) << error;
    }
    RecordFile file;
    EXPECT_EQ(file.Open(folder.path(), "a", &error), acknowledged);
    if (!acknowledged) {
      EXPECT_THAT(error, HasSubstr("on host elsewhere"));
    }
  }
}

TEST(Record, ReadersNeverSeeHalfARecord) {
  TemporaryFolder folder;
  std::string error;
  RecordFile file;
  ASSERT_TRUE(file.Open(folder.path(), "a", &error)) << error;
  LaunchRecord record = MakeRecord();
  ASSERT_TRUE(file.Save(record, &error)) << error;
  std::atomic<bool> done{false};
  std::thread writer([&] {
    for (int i = 0; i < 50; ++i) {
      record.processes.resize(static_cast<size_t>(i * 7 % 100));
      std::string failure;
      EXPECT_TRUE(file.Save(record, &failure)) << failure;
    }
    done = true;
  });
  while (!done) {
    const std::string text = Contents(file.path());
    EXPECT_THAT(text, AllOf(testing::StartsWith("{"), testing::EndsWith("}\n")));
  }
  writer.join();
  EXPECT_FALSE(std::filesystem::exists(file.path() + ".new"));
}

TEST(Record, FailedSaveLeavesTheOldOne) {
  TemporaryFolder folder;
  std::string error;
  RecordFile file;
  ASSERT_TRUE(file.Open(folder.path(), "a", &error)) << error;
  const LaunchRecord record = MakeRecord();
  ASSERT_TRUE(file.Save(record, &error)) << error;
  const std::string before = Contents(file.path());
  // A folder stands where the temporary file would be written.
  std::filesystem::create_directory(file.path() + ".new");
  EXPECT_FALSE(file.Save(MakeRecord(), &error));
  EXPECT_THAT(error, HasSubstr(".new"));
  EXPECT_EQ(Contents(file.path()), before);
}

TEST(Record, FullDiskLeavesTheOldOne) {
  TemporaryFolder folder;
  std::string error;
  RecordFile file;
  ASSERT_TRUE(file.Open(folder.path(), "a", &error)) << error;
  ASSERT_TRUE(file.Save(MakeRecord(), &error)) << error;
  const std::string before = Contents(file.path());
  std::filesystem::create_symlink("/dev/full", file.path() + ".new");
  EXPECT_FALSE(file.Save(MakeRecord(), &error));
  EXPECT_THAT(error, HasSubstr("No space left"));
  EXPECT_EQ(Contents(file.path()), before);
}

TEST(FleetName, IsAFileName) {
  for (const char* good : {"a", "gpu-1", "node01.cluster_x", "9"}) {
    EXPECT_TRUE(IsValidFleetName(good)) << good;
  }
  for (const std::string& bad :
       {std::string(), std::string("."), std::string("-a"), std::string("a/b"), std::string("a b"),
        std::string("ä"), std::string(65, 'a'), std::string("a\0b", 3)}) {
    EXPECT_FALSE(IsValidFleetName(bad)) << bad;
  }
}

// ---------------------------------------------------------------------------------------------
// Leftovers

class SharedFile {
 public:
  explicit SharedFile(const std::string& prefix) : path_("/dev/shm/" + prefix + NewUuid()) {
    std::ofstream(path_) << std::string(4096, 'x');
  }
  ~SharedFile() {
    Unmap();
    unlink(path_.c_str());
  }
  void Map() {
    const int file = open(path_.c_str(), O_RDWR | O_CLOEXEC);
    address_ = mmap(nullptr, 4096, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    ASSERT_NE(address_, MAP_FAILED);
  }
  void Unmap() {
    if (address_ != nullptr) munmap(address_, 4096);
    address_ = nullptr;
  }
  bool Exists() const { return std::filesystem::exists(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  void* address_ = nullptr;
};

TEST(Leftovers, SharedMemoryIsSeenAndRemovedWhenUnused) {
  SharedFile segment("vader_segment."), data("dataset.");
  segment.Map();
  data.Map();
  const ProcessIdentity self = {getpid(), StartTimeOf(getpid()).value()};
  EXPECT_THAT(SharedMemoryOf({self}), AllOf(Contains(segment.path()), Not(Contains(data.path()))));
  LaunchRecord record;
  record.shared_memory = {segment.path(), data.path(), "/dev/shm/vader_segment.gone",
                          "/dev/shm/vader_segment/../../../etc/passwd", "/etc/passwd"};
  EXPECT_THAT(RemoveLeftovers(record), IsEmpty()) << "in use";
  EXPECT_TRUE(segment.Exists());
  segment.Unmap();
  data.Unmap();
  EXPECT_THAT(RemoveLeftovers(record), ElementsAre(segment.path()));
  EXPECT_FALSE(segment.Exists());
  EXPECT_TRUE(data.Exists()) << "not a file of MPI";
}

TEST(Leftovers, SessionFoldersOfDeadProcessesAreRemoved) {
  TemporaryFolder folder;
  setenv("TMPDIR", folder.path().c_str(), 1);
  pid_t dead = fork();
  if (dead == 0) _exit(0);
  waitpid(dead, nullptr, 0);
  const std::string parent =
      folder.path() + "/ompi." + HostName() + "." + std::to_string(geteuid());
  const std::string of_dead = parent + "/pid." + std::to_string(dead);
  const std::string of_living = parent + "/pid." + std::to_string(getpid());
  const std::string of_others = parent + "/pid.1";
  for (const std::string& path : {of_dead, of_living, of_others}) {
    std::filesystem::create_directories(path + "/0/1");
    std::ofstream(path + "/contact.txt") << "x";
  }
  const std::string outside = folder.path() + "/outside";
  std::filesystem::create_directory(outside);
  std::ofstream(outside + "/file") << "x";
  std::filesystem::create_symlink(outside, of_dead + "/link");
  LaunchRecord record;
  record.leader = {dead, 1};
  record.processes = {{dead, 1}, {getpid(), 1}};
  EXPECT_THAT(RemoveLeftovers(record), ElementsAre(of_dead));
  EXPECT_FALSE(std::filesystem::exists(of_dead));
  EXPECT_TRUE(std::filesystem::exists(of_living));
  EXPECT_TRUE(std::filesystem::exists(of_others));
  EXPECT_TRUE(std::filesystem::exists(outside + "/file"));
  unsetenv("TMPDIR");
}

// ---------------------------------------------------------------------------------------------
// Hosts

std::vector<std::string> Words(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

TEST(Hosts, AreTakenOutOfLists) {
  TemporaryFolder folder;
  const auto exclude = [&](const std::string& command, const std::vector<std::string>& hosts) {
    return ExcludeHosts(Words(command), hosts, folder.path()).arguments;
  };
  EXPECT_EQ(exclude("mpirun -np 6 --host a:2,b:2,c:2 swinfleet-worker -n 9", {"b"}),
            Words("mpirun -np 4 --host a:2,c:2 swinfleet-worker -n 9"));
  EXPECT_EQ(exclude("/usr/bin/mpiexec -H a.x.org,b.x.org -n 2 w", {"a"}),
            Words("/usr/bin/mpiexec -H b.x.org -n 1 w"));
  EXPECT_EQ(exclude("mpirun -np 2 --host 10.0.0.1:2,10.0.0.2:2 w", {"10.0.0.1"}),
            Words("mpirun -np 2 --host 10.0.0.2:2 w"));
  EXPECT_EQ(exclude("mpirun -np 2 --host 10.0.0.1:2,10.0.0.2:2 w", {"10"}),
            Words("mpirun -np 2 --host 10.0.0.1:2,10.0.0.2:2 w"));
  // Never down to nothing, and nothing else is touched.
  for (const char* command : {"mpirun -np 2 --host a,b w", "mpirun -np 2 w", "srun --host a w",
                              "mpirun --hostfile /no/such/file w", "mpirun --host"}) {
    const HostsExcluded result = ExcludeHosts(Words(command), {"a", "b"}, folder.path());
    EXPECT_EQ(result.arguments, Words(command));
    EXPECT_THAT(result.notes, ElementsAre(HasSubstr("no hosts are left out")));
  }
  EXPECT_EQ(exclude("mpirun --host a,b w", {}), Words("mpirun --host a,b w"));
}

TEST(Hosts, AreTakenOutOfFiles) {
  TemporaryFolder folder;
  const std::string file = folder.path() + "/hosts";
  const std::string text = "# nodes\na slots=4\nb slots=4 max_slots=4\n\nc slots=2 # old\n";
  std::ofstream(file) << text;
  const HostsExcluded result = ExcludeHosts(
      Words("mpirun -np 10 --hostfile " + file + " swinfleet-worker"), {"b"}, folder.path());
  EXPECT_EQ(result.arguments[2], "6");
  EXPECT_NE(result.arguments[4], file);
  EXPECT_EQ(Contents(result.arguments[4]), "# nodes\na slots=4\n\nc slots=2 # old\n");
  EXPECT_EQ(Contents(file), text) << "the user's file has changed";
  // Without slots Open MPI counts cores, which only it knows.
  std::ofstream(file) << "a\nb\n";
  EXPECT_EQ(ExcludeHosts(Words("mpirun -np 10 --hostfile " + file + " w"), {"b"}, folder.path())
                .arguments[2],
            "10");
}

}  // namespace
}  // namespace swinfleet
