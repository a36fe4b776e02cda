// The checkpoints of a run: which to go on from after which accident, retention, and processes
// killed while they save.
#include "core/checkpoint/run_checkpoints.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/core/checkpoint_test_util.h"

namespace swinfleet {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

const Tensors& Tiny() {
  static const Tensors tensors = Tensors::Make({{"w", Shape{3, 5}}}, 1);
  return tensors;
}

void FlipByte(const std::string& path) {
  std::string bytes = ReadBytes(path);
  bytes.back() ^= 1;
  WriteBytes(path, bytes);
}

// "attempt/step" of each.
std::vector<std::string> Brief(const std::vector<CheckpointInfo>& list) {
  std::vector<std::string> names;
  for (const CheckpointInfo& info : list) {
    names.push_back(std::to_string(info.attempt) + "/" + std::to_string(info.step) +
                    (info.problem.empty() ? "" : " no"));
  }
  return names;
}

std::string Chosen(const std::string& run, int attempt, const std::string& named = "") {
  const ResumeChoice choice = FindNewestGood(run, attempt, named);
  if (choice.reader == nullptr) return "none";
  const CheckpointMeta& meta = choice.reader->meta();
  return std::to_string(meta.attempt) + "/" + std::to_string(meta.step);
}

TEST(RunCheckpoints, ARunWithoutAny) {
  TempFolder run;
  EXPECT_THAT(ListCheckpoints(run.path()), IsEmpty());
  EXPECT_EQ(NextAttempt(run.path()), 1);
  const ResumeChoice choice = FindNewestGood(run.path(), 1, "");
  EXPECT_EQ(choice.reader, nullptr);
  EXPECT_THAT(choice.LogLines(10), ElementsAre("no checkpoint yet: starting from the beginning"));
}

TEST(RunCheckpoints, NewestFirstAndIncompleteOnesSaySo) {
  TempFolder run;
  Save(run.path(), 1, 100, Tiny());
  Save(run.path(), 1, 9, Tiny());
  BeginAttempt(run.path(), 2, 100);
  Save(run.path(), 2, 200, Tiny());
  WriteShard(CheckpointDir(run.path(), 2, 300), 0, 2, {});
  std::filesystem::create_directories(AttemptFolder(run.path(), 1) + "/step-5");
  std::filesystem::create_directories(AttemptFolder(run.path(), 1) + "/step-x");
  std::filesystem::create_directories(CheckpointsFolder(run.path()) + "/attempt-0");
  WriteBytes(CheckpointsFolder(run.path()) + "/attempt-notes", "mine");
  const std::vector<CheckpointInfo> list = ListCheckpoints(run.path());
  EXPECT_THAT(Brief(list), ElementsAre("2/300 no", "2/200", "1/100", "1/9"));
  EXPECT_THAT(list[0].problem, HasSubstr("no manifest.json"));
  EXPECT_THAT(Brief(ListCheckpoints(run.path(), 1)), ElementsAre("1/100", "1/9"));
  EXPECT_EQ(NextAttempt(run.path()), 3);
}

TEST(RunCheckpoints, EveryDamageFallsBackToTheOneBefore) {
  TempFolder run;
  for (int step = 1; step <= 5; ++step) Save(run.path(), 1, step * 10, Tiny());
  EXPECT_EQ(Chosen(run.path(), 2), "1/50");
  FlipByte(CheckpointDir(run.path(), 1, 50) + "/rank-00001-of-00002.safetensors");
  const std::string truncated =
      CheckpointDir(run.path(), 1, 40) + "/rank-00000-of-00002.safetensors";
  std::filesystem::resize_file(truncated, std::filesystem::file_size(truncated) - 1);
  std::filesystem::remove(CheckpointDir(run.path(), 1, 30) + "/manifest.json");
  EXPECT_EQ(Chosen(run.path(), 2), "1/20");
  const ResumeChoice choice = FindNewestGood(run.path(), 2, CheckpointDir(run.path(), 1, 50));
  ASSERT_NE(choice.reader, nullptr);
  EXPECT_EQ(choice.reader->meta().step, 20);
  const std::vector<std::string> lines = choice.LogLines(10);
  ASSERT_EQ(lines.size(), 4U);
  EXPECT_THAT(lines[0], AllOf(HasSubstr("step-00000050"), HasSubstr("damaged")));
  EXPECT_THAT(lines[1], AllOf(HasSubstr("step-00000040"), HasSubstr("truncated")));
  EXPECT_THAT(lines[2], AllOf(HasSubstr("step-00000030"), HasSubstr("no manifest.json")));
  EXPECT_THAT(lines[3], HasSubstr("going on from checkpoint"));
  EXPECT_THAT(choice.LogLines(2),
              ElementsAre(lines[0], "and 2 more checkpoints were passed over", lines[3]));
  EXPECT_THAT(choice.LogLines(1), ElementsAre("and 3 more checkpoints were passed over", lines[3]));
  for (int step : {10, 20}) {
    std::filesystem::remove(CheckpointDir(run.path(), 1, step) +
                            "/rank-00000-of-00002.safetensors");
  }
  EXPECT_EQ(Chosen(run.path(), 2), "none");
}

TEST(RunCheckpoints, TheNamedCheckpointComesFirst) {
  TempFolder run;
  for (int step : {10, 20, 30}) Save(run.path(), 1, step, Tiny());
  EXPECT_EQ(Chosen(run.path(), 2, CheckpointDir(run.path(), 1, 20)), "1/20");
  EXPECT_EQ(Chosen(run.path(), 2, CheckpointDir(run.path(), 1, 20) + "/"), "1/20");
  EXPECT_EQ(Chosen(run.path(), 2, "attempt-001/step-00000020"), "1/20");
  EXPECT_EQ(Chosen(run.path(), 2, "checkpoints/attempt-001/step-00000020"), "1/20");
  // Bad, or deleted when newer ones were saved without the coordinator's knowledge: the newest.
  FlipByte(CheckpointDir(run.path(), 1, 20) + "/manifest.json");
  EXPECT_EQ(Chosen(run.path(), 2, CheckpointDir(run.path(), 1, 20)), "1/30");
  std::filesystem::remove_all(CheckpointDir(run.path(), 1, 20));
  EXPECT_EQ(Chosen(run.path(), 2, CheckpointDir(run.path(), 1, 20)), "1/30");
  EXPECT_THAT(FindNewestGood(run.path(), 2, CheckpointDir(run.path(), 1, 20)).LogLines(5)[0],
              HasSubstr("its folder does not exist"));
  for (const std::string& wrong :
       {std::string("/elsewhere/checkpoints/attempt-001/step-00000020"), std::string("x"),
        CheckpointDir(run.path(), 2, 20), run / "checkpoints"}) {
    EXPECT_THAT(MessageOf([&] { FindNewestGood(run.path(), 2, wrong); }),
                HasSubstr("none of an older attempt"))
        << wrong;
  }
}

TEST(RunCheckpoints, WhatAnOlderAttemptStillWritesIsIgnored) {
  TempFolder run;
  BeginAttempt(run.path(), 1, 0);
  Save(run.path(), 1, 100, Tiny());
  BeginAttempt(run.path(), 2, 100);
  Save(run.path(), 2, 200, Tiny());
  // Attempt 1 is still alive somewhere.
  Save(run.path(), 1, 300, Tiny());
  EXPECT_EQ(Chosen(run.path(), 3), "2/200");
  const ResumeChoice choice = FindNewestGood(run.path(), 3, "");
  ASSERT_EQ(choice.rejected.size(), 1U);
  EXPECT_THAT(choice.rejected[0].problem, HasSubstr("attempt 2 went on from step 100 without it"));
  FlipByte(CheckpointDir(run.path(), 2, 200) + "/rank-00000-of-00002.safetensors");
  EXPECT_EQ(Chosen(run.path(), 3), "1/100");
  // Nor does an attempt see what itself or a newer one wrote.
  EXPECT_EQ(Chosen(run.path(), 1), "none");
  EXPECT_EQ(Chosen(run.path(), 2), "1/300");
  // The rule reaches over several attempts: the third one went back to the start.
  BeginAttempt(run.path(), 3, 0);
  Save(run.path(), 3, 50, Tiny());
  EXPECT_EQ(Chosen(run.path(), 4), "3/50");
  std::filesystem::remove_all(CheckpointDir(run.path(), 3, 50));
  EXPECT_EQ(Chosen(run.path(), 4), "none");
  // Except on the coordinator's word.
  EXPECT_EQ(Chosen(run.path(), 4, CheckpointDir(run.path(), 1, 100)), "1/100");
}

TEST(RunCheckpoints, ImportedWeightsAreWhereTheFirstAttemptBegins) {
  TempFolder run;
  Save(run.path(), 0, 0, Tiny());
  EXPECT_EQ(NextAttempt(run.path()), 1);
  EXPECT_EQ(Chosen(run.path(), 1), "0/0");
  BeginAttempt(run.path(), 1, 0);
  // It died before it saved anything.
  EXPECT_EQ(Chosen(run.path(), 2), "0/0");
  EXPECT_EQ(Chosen(run.path(), 2, CheckpointDir(run.path(), 0, 0)), "0/0");
  Save(run.path(), 1, 10, Tiny());
  EXPECT_EQ(Chosen(run.path(), 2), "1/10");
}

TEST(RunCheckpoints, AnAttemptBeginsOnce) {
  TempFolder run;
  BeginAttempt(run.path(), 4, 0);
  EXPECT_EQ(NextAttempt(run.path()), 5);
  EXPECT_THAT(MessageOf([&] { BeginAttempt(run.path(), 4, 0); }), HasSubstr("has begun before"));
  CheckAttemptFolder(run.path(), 4);
  EXPECT_THAT(MessageOf([&] { CheckAttemptFolder(run.path(), 5); }),
              HasSubstr("the run folder " + run.path() + " has vanished"));
  // A damaged record is passed over.
  WriteBytes(AttemptFolder(run.path(), 4) + "/attempt.json", "{");
  Save(run.path(), 3, 10, Tiny());
  EXPECT_EQ(Chosen(run.path(), 5), "3/10");
}

TEST(RunRetention, KeepsTheNewestAndEveryNth) {
  TempFolder run;
  BeginAttempt(run.path(), 1, 0);
  for (int step = 100; step <= 500; step += 50) Save(run.path(), 1, step, Tiny());
  BeginAttempt(run.path(), 2, 500);
  for (int step = 550; step <= 650; step += 50) Save(run.path(), 2, step, Tiny());
  const RetentionReport report = ApplyRetention(run.path(), 2, 4, 200);
  EXPECT_THAT(report.problems, IsEmpty());
  EXPECT_EQ(report.deleted.size(), 6U);
  EXPECT_THAT(Brief(ListCheckpoints(run.path())),
              ElementsAre("2/650", "2/600", "2/550", "1/500", "1/400", "1/200"));
  EXPECT_THAT(ApplyRetention(run.path(), 2, 1, 0).deleted.size(), 5U);
  EXPECT_THAT(Brief(ListCheckpoints(run.path())), ElementsAre("2/650"));
  EXPECT_THAT(ApplyRetention(run.path(), 2, 1, 0).deleted, IsEmpty());
  EXPECT_EQ(Chosen(run.path(), 3), "2/650");
}

TEST(RunRetention, ClearsOldRuinsButNotTheOneBeingWritten) {
  TempFolder run;
  const auto unfinished = [&](int attempt, int64_t step) {
    WriteShard(CheckpointDir(run.path(), attempt, step), 0, 2, Tiny().Whole());
  };
  BeginAttempt(run.path(), 1, 0);
  Save(run.path(), 1, 100, Tiny());
  unfinished(1, 50);
  unfinished(1, 200);
  BeginAttempt(run.path(), 2, 100);
  unfinished(2, 150);
  // Nothing is complete in attempt 2: only what is older than step 100 goes.
  ApplyRetention(run.path(), 2, 1, 0);
  EXPECT_THAT(Brief(ListCheckpoints(run.path())), ElementsAre("1/200 no", "2/150 no", "1/100"));
  Save(run.path(), 2, 300, Tiny());
  // A straggler of attempt 1 does not count among the newest, and goes with the others.
  Save(run.path(), 1, 250, Tiny());
  unfinished(2, 400);
  unfinished(3, 10);
  ApplyRetention(run.path(), 2, 1, 0);
  EXPECT_THAT(Brief(ListCheckpoints(run.path())), ElementsAre("2/400 no", "2/300", "3/10 no"));
}

TEST(RunRetention, WithoutAttemptRecordsTheOneBeingWrittenStays) {
  TempFolder run;
  Save(run.path(), 1, 1000, Tiny());
  WriteShard(CheckpointDir(run.path(), 2, 750), 0, 2, Tiny().Whole());
  EXPECT_THAT(ApplyRetention(run.path(), 2, 1, 0).deleted, IsEmpty());
}

TEST(RunRetention, DeletesTheManifestFirst) {
  TempFolder run;
  for (int step : {1, 2}) Save(run.path(), 1, step, Tiny());
  // The process dies, as it were, after each system call of the deletion.
  class DyingOps : public FileOps {
   public:
    int Unlink(const std::string& path) override {
      unlinked.push_back(path);
      return FileOps::Unlink(path);
    }
    int Fsync(int) override { return -EIO; }
    std::vector<std::string> unlinked;
  };
  DyingOps ops;
  const RetentionReport report = ApplyRetention(run.path(), 1, 1, 0, ops);
  EXPECT_THAT(ops.unlinked, ElementsAre(CheckpointDir(run.path(), 1, 1) + "/manifest.json"));
  ASSERT_EQ(report.problems.size(), 1U);
  EXPECT_THAT(report.problems[0], HasSubstr("fsync"));
  EXPECT_THAT(Brief(ListCheckpoints(run.path())), ElementsAre("1/2", "1/1 no"));
  EXPECT_EQ(ApplyRetention(run.path(), 1, 1, 0).deleted.size(), 1U);
}

TEST(RunRetention, AFailedSaveIsDiscarded) {
  TempFolder run;
  const std::string good = Save(run.path(), 1, 1, Tiny());
  const std::string failed = CheckpointDir(run.path(), 1, 2);
  WriteShard(failed, 0, 2, Tiny().Whole());
  EXPECT_EQ(DiscardUnfinished(failed), "");
  EXPECT_FALSE(std::filesystem::exists(failed));
  EXPECT_EQ(DiscardUnfinished(failed), "");
  EXPECT_EQ(DiscardUnfinished(good), "");
  EXPECT_EQ(Chosen(run.path(), 2), "1/1");
}

// Saves step after step and tells each one that was committed, until it is killed.
[[noreturn]] void SaveForever(const std::string& run, int attempt, int64_t step, int pipe) {
  while (true) {
    ++step;
    Save(run, attempt, step, Tensors::Make({{"w", Shape{60, 50}}, {"b", Shape{7}}}, step));
    if (::write(pipe, &step, sizeof(step)) != sizeof(step)) _exit(1);
    ApplyRetention(run, attempt, 2, 0);
  }
}

TEST(RunCheckpoints, AKilledWriterLosesNothingThatItCommitted) {
  TempFolder run;
  std::mt19937 random(17);
  int64_t last = 0;
  for (int attempt = 1; attempt <= 16; ++attempt) {
    int pipe[2];
    ASSERT_EQ(::pipe(pipe), 0);
    BeginAttempt(run.path(), attempt, last);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) SaveForever(run.path(), attempt, last, pipe[1]);
    ::close(pipe[1]);
    int64_t committed = last;
    // Every other child gets as far as one checkpoint; the others may die before it.
    if (attempt % 2 == 0) {
      ASSERT_EQ(::read(pipe[0], &committed, sizeof(committed)), sizeof(committed));
    }
    ::usleep(random() % 50000);
    ASSERT_EQ(::kill(child, SIGKILL), 0);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << status;
    while (::read(pipe[0], &committed, sizeof(committed)) == sizeof(committed)) {
    }
    ::close(pipe[0]);

    const ResumeChoice choice = FindNewestGood(run.path(), attempt + 1, "");
    for (const CheckpointInfo& info : choice.rejected) {
      EXPECT_THAT(info.problem, HasSubstr("no manifest.json"));
    }
    if (committed == 0 && choice.reader == nullptr) continue;
    ASSERT_NE(choice.reader, nullptr);
    const int64_t step = choice.reader->meta().step;
    // Killed between the rename and the word about it: one more than was told.
    ASSERT_TRUE(step == committed || step == committed + 1) << step << " " << committed;
    const Tensors expected = Tensors::Make({{"w", Shape{60, 50}}, {"b", Shape{7}}}, step);
    for (const auto& [name, values] : expected.values) {
      ASSERT_EQ(ReadAll(*choice.reader, name), values) << name;
    }
    last = step;
  }
  EXPECT_GE(last, 8);
}

}  // namespace
}  // namespace swinfleet
