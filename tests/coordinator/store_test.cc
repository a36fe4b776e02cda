// The store: what was written is there after kill -9, and what must not be opened isn't.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <fstream>
#include <future>
#include <limits>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "coordinator/access_store.h"
#include "coordinator/job_store.h"
#include "coordinator/log_store.h"
#include "coordinator/store_folder.h"
#include "tests/coordinator/temporary_folder.h"

namespace swinfleet::coordinator {
namespace {

using ::testing::HasSubstr;

Job MakeJob(uint64_t number) {
  Job job;
  job.number = number;
  job.id = std::string("j").append(std::to_string(number));
  job.submission_id = job.id + "-s";
  job.run_dir = "/runs/" + job.id;
  auto spec = std::make_shared<JobSpec>();
  spec->set_name("name of " + job.id);
  spec->set_run_dir(job.run_dir);
  spec->mutable_parallel()->set_ranks(3);
  spec->mutable_schedule()->set_priority(7);
  job.spec = spec;
  job.submitted_at = 12.5;
  return job;
}

grpc::Status Write(JobStore* store, const Job& job) {
  JobStore::Batch batch;
  batch.jobs.push_back(&job);
  return store->Write(batch);
}

std::unique_ptr<JobStore> Open(const std::string& folder) {
  std::unique_ptr<JobStore> store;
  const grpc::Status status = JobStore::Open(folder, &store);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return store;
}

TEST(JobStore, KeepsEverything) {
  const TemporaryFolder folder;
  Job job = MakeJob(4);
  job.state = RUNNING;
  job.reason = "it's running; \"well\"";
  job.attempt = 7;
  job.attempt_open = true;
  job.fleet = "f";
  job.launch_id = "l7";
  job.attempt_ranks = 3;
  job.deaths = 2;
  job.last_checkpoint = "/runs/c";
  job.last_checkpoint_step = 1ull << 40;
  job.last_checkpoint_attempt = 6;
  job.started_at = 13;
  job.user = "ann";
  job.after = {"j1", "j2"};
  job.all_deaths = 5;
  job.preemptions = 1;
  job.run_seconds = 77.5;
  job.clocked = 14;
  job.attempt_gap = 1000;
  job.skipped_attempts = 2000;
  job.trace.emplace().set_request_id("t");
  job.trace->add_ranks()->set_path("/t");
  Job first = MakeJob(1), second = MakeJob(2);
  for (Job* one : {&first, &second}) one->state = SUCCEEDED;
  Fleet fleet;
  fleet.name = "f";
  fleet.launch.id = "l7";
  fleet.launch.world_size = 4;
  fleet.launch.supervised = true;
  fleet.launch.exit = "x";
  fleet.closed = {{"l5", LaunchPhase::kFenced}, {"l6", LaunchPhase::kEnded}};
  Progress progress;
  progress.set_step(99);
  JobStore::Batch batch;
  batch.jobs = {&first, &second, &job};
  batch.fleets = {&fleet};
  batch.progress = {{job.id, &progress}};
  ASSERT_TRUE(Open(folder.path())->Write(batch).ok());

  JobStore::Contents contents;
  ASSERT_TRUE(Open(folder.path())->Load(&contents).ok());
  ASSERT_EQ(contents.jobs.size(), 3u);
  const Job& read = contents.jobs[2];
  EXPECT_EQ(read.user, "ann");
  EXPECT_EQ(read.after, job.after);
  EXPECT_EQ(read.queue.priority, 7);
  EXPECT_EQ(read.stop, Stop::kNone);
  EXPECT_EQ(read.all_deaths, 5u);
  EXPECT_EQ(read.preemptions, 1u);
  EXPECT_EQ(read.run_seconds, 77.5);
  EXPECT_EQ(read.clocked, 14);
  EXPECT_EQ(read.attempt_gap, 1000u);
  EXPECT_EQ(read.skipped_attempts, 2000u);
  ASSERT_TRUE(read.trace.has_value());
  EXPECT_EQ(read.trace->SerializeAsString(), job.trace->SerializeAsString());
  EXPECT_FALSE(contents.jobs[0].trace.has_value());
  EXPECT_EQ(read.number, 4u);
  EXPECT_EQ(read.spec->SerializeAsString(), job.spec->SerializeAsString());
  EXPECT_EQ(read.wanted_ranks, 3u);
  EXPECT_EQ(read.state, RUNNING);
  EXPECT_EQ(read.reason, job.reason);
  EXPECT_EQ(read.attempt, 7u);
  EXPECT_TRUE(read.attempt_open);
  EXPECT_EQ(read.launch_id, "l7");
  EXPECT_EQ(read.attempt_ranks, 3u);
  EXPECT_EQ(read.deaths, 2u);
  EXPECT_EQ(read.last_checkpoint, "/runs/c");
  EXPECT_EQ(read.last_checkpoint_step, 1ull << 40);
  EXPECT_EQ(read.last_checkpoint_attempt, 6u);
  EXPECT_EQ(read.submitted_at, 12.5);
  EXPECT_EQ(contents.progress.at(job.id).step(), 99u);
  ASSERT_EQ(contents.fleets.size(), 1u);
  EXPECT_EQ(contents.fleets[0].launch.world_size, 4u);
  ASSERT_EQ(contents.fleets[0].closed.size(), 2u);
  EXPECT_EQ(contents.fleets[0].closed[0].id, "l5");
  EXPECT_EQ(contents.fleets[0].closed[0].phase, LaunchPhase::kFenced);
}

TEST(JobStore, RewritesAndDrops) {
  const TemporaryFolder folder;
  const auto store = Open(folder.path());
  Job job = MakeJob(1);
  Fleet fleet;
  fleet.name = "f";
  fleet.closed = {{"l1", LaunchPhase::kEnded}};
  ASSERT_TRUE(store->Write({.jobs = {&job}, .fleets = {&fleet}}).ok());
  job.state = CANCELLED;
  ASSERT_TRUE(store->Write({.jobs = {&job}, .dropped_fleets = {"f"}}).ok());
  JobStore::Contents contents;
  ASSERT_TRUE(store->Load(&contents).ok());
  ASSERT_EQ(contents.jobs.size(), 1u);
  EXPECT_EQ(contents.jobs[0].state, CANCELLED);
  EXPECT_TRUE(contents.fleets.empty());
}

TEST(JobStore, WrittenIsThereAfterKill9) {
  const TemporaryFolder folder;
  for (int round = 0; round < 3; ++round) {
    int pipe_ends[2];
    ASSERT_EQ(pipe(pipe_ends), 0);
    const pid_t child = fork();
    if (child == 0) {
      const auto store = Open(folder.path());
      for (uint64_t i = 1;; ++i) {
        const uint64_t number = static_cast<uint64_t>(round) * 1000000 + i;
        if (!Write(store.get(), MakeJob(number)).ok()) _exit(1);
        if (write(pipe_ends[1], &number, sizeof(number)) != sizeof(number)) _exit(1);
      }
    }
    close(pipe_ends[1]);
    std::vector<uint64_t> acknowledged;
    uint64_t number = 0;
    while (read(pipe_ends[0], &number, sizeof(number)) == sizeof(number)) {
      acknowledged.push_back(number);
      if (acknowledged.size() == 50) kill(child, SIGKILL);
    }
    close(pipe_ends[0]);
    int status = 0;
    waitpid(child, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status));
    JobStore::Contents contents;
    ASSERT_TRUE(Open(folder.path())->Load(&contents).ok());
    std::set<uint64_t> stored;
    for (const Job& job : contents.jobs) stored.insert(job.number);
    for (const uint64_t one : acknowledged) EXPECT_TRUE(stored.contains(one)) << one;
  }
}

TEST(JobStore, FullDiskIsAnErrorAndLeavesWhatWasThere) {
  const TemporaryFolder folder;
  const pid_t child = fork();
  if (child == 0) {
    signal(SIGXFSZ, SIG_IGN);
    const auto store = Open(folder.path());
    if (!Write(store.get(), MakeJob(1)).ok()) _exit(2);
    rlimit limit{256 << 10, RLIM_INFINITY};
    setrlimit(RLIMIT_FSIZE, &limit);
    Job large = MakeJob(2);
    large.reason.assign(1 << 20, 'x');
    const grpc::Status full = Write(store.get(), large);
    if (full.error_code() != grpc::StatusCode::RESOURCE_EXHAUSTED) _exit(3);
    if (full.error_message().find("full") == std::string::npos) _exit(4);
    limit.rlim_cur = RLIM_INFINITY;
    setrlimit(RLIMIT_FSIZE, &limit);
    if (!Write(store.get(), MakeJob(3)).ok()) _exit(5);
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
  JobStore::Contents contents;
  ASSERT_TRUE(Open(folder.path())->Load(&contents).ok());
  ASSERT_EQ(contents.jobs.size(), 2u);
  EXPECT_EQ(contents.jobs[1].number, 3u);
}

// As version 1 made it; a job of each kind.
constexpr char kVersion1[] = R"(
CREATE TABLE jobs (
  id TEXT PRIMARY KEY,
  number INTEGER NOT NULL UNIQUE,
  submission_id TEXT NOT NULL UNIQUE,
  run_dir TEXT NOT NULL UNIQUE,
  spec BLOB NOT NULL,
  state INTEGER NOT NULL,
  reason TEXT NOT NULL,
  attempt INTEGER NOT NULL,
  attempt_open INTEGER NOT NULL,
  fleet TEXT NOT NULL,
  launch_id TEXT NOT NULL,
  attempt_ranks INTEGER NOT NULL,
  deaths INTEGER NOT NULL,
  last_checkpoint TEXT NOT NULL,
  last_checkpoint_step INTEGER NOT NULL,
  last_checkpoint_attempt INTEGER NOT NULL,
  submitted_at REAL NOT NULL,
  started_at REAL NOT NULL,
  ended_at REAL NOT NULL,
  progress BLOB
);
CREATE TABLE fleets (
  name TEXT PRIMARY KEY,
  launch_id TEXT NOT NULL,
  phase INTEGER NOT NULL,
  world_size INTEGER NOT NULL,
  supervised INTEGER NOT NULL,
  exit TEXT NOT NULL
);
CREATE TABLE closed_launches (
  fleet TEXT NOT NULL REFERENCES fleets(name),
  position INTEGER NOT NULL,
  launch_id TEXT NOT NULL,
  phase INTEGER NOT NULL,
  PRIMARY KEY (fleet, position)
);
INSERT INTO fleets VALUES ('f', 'l3', 0, 4, 1, ''), ('g', 'l4', 0, 2, 1, '');
INSERT INTO closed_launches VALUES ('f', 0, 'l1', 2);
INSERT INTO jobs VALUES
  ('j1-aa', 1, 's1', '/r/1', x'0A026F6E', 5, 'finished', 1, 0, 'f', 'l1', 4, 0, '/r/1/c', 90, 1,
   10.5, 11.5, 99.5, x'085A'),
  ('j2-bb', 2, 's2', '/r/2', x'', 2, 'attempt 3', 3, 1, 'f', 'l3', 4, 1, '/r/2/c', 8, 2,
   20.5, 21.5, 0, NULL),
  ('j3-cc', 3, 's3', '/r/3', x'', 4, 'asked for', 1, 1, 'g', 'l4', 2, 0, '', 0, 0,
   30.5, 31.5, 0, NULL),
  ('j4-dd', 4, 's4', '/r/4', x'', 1, '', 0, 0, '', '', 0, 0, '', 0, 0, 40.5, 0, 0, NULL);
PRAGMA application_id=1400325740;
PRAGMA user_version=1)";

TEST(JobStore, StoresOfVersion1AreCarriedOn) {
  const TemporaryFolder folder;
  {
    std::unique_ptr<Database> database;
    ASSERT_TRUE(Database::Open(folder.path() + "/jobs.sqlite", true, &database).ok());
    const grpc::Status made = database->Run(kVersion1);
    ASSERT_TRUE(made.ok()) << made.error_message();
  }
  // Twice: the second time there is nothing to do.
  for (int round = 0; round < 2; ++round) {
    const auto store = Open(folder.path());
    ASSERT_NE(store, nullptr);
    JobStore::Contents contents;
    const grpc::Status status = store->Load(&contents);
    ASSERT_TRUE(status.ok()) << status.error_message();
    ASSERT_EQ(contents.jobs.size(), 4u);
    EXPECT_EQ(contents.jobs[0].state, SUCCEEDED);
    EXPECT_EQ(contents.jobs[0].spec->name(), "on");
    EXPECT_EQ(contents.jobs[0].last_checkpoint_step, 90u);
    EXPECT_EQ(contents.progress.at("j1-aa").step(), 90u);
    const Job& running = contents.jobs[1];
    EXPECT_EQ(running.state, RUNNING);
    EXPECT_TRUE(running.attempt_open);
    EXPECT_EQ(running.all_deaths, 2u);
    EXPECT_EQ(running.clocked, 21.5);
    EXPECT_EQ(running.user, "");
    EXPECT_TRUE(running.after.empty());
    EXPECT_EQ(contents.jobs[2].stop, Stop::kCancelled);
    EXPECT_EQ(contents.jobs[3].stop, Stop::kNone);
    ASSERT_EQ(contents.fleets.size(), 2u);
    EXPECT_EQ(contents.fleets[0].closed.at(0).phase, LaunchPhase::kFenced);
    const ControlState state = Restore(contents.jobs, contents.fleets, {}, {100, 7});
    CheckInvariants(state);
    EXPECT_EQ(RunSeconds(state.jobs.at("j2-bb"), 8), 79.5);
    // It can be written as well.
    ASSERT_TRUE(Write(store.get(), contents.jobs[3]).ok());
  }
}

TEST(JobStore, StoresOfBeforeTokensHaveNone) {
  const TemporaryFolder folder;
  Open(folder.path());
  {
    std::unique_ptr<Database> database;
    ASSERT_TRUE(Database::Open(folder.path() + "/jobs.sqlite", true, &database).ok());
    ASSERT_TRUE(database
                    ->Run("DROP TABLE tokens; DROP TABLE audit; DROP TABLE history; "
                          "ALTER TABLE jobs DROP COLUMN trace; PRAGMA user_version=4")
                    .ok());
  }
  // As they were; one that is newer is refused below.
  Open(folder.path());
  std::unique_ptr<AccessStore> access;
  ASSERT_TRUE(AccessStore::Open(folder.path(), /*migrate=*/false, &access).ok());
  std::vector<Token> tokens;
  ASSERT_TRUE(access->LoadTokens(&tokens).ok());
  EXPECT_TRUE(tokens.empty());
  uint64_t lines = 0;
  ASSERT_TRUE(access->ReadAudit(0, [&](const AuditEntry&) { ++lines; }).ok());
  EXPECT_EQ(lines, 0u);
}

TEST(JobStore, NewerSchemaIsRefused) {
  const TemporaryFolder folder;
  Open(folder.path());
  std::unique_ptr<Database> database;
  ASSERT_TRUE(Database::Open(folder.path() + "/jobs.sqlite", true, &database).ok());
  ASSERT_TRUE(database->Run("PRAGMA user_version=99").ok());
  std::unique_ptr<JobStore> store;
  const grpc::Status status = JobStore::Open(folder.path(), &store);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("newer swinfleet (schema 99"));
}

