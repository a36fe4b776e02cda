// Checkpoints that went bad, and disks that have no room for them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <utility>

#include "tests/end_to_end/harness.h"

namespace swinfleet {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;

class CheckpointTest : public EndToEndTest {
 protected:
  CheckpointTest() {
    job_.epochs = 10;
    job_.eval_every_epochs = 5;
  }

  static std::string Shard(const std::string& dir) {
    for (const fs::directory_entry& entry : fs::directory_iterator(dir)) {
      if (entry.path().extension() == ".safetensors") return entry.path().string();
    }
    ADD_FAILURE() << "no shard in " << dir;
    return "";
  }
  static void FlipByte(const std::string& path, int64_t position) {
    std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
    file.seekg(position);
    const char byte = static_cast<char>(file.get() ^ 0x10);
    file.seekp(position);
    file.put(byte);
    EXPECT_TRUE(file.good()) << path;
  }

  // Trains job_, damages the last checkpoint, and trains again: the end has to be the same, from
  // the checkpoint before. `why` is what the log says of the damaged one.
  void DamageAndGoOn(const std::function<void(const std::string& dir)>& damage,
                     const std::string& why) {
    TrainLocally(job_, 1);
    ASSERT_FALSE(HasFatalFailure());
    const std::string weights = Weights(job_);
    const std::string newest = CheckpointDir(job_, 1, 40);
    damage(newest);
    const Process& again = Start(LocalCommand(WriteJob(job_), 2));
    ASSERT_EQ(again.Wait(), 0) << again.Err();
    EXPECT_THAT(again.Err(), HasSubstr("passed over checkpoint " + newest));
    EXPECT_THAT(again.Err(), HasSubstr(why));
    EXPECT_THAT(again.Err(), HasSubstr("going on from checkpoint " + CheckpointDir(job_, 1, 30)));
    EXPECT_EQ(Metrics(job_, 2).front().at("step"), 31);
    EXPECT_TRUE(Weights(job_) == weights);
  }

