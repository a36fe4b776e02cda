#include "worker/serve.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "kernels/error.h"
#include "tests/worker/fake_coordinator.h"
#include "worker/exit_codes.h"

namespace swinfleet {
namespace {

using testing::HasSubstr;
using namespace std::chrono_literals;

bool IsHeartbeat(const WorkerMessage& message) { return message.has_heartbeat(); }
FakeCoordinator::Matcher EndedOf(const std::string& job_id, uint32_t attempt) {
  return [job_id, attempt](const WorkerMessage& message) {
    return message.has_ended() && message.ended().job_id() == job_id &&
           message.ended().attempt() == attempt;
  };
}

JobSpec SmallJob() {
  JobSpec spec;
  spec.set_name("small");
  spec.set_run_dir("/runs/a");
  spec.mutable_data()->set_path("/data");
  spec.mutable_model()->set_preset("swinv2_tiny_window8_256");
  spec.mutable_train()->set_global_batch(64);
  spec.mutable_train()->set_micro_batch(16);
  return spec;
}

class ServeTest : public testing::Test {
 protected:
  ~ServeTest() override {
    if (!served_.valid()) return;
    // Nobody acknowledges anything any more, so there is nothing to wait for.
    server_.Stop();
    client_->Stop();
    served_.wait();
  }

  // Serves as rank `rank` of `world_size` on a thread, with `run` in the place of the training.
  void Start(int rank, int world_size,
             std::function<AttemptResult(const AttemptOptions&, Communicator*, Reporter*)> run) {
    ClientOptions options;
    options.coordinator = server_.address();
    options.identity = {"fleet", "launch", static_cast<uint32_t>(rank),
                        static_cast<uint32_t>(world_size), false};
    options.min_backoff_seconds = 0.02;
    options.resend_seconds = 0.1;
    client_ = std::make_unique<CoordinatorClient>(options, [](const std::string&) {});
    ServeEnvironment environment;
    environment.rank = rank;
    environment.world_size = world_size;
    environment.make_group = [this](int ranks, int tag) {
      groups_.push_back({ranks, tag});
      return MakeSelfCommunicator();
    };
    environment.run_attempt = std::move(run);
    served_ = std::async(std::launch::async,
                         [this, environment] { return Serve(environment, client_.get()); });
    ASSERT_TRUE(server_.WaitFor(IsHeartbeat));
  }

