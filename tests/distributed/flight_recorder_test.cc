#include "distributed/flight_recorder.h"

#include <gtest/gtest.h>

namespace swinfleet {
namespace {

TEST(FlightRecorder, KnowsWhereTheRankIs) {
  FlightRecorder recorder;
  EXPECT_EQ(recorder.position().sequence, 0u);
  EXPECT_TRUE(recorder.recent().empty());
  EXPECT_EQ(recorder.Post("reduce-scatter", "reduce-scatter head", 400), 1u);
  EXPECT_EQ(recorder.Post("barrier", "end", 0), 2u);
  EXPECT_FALSE(recorder.position().in_progress);
  recorder.Start(1, "reduce-scatter head");
  EXPECT_TRUE(recorder.position().in_progress);
  EXPECT_EQ(recorder.position().sequence, 1u);
  EXPECT_EQ(recorder.position().name, "reduce-scatter head");
  recorder.End(1);
  recorder.Start(2, "end");

  const std::vector<CollectiveRecord> recent = recorder.recent();
  ASSERT_EQ(recent.size(), 2u);
  EXPECT_EQ(recent[0].operation, "reduce-scatter");
  EXPECT_EQ(recent[0].name, "reduce-scatter head");
  EXPECT_EQ(recent[0].bytes, 400u);
  EXPECT_GT(recent[0].posted, 1e9);
  EXPECT_GE(recent[0].started, recent[0].posted);
  EXPECT_GE(recent[0].ended, recent[0].started);
  EXPECT_GT(recent[1].started, 0);
  EXPECT_EQ(recent[1].ended, 0);
}

// Of a GPU's and the host's at once the first is told of, which the other may wait for.
TEST(FlightRecorder, TellsOfTheFirstInProgress) {
  FlightRecorder recorder(40);
  EXPECT_EQ(recorder.position().sequence, 40u);
  EXPECT_TRUE(recorder.recent().empty());
  EXPECT_EQ(recorder.Post("all-gather", "of the GPU", 8), 41u);
  EXPECT_EQ(recorder.Post("barrier", "of the host", 0), 42u);
  recorder.Start(42, "of the host");
  recorder.Start(41, "of the GPU");
  EXPECT_EQ(recorder.position().sequence, 41u);
  recorder.End(41);
  EXPECT_EQ(recorder.position().sequence, 42u);
  EXPECT_TRUE(recorder.position().in_progress);
  recorder.End(42);
  EXPECT_FALSE(recorder.position().in_progress);
  ASSERT_EQ(recorder.recent().size(), 2u);
  EXPECT_EQ(recorder.recent()[0].sequence, 41u);
}

TEST(FlightRecorder, KeepsTheLast) {
  FlightRecorder recorder;
  // All of them wait in a queue; the first have no record any more when they have their turn.
  const uint64_t all = FlightRecorder::kRecords + 10;
  for (uint64_t i = 1; i <= all; ++i) recorder.Post("all-gather", std::to_string(i), i);
  for (uint64_t i = 1; i <= 11; ++i) {
    recorder.Start(i, std::to_string(i));
    EXPECT_EQ(recorder.position().name, std::to_string(i));
    recorder.End(i);
  }
  const std::vector<CollectiveRecord> recent = recorder.recent();
  ASSERT_EQ(recent.size(), FlightRecorder::kRecords);
  for (uint64_t i = 0; i < recent.size(); ++i) {
    EXPECT_EQ(recent[i].sequence, 11 + i);
    EXPECT_EQ(recent[i].bytes, 11 + i);
    EXPECT_EQ(recent[i].ended > 0, i == 0);
  }
}

}  // namespace
}  // namespace swinfleet
