// The control loop alone: what it says, and when, beside what its store holds.
#include "coordinator/control_loop.h"

#include <gtest/gtest.h>

#include <functional>
#include <future>
#include <memory>
#include <string>
#include <utility>

#include "tests/coordinator/temporary_folder.h"

namespace swinfleet::coordinator {
namespace {

// A connection whose commands nobody reads.
class SilentLink : public WorkerLink {
 public:
  uint64_t id() const override { return 1; }
  void Send(const WorkerCommand&) override {}
  void ReadNext() override {}
  void Close(const grpc::Status&) override {}
};

// Compares what it is shown with what is stored. On the control thread: the store can't move on
// meanwhile.
class StoreWatcher : public JobWatcher {
 public:
  StoreWatcher(std::function<uint64_t()> stored, uint64_t awaited)
      : stored_(std::move(stored)), awaited_(awaited) {}
  void Offer(const JobStatus& status, bool) override {
    EXPECT_EQ(status.last_checkpoint_step(), stored_());
    if (status.last_checkpoint_step() == awaited_ && !std::exchange(seen_, true)) {
      reached_.set_value();
    }
  }
  void Close(const grpc::Status&) override {}
  void Await() { reached_.get_future().wait(); }

 private:
  const std::function<uint64_t()> stored_;
  const uint64_t awaited_;
  bool seen_ = false;
  std::promise<void> reached_;
};

class ControlLoopTest : public ::testing::Test {
 protected:
  ControlLoopTest() {
    EXPECT_TRUE(JobStore::Open(folder_.path(), &jobs_).ok());
    EXPECT_TRUE(LogStore::Open(folder_.path(), {}, &logs_).ok());
    loop_ = std::make_unique<ControlLoop>(jobs_.get(), logs_.get(), Settings());
    EXPECT_TRUE(loop_->Start().ok());
  }

  // A job whose only rank has connected.
  std::string StartJob() {
    auto spec = std::make_shared<JobSpec>();
    spec->set_run_dir("/r");
    std::promise<std::string> id;
    EXPECT_TRUE(
        loop_->Request(SubmitEvent{spec, "s", "ann", "abcd"},
                       [&](const Reply& reply, const auto&) { id.set_value(reply.job_id); }));
    loop_->Opened(std::make_shared<SilentLink>());
    WorkerMessage message;
    Hello* hello = message.mutable_hello();
    hello->set_fleet("f");
    hello->set_launch_id("l");
    hello->set_world_size(1);
    hello->set_host("node");
    hello->set_pid(7);
    loop_->Received(1, message);
    return id.get_future().get();
  }
  void ReportCheckpoint(const std::string& job_id, uint64_t step) {
    WorkerMessage message;
    message.mutable_checkpoint()->set_job_id(job_id);
    message.mutable_checkpoint()->set_attempt(1);
    message.mutable_checkpoint()->set_path("/r/" + std::to_string(step));
    message.mutable_checkpoint()->set_step(step);
    loop_->Received(1, message);
  }
  // Makes the loop show the job to who watches it.
  void Beat(const std::string& job_id) {
    WorkerMessage message;
    message.mutable_heartbeat()->set_job_id(job_id);
    message.mutable_heartbeat()->set_attempt(1);
    loop_->Received(1, message);
  }
  // Holds the loop until the promise is kept: what is posted meanwhile is dealt with at once.
  std::shared_ptr<std::promise<void>> Hold() {
    auto held = std::make_shared<std::promise<void>>();
    auto begun = std::make_shared<std::promise<void>>();
    EXPECT_TRUE(loop_->Query([held, begun](const ControlView&) {
      begun->set_value();
      held->get_future().wait();
    }));
    begun->get_future().wait();
    return held;
  }
  // What somebody would find who came now, after a crash.
  uint64_t StoredStep() {
    std::unique_ptr<JobStore> store;
    JobStore::Contents contents;
    EXPECT_TRUE(JobStore::Open(folder_.path(), &store).ok());
    EXPECT_TRUE(store->Load(&contents).ok());
    EXPECT_EQ(contents.jobs.size(), 1u);
    return contents.jobs.at(0).last_checkpoint_step;
  }

  TemporaryFolder folder_;
  std::unique_ptr<JobStore> jobs_;
  std::unique_ptr<LogStore> logs_;
  std::unique_ptr<ControlLoop> loop_;
};

TEST_F(ControlLoopTest, WhatAStatusShowsIsInTheStore) {
  const std::string id = StartJob();
  const auto held = Hold();
  ReportCheckpoint(id, 10);
  std::promise<std::pair<uint64_t, uint64_t>> shown;
  EXPECT_TRUE(loop_->Query([&](const ControlView& view) {
    const Job* job = view.FindJob(id);
    const JobStatus status = view.View(*job, RankDetail::kWithRanks);
    shown.set_value({status.last_checkpoint_step(), StoredStep()});
  }));
  held->set_value();
  const auto [said, stored] = shown.get_future().get();
  EXPECT_EQ(said, 10u);
  EXPECT_EQ(stored, 10u);
}

TEST_F(ControlLoopTest, WhatWatchersAreShownIsInTheStore) {
  const std::string id = StartJob();
  const auto stored = [this] { return StoredStep(); };
  const auto before = std::make_shared<StoreWatcher>(stored, 10);
  const auto late = std::make_shared<StoreWatcher>(stored, 10);
  loop_->Watch(id, before);
  const auto held = Hold();
  ReportCheckpoint(id, 10);
  Beat(id);
  loop_->Watch(id, late);
  held->set_value();
  before->Await();
  late->Await();
}

}  // namespace
}  // namespace swinfleet::coordinator
