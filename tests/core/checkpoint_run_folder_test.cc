// Whose a run folder is.
#include <sys/wait.h>
#include <unistd.h>

#include <thread>

#include "core/checkpoint/run_folder.h"
#include "tests/core/checkpoint_test_util.h"

namespace swinfleet {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(RunFolder, BelongsToOneJob) {
  TempFolder folder;
  const std::string run = folder / "deep/run";
  EXPECT_EQ(ClaimRunFolder(run, "job-1", "spec: 1\n"), RunFolderState::kNew);
  EXPECT_THAT(NamesOf(run), ElementsAre("run.json"));
  EXPECT_EQ(ClaimRunFolder(run, "job-1", "spec: 1\n"), RunFolderState::kClaimedBefore);
  EXPECT_THAT(MessageOf([&] { ClaimRunFolder(run, "job-2", "spec: 1\n"); }),
              AllOf(HasSubstr(run), HasSubstr("belongs to job \"job-1\""),
                    HasSubstr("choose another run_dir")));
  EXPECT_THAT(NamesOf(run), ElementsAre("run.json"));
}

TEST(RunFolder, LocalRunsAreToldApartByTheirSpecification) {
  TempFolder run;
  EXPECT_EQ(ClaimRunFolder(run.path(), kLocalJobId, "lr: 1\n"), RunFolderState::kNew);
  EXPECT_EQ(ClaimRunFolder(run.path(), kLocalJobId, "lr: 1\n"), RunFolderState::kClaimedBefore);
  EXPECT_THAT(MessageOf([&] { ClaimRunFolder(run.path(), kLocalJobId, "lr: 2\n"); }),
              HasSubstr("another job specification"));
  EXPECT_THAT(MessageOf([&] { ClaimRunFolder(run.path(), "job-7", "lr: 1\n"); }),
              HasSubstr("belongs to job \"local\""));
}

TEST(RunFolder, WhoseItIsCanBeAskedWithoutAClaim) {
  TempFolder folder;
  const std::string run = folder / "run";
  EXPECT_FALSE(OwnsRunFolder(run, kLocalJobId, "lr: 1\n"));
  EXPECT_THAT(NamesOf(folder.path()), IsEmpty());
  ClaimRunFolder(run, kLocalJobId, "lr: 1\n");
  EXPECT_TRUE(OwnsRunFolder(run, kLocalJobId, "lr: 1\n"));
  EXPECT_FALSE(OwnsRunFolder(run, kLocalJobId, "lr: 2\n"));
  EXPECT_FALSE(OwnsRunFolder(run, "job-7", "lr: 1\n"));
  EXPECT_FALSE(OwnsRunFolder("", kLocalJobId, "lr: 1\n"));
  ClaimRunFolder(folder / "other", "job-7", "lr: 1\n");
  EXPECT_TRUE(OwnsRunFolder(folder / "other", "job-7", "lr: 2\n"));
  std::ofstream(run + "/run.json") << "{";
  EXPECT_THAT(MessageOf([&] { OwnsRunFolder(run, kLocalJobId, "lr: 1\n"); }), HasSubstr("damaged"));
}

TEST(RunFolder, OfManyClaimantsOneWins) {
  TempFolder run;
  std::atomic<int> won = 0;
  std::atomic<int> refused = 0;
  std::vector<pid_t> children;
  // Processes, since each has one claim in the making.
  for (int i = 0; i < 12; ++i) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      const std::string message =
          MessageOf([&] { ClaimRunFolder(run.path(), "job-" + std::to_string(i), "s"); });
      _exit(message.empty() ? 0 : message.find("belongs to job") != std::string::npos ? 1 : 2);
    }
    children.push_back(child);
  }
  for (const pid_t child : children) {
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFEXITED(status));
    ASSERT_LE(WEXITSTATUS(status), 1);
    ++(WEXITSTATUS(status) == 0 ? won : refused);
  }
  EXPECT_EQ(won, 1);
  EXPECT_EQ(refused, 11);
  EXPECT_THAT(NamesOf(run.path()), ElementsAre("run.json"));
}

TEST(RunFolder, PlacesThatCannotBeWritten) {
  TempFolder folder;
  WriteBytes(folder / "file", "x");
  EXPECT_THAT(MessageOf([&] { ClaimRunFolder(folder / "file", "j", "s"); }),
              HasSubstr("a part of the path is a file"));
  EXPECT_THAT(MessageOf([&] { ClaimRunFolder(folder / "file/run", "j", "s"); }),
              HasSubstr("a part of the path is a file"));
  EXPECT_THAT(MessageOf([&] { ClaimRunFolder("/proc/swinfleet", "j", "s"); }),
              HasSubstr("cannot create the folder /proc/swinfleet"));
  EXPECT_THAT(MessageOf([&] { ClaimRunFolder("", "j", "s"); }), HasSubstr("set run_dir"));
  FaultyOps ops;
  ops.on_write = [](const std::string&, uint64_t) { return -ENOSPC; };
  EXPECT_THAT(MessageOf([&] { ClaimRunFolder(folder / "run", "j", "s", ops); }),
              HasSubstr("ENOSPC"));
  EXPECT_THAT(NamesOf(folder / "run"), IsEmpty());
}

TEST(RunFolder, ReadOnlyFolder) {
  TempFolder folder;
  SmallFilesystem disk(folder / "disk");
  if (!disk.mounted()) GTEST_SKIP() << "mounting a small filesystem is not permitted";
  ClaimRunFolder(folder / "disk/run", "j", "s");
  ASSERT_TRUE(disk.MakeReadOnly());
  EXPECT_THAT(MessageOf([&] { ClaimRunFolder(folder / "disk/run", "j", "s"); }),
              HasSubstr("read-only"));
  EXPECT_THAT(MessageOf([&] { ClaimRunFolder(folder / "disk/new", "j", "s"); }),
              HasSubstr("read-only"));
}

TEST(RunFolder, ADamagedRecordIsNobodysFolder) {
  for (const char* text :
       {"", "{", "[]", "{\"format\": \"other\"}", "{\"format\": \"swinfleet-run\"}",
        "{\"format\": \"swinfleet-run\", \"job_id\": 3, \"spec\": \"\"}"}) {
    TempFolder run;
    WriteBytes(run / "run.json", text);
    EXPECT_THAT(MessageOf([&] { ClaimRunFolder(run.path(), "j", "s"); }),
                AllOf(HasSubstr("run.json"), HasSubstr("damaged")))
        << text;
    EXPECT_EQ(ReadBytes(run / "run.json"), text);
  }
}

TEST(RunFolder, OneTrainerAtATimeAndTheLockDiesWithIt) {
  TempFolder run;
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const RunFolderLock lock(run.path());
    if (::write(ready[1], "x", 1) != 1) _exit(1);
    ::pause();
    _exit(0);
  }
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  EXPECT_THAT(MessageOf([&] { RunFolderLock lock(run.path()); }),
              HasSubstr("another process is training"));
  ASSERT_EQ(::kill(child, SIGKILL), 0);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ::close(ready[0]);
  ::close(ready[1]);
  EXPECT_EQ(MessageOf([&] { RunFolderLock lock(run.path()); }), "");
}

}  // namespace
}  // namespace swinfleet