TEST(JobStore, OtherFilesAreRefused) {
  const TemporaryFolder folder;
  std::ofstream(folder.path() + "/jobs.sqlite") << std::string(5000, 'x');
  std::unique_ptr<JobStore> store;
  EXPECT_THAT(JobStore::Open(folder.path(), &store).error_message(), HasSubstr("not a database"));
  std::unique_ptr<Database> database;
  std::filesystem::remove(folder.path() + "/jobs.sqlite");
  ASSERT_TRUE(Database::Open(folder.path() + "/jobs.sqlite", true, &database).ok());
  ASSERT_TRUE(database->Run("CREATE TABLE t (x)").ok());
  EXPECT_THAT(JobStore::Open(folder.path(), &store).error_message(), HasSubstr("another program"));
}

TEST(JobStore, ContradictionIsDamage) {
  const TemporaryFolder folder;
  const auto store = Open(folder.path());
  Job job = MakeJob(1);
  job.state = RUNNING;
  job.attempt = 1;
  job.attempt_open = true;
  job.fleet = "nowhere";
  ASSERT_TRUE(Write(store.get(), job).ok());
  JobStore::Contents contents;
  const grpc::Status status = store->Load(&contents);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DATA_LOSS);
  EXPECT_THAT(status.error_message(), HasSubstr("the fleet of job j1"));
}