  TestJob job_;
};

TEST_F(CheckpointTest, AFlippedByteOfAShard) {
  DamageAndGoOn(
      [](const std::string& dir) {
        FlipByte(Shard(dir), static_cast<int64_t>(fs::file_size(Shard(dir)) / 2));
      },
      "checksum");
}

TEST_F(CheckpointTest, AFlippedByteOfTheManifest) {
  DamageAndGoOn(
      [](const std::string& dir) {
        FlipByte(dir + "/manifest.json",
                 static_cast<int64_t>(fs::file_size(dir + "/manifest.json") / 2));
      },
      "manifest.json");
}

TEST_F(CheckpointTest, ATruncatedShard) {
  DamageAndGoOn(
      [](const std::string& dir) { fs::resize_file(Shard(dir), fs::file_size(Shard(dir)) - 100); },
      Path("runs/job/checkpoints/attempt-001/step-00000040/rank-00000-of-00001.safetensors"));
}

TEST_F(CheckpointTest, AMissingManifest) {
  DamageAndGoOn([](const std::string& dir) { fs::remove(dir + "/manifest.json"); },
                "it has no manifest.json");
}

TEST_F(CheckpointTest, WithoutAnyGoodOneItBeginsAgainAndSaysSo) {
  TrainLocally(job_, 1);
  ASSERT_FALSE(HasFatalFailure());
  const std::string weights = Weights(job_);
  for (const int64_t step : {20, 30, 40}) fs::resize_file(Shard(CheckpointDir(job_, 1, step)), 9);
  const Process& export_nothing =
      Start({Program("swinfleet-export"), RunDir(job_), Path("nothing.safetensors")});
  EXPECT_EQ(export_nothing.Wait(), 1);
  EXPECT_FALSE(fs::exists(Path("nothing.safetensors")));
  const Process& again = Start(LocalCommand(WriteJob(job_), 1));
  ASSERT_EQ(again.Wait(), 0) << again.Err();
  EXPECT_THAT(again.Err(), HasSubstr("there is no good checkpoint to go on from"));
  EXPECT_EQ(Metrics(job_, 2).front().at("step"), 1);
  EXPECT_TRUE(Weights(job_) == weights);
}

TEST_F(CheckpointTest, OtherDataThanTheCheckpointsIsRefused) {
  TrainLocally(job_, 1);
  ASSERT_FALSE(HasFatalFailure());
  std::string labels = ReadFile(Path("data/train-labels-idx1-ubyte"));
  std::swap(labels[8], labels[9]);
  Write("data/train-labels-idx1-ubyte", labels);
  const Process& again = Start(LocalCommand(WriteJob(job_), 1));
  EXPECT_EQ(again.Wait(), 1);
  EXPECT_THAT(again.Err(), HasSubstr("the training data has changed since"));
}

// A filesystem of its own that the test fills.
class FullDiskTest : public CheckpointTest {
 protected:
  void SetUp() override {
    disk_ = Path("disk");
    fs::create_directory(disk_);
    mounted_ = mount("swinfleet-test", disk_.c_str(), "tmpfs", 0, "size=8m") == 0;
    if (!mounted_) GTEST_SKIP() << "needs to mount a tmpfs: " << std::strerror(errno);
  }
  void TearDown() override {
    processes_.KillAll();
    if (mounted_) {
      EXPECT_EQ(umount2(disk_.c_str(), MNT_DETACH), 0) << std::strerror(errno);
    }
  }
  // Writes zeros until nothing more fits.
  void Fill() const {
    std::ofstream file(disk_ + "/filler", std::ios::binary);
    const std::string piece(1024, '\0');
    while (file.write(piece.data(), static_cast<std::streamsize>(piece.size())).flush()) {
    }
  }
  void MakeRoom() const { fs::remove(disk_ + "/filler"); }

