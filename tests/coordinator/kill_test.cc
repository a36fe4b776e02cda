// kill -9 of the coordinator right before and right after each write to its database, in a script
// of all that happens to jobs. It is started again, users, supervisors and ranks go on as they do,
// and the end is that of a run in which nothing was killed.
#include <glog/logging.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "coordinator/job_store.h"
#include "coordinator/server.h"
#include "tests/coordinator/fake_worker.h"
#include "tests/coordinator/kill_point.h"
#include "tests/coordinator/nursery.h"
#include "tests/coordinator/scripted_world.h"
#include "tests/coordinator/temporary_folder.h"

namespace swinfleet::coordinator {
namespace {

KillPoint* kill_point = nullptr;
Nursery* nursery = nullptr;

// A coordinator in a process of its own, as main.cc makes one.
void RunCoordinator(const std::string& store, int ready) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  WatchWrites(kill_point);
  ServerOptions options;
  options.store = store;
  options.listen = {"127.0.0.1", 0};
  options.admission.program = "/bin/true";
  // The script asks without a pause.
  options.requests_per_second = 0;
  // What takes time in the world is not in the script: nobody is silent, nobody has to be patient.
  options.settings.heartbeat = 3600;
  options.settings.lost_after = 36000;
  options.settings.patience = 0;
  std::unique_ptr<Server> server;
  grpc::Status status = Server::OpenStore(options, &server);
  if (status.ok()) status = server->Listen();
  if (!status.ok()) {
    fprintf(stderr, "the coordinator: %s\n", status.error_message().c_str());
    return;
  }
  const std::string address = server->address().ToString();
  PCHECK(write(ready, address.data(), address.size()) == static_cast<ssize_t>(address.size()));
  int signal = 0;
  sigwait(&signals, &signal);
  server->Stop();
}

void RunScript(ScriptedWorld* world) {
  const auto job = [world](const char* name, uint32_t ranks, const char* after = nullptr) {
    // Of a job that has left nothing in it.
    const std::string folder = strcmp(name, "last") == 0 ? "unwanted" : name;
    world->Submit(name, folder, [&](JobSpec* spec) {
      spec->mutable_parallel()->set_ranks(ranks);
      QueueSpec* queue = spec->mutable_schedule();
      if (after != nullptr) queue->add_after(after);
      if (spec->name() == "long") queue->set_preemptible(true);
      if (spec->name() == "urgent") queue->set_priority(5);
      if (spec->name() == "fragile") queue->set_max_restarts(0);
    });
  };
  world->Start();
  job("long", 2);
  job("small", 1);
  job("follower", 1, "small");
  job("unwanted", 2);
  world->Launch("pair", "pair-1", 2);
  world->AwaitAttempt("long", 1, "pair");
  world->Progress("pair", 5);
  world->Checkpoint("pair", 5);
  world->Launch("single", "single-1", 1);
  world->AwaitAttempt("small", 1, "single");
  // A rank is lost, and the job goes on with the next launch.
  world->Die("pair", 1);
  world->AwaitState("long", RECOVERING);
  world->Launch("pair", "pair-2", 2);
  world->AwaitAttempt("long", 2, "pair");
  world->Progress("pair", 8);
  // It makes room for another, with a checkpoint.
  job("urgent", 2);
  world->AwaitStop("pair");
  world->Checkpoint("pair", 9);
  world->End("pair", ATTEMPT_CANCELLED);
  world->AwaitAttempt("urgent", 1, "pair");
  world->Trace("urgent", "pair");
  world->Restart();
  world->Cancel("unwanted");
  world->End("pair", ATTEMPT_SUCCEEDED);
  world->AwaitAttempt("long", 3, "pair");
  // One that runs is cancelled, and the one that comes after it fails.
  world->Cancel("small");
  world->AwaitStop("single");
  world->End("single", ATTEMPT_CANCELLED);
  world->AwaitState("follower", FAILED);
  // One that may not be started again dies.
  job("fragile", 1);
  world->AwaitAttempt("fragile", 1, "single");
  world->Die("single", 0);
  world->AwaitState("fragile", FAILED);
  world->Launch("single", "single-2", 1);
  job("last", 1, "long");
  world->Checkpoint("pair", 20);
  world->Progress("pair", 20);
  world->End("pair", ATTEMPT_SUCCEEDED);
  world->AwaitAttempt("last", 1, "single");
  world->End("single", ATTEMPT_FAILED);
  world->AwaitState("last", FAILED);
  job("running", 2);
  world->AwaitAttempt("running", 1, "pair");
  world->ExpectTurnedAway("pair", "pair-1");
  world->ExpectTurnedAway("single", "single-1");
}

// The summary of a run that is killed at a write, 0: at none, or what went wrong.
std::string RunKilled(uint64_t write, bool after) {
  const TemporaryFolder folder;
  kill_point->writes = 0;
  kill_point->at = write;
  kill_point->after = after;
  ScriptedWorld world(nursery, kill_point, folder.path() + "/store");
  RunScript(&world);
  const std::string summary = world.Summary();
  return world.fault().empty() ? summary : "FAULT: " + world.fault();
}

// All writes together take a while: as many tests as these share them, by turns.
constexpr uint64_t kShares = 8;

class Kill : public ::testing::TestWithParam<uint64_t> {};

TEST_P(Kill, AtEveryWriteEndsAsWithout) {
  const std::string undisturbed = RunKilled(0, false);
  ASSERT_EQ(undisturbed.find("FAULT"), std::string::npos) << undisturbed;
  ASSERT_NE(undisturbed.find("long: SUCCEEDED"), std::string::npos) << undisturbed;
  const uint64_t writes = kill_point->writes;
  if (GetParam() == 0) printf("%s", undisturbed.c_str());
  printf("%llu writes\n", static_cast<unsigned long long>(writes));
  // A script that writes little proves little.
  EXPECT_GT(writes, 100u);
  for (uint64_t write = 1 + GetParam(); write <= writes; write += kShares) {
    for (const bool after : {false, true}) {
      ASSERT_EQ(RunKilled(write, after), undisturbed)
          << "killed " << (after ? "after" : "before") << " write " << write << " of " << writes;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shares, Kill, ::testing::Range<uint64_t>(0, kShares));

// What jobs have reported, for curves: nothing of it is lost where the coordinator is stopped, and
// no more than the last seconds where it is killed.
class Curves : public ::testing::Test {
 protected:
  Curves() { kill_point->at = 0; }
  void Begin() {
    const std::optional<std::string> address = nursery->Begin(store_);
    ASSERT_TRUE(address.has_value());
    user_ = std::make_unique<FakeUser>(*address);
    rank_ = std::make_unique<FakeRank>(*address, "f", "l1", 0, 1);
    if (!id_.empty()) {
      rank_->hello.set_job_id(id_);
      rank_->hello.set_attempt(1);
    }
    rank_->Connect();
    ASSERT_TRUE(rank_->Next().has_welcome());
    if (!id_.empty()) return;
    id_ = user_->Submit("/r");
    ASSERT_TRUE(rank_->Next().has_assignment());
  }
  void End(int signal) {
    // An idle client would not notice that it is to close its connection.
    user_.reset();
    rank_.reset();
    nursery->Stop(signal);
  }
  void Report(uint64_t step) {
    rank_->ReportProgress(id_, 1, step, 1.0 / static_cast<double>(step));
    rank_->ReportCheckpoint(id_, 1, "/r/" + std::to_string(step), step);
    user_->Await(id_, [&](const JobStatus& job) { return job.last_checkpoint_step() == step; });
  }
  JobHistory History() {
    grpc::ClientContext context;
    GetJobRequest request;
    request.set_job_id(id_);
    JobHistory history;
    EXPECT_TRUE(user_->coordinator->GetHistory(&context, request, &history).ok());
    return history;
  }
  // As somebody finds it who comes after a crash.
  int StoredPoints() const {
    std::unique_ptr<JobStore> store;
    JobHistories histories(0);
    if (!JobStore::Open(store_, &store).ok() || !store->LoadHistories(&histories).ok()) return 0;
    const JobHistory* history = histories.Find(id_);
    return history == nullptr ? 0 : history->points_size();
  }

  const TemporaryFolder folder_;
  const std::string store_ = folder_.path() + "/store";
  std::unique_ptr<FakeUser> user_;
  std::unique_ptr<FakeRank> rank_;
  std::string id_;
};

TEST_F(Curves, SurviveAStopOfTheCoordinator) {
  Begin();
  for (uint64_t step = 1; step <= 5; ++step) Report(step);
  const std::string before = History().DebugString();
  End(SIGTERM);
  Begin();
  EXPECT_EQ(History().DebugString(), before);
  EXPECT_EQ(History().points_size(), 5);
  // It goes on from there.
  Report(6);
  EXPECT_EQ(History().points_size(), 6);
  EXPECT_EQ(History().checkpoints_size(), 6);
  End(SIGKILL);
}

TEST_F(Curves, SurviveAKillOfTheCoordinator) {
  Begin();
  for (uint64_t step = 1; step <= 5; ++step) Report(step);
  const std::string before = History().DebugString();
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (StoredPoints() < 5 && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  End(SIGKILL);
  Begin();
  EXPECT_EQ(History().DebugString(), before);
  End(SIGKILL);
}

}  // namespace
}  // namespace swinfleet::coordinator

int main(int argc, char** argv) {
  using swinfleet::coordinator::KillPoint;
  using swinfleet::coordinator::Nursery;
  // In memory: what a kill leaves does not depend on the disk.
  if (access("/dev/shm", W_OK) == 0) setenv("TMPDIR", "/dev/shm", 1);
  FLAGS_logtostderr = true;
  FLAGS_minloglevel = google::GLOG_ERROR;
  void* shared =
      mmap(nullptr, sizeof(KillPoint), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  PCHECK(shared != MAP_FAILED);
  swinfleet::coordinator::kill_point = new (shared) KillPoint;
  Nursery nursery(&swinfleet::coordinator::RunCoordinator);
  swinfleet::coordinator::nursery = &nursery;
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