TEST(JobStore, KeepsHosts) {
  const TemporaryFolder folder;
  const auto store = Open(folder.path());
  const Host bad{"bad", 2.5, 77.5, true, "attempt 2"}, good{"good", 0.5, 1, false, "x"};
  ASSERT_TRUE(store->Write({.hosts = {&bad, &good}}).ok());
  ASSERT_TRUE(store->Write({.dropped_hosts = {"good"}}).ok());
  JobStore::Contents contents;
  ASSERT_TRUE(store->Load(&contents).ok());
  ASSERT_EQ(contents.hosts.size(), 1u);
  EXPECT_EQ(contents.hosts[0].name, "bad");
  EXPECT_EQ(contents.hosts[0].failures, 2.5);
  EXPECT_EQ(contents.hosts[0].counted_at, 77.5);
  EXPECT_TRUE(contents.hosts[0].left_out);
  EXPECT_EQ(contents.hosts[0].last, "attempt 2");
}

TEST(JobStore, KeepsHistories) {
  const TemporaryFolder folder;
  const auto store = Open(folder.path());
  using Kind = HistoryChanges::Kind;
  HistoryPoint point;
  point.set_step(7);
  point.set_loss(std::numeric_limits<double>::quiet_NaN());
  CheckpointRecord checkpoint;
  checkpoint.set_path("/c");
  HistoryChanges changes;
  changes.put = {{{"j1", Kind::kCheckpoint, 12}, checkpoint.SerializeAsString()},
                 {{"j1", Kind::kPoint, 7}, point.SerializeAsString()},
                 {{"j2", Kind::kPoint, 7}, point.SerializeAsString()}};
  point.set_step(1ull << 40);
  changes.put.push_back({{"j1", Kind::kPoint, point.step()}, point.SerializeAsString()});
  ASSERT_TRUE(store->Write({.history = &changes}).ok());
  changes = HistoryChanges();
  changes.forgotten = {"j2"};
  changes.deleted = {{"j1", Kind::kPoint, 7}};
  ASSERT_TRUE(store->Write({.history = &changes}).ok());
  JobHistories histories(0);
  ASSERT_TRUE(store->LoadHistories(&histories).ok());
  EXPECT_EQ(histories.Find("j2"), nullptr);
  const JobHistory* history = histories.Find("j1");
  ASSERT_NE(history, nullptr);
  ASSERT_EQ(history->points_size(), 1);
  EXPECT_EQ(history->points(0).step(), 1ull << 40);
  EXPECT_TRUE(std::isnan(history->points(0).loss()));
  ASSERT_EQ(history->checkpoints_size(), 1);
  EXPECT_EQ(history->checkpoints(0).path(), "/c");
  // The next one gets the number after it.
  histories.AddCheckpoint("j1", checkpoint);
  ASSERT_EQ(histories.Unstored(10).put.size(), 1u);
  EXPECT_EQ(histories.Unstored(10).put[0].first.number, 13u);
}

