// What Prometheus is told: each metric its own figure, and what they count.
#include "coordinator/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/control_loop.h"

namespace swinfleet::coordinator {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

// Whatever is not what it counts is another number.
TEST(Metrics, EachMetricHasItsOwnFigure) {
  MetricsSnapshot snapshot;
  snapshot.jobs = {{QUEUED, 41}, {RUNNING, 42}};
  snapshot.queue_length = 43;
  snapshot.queue_seconds = 44;
  snapshot.hosts_left_out = 45;
  snapshot.store_writable = false;
  snapshot.up_seconds = 46;
  snapshot.fleets = {{"f", "busy", 47, 48}};
  MetricsSnapshot::JobSample job;
  job.id = "j1";
  job.name = "n";
  job.user = "u";
  job.has_progress = true;
  const std::vector<std::pair<std::string, double>> from_progress = {
      {"step", 1},
      {"total_steps", 2},
      {"loss", 3.5},
      {"learning_rate", 4.5},
      {"grad_norm", 5.5},
      {"images_per_second", 6.5},
      {"exposed_communication_ratio", 0.75},
      {"exposed_communication_seconds", 8.5},
      {"input_wait_ratio", 0.25},
      {"disk_wait_seconds", 10.5},
      {"memory_peak_rank_bytes", 11},
      {"memory_peak_total_bytes", 12},
      {"eta_seconds", 13.5},
      {"skipped_steps_total", 14},
      {"replaced_pictures_total", 15}};
  Progress& progress = job.progress;
  progress.set_step(1);
  progress.set_total_steps(2);
  progress.set_loss(3.5);
  progress.set_learning_rate(4.5);
  progress.set_grad_norm(5.5);
  progress.set_images_per_second(6.5);
  progress.set_exposed_communication(0.75);
  progress.set_exposed_communication_seconds(8.5);
  progress.set_input_wait(0.25);
  progress.set_disk_wait_seconds(10.5);
  progress.set_peak_memory_rank_bytes(11);
  progress.set_peak_memory_total_bytes(12);
  progress.set_eta_seconds(13.5);
  progress.set_skipped_steps(14);
  progress.set_replaced_pictures(15);
  const std::vector<std::pair<std::string, double>> others = {{"restarts_total", 16},
                                                              {"preemptions_total", 17},
                                                              {"run_seconds_total", 18.5},
                                                              {"ranks", 19},
                                                              {"silent_ranks", 20},
                                                              {"stragglers", 21},
                                                              {"checkpoint_age_seconds", 22.5},
                                                              {"checkpoint_step", 23}};
  job.restarts = 16;
  job.preemptions = 17;
  job.run_seconds = 18.5;
  job.ranks = 19;
  job.silent_ranks = 20;
  job.stragglers = 21;
  job.checkpoint_age = 22.5;
  job.checkpoint_step = 23;
  snapshot.running = {job};
  const auto line = [](const std::string& name, double value) {
    std::string number = std::to_string(value);
    number.erase(number.find_last_not_of('0') + 1);
    if (number.ends_with('.')) number.pop_back();
    return "\nswinfleet_job_" + name + "{job_id=\"j1\",job_name=\"n\",user=\"u\"} " + number + "\n";
  };
  std::string text = FormatMetrics(snapshot);
  for (const auto& list : {from_progress, others}) {
    for (const auto& [name, value] : list) EXPECT_THAT(text, HasSubstr(line(name, value)));
  }
  for (const char* other :
       {"swinfleet_jobs{state=\"queued\"} 41\n", "swinfleet_jobs{state=\"running\"} 42\n",
        "swinfleet_queue_length 43\n", "swinfleet_queue_wait_seconds 44\n",
        "swinfleet_hosts_left_out 45\n", "swinfleet_store_writable 0\n",
        "swinfleet_up_seconds 46\n", "swinfleet_fleet_info{fleet=\"f\",state=\"busy\"} 1\n",
        "swinfleet_fleet_ranks{fleet=\"f\"} 47\n",
        "swinfleet_fleet_connected_ranks{fleet=\"f\"} 48\n"}) {
    EXPECT_THAT(text, HasSubstr(std::string("\n") + other));
  }
  // Without a report there is nothing to tell of the training.
  snapshot.running[0].has_progress = false;
  text = FormatMetrics(snapshot);
  for (const auto& [name, value] : from_progress) {
    EXPECT_THAT(text, Not(HasSubstr("swinfleet_job_" + name))) << value;
  }
  for (const auto& [name, value] : others) EXPECT_THAT(text, HasSubstr(line(name, value)));
}

// What is read from the control state.
class Snapshot : public ::testing::Test {
 protected:
  Job& Add(JobState state, double submitted_at) {
    Job job;
    job.number = jobs_.size() + 1;
    job.id = "j" + std::to_string(job.number);
    job.submission_id = job.run_dir = job.id;
    job.spec = std::make_shared<JobSpec>();
    job.state = state;
    job.submitted_at = submitted_at;
    jobs_.push_back(job);
    return jobs_.back();
  }
  // On a launch of three ranks, of which it takes two.
  Job& AddRunning() {
    Job& job = Add(RUNNING, 10);
    job.attempt = 3;
    job.attempt_open = true;
    job.attempt_ranks = 2;
    job.fleet = "f";
    job.launch_id = "l";
    job.started_at = 100;
    Fleet fleet;
    fleet.name = "f";
    fleet.launch.id = "l";
    fleet.launch.world_size = 3;
    fleets_ = {fleet};
    return job;
  }
  MetricsSnapshot Take(double unix_time) {
    if (state_.jobs.empty()) state_ = Restore(jobs_, fleets_, {}, {100, 0});
    const ControlView view{state_, progress_, histories_, settings_, store_, 0};
    return TakeMetrics(view, unix_time);
  }

