// What is written of each step, for people and for TensorBoard. That TensorBoard itself reads it
// was tried by hand (docs/observability.md).
#include "worker/metrics_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <string>
#include <vector>

#include "worker/event_file.h"

namespace swinfleet {
namespace {

namespace fs = std::filesystem;
using tensorboard::Event;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
using ::testing::HasSubstr;

uint64_t LittleEndian(const std::string& bytes, size_t at, int count) {
  uint64_t value = 0;
  for (int i = count; i-- > 0;) value = (value << 8) | static_cast<uint8_t>(bytes.at(at + i));
  return value;
}

uint32_t Unmasked(const std::string& bytes, size_t at) {
  const uint32_t rotated = static_cast<uint32_t>(LittleEndian(bytes, at, 4)) - 0xa282ead8u;
  return (rotated >> 17) | (rotated << 15);
}

// As a reader of TFRecord files does it: stops at a record that is not whole.
std::vector<Event> ReadEvents(const std::string& bytes) {
  std::vector<Event> events;
  size_t at = 0;
  while (at + 12 <= bytes.size()) {
    const uint64_t length = LittleEndian(bytes, at, 8);
    EXPECT_EQ(Unmasked(bytes, at + 8), Crc32c(bytes.substr(at, 8)));
    if (at + 16 + length > bytes.size()) break;
    const std::string data = bytes.substr(at + 12, length);
    EXPECT_EQ(Unmasked(bytes, at + 12 + length), Crc32c(data));
    EXPECT_TRUE(events.emplace_back().ParseFromString(data));
    at += 16 + length;
  }
  return events;
}

std::string Bytes(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

class MetricsLogTest : public ::testing::Test {
 protected:
  MetricsLogTest() { fs::remove_all(run_); }
  ~MetricsLogTest() override { fs::remove_all(run_); }
  fs::path EventPath(int attempt) const {
    return run_ / "tensorboard" /
           ("events.out.tfevents.000000000" + std::to_string(attempt) + ".swinfleet");
  }
  static StepResult Result(double loss) {
    StepResult result{};
    result.loss = loss;
    result.grad_norm = 2;
    result.learning_rate = 0.5;
    return result;
  }

  const fs::path run_ =
      fs::temp_directory_path() / ("swinfleet-metrics-" + std::to_string(getpid()));
};

TEST(Crc32c, KnownValues) {
  // RFC 3720, B.4.
  EXPECT_EQ(Crc32c(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(Crc32c(std::string(32, '\xff')), 0x62a8ab43u);
  EXPECT_EQ(Crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(Crc32c(""), 0u);
}

TEST_F(MetricsLogTest, EventsHaveWhatTheLinesHave) {
  {
    MetricsLog log(run_.string(), 1, 0, /*tensorboard=*/true);
    log.Step(1, Result(1.5), 0.1, 0);
    log.Step(2, Result(kNan), 0.1, 0);
    log.Speed(2, 640);
    log.Evaluated(2, Evaluation{.loss = 0.25, .top1 = 0.5, .top5 = 1});
    log.Evaluated(3, Evaluation{.loss = 0.75, .top1 = kNan, .top5 = kNan});
  }
  const std::vector<Event> events = ReadEvents(Bytes(EventPath(1)));
  ASSERT_EQ(events.size(), 7u);
  EXPECT_EQ(events[0].file_version(), "brain.Event:2");
  EXPECT_EQ(events[1].session_log().status(), tensorboard::SessionLog::START);
  EXPECT_EQ(events[1].step(), 1);
  EXPECT_EQ(events[2].step(), 1);
  ASSERT_EQ(events[2].summary().value_size(), 3);
  EXPECT_EQ(events[2].summary().value(0).tag(), "train/loss");
  EXPECT_EQ(events[2].summary().value(0).simple_value(), 1.5f);
  EXPECT_EQ(events[2].summary().value(1).simple_value(), 2);
  EXPECT_EQ(events[2].summary().value(2).tag(), "train/learning_rate");
  EXPECT_GT(events[2].wall_time(), 1e9);
  EXPECT_TRUE(std::isnan(events[3].summary().value(0).simple_value()));
  EXPECT_EQ(events[4].summary().value(0).tag(), "train/images_per_second");
  EXPECT_EQ(events[5].summary().value_size(), 3);
  EXPECT_EQ(events[5].summary().value(1).simple_value(), 0.5f);
  EXPECT_EQ(events[6].summary().value_size(), 1);
  EXPECT_EQ(events[6].step(), 3);
  EXPECT_THAT(Bytes(run_ / "metrics" / "attempt-001.jsonl"), HasSubstr("\"loss\": 1.5,"));
}

TEST_F(MetricsLogTest, AnAttemptThatGoesOnSaysWhere) {
  { MetricsLog log(run_.string(), 1, 0, true); }
  { MetricsLog log(run_.string(), 2, 40, true); }
  const std::vector<Event> events = ReadEvents(Bytes(EventPath(2)));
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[1].session_log().status(), tensorboard::SessionLog::START);
  EXPECT_EQ(events[1].step(), 41);
  EXPECT_LT(EventPath(1).string(), EventPath(2).string());
}

TEST_F(MetricsLogTest, ATornTailHidesNothingBefore) {
  {
    MetricsLog log(run_.string(), 1, 0, true);
    for (int step = 1; step <= 10; ++step) log.Step(step, Result(step), 0.1, 0);
  }
  const std::string bytes = Bytes(EventPath(1));
  const size_t whole = ReadEvents(bytes).size();
  ASSERT_EQ(whole, 12u);
  for (size_t cut = 1; cut < 40; ++cut) {
    EXPECT_EQ(ReadEvents(bytes.substr(0, bytes.size() - cut)).size(), whole - 1) << cut;
  }
}

TEST_F(MetricsLogTest, WithoutTensorBoardThereAreNoEvents) {
  { MetricsLog log(run_.string(), 1, 0, /*tensorboard=*/false); }
  EXPECT_FALSE(fs::exists(run_ / "tensorboard"));
  EXPECT_TRUE(fs::exists(run_ / "metrics" / "attempt-001.jsonl"));
}

}  // namespace
}  // namespace swinfleet