TEST(JobStore, AHistoryThatContradictsItselfIsDamage) {
  const TemporaryFolder folder;
  const auto store = Open(folder.path());
  HistoryChanges changes;
  changes.put = {{{"j1", HistoryChanges::Kind::kPoint, 7}, "nonsense"}};
  ASSERT_TRUE(store->Write({.history = &changes}).ok());
  JobHistories histories(0);
  EXPECT_THAT(store->LoadHistories(&histories).error_message(), HasSubstr("the history of job j1"));
}

TEST(JobStore, AJobAfterOneThatIsNotThereIsDamage) {
  const TemporaryFolder folder;
  const auto store = Open(folder.path());
  Job job = MakeJob(1);
  job.after = {"j9"};
  ASSERT_TRUE(Write(store.get(), job).ok());
  JobStore::Contents contents;
  EXPECT_THAT(store->Load(&contents).error_message(), HasSubstr("the jobs before job j1"));
}

TEST(StoreFolder, IsMadeAndHeldByOne) {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/a/b";
  std::unique_ptr<StoreFolder> first, second;
  ASSERT_TRUE(StoreFolder::Open(path, &SystemFilesystemType, &first).ok());
  EXPECT_TRUE(first->Sync().ok());
  const grpc::Status status = StoreFolder::Open(path, &SystemFilesystemType, &second);
  EXPECT_THAT(status.error_message(), HasSubstr("another coordinator uses the store"));
  EXPECT_THAT(status.error_message(), HasSubstr("process " + std::to_string(getpid())));
  first.reset();
  EXPECT_TRUE(StoreFolder::Open(path, &SystemFilesystemType, &second).ok());
}

