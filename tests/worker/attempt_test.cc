// What becomes of an attempt whose pictures can't be had.
#include "worker/attempt.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>

#include "core/checkpoint/file_ops.h"
#include "tests/worker/png_file.h"
#include "tests/worker/small_jobs.h"

namespace swinfleet {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;

class HookReporter : public Reporter {
 public:
  void SetPhase(Phase) override {}
  void SetStep(int64_t step) override {
    if (at_step) at_step(step);
  }
  void ReportProgress(const TrainingProgress& progress) override { last = progress; }
  void ReportCheckpoint(const std::string&, int64_t) override {}
  bool CancelRequested() override { return false; }

  std::function<void(int64_t)> at_step;
  TrainingProgress last;
};

// Two epochs of four steps of two pictures.
class AttemptTest : public testing::Test {
 protected:
  AttemptTest() {
    std::string pattern = fs::temp_directory_path() / "swinfleet-attempt-XXXXXX";
    folder_ = mkdtemp(pattern.data());
    for (const char* name : {"a", "b"}) {
      for (int i = 0; i < 4; ++i) {
        const std::string pixels(16 * 16, static_cast<char>(20 * i));
        for (const char* split : {"train", "val"}) {
          Write(std::string(split) + "/" + name + "/" + std::to_string(i) + ".png",
                Png(pixels, 16));
        }
      }
    }
    options_.job_id = "job";
    options_.config = SmallJob(Architecture::kSwinV1);
    JobConfig& job = options_.config;
    job.run_dir = folder_ + "/run";
    job.data.format = "imagefolder";
    job.data.path = folder_;
    job.data.eval_split = "val";
    job.data.prefetch = 1;
    job.train.global_batch = job.train.micro_batch = 2;
    job.train.epochs = 2;
  }
  ~AttemptTest() override { fs::remove_all(folder_); }

  std::string Write(const std::string& name, const std::string& bytes) {
    const fs::path path = folder_ + "/" + name;
    fs::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << bytes;
    return path;
  }
  AttemptResult Run() {
    const std::unique_ptr<Communicator> communicator = MakeSelfCommunicator();
    return RunAttempt(options_, communicator.get(), &reporter_);
  }

  std::string folder_;
  AttemptOptions options_;
  HookReporter reporter_;
};

TEST_F(AttemptTest, ABrokenPictureFailsTheJob) {
  const std::string broken = Write("train/b/2.png", "no picture");
  int64_t last = -1;
  reporter_.at_step = [&](int64_t step) { last = step; };
  const AttemptResult result = Run();
  EXPECT_EQ(result.outcome, Outcome::kFailed);
  EXPECT_THAT(result.message, AllOf(HasSubstr(broken), HasSubstr("broken_pictures: replace")));
  EXPECT_LT(last, 4) << "within the first epoch";
  EXPECT_EQ(result.progress.step, last) << "the step is not counted";
}

TEST_F(AttemptTest, ReplacedPicturesAreCountedOverAllAttempts) {
  Write("train/b/2.png", "");
  Write("val/a/0.png", "");
  options_.config.data.broken_pictures = DataConfig::BrokenPictures::kReplace;
  AttemptResult result = Run();
  EXPECT_EQ(result.outcome, Outcome::kSucceeded) << result.message;
  EXPECT_EQ(result.progress.replaced_pictures, 2);
  EXPECT_EQ(result.progress.eval_replaced_pictures, 1);
  EXPECT_EQ(reporter_.last.replaced_pictures, 2);
  // A third epoch, from the last checkpoint.
  options_.attempt = 2;
  options_.resume_from = result.last_checkpoint;
  options_.config.train.epochs = 3;
  result = Run();
  EXPECT_EQ(result.outcome, Outcome::kSucceeded) << result.message;
  EXPECT_EQ(result.progress.step, 12);
  EXPECT_EQ(result.progress.replaced_pictures, 3);
}

TEST_F(AttemptTest, FilesThatVanishEndTheProcessNotTheJob) {
  reporter_.at_step = [&](int64_t) { fs::remove_all(folder_ + "/train"); };
  EXPECT_THROW(Run(), FileError);
}

}  // namespace
}  // namespace swinfleet