  std::vector<Job> jobs_;
  std::vector<Fleet> fleets_;
  ControlState state_;
  std::map<std::string, Progress> progress_;
  JobHistories histories_{50};
  const Settings settings_;
  grpc::Status store_;
};

TEST_F(Snapshot, TheQueueIsWhatWaits) {
  Add(QUEUED, 100);
  Add(QUEUED, 50);
  // It waits too, but has been started before.
  Add(RECOVERING, 1).attempt = 1;
  Add(FAILED, 1).ended_at = 2;
  const MetricsSnapshot taken = Take(160);
  EXPECT_EQ(taken.queue_length, 3u);
  EXPECT_EQ(taken.queue_seconds, 110);
  EXPECT_EQ(taken.jobs.at(QUEUED), 2u);
  EXPECT_EQ(taken.jobs.at(RECOVERING), 1u);
  EXPECT_EQ(taken.jobs.at(FAILED), 1u);
  EXPECT_EQ(taken.jobs.at(SUCCEEDED), 0u);
  ASSERT_EQ(taken.running.size(), 1u);
  EXPECT_EQ(taken.running[0].id, "j3");
  EXPECT_EQ(taken.running[0].ranks, 0u);
  EXPECT_TRUE(taken.store_writable);
  EXPECT_EQ(taken.up_seconds, 110);
  store_ = {grpc::StatusCode::RESOURCE_EXHAUSTED, "full"};
  EXPECT_FALSE(Take(160).store_writable);
}

TEST_F(Snapshot, RanksAreThoseOfTheAttempt) {
  AddRunning();
  Take(200);
  std::vector<Rank>& ranks = state_.fleets.at("f").launch.ranks;
  ranks[1].lost = true;
  ranks[2].lost = true;
  ranks[0].own.straggler = true;
  ranks[2].own.straggler = true;
  const MetricsSnapshot taken = Take(200);
  ASSERT_EQ(taken.running.size(), 1u);
  EXPECT_EQ(taken.running[0].ranks, 2u);
  EXPECT_EQ(taken.running[0].silent_ranks, 1u);
  EXPECT_EQ(taken.running[0].stragglers, 1u);
  EXPECT_EQ(taken.running[0].restarts, 2u);
}

TEST_F(Snapshot, TheAgeOfACheckpointIsFromWhenItCame) {
  Job& job = AddRunning();
  job.last_checkpoint = "/c2";
  job.last_checkpoint_step = 7;
  // Since the job's start.
  EXPECT_EQ(Take(400).running[0].checkpoint_age, 300);
  CheckpointRecord record;
  record.set_path("/c1");
  record.set_time(350);
  histories_.AddCheckpoint("j1", record);
  // Of the last one the coordinator did not note when it came.
  EXPECT_EQ(Take(400).running[0].checkpoint_age, 300);
  record.set_path("/c2");
  record.set_time(380);
  histories_.AddCheckpoint("j1", record);
  EXPECT_EQ(Take(400).running[0].checkpoint_age, 20);
  EXPECT_EQ(Take(400).running[0].checkpoint_step, 7u);
  // A clock that was put back.
  EXPECT_EQ(Take(370).running[0].checkpoint_age, 0);
}

TEST_F(Snapshot, WithoutOneTheAgeBeginsWithTheCoordinatorIfThatWasLater) {
  AddRunning();
  histories_ = JobHistories(250);
  EXPECT_EQ(Take(400).running[0].checkpoint_age, 150);
}

}  // namespace
}  // namespace swinfleet::coordinator