TEST(StoreFolder, NetworkFilesystemsAreRefused) {
  const TemporaryFolder folder;
  for (const auto& [type, name] : {std::pair<int64_t, std::string>{0x6969, "NFS"},
                                   {0xff534d42, "CIFS"},
                                   {static_cast<int32_t>(0xfe534d42), "SMB2"},
                                   {0x0bd00bd0, "Lustre"},
                                   {0x65735546, "FUSE"},
                                   {0x00c36400, "Ceph"},
                                   {0x01021997, "9p"}}) {
    std::unique_ptr<StoreFolder> store;
    const auto detect = [type = type](const std::string&) { return type; };
    const grpc::Status status = StoreFolder::Open(folder.path(), detect, &store);
    EXPECT_THAT(status.error_message(), HasSubstr("network filesystem (" + name + ")"));
  }
  for (const int64_t local : {0xef53, 0x58465342, 0x794c7630, 0x01021994}) {
    EXPECT_EQ(NetworkFilesystemName(local), "");
  }
}

TEST(StoreFolder, UnusableFolderIsAnError) {
  const TemporaryFolder folder;
  std::ofstream(folder.path() + "/file") << "x";
  std::unique_ptr<StoreFolder> store;
  const grpc::Status status =
      StoreFolder::Open(folder.path() + "/file/store", &SystemFilesystemType, &store);
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(status.error_message(), HasSubstr("file"));
}