  FakeCoordinator server_;
  std::vector<std::pair<int, int>> groups_;
  std::unique_ptr<CoordinatorClient> client_;
  std::future<int> served_;
};

TEST_F(ServeTest, OneJobAfterTheOther) {
  std::vector<AttemptOptions> seen;
  Start(0, 4, [&seen](const AttemptOptions& options, Communicator*, Reporter* reporter) {
    seen.push_back(options);
    reporter->SetPhase(Phase::kTrain);
    TrainingProgress progress;
    progress.step = 5;
    reporter->ReportProgress(progress);
    AttemptResult result;
    result.progress.step = 9;
    return result;
  });
  WorkerMessage message;
  for (const std::string job_id : {"job-1", "job-2"}) {
    server_.SendAssignment(job_id, 1, SmallJob(), 3);
    ASSERT_TRUE(server_.WaitFor(EndedOf(job_id, 1), 0, &message));
    EXPECT_EQ(message.ended().outcome(), ATTEMPT_SUCCEEDED);
    EXPECT_EQ(message.ended().progress().step(), 9u);
    EXPECT_TRUE(server_.WaitFor([&job_id](const WorkerMessage& m) {
      return m.progress().job_id() == job_id && m.progress().progress().step() == 5;
    }));
    server_.Acknowledge(job_id, 1);
  }
  ASSERT_EQ(seen.size(), 2u);
  EXPECT_EQ(seen[0].job_id, "job-1");
  EXPECT_EQ(seen[0].attempt, 1);
  EXPECT_EQ(seen[0].config.run_dir, "/runs/a");
  EXPECT_EQ(seen[0].config.model.image_h, 256);
  EXPECT_THAT(seen[0].spec_text, HasSubstr("swinv2_tiny_window8_256"));
  ASSERT_EQ(groups_.size(), 2u);
  EXPECT_EQ(groups_[0].first, 3);
  EXPECT_NE(groups_[0].second, groups_[1].second);
  for (const auto& [ranks, tag] : groups_) {
    EXPECT_GE(tag, 0);
    EXPECT_LT(tag, 32767);
  }
}

TEST_F(ServeTest, AJobThatCannotRunFailsWithAllItsProblems) {
  bool ran = false;
  Start(0, 2, [&ran](const AttemptOptions&, Communicator*, Reporter*) {
    ran = true;
    return AttemptResult();
  });
  JobSpec spec = SmallJob();
  spec.mutable_model()->set_window_size(0);
  spec.mutable_train()->set_dtype("fp8");
  server_.SendAssignment("job-1", 1, spec, 2);
  WorkerMessage message;
  ASSERT_TRUE(server_.WaitFor(EndedOf("job-1", 1), 0, &message));
  EXPECT_EQ(message.ended().outcome(), ATTEMPT_FAILED);
  EXPECT_THAT(message.ended().message(), HasSubstr("model.window_size"));
  EXPECT_THAT(message.ended().message(), HasSubstr("train.dtype"));
  for (const uint32_t ranks : {0u, 3u}) {
    server_.SendAssignment("job-2", 1 + ranks, SmallJob(), ranks);
    ASSERT_TRUE(server_.WaitFor(EndedOf("job-2", 1 + ranks), 0, &message));
    EXPECT_EQ(message.ended().outcome(), ATTEMPT_FAILED);
  }
  EXPECT_FALSE(ran);
  EXPECT_TRUE(groups_.empty());
}

// A job that trained before such a setting was refused.
TEST_F(ServeTest, ASettingWithoutEffectStopsAJobOnlyAtItsStart) {
  int runs = 0;
  Start(0, 1, [&runs](const AttemptOptions&, Communicator*, Reporter*) {
    ++runs;
    return AttemptResult();
  });
  JobSpec spec = SmallJob();
  spec.mutable_train()->mutable_optimizer()->set_momentum(0.9);
  server_.SendAssignment("job-1", 1, spec, 1);
  WorkerMessage message;
  ASSERT_TRUE(server_.WaitFor(EndedOf("job-1", 1), 0, &message));
  EXPECT_EQ(message.ended().outcome(), ATTEMPT_FAILED);
  EXPECT_THAT(message.ended().message(), HasSubstr("train.optimizer.momentum is set"));
  EXPECT_EQ(runs, 0);
  server_.SendAssignment("job-2", 2, spec, 1, "/runs/a/checkpoints/attempt-001/step-00000007");
  ASSERT_TRUE(server_.WaitFor(EndedOf("job-2", 2), 0, &message));
  EXPECT_EQ(message.ended().outcome(), ATTEMPT_SUCCEEDED);
  EXPECT_EQ(runs, 1);
  // Its first attempt was lost before it could save anything.
  server_.Acknowledge("job-2", 2);
  server_.SendAssignment("job-3", 2, spec, 1);
  ASSERT_TRUE(server_.WaitFor(EndedOf("job-3", 2), 0, &message));
  EXPECT_EQ(message.ended().outcome(), ATTEMPT_SUCCEEDED) << message.ended().message();
  EXPECT_EQ(runs, 2);
}

TEST_F(ServeTest, AJobThatAllowsItRunsOnFewerRanksThanItAsksFor) {
  std::vector<int64_t> ranks;
  Start(0, 2, [&ranks](const AttemptOptions& options, Communicator*, Reporter*) {
    ranks.push_back(options.config.parallel.ranks);
    return AttemptResult();
  });
  JobSpec spec = SmallJob();
  spec.mutable_parallel()->set_ranks(4);
  WorkerMessage message;
  server_.SendAssignment("job-1", 2, spec, 2, "/runs/a/c");
  ASSERT_TRUE(server_.WaitFor(EndedOf("job-1", 2), 0, &message));
  EXPECT_THAT(message.ended().message(), HasSubstr("parallel.ranks asks for 4 ranks"));
  spec.mutable_schedule()->set_min_ranks(2);
  server_.SendAssignment("job-2", 2, spec, 2, "/runs/a/c");
  ASSERT_TRUE(server_.WaitFor(EndedOf("job-2", 2), 0, &message));
  EXPECT_EQ(message.ended().outcome(), ATTEMPT_SUCCEEDED) << message.ended().message();
  EXPECT_EQ(ranks, std::vector<int64_t>{2});
}

TEST_F(ServeTest, RanksBeyondTheJobStayIdle) {
  std::atomic<bool> ran = false;
  Start(2, 3, [&ran](const AttemptOptions&, Communicator*, Reporter*) {
    ran = true;
    std::this_thread::sleep_for(300ms);
    return AttemptResult();
  });
  server_.SendAssignment("job-1", 1, SmallJob(), 2);
  server_.SendAssignment("job-2", 1, SmallJob(), 3);
  ASSERT_TRUE(server_.WaitFor(
      [](const WorkerMessage& message) { return message.heartbeat().job_id() == "job-2"; }));
  // Only rank 0 reports an end.
  std::this_thread::sleep_for(300ms);
  EXPECT_EQ(server_.Count([](const WorkerMessage& message) { return message.has_ended(); }), 0);
  EXPECT_EQ(server_.Count([](const WorkerMessage& message) {
    return message.heartbeat().job_id() == "job-1";
  }),
            0);
  EXPECT_TRUE(ran);
}

TEST_F(ServeTest, CancellationReachesTheTraining) {
  Start(0, 1, [](const AttemptOptions&, Communicator*, Reporter* reporter) {
    while (!reporter->CancelRequested()) std::this_thread::sleep_for(5ms);
    AttemptResult result;
    result.outcome = Outcome::kCancelled;
    return result;
  });
  server_.SendAssignment("job-1", 4, SmallJob(), 1);
  WorkerCommand command;
  command.mutable_cancel()->set_job_id("job-1");
  command.mutable_cancel()->set_attempt(4);
  server_.Send(command);
  WorkerMessage message;
  ASSERT_TRUE(server_.WaitFor(EndedOf("job-1", 4), 0, &message));
  EXPECT_EQ(message.ended().outcome(), ATTEMPT_CANCELLED);
}

TEST_F(ServeTest, AProcessThatLeavesReportsItsCheckpointButNoEnd) {
  Start(0, 1, [](const AttemptOptions&, Communicator*, Reporter* reporter) {
    while (!reporter->StopRequested()) std::this_thread::sleep_for(5ms);
    reporter->ReportCheckpoint("/runs/a/c", 3);
    AttemptResult result;
    result.outcome = Outcome::kStopped;
    result.last_checkpoint = "/runs/a/c";
    return result;
  });
  server_.SendAssignment("job-1", 1, SmallJob(), 1);
  ASSERT_TRUE(server_.WaitFor(
      [](const WorkerMessage& message) { return message.heartbeat().job_id() == "job-1"; }));
  client_->Stop();
  EXPECT_EQ(served_.get(), kExitStopped);
  client_->Close();
  EXPECT_EQ(server_.Count([](const WorkerMessage& m) { return m.checkpoint().step() == 3; }), 1);
  EXPECT_EQ(server_.Count([](const WorkerMessage& message) { return message.has_ended(); }), 0);
}

TEST_F(ServeTest, AnIdleWorkerLeavesAtOnce) {
  Start(0, 1, [](const AttemptOptions&, Communicator*, Reporter*) { return AttemptResult(); });
  client_->Stop();
  EXPECT_EQ(served_.get(), kExitSuccess);
}

TEST_F(ServeTest, ShutdownEndsAWorkerAfterItsJob) {
  std::promise<void> go_on;
  std::shared_future<void> gone_on = go_on.get_future().share();
  Start(0, 1, [gone_on](const AttemptOptions&, Communicator*, Reporter*) {
    gone_on.wait();
    return AttemptResult();
  });
  server_.SendAssignment("job-1", 1, SmallJob(), 1);
  WorkerCommand command;
  command.mutable_shutdown()->set_reason("done");
  server_.Send(command);
  EXPECT_EQ(served_.wait_for(100ms), std::future_status::timeout);
  go_on.set_value();
  ASSERT_TRUE(server_.WaitFor(EndedOf("job-1", 1)));
  server_.Acknowledge("job-1", 1);
  EXPECT_EQ(served_.get(), kExitSuccess);
}

TEST_F(ServeTest, WhatTheTrainingThrowsPassesThrough) {
  Start(0, 1, [](const AttemptOptions&, Communicator*, Reporter*) -> AttemptResult {
    throw Error("the disk is gone");
  });
  server_.SendAssignment("job-1", 1, SmallJob(), 1);
  EXPECT_THROW(served_.get(), Error);
  EXPECT_EQ(server_.Count(EndedOf("job-1", 1)), 0);
}

}  // namespace
}  // namespace swinfleet
