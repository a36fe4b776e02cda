#include "coordinator/cli/format.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <clocale>
#include <cmath>
#include <limits>

#include "coordinator/cli/client.h"
#include "coordinator/cli/programs.h"
#include "coordinator/cli/show.h"
#include "coordinator/supervisor/escape.h"
#include "proto/text.h"

namespace swinfleet {
namespace {

using testing::ElementsAre;

TEST(Escape, LeavesTextAndWritesOutTheRest) {
  EXPECT_EQ(EscapeForTerminal("plain ümlaut 日本"), "plain ümlaut 日本");
  EXPECT_EQ(EscapeForTerminal("a\x1b]0;x\x07\r\n\tb\x7f"), "a\\x1b]0;x\\x07\\x0d\\n\\x09b\\x7f");
  EXPECT_EQ(EscapeForTerminal("\xc2\x9b"
                              "31m"),
            "\\x9b31m");
  EXPECT_EQ(EscapeForTerminal("\xe2\x80\xae"
                              "abc"),
            "\\u{202e}abc");
  EXPECT_EQ(EscapeForTerminal("\xff\xc3"), "\\xff\\xc3");
  EXPECT_EQ(EscapeForTerminal("\xed\xa0\x80"), "\\xed\\xa0\\x80");
  EXPECT_EQ(EscapeForTerminal("\xc0\x9b"), "\\xc0\\x9b");
  EXPECT_EQ(EscapeForTerminal("ü", false), "\\u{fc}");
}

TEST(Format, Durations) {
  EXPECT_EQ(FormatDuration(0), "0s");
  EXPECT_EQ(FormatDuration(59.6), "1m00s");
  EXPECT_EQ(FormatDuration(192), "3m12s");
  EXPECT_EQ(FormatDuration(3720), "1h02m");
  EXPECT_EQ(FormatDuration(86400 * 2 + 3600 * 3), "2d03h");
  EXPECT_EQ(FormatDuration(-1), "?");
  EXPECT_EQ(FormatDuration(std::nan("")), "?");
  EXPECT_EQ(FormatDuration(std::numeric_limits<double>::infinity()), "?");
}

TEST(Format, Bytes) {
  EXPECT_EQ(FormatBytes(0), "-");
  EXPECT_EQ(FormatBytes(3 << 20), "3.0 MiB");
  EXPECT_EQ(FormatBytes(uint64_t{3} << 30), "3.0 GiB");
  EXPECT_EQ(FormatBytes(uint64_t{700} << 30), "700 GiB");
}

TEST(Format, TimesThatAreNone) {
  EXPECT_EQ(FormatTime(0), "-");
  EXPECT_EQ(FormatTime(std::nan("")), "-");
  EXPECT_EQ(FormatTime(1e300), "-");
}

TEST(Format, BarsHaveTheirWidthWhateverTheShare) {
  std::setlocale(LC_CTYPE, "C.UTF-8");
  Screen screen;
  for (const bool unicode : {false, true}) {
    screen.unicode = unicode;
    for (const double share : {0.0, 0.001, 0.333, 0.5, 0.999, 1.0, 7.0, -1.0, std::nan("")}) {
      EXPECT_EQ(DisplayWidth(FormatBar(share, 20, screen)), 20) << share;
    }
  }
  screen.unicode = false;
  EXPECT_EQ(FormatBar(0.5, 8, screen), "####----");
}

TEST(Format, ShortensByColumns) {
  std::setlocale(LC_CTYPE, "C.UTF-8");
  const Screen screen;
  EXPECT_EQ(Shorten("abcdef", 6, screen), "abcdef");
  EXPECT_EQ(Shorten("abcdef", 5, screen), "abcd…");
  EXPECT_EQ(Shorten("日本語", 5, screen), "日本…");
  EXPECT_EQ(Shorten("日本語", 4, screen), "日…");
  EXPECT_EQ(Shorten("abc", 1, screen), "…");
  EXPECT_EQ(Shorten("abc", 0, screen), "");
}

TEST(Format, TablesAlignWideCharacters) {
  std::setlocale(LC_CTYPE, "C.UTF-8");
  EXPECT_EQ(FormatTable({{"A", "B"}, {"日本", "x"}, {"c", "y"}}), "A     B\n日本  x\nc     y\n");
}

TEST(Format, FlowsItems) {
  EXPECT_THAT(FlowItems({"aaa", "bbb", "ccc"}, 9), ElementsAre("aaa   bbb", "ccc"));
  EXPECT_THAT(FlowItems({"aaaaaaaaaaaa", "b"}, 9), ElementsAre("aaaaaaaaaaaa", "b"));
}

TEST(Show, WatchBlockFitsAnyWidth) {
  std::setlocale(LC_CTYPE, "C.UTF-8");
  JobStatus job;
  job.set_job_id("job-with-a-long-name");
  job.mutable_spec()->set_name("日本語の名前");
  job.set_state(RUNNING);
  job.set_reason("a reason that is rather long, longer than most terminals are wide, so to say");
  job.mutable_progress()->set_step(1234567);
  job.mutable_progress()->set_total_steps(7654321);
  job.mutable_progress()->set_loss(std::nan(""));
  Screen screen;
  for (int width = 1; width < 200; ++width) {
    screen.width = width;
    for (const std::string& line : WatchBlock(job, screen)) {
      EXPECT_LE(DisplayWidth(line), std::max(width - 1, 10)) << line;
    }
  }
}

TEST(Show, StatesOfANewerPeerAreShown) {
  EXPECT_EQ(StateName(static_cast<JobState>(77)), "state 77");
  EXPECT_FALSE(IsEnded(static_cast<JobState>(77)));
}

TEST(Words, NearestIsTheFirstOfTheClosest) {
  EXPECT_EQ(NearestWord("sumbit", {"status", "submit"}), "submit");
  EXPECT_EQ(NearestWord("qqqqqq", {"status", "submit"}), "");
  EXPECT_EQ(NearestWord("", {}), "");
  EXPECT_EQ(EditDistance("kitten", "sitting"), 3u);
  EXPECT_EQ(EditDistance("", "abc"), 3u);
}

constexpr unsigned long long kMemory = 4ull << 30;

TEST(Programs, OutputAndEndAreTold) {
  const ProgramResult result =
      RunBounded({"/bin/sh", "-c", "echo out; echo err >&2; exit 3"}, 10, kMemory);
  EXPECT_EQ(result.kind, ProgramResult::Kind::kExited);
  EXPECT_EQ(result.code, 3);
  EXPECT_EQ(result.output, "out\nerr\n");
  const ProgramResult killed = RunBounded({"/bin/sh", "-c", "kill -9 $$"}, 10, kMemory);
  EXPECT_EQ(killed.kind, ProgramResult::Kind::kSignalled);
  EXPECT_EQ(killed.code, 9);
  EXPECT_EQ(RunBounded({"/no/such/program"}, 10, kMemory).code, 127);
}

TEST(Programs, TimeIsBoundedAlsoForChildrenAndSilence) {
  for (const char* script : {"sleep 1000 & sleep 1000", "exec >&- 2>&-; sleep 1000",
                             "sleep 1000 & exit 0", "while :; do echo x; done"}) {
    const auto start = std::chrono::steady_clock::now();
    EXPECT_EQ(RunBounded({"/bin/sh", "-c", script}, 0.3, kMemory).kind,
              ProgramResult::Kind::kTimedOut)
        << script;
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(3)) << script;
  }
}

TEST(Programs, OutputIsBounded) {
  const ProgramResult result =
      RunBounded({"/bin/sh", "-c", "yes | head -c 1000000; exit 4"}, 10, kMemory);
  EXPECT_EQ(result.code, 4);
  EXPECT_EQ(result.output.size(), 65536u);
}

TEST(Address, Forms) {
  for (const char* good : {"a:1", "127.0.0.1:7077", "[::1]:7077", "node-1.cluster:65535"}) {
    EXPECT_TRUE(IsValidAddress(good)) << good;
  }
  for (const char* bad : {"", ":", "a", "a:", "a:-1", "unix:/x:1", "http://a:1", "[]:1", "a:1:2"}) {
    EXPECT_FALSE(IsValidAddress(bad)) << bad;
  }
}

}  // namespace
}  // namespace swinfleet