std::vector<LogLine> Lines(int from, int to) {
  std::vector<LogLine> lines;
  for (int i = from; i < to; ++i) {
    LogLine line;
    line.set_text(std::to_string(i));
    lines.push_back(line);
  }
  return lines;
}

struct LogPage {
  std::vector<LogLine> lines;
  bool more = false;
};

LogPage Read(LogStore* store, const std::string& job, uint64_t after, uint32_t limit) {
  std::promise<LogPage> promise;
  store->Read(job, after, limit,
              [&](const grpc::Status& status, std::vector<LogLine> lines, bool more) {
                EXPECT_TRUE(status.ok()) << status.error_message();
                promise.set_value({std::move(lines), more});
              });
  return promise.get_future().get();
}

TEST(LogStore, PagesAndKeepsTheLastLines) {
  const TemporaryFolder folder;
  {
    std::unique_ptr<LogStore> store;
    ASSERT_TRUE(LogStore::Open(folder.path(), {.lines_per_job = 100}, &store).ok());
    store->Append("a", Lines(1, 151));
    store->Append("b", Lines(1, 3));
    EXPECT_EQ(Read(store.get(), "b", 0, 10).lines.size(), 2u);
    store->Append("a", Lines(151, 201));
  }
  std::unique_ptr<LogStore> store;
  ASSERT_TRUE(LogStore::Open(folder.path(), {.lines_per_job = 100}, &store).ok());
  LogPage page = Read(store.get(), "a", 0, 60);
  ASSERT_EQ(page.lines.size(), 60u);
  EXPECT_TRUE(page.more);
  EXPECT_EQ(page.lines[0].sequence(), 101u);
  EXPECT_EQ(page.lines[0].text(), "101");
  page = Read(store.get(), "a", page.lines.back().sequence(), 60);
  ASSERT_EQ(page.lines.size(), 40u);
  EXPECT_FALSE(page.more);
  EXPECT_EQ(page.lines.back().text(), "200");
  store->Append("a", Lines(201, 202));
  page = Read(store.get(), "a", 200, 60);
  ASSERT_EQ(page.lines.size(), 1u);
  EXPECT_EQ(page.lines[0].sequence(), 201u);
}