  std::string disk_;
  bool mounted_ = false;
};

TEST_F(FullDiskTest, TrainingGoesOnAndTheSaveIsTriedAgain) {
  TestJob job = job_;
  job.epochs = 100;
  const std::string weights = UndisturbedWeights(job);
  ASSERT_FALSE(HasFatalFailure());
  job.run_dir = disk_ + "/run";
  const Process& training = Start(LocalCommand(WriteJob(job), 2));
  ASSERT_TRUE(WaitUntil([&] { return fs::exists(CheckpointDir(job, 1, 10) + "/manifest.json"); }));
  Fill();
  ASSERT_TRUE(training.WaitForErr("No space left on device")) << training.Err();
  ASSERT_TRUE(training.WaitForErr("Training goes on; the next try is after step"));
  ASSERT_TRUE(training.WaitForErr("the metrics file")) << training.Err();
  MakeRoom();
  ASSERT_EQ(training.Wait(), 0) << training.Err();
  const std::string log = training.Err();
  const size_t failure = log.find("was not saved");
  EXPECT_NE(log.find("checkpoint of step", log.find('\n', failure)), std::string::npos);
  EXPECT_TRUE(fs::exists(CheckpointDir(job, 1, 400) + "/manifest.json"));
  EXPECT_TRUE(Weights(job) == weights);
  // Nor is a line of the metrics missing.
  TestJob undisturbed;
  undisturbed.name = "undisturbed";
  EXPECT_EQ(MetricsText(job, 1), MetricsText(undisturbed, 1));
  // Nothing is left of the saves that failed.
  for (const fs::directory_entry& entry : fs::directory_iterator(disk_ + "/run/checkpoints/"
                                                                         "attempt-001")) {
    if (!entry.is_directory()) continue;
    EXPECT_TRUE(fs::exists(entry.path() / "manifest.json")) << entry.path();
  }
}

TEST_F(FullDiskTest, AReadOnlyDiskIsRefusedBeforeTraining) {
  ASSERT_EQ(mount(nullptr, disk_.c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr), 0);
  job_.run_dir = disk_ + "/run";
  const Process& training = Start(LocalCommand(WriteJob(job_), 2));
  EXPECT_EQ(training.Wait(), 1);
  EXPECT_THAT(training.Err(), AllOf(HasSubstr(job_.run_dir), HasSubstr("Read-only file system")));
}

TEST_F(FullDiskTest, TheLastCheckpointWaitsForRoom) {
  TestJob job = job_;
  job.run_dir = disk_ + "/run";
  job.checkpoint_every = 1000;
  const Process& training = Start(LocalCommand(WriteJob(job), 1));
  ASSERT_TRUE(WaitForStep(job, 1, 1));
  Fill();
  ASSERT_TRUE(training.WaitForErr("the checkpoint of step 40 was not saved")) << training.Err();
  MakeRoom();
  EXPECT_EQ(training.Wait(), 0) << training.Err();
  EXPECT_TRUE(Weights(job) == UndisturbedWeights(job));
}

// Its checkpoints alone, in the midst of training: as when a filesystem with errors turns
// read-only.
TEST_F(FullDiskTest, ADiskThatTurnsReadOnlyDoesNotEndTraining) {
  TestJob job = job_;
  job.epochs = 100;
  fs::create_directories(RunDir(job));
  fs::create_directory_symlink(disk_, RunDir(job) + "/checkpoints");
  const auto remount = [this](unsigned long flags) {
    // Not while a save has a file open.
    return WaitUntil(
        [&] { return mount(nullptr, disk_.c_str(), nullptr, MS_REMOUNT | flags, nullptr) == 0; });
  };
  const Process& training = Start(LocalCommand(WriteJob(job), 2));
  ASSERT_TRUE(WaitUntil([&] { return fs::exists(CheckpointDir(job, 1, 10) + "/manifest.json"); }));
  ASSERT_TRUE(remount(MS_RDONLY)) << std::strerror(errno);
  ASSERT_TRUE(training.WaitForErr("Read-only file system")) << training.Err();
  ASSERT_TRUE(training.WaitForErr("Training goes on; the next try is after step"));
  ASSERT_TRUE(remount(0)) << std::strerror(errno);
  ASSERT_EQ(training.Wait(), 0) << training.Err();
  EXPECT_TRUE(fs::exists(CheckpointDir(job, 1, 400) + "/manifest.json"));
  EXPECT_TRUE(Weights(job) == UndisturbedWeights(job));
}

// As when its filesystem is unmounted under it, and mounted again.
TEST_F(CheckpointTest, ARunFolderThatVanishesIsNotMadeAnew) {
  TestJob job = job_;
  job.epochs = 100;
  const Process& training = Start(LocalCommand(WriteJob(job), 2));
  ASSERT_TRUE(WaitUntil([&] { return fs::exists(CheckpointDir(job, 1, 10) + "/manifest.json"); }));
  fs::rename(RunDir(job), Path("away"));
  ASSERT_TRUE(training.WaitForErr("the run folder " + RunDir(job) + " has vanished"))
      << training.Err();
  EXPECT_THAT(training.Err(), AllOf(HasSubstr("is its filesystem still mounted?"),
                                    HasSubstr("Training goes on; the next try is after step")));
  EXPECT_TRUE(WaitUntil([&] {
    // A save may be under way there.
    std::error_code error;
    fs::remove_all(RunDir(job), error);
    fs::rename(Path("away"), RunDir(job), error);
    return !error;
  }));
  ASSERT_EQ(training.Wait(), 0) << training.Err();
  EXPECT_TRUE(fs::exists(CheckpointDir(job, 1, 400) + "/manifest.json"));
  EXPECT_TRUE(Weights(job) == UndisturbedWeights(job));
}

}  // namespace
}  // namespace swinfleet
