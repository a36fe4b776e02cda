#include "proto/queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace swinfleet {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(Queue, Durations) {
  double seconds = 0;
  for (const auto& [text, value] : {std::pair<std::string, double>{"90s", 90},
                                    {"0s", 0},
                                    {"45m", 2700},
                                    {"12h", 43200},
                                    {"1d12h", 129600},
                                    {"1d1h1m1s", 90061}}) {
    EXPECT_TRUE(ParseDuration(text, &seconds)) << text;
    EXPECT_EQ(seconds, value) << text;
  }
  seconds = 7;
  for (const std::string text : {"", "90", "s", "1.5h", "-1s", "1h1h", "1s1h", "1 h", "1h ", "5w",
                                 "4000d", "99999999999s"}) {
    EXPECT_FALSE(ParseDuration(text, &seconds)) << text;
  }
  EXPECT_EQ(seconds, 7);
}

TEST(Queue, DefaultsAndValues) {
  JobSpec spec;
  QueueSettings settings;
  EXPECT_THAT(ReadQueueSettings(spec, &settings), IsEmpty());
  EXPECT_EQ(settings.priority, 0);
  EXPECT_FALSE(settings.preemptible);
  EXPECT_EQ(settings.max_run_seconds, 0);
  EXPECT_FALSE(settings.max_restarts);
  EXPECT_EQ(settings.restart_pause, 1);
  EXPECT_EQ(settings.min_ranks, 0u);
  QueueSpec* queue = spec.mutable_schedule();
  queue->set_priority(-1000);
  queue->set_preemptible(true);
  queue->set_max_run_time("2h");
  queue->set_max_restarts(0);
  queue->set_restart_pause("0s");
  queue->set_min_ranks(2);
  spec.mutable_parallel()->set_ranks(2);
  EXPECT_THAT(ReadQueueSettings(spec, &settings), IsEmpty());
  EXPECT_EQ(settings.priority, -1000);
  EXPECT_TRUE(settings.preemptible);
  EXPECT_EQ(settings.max_run_seconds, 7200);
  EXPECT_EQ(settings.max_restarts, 0u);
  EXPECT_EQ(settings.restart_pause, 0);
  EXPECT_EQ(settings.min_ranks, 2u);
}

TEST(Queue, AllFaultsAtOnce) {
  JobSpec spec;
  QueueSpec* queue = spec.mutable_schedule();
  queue->set_priority(-2000000000);
  queue->set_max_run_time("0s");
  queue->set_restart_pause("25h");
  queue->set_min_ranks(5);
  for (int i = 0; i < 17; ++i) queue->add_after("a");
  spec.mutable_parallel()->set_ranks(4);
  QueueSettings settings;
  EXPECT_THAT(ReadQueueSettings(spec, &settings),
              ElementsAre(HasSubstr("schedule.priority is -2000000000"),
                          HasSubstr("schedule.max_run_time is \"0s\""),
                          HasSubstr("schedule.restart_pause is \"25h\""),
                          HasSubstr("schedule.after names 17 jobs, the limit is 16"),
                          HasSubstr("schedule.min_ranks is 5, more than parallel.ranks, 4")));
}

TEST(Queue, MoreRanksThanMicroBatches) {
  JobSpec spec;
  spec.mutable_schedule()->set_min_ranks(8);
  spec.mutable_train()->set_global_batch(64);
  spec.mutable_train()->set_micro_batch(16);
  QueueSettings settings;
  EXPECT_THAT(ReadQueueSettings(spec, &settings),
              ElementsAre(AllOf(HasSubstr("schedule.min_ranks is 8"), HasSubstr("only 4 micro"))));
  EXPECT_EQ(settings.min_ranks, 0u);
}

}  // namespace
}  // namespace swinfleet