TEST(LogStore, KeepsTheLastBytesOfAJob) {
  const TemporaryFolder folder;
  const auto line = [](const std::string& text) {
    LogLine one;
    one.set_text(text);
    return std::vector<LogLine>{one};
  };
  const auto sizes = [](LogStore* store, const std::string& job) {
    uint64_t bytes = 0, first = 0;
    for (const LogLine& one : Read(store, job, 0, 10000).lines) {
      bytes += one.ByteSizeLong();
      if (first == 0) first = one.sequence();
    }
    return std::pair(bytes, first);
  };
  for (int start = 0; start < 2; ++start) {
    std::unique_ptr<LogStore> store;
    ASSERT_TRUE(LogStore::Open(folder.path(), {.bytes_per_job = 10000}, &store).ok());
    for (int i = 0; i < 20; ++i) {
      store->Append("a", line(std::string(990, 'x')));
      // Each is written by itself.
      EXPECT_LE(sizes(store.get(), "a").first, 10000u);
    }
    EXPECT_GT(sizes(store.get(), "a").first, 8900u);
    EXPECT_EQ(sizes(store.get(), "a").second, start == 0 ? 11u : 31u);
    // What comes at once is cut as well, also where it is more than all that may be kept.
    std::vector<LogLine> many;
    for (int i = 0; i < 20; ++i) many.push_back(line(std::string(990, 'y'))[0]);
    store->Append("b", many);
    EXPECT_LE(sizes(store.get(), "b").first, 10000u);
    store->Append("c", line(std::string(20000, 'z')));
    EXPECT_EQ(sizes(store.get(), "c").first, 0u);
    store->Append("c", line("short"));
    EXPECT_GT(sizes(store.get(), "c").first, 0u);
  }
}

TEST(LogStore, FloodIsCutAndSaysSo) {
  const TemporaryFolder folder;
  std::unique_ptr<LogStore> store;
  ASSERT_TRUE(
      LogStore::Open(folder.path(), {.lines_per_job = 1000, .buffered_lines = 10}, &store).ok());
  store->Append("a", Lines(1, 31));
  const LogPage page = Read(store.get(), "a", 0, 100);
  ASSERT_EQ(page.lines.size(), 11u);
  EXPECT_THAT(page.lines.back().text(), HasSubstr("dropped 20 log lines"));
}

}  // namespace
}  // namespace swinfleet::coordinator
