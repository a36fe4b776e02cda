// The rules that need no server: rates, and refusals that are counted. Times are the test's.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "coordinator/audit.h"
#include "coordinator/gate.h"
#include "coordinator/rate_limiter.h"

namespace swinfleet::coordinator {
namespace {

using ::testing::IsEmpty;

TEST(RateLimiter, GrantsTheBurstAndThenTheRate) {
  RateLimiter limiter(10);
  EXPECT_EQ(limiter.burst(), 40);
  for (int i = 0; i < 40; ++i) EXPECT_EQ(limiter.Take("a", 100), 0) << i;
  EXPECT_DOUBLE_EQ(limiter.Take("a", 100), 0.1);
  // Somebody else has a bucket of his own.
  EXPECT_EQ(limiter.Take("b", 100), 0);
  // What is refused takes nothing.
  for (int i = 0; i < 100; ++i) EXPECT_GT(limiter.Take("a", 100), 0);
  EXPECT_EQ(limiter.Take("a", 100.125), 0);
  EXPECT_GT(limiter.Take("a", 100.125), 0);
  // However long nothing came, no more than the burst.
  for (int i = 0; i < 40; ++i) EXPECT_EQ(limiter.Take("a", 9999), 0) << i;
  EXPECT_GT(limiter.Take("a", 9999), 0);
}

TEST(RateLimiter, NoLimitIsNone) {
  RateLimiter limiter(0);
  for (int i = 0; i < 100000; ++i) ASSERT_EQ(limiter.Take("a", 1), 0);
}

TEST(RateLimiter, SlowRatesStillGrantOne) {
  RateLimiter limiter(0.001);
  EXPECT_EQ(limiter.Take("a", 0), 0);
  EXPECT_DOUBLE_EQ(limiter.Take("a", 0), 1000);
  EXPECT_EQ(limiter.Take("a", 1000), 0);
}

TEST(RateLimiter, ManyKeysShareOneBucketAndTakeNoMoreMemory) {
  RateLimiter limiter(1, /*max_keys=*/2);
  EXPECT_EQ(limiter.Take("a", 0), 0);
  EXPECT_EQ(limiter.Take("b", 0), 0);
  // Four in all for everybody else.
  for (int i = 0; i < 4; ++i) EXPECT_EQ(limiter.Take("c" + std::to_string(i), 0), 0);
  EXPECT_GT(limiter.Take("d", 0), 0);
  EXPECT_EQ(limiter.Take("a", 0), 0);
  // Buckets that are full again make room.
  EXPECT_EQ(limiter.Take("e", 100), 0);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(limiter.Take("e", 100), 0);
  EXPECT_GT(limiter.Take("e", 100), 0);
  EXPECT_EQ(limiter.Take("f", 100), 0);
}

TEST(RateLimiter, AClockThatGoesBackGrantsNothing) {
  RateLimiter limiter(1);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(limiter.Take("a", 100), 0);
  EXPECT_GT(limiter.Take("a", 50), 0);
  EXPECT_GT(limiter.Take("a", 100), 0);
  EXPECT_EQ(limiter.Take("a", 101), 0);
}

AuditEntry Refusal(double time, const std::string& from, const std::string& subject) {
  AuditEntry entry;
  entry.time = time;
  entry.role = "unknown";
  entry.from = from;
  entry.action = "submit";
  entry.subject = subject;
  entry.result = "no token was sent";
  return entry;
}

TEST(RefusalCounter, TheFirstIsWrittenAtOnceAndTheRestAsANumber) {
  RefusalCounter counter;
  const auto kind = grpc::StatusCode::UNAUTHENTICATED;
  std::vector<AuditEntry> due = counter.Add(Refusal(100, "10.0.0.7:1", "/a"), kind);
  ASSERT_EQ(due.size(), 1u);
  EXPECT_EQ(due[0].subject, "/a");
  EXPECT_EQ(due[0].times, 1u);
  // Other ports and subjects are more of the same.
  for (int i = 0; i < 500; ++i) {
    EXPECT_THAT(counter.Add(Refusal(101 + i * 0.1, "10.0.0.7:" + std::to_string(i), "/b"), kind),
                IsEmpty());
  }
  // Another host, another kind.
  EXPECT_EQ(counter.Add(Refusal(130, "10.0.0.8:1", "/a"), kind).size(), 1u);
  EXPECT_EQ(
      counter.Add(Refusal(130, "10.0.0.7:1", "/a"), grpc::StatusCode::RESOURCE_EXHAUSTED).size(),
      1u);
  EXPECT_THAT(counter.Expire(159), IsEmpty());
  due = counter.Expire(160);
  ASSERT_EQ(due.size(), 1u);
  EXPECT_EQ(due[0].times, 500u);
  EXPECT_EQ(due[0].subject, "/b");
  // Then it begins anew.
  due = counter.Add(Refusal(161, "10.0.0.7:1", "/c"), kind);
  ASSERT_EQ(due.size(), 1u);
  EXPECT_EQ(due[0].subject, "/c");
  EXPECT_THAT(counter.Add(Refusal(162, "10.0.0.7:1", "/d"), kind), IsEmpty());
  due = counter.TakeAll();
  ASSERT_EQ(due.size(), 1u);
  EXPECT_EQ(due[0].times, 1u);
  EXPECT_EQ(due[0].subject, "/d");
  EXPECT_TRUE(counter.empty());
}

TEST(RefusalCounter, AClockThatIsPutBackHidesNothing) {
  RefusalCounter counter;
  const auto kind = grpc::StatusCode::UNAUTHENTICATED;
  counter.Add(Refusal(1e9, "10.0.0.7:1", "/a"), kind);
  counter.Add(Refusal(1e9, "10.0.0.7:1", "/b"), kind);
  const std::vector<AuditEntry> due = counter.Add(Refusal(100, "10.0.0.7:1", "/c"), kind);
  ASSERT_EQ(due.size(), 2u);
  EXPECT_EQ(due[0].subject, "/b");
  EXPECT_EQ(due[1].subject, "/c");
}

TEST(RefusalCounter, ManyKindsTakeNoMoreMemory) {
  RefusalCounter counter(/*max_kinds=*/2);
  size_t written = 0;
  for (int i = 0; i < 1000; ++i) {
    written += counter
                   .Add(Refusal(100, "10.0." + std::to_string(i) + ".1:1", "/a"),
                        grpc::StatusCode::UNAUTHENTICATED)
                   .size();
  }
  EXPECT_EQ(written, 3u);
  const std::vector<AuditEntry> rest = counter.TakeAll();
  ASSERT_EQ(rest.size(), 1u);
  EXPECT_EQ(rest[0].times, 997u);
}

TEST(AuditEntry, TextsAreOneBoundedLine) {
  AuditEntry entry;
  entry.who = "a\x1b[31mb\nc\xe2\x80\xae";
  entry.result = std::string(5000, 'x');
  TidyAuditEntry(&entry);
  EXPECT_EQ(entry.who, "a?[31mb c???");
  EXPECT_EQ(entry.result.size(), 512u);
}

TEST(Gate, PeersAreWrittenAsPeopleDo) {
  EXPECT_EQ(PeerAddress("ipv4:10.0.0.7:51312"), "10.0.0.7:51312");
  EXPECT_EQ(PeerAddress("ipv6:%5B::1%5D:51312"), "[::1]:51312");
  EXPECT_EQ(PeerAddress("ipv6:[fe80::1%25eth0]:1"), "[fe80::1%eth0]:1");
  EXPECT_EQ(PeerAddress("ipv6:%5B::ffff:127.0.0.1%5D:5"), "127.0.0.1:5");
  EXPECT_EQ(PeerAddress("unix:/run/x"), "unix:/run/x");
  EXPECT_EQ(PeerAddress("garbage%"), "garbage%");
  EXPECT_EQ(PeerAddress(""), "");
}

TEST(Gate, OnlyBearerTokensAreTaken) {
  EXPECT_EQ(BearerToken("Bearer abc"), "abc");
  EXPECT_EQ(BearerToken("bearer abc"), "abc");
  EXPECT_EQ(BearerToken("Bearer "), "");
  EXPECT_EQ(BearerToken("Bearer"), "");
  EXPECT_EQ(BearerToken("Basic abc"), "");
  EXPECT_EQ(BearerToken("abc"), "");
}

}  // namespace
}  // namespace swinfleet::coordinator
