#include "worker/outbox.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "worker/utf8.h"

namespace swinfleet {
namespace {

using testing::HasSubstr;
using namespace std::chrono_literals;
using Time = Outbox::Clock::time_point;

const Time kStart = Time(1h);

Outbox MakeOutbox() {
  Hello identity;
  identity.set_rank(3);
  return Outbox(identity, 2s);
}

// What is due at `now`, one letter a message.
std::string Drain(Outbox* outbox, Time now) {
  std::string kinds;
  WorkerMessage message;
  while (outbox->Next(now, &message)) {
    kinds += message.has_checkpoint()  ? 'c'
             : message.has_log()       ? 'l'
             : message.has_progress()  ? 'p'
             : message.has_ended()     ? 'e'
             : message.has_stuck()     ? 's'
             : message.has_trace()     ? 't'
             : message.has_heartbeat() ? 'h'
                                       : '?';
  }
  return kinds;
}

AttemptEnded EndOf(const std::string& job_id, uint32_t attempt) {
  AttemptEnded ended;
  ended.set_job_id(job_id);
  ended.set_attempt(attempt);
  return ended;
}

TEST(Outbox, HeartbeatsKeepTheirPeriodAndFollowChangesAtOnce) {
  Hello identity;
  Outbox outbox(identity, 2s);
  outbox.OnWelcome(1);
  EXPECT_EQ(Drain(&outbox, kStart), "h");
  EXPECT_EQ(Drain(&outbox, kStart + 900ms), "");
  EXPECT_EQ(outbox.NextDue(), kStart + 1s);
  EXPECT_EQ(Drain(&outbox, kStart + 1s), "h");
  outbox.BeginAttempt("j", 1);
  outbox.SetPhase(Phase::kTrain);
  WorkerMessage message;
  ASSERT_TRUE(outbox.Next(kStart + 1001ms, &message));
  EXPECT_EQ(message.heartbeat().phase(), "train");
  EXPECT_EQ(message.heartbeat().job_id(), "j");
  EXPECT_GT(message.heartbeat().memory_bytes(), 1u << 20);
  outbox.SetPhase(Phase::kTrain);
  EXPECT_EQ(Drain(&outbox, kStart + 1002ms), "");
}

TEST(Outbox, EverythingOfAnAttemptComesBeforeItsEnd) {
  Outbox outbox = MakeOutbox();
  outbox.OnWelcome(60);
  outbox.BeginAttempt("j", 1);
  Drain(&outbox, kStart);
  outbox.logs().Append("INFO", "hello", 1);
  outbox.SetProgress(Progress());
  outbox.SetCheckpoint("/c", 5);
  outbox.EndAttempt(EndOf("j", 1));
  EXPECT_EQ(Drain(&outbox, kStart), "clpeh");
}

// Of the last words of a rank the first is that it is stuck: the process is about to end.
TEST(Outbox, AStuckRankSaysSoFirst) {
  Outbox outbox = MakeOutbox();
  outbox.OnWelcome(60);
  outbox.BeginAttempt("j", 4);
  outbox.SetOwnWork(12.5, 10);
  WorkerMessage message;
  ASSERT_TRUE(outbox.Next(kStart, &message));
  EXPECT_EQ(message.heartbeat().own_seconds(), 12.5);
  EXPECT_EQ(message.heartbeat().own_steps(), 10u);
  Drain(&outbox, kStart);
  outbox.logs().Append("ERROR", "stuck", 1);
  outbox.SetProgress(Progress());
  StuckReport report;
  report.set_collective("reduce-scatter head");
  outbox.SetStuck(report);
  EXPECT_FALSE(outbox.AllOut());
  ASSERT_TRUE(outbox.Next(kStart, &message));
  EXPECT_EQ(message.stuck().job_id(), "j");
  EXPECT_EQ(message.stuck().attempt(), 4u);
  EXPECT_EQ(message.stuck().collective(), "reduce-scatter head");
  // The connection broke: it may not have arrived.
  outbox.OnDisconnected();
  outbox.OnWelcome(60);
  EXPECT_EQ(Drain(&outbox, kStart), "slph");
  EXPECT_TRUE(outbox.AllOut());
}

TEST(Outbox, AnEndIsRepeatedUntilItIsAcknowledged) {
  Outbox outbox = MakeOutbox();
  outbox.OnWelcome(60);
  outbox.BeginAttempt("j", 2);
  outbox.EndAttempt(EndOf("j", 2));
  EXPECT_EQ(Drain(&outbox, kStart), "eh");
  EXPECT_EQ(outbox.MakeHello().job_id(), "j");
  EXPECT_EQ(outbox.NextDue(), kStart + 2s);
  EXPECT_EQ(Drain(&outbox, kStart + 1s), "");
  EXPECT_EQ(Drain(&outbox, kStart + 2s), "e");
  EXPECT_FALSE(outbox.Acknowledge("j", 1));
  EXPECT_FALSE(outbox.AllOut());
  EXPECT_TRUE(outbox.Acknowledge("j", 2));
  EXPECT_EQ(Drain(&outbox, kStart + 3s), "h");
  EXPECT_EQ(Drain(&outbox, kStart + 10s), "");
  EXPECT_TRUE(outbox.AllOut());
  EXPECT_EQ(outbox.MakeHello().job_id(), "");
}

TEST(Outbox, AnotherConnectionHearsTheNewestOfAll) {
  Outbox outbox = MakeOutbox();
  outbox.OnWelcome(60);
  outbox.BeginAttempt("j", 1);
  Progress progress;
  for (int step = 1; step <= 3; ++step) {
    progress.set_step(step);
    outbox.SetProgress(progress);
    outbox.SetCheckpoint("/c" + std::to_string(step), step);
  }
  EXPECT_EQ(Drain(&outbox, kStart), "cph");
  outbox.OnDisconnected();
  const Hello hello = outbox.MakeHello();
  EXPECT_EQ(hello.job_id(), "j");
  EXPECT_EQ(hello.attempt(), 1u);
  EXPECT_EQ(hello.rank(), 3u);
  outbox.OnWelcome(60);
  WorkerMessage message;
  ASSERT_TRUE(outbox.Next(kStart, &message));
  EXPECT_EQ(message.checkpoint().path(), "/c3");
  ASSERT_TRUE(outbox.Next(kStart, &message));
  EXPECT_EQ(message.progress().progress().step(), 3u);
  EXPECT_EQ(message.progress().job_id(), "j");
}

TEST(Outbox, WhatATraceHasComeToIsToldBeforeTheRankIsIdleAndOnEachConnection) {
  Outbox outbox = MakeOutbox();
  outbox.OnWelcome(60);
  outbox.BeginAttempt("j", 4);
  EXPECT_EQ(Drain(&outbox, kStart), "h");
  TraceReport report;
  report.set_request_id("t");
  report.mutable_trace()->set_path("/r/t");
  outbox.SetTrace(report);
  EXPECT_FALSE(outbox.AllOut());
  // Its attempt ends before it went out.
  outbox.EndAttempt(std::nullopt);
  WorkerMessage message;
  ASSERT_TRUE(outbox.Next(kStart, &message));
  EXPECT_EQ(message.trace().job_id(), "j");
  EXPECT_EQ(message.trace().attempt(), 4u);
  EXPECT_EQ(message.trace().request_id(), "t");
  EXPECT_EQ(message.trace().trace().path(), "/r/t");
  EXPECT_EQ(Drain(&outbox, kStart), "h");
  EXPECT_TRUE(outbox.AllOut());
  outbox.OnDisconnected();
  outbox.OnWelcome(60);
  EXPECT_EQ(Drain(&outbox, kStart), "th");
  outbox.BeginAttempt("j", 5);
  EXPECT_EQ(Drain(&outbox, kStart), "h");
}

TEST(Outbox, LogLinesThatDidNotGoOutComeAgainFirst) {
  Outbox outbox = MakeOutbox();
  outbox.OnWelcome(60);
  outbox.BeginAttempt("j", 1);
  outbox.logs().Append("INFO", "first", 1);
  WorkerMessage message;
  ASSERT_TRUE(outbox.Next(kStart, &message));
  ASSERT_TRUE(message.has_log());
  outbox.logs().Append("INFO", "second", 1);
  outbox.OnDisconnected();
  outbox.OnWelcome(60);
  ASSERT_TRUE(outbox.Next(kStart, &message));
  ASSERT_EQ(message.log().lines_size(), 1);
  EXPECT_EQ(message.log().lines(0).text(), "first");
  EXPECT_EQ(message.log().lines(0).rank(), 3u);
  ASSERT_TRUE(outbox.Next(kStart, &message));
  EXPECT_EQ(message.log().lines(0).text(), "second");
}

TEST(Outbox, ANewAttemptDropsAnOldEnd) {
  Outbox outbox = MakeOutbox();
  EXPECT_TRUE(outbox.BeginAttempt("j", 1));
  outbox.EndAttempt(EndOf("j", 1));
  EXPECT_FALSE(outbox.BeginAttempt("k", 1));
  outbox.OnWelcome(60);
  EXPECT_EQ(Drain(&outbox, kStart), "h");
}

TEST(Outbox, RanksWithoutAnEndAreIdleAtOnce) {
  Outbox outbox = MakeOutbox();
  outbox.BeginAttempt("j", 1);
  outbox.EndAttempt(std::nullopt);
  EXPECT_EQ(outbox.MakeHello().job_id(), "");
  outbox.OnWelcome(std::numeric_limits<double>::quiet_NaN());
  WorkerMessage message;
  ASSERT_TRUE(outbox.Next(kStart, &message));
  EXPECT_EQ(message.heartbeat().phase(), "idle");
  EXPECT_EQ(message.heartbeat().job_id(), "");
  EXPECT_EQ(outbox.NextDue(), kStart + 2s);
}

// ---- LogQueue ----

LogQueue::Limits SmallLimits() {
  return {.capacity = 3, .lines_per_second = 1, .burst = 100, .line_bytes = 8};
}

TEST(LogQueue, KeepsLinesOfAttemptsOnly) {
  LogQueue queue(1, LogQueue::Limits{});
  EXPECT_FALSE(queue.Append("ERROR", "before", 1));
  queue.BeginAttempt("j", 4);
  EXPECT_TRUE(queue.Append("INFO", "within", 2));
  queue.EndAttempt();
  EXPECT_FALSE(queue.Append("ERROR", "after", 3));
  queue.BeginAttempt("j", 5);
  EXPECT_TRUE(queue.Append("WARNING", "next", 4));
  LogReport report;
  ASSERT_TRUE(queue.Take(10, &report));
  EXPECT_EQ(report.attempt(), 4u);
  ASSERT_EQ(report.lines_size(), 1);
  EXPECT_EQ(report.lines(0).text(), "within");
  EXPECT_EQ(report.lines(0).time(), 2);
  EXPECT_EQ(report.lines(0).rank(), 1u);
  EXPECT_EQ(report.lines(0).severity(), "INFO");
  ASSERT_TRUE(queue.Take(10, &report));
  EXPECT_EQ(report.attempt(), 5u);
  EXPECT_FALSE(queue.Take(10, &report));
}

TEST(LogQueue, TheOldestGiveWayAndAreCounted) {
  LogQueue queue(0, SmallLimits());
  queue.BeginAttempt("j", 1);
  for (int i = 0; i < 5; ++i) queue.Append("INFO", std::to_string(i), 1);
  LogReport report;
  ASSERT_TRUE(queue.Take(10, &report));
  ASSERT_EQ(report.lines_size(), 4);
  EXPECT_THAT(report.lines(0).text(), HasSubstr("2 lines of this rank were dropped"));
  EXPECT_EQ(report.lines(1).text(), "2");
  EXPECT_EQ(report.lines(3).text(), "4");
}

TEST(LogQueue, AFloodOfInfoIsCutButNoErrors) {
  LogQueue::Limits limits = SmallLimits();
  limits.burst = 2;
  limits.capacity = 100;
  LogQueue queue(0, limits);
  queue.BeginAttempt("j", 1);
  int kept = 0;
  for (int i = 0; i < 10; ++i) kept += queue.Append("INFO", "x", 5) ? 1 : 0;
  EXPECT_EQ(kept, 2);
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(queue.Append("ERROR", "x", 5));
  EXPECT_TRUE(queue.Append("INFO", "x", 6.5));
  EXPECT_FALSE(queue.Append("INFO", "x", 6.5));
}

TEST(LogQueue, ReportsAreBounded) {
  LogQueue queue(0, LogQueue::Limits{});
  queue.BeginAttempt("j", 1);
  for (int i = 0; i < 10; ++i) queue.Append("ERROR", "x", 5);
  LogReport report;
  ASSERT_TRUE(queue.Take(4, &report));
  EXPECT_EQ(report.lines_size(), 4);
  EXPECT_FALSE(queue.empty());
}

// ---- ToUtf8 ----

TEST(ToUtf8, LeavesTextAndReplacesTheRest) {
  const std::string good = "a\xC3\xA4\xE2\x82\xAC\xF0\x9F\x98\x80z";
  EXPECT_EQ(ToUtf8(good, 100), good);
  EXPECT_EQ(ToUtf8("\xFFx\xC3", 100), "?x?");
  EXPECT_EQ(ToUtf8("\xC0\x80", 100), "??");            // overlong
  EXPECT_EQ(ToUtf8("\xED\xA0\x80", 100), "???");       // a surrogate
  EXPECT_EQ(ToUtf8("\xF4\x90\x80\x80", 100), "????");  // beyond U+10FFFF
  EXPECT_EQ(ToUtf8("a\xC3\xA4"
                   "b",
                   2),
            "a? ...");
  EXPECT_EQ(ToUtf8("", 5), "");
}

}  // namespace
}  // namespace swinfleet
