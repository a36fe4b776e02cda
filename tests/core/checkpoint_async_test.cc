// Saving in the background.
#include <condition_variable>
#include <mutex>
#include <thread>

#include "core/checkpoint/async_saver.h"
#include "tests/core/checkpoint_test_util.h"

namespace swinfleet {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Writes wait at a gate.
class GatedOps : public FileOps {
 public:
  int64_t PWrite(int fd, const void* data, size_t size, uint64_t offset) override {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return open_; });
    return FileOps::PWrite(fd, data, size, offset);
  }
  void OpenGate() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = false;
};

TEST(AsyncSaver, TheStepMayGoOnAfterTheCopy) {
  TempFolder run;
  Tensors tensors = Tensors::Make(SmallModel(), 1);
  const Tensors before = tensors;
  std::vector<float> buffer(SaveBufferElements(tensors.Whole()));
  EXPECT_EQ(buffer.size(), 3U * (96 + 192 + 2 + 10));
  GatedOps ops;
  AsyncSaver saver(ops);
  const std::string dir = CheckpointDir(run.path(), 1, 1);
  EXPECT_FALSE(saver.InFlight());
  saver.Begin(dir, 0, 1, CopyPieces(tensors.Whole(), buffer));
  EXPECT_TRUE(saver.InFlight());
  EXPECT_FALSE(saver.Poll().has_value());
  // Training goes on and changes everything while nothing has been written.
  for (auto& [name, values] : tensors.values) std::fill(values.begin(), values.end(), -1.F);
  ops.OpenGate();
  const SaveOutcome outcome = saver.Wait();
  EXPECT_FALSE(saver.InFlight());
  EXPECT_EQ(outcome.error, "");
  EXPECT_EQ(outcome.dir, dir);
  EXPECT_GT(outcome.seconds, 0);
  ASSERT_EQ(outcome.records.size(), 1u);
  CommitManifest(dir, MetaOf(1, 1, 1), outcome.records);
  const auto reader = CheckpointReader::Open(dir);
  for (const auto& [name, values] : before.values) EXPECT_EQ(ReadAll(*reader, name), values);
}

TEST(AsyncSaver, AFailedSaveIsReportedAndTheNextOneWorks) {
  TempFolder run;
  const Tensors tensors = Tensors::Make(SmallModel(), 1);
  FaultyOps ops;
  std::atomic<bool> full = true;
  ops.on_write = [&](const std::string&, uint64_t offset) {
    return full && offset > 0 ? -ENOSPC : 0;
  };
  AsyncSaver saver(ops);
  const std::string dir = CheckpointDir(run.path(), 1, 1);
  saver.Begin(dir, 0, 1, tensors.Whole());
  const SaveOutcome failed = saver.Wait();
  EXPECT_TRUE(failed.records.empty());
  EXPECT_THAT(failed.error, HasSubstr("ENOSPC"));
  EXPECT_THAT(NamesOf(dir), IsEmpty());
  full = false;
  for (int step = 1; step <= 20; ++step) {
    saver.Begin(CheckpointDir(run.path(), 1, step), 0, 1, tensors.Whole());
    std::optional<SaveOutcome> outcome;
    while (!outcome) outcome = saver.Poll();
    ASSERT_EQ(outcome->records.size(), 1u) << outcome->error;
    ASSERT_FALSE(saver.InFlight());
  }
}

// As of a copy that a GPU is still making.
TEST(AsyncSaver, ReadsPiecesOnItsThreadAndReportsWhatTheyThrow) {
  TempFolder run;
  const Tensors tensors = Tensors::Make(SmallModel(), 1);
  const std::thread::id owner = std::this_thread::get_id();
  std::vector<TensorPiece> pieces = tensors.Whole();
  pieces.back().elements = [&](int64_t, std::span<float>) -> std::span<const float> {
    EXPECT_NE(std::this_thread::get_id(), owner);
    throw Error("the copy failed");
  };
  AsyncSaver saver;
  saver.Begin(CheckpointDir(run.path(), 1, 1), 0, 1, pieces);
  const SaveOutcome outcome = saver.Wait();
  EXPECT_TRUE(outcome.records.empty());
  EXPECT_EQ(outcome.error, "the copy failed");
  EXPECT_THAT(NamesOf(CheckpointDir(run.path(), 1, 1)), IsEmpty());
}

TEST(AsyncSaver, DestructionFinishesWhatWasBegun) {
  TempFolder run;
  const Tensors tensors = Tensors::Make(SmallModel(), 1);
  const std::string dir = CheckpointDir(run.path(), 1, 1);
  {
    AsyncSaver saver;
    saver.Begin(dir, 0, 1, tensors.Whole());
  }
  EXPECT_EQ(NamesOf(dir).size(), 1U);
}

TEST(AsyncSaverDeath, OneAtATimeAndCopiesWithinTheBuffer) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  TempFolder run;
  const Tensors tensors = Tensors::Make(SmallModel(), 1);
  std::vector<float> buffer(SaveBufferElements(tensors.Whole()));
  const std::string dir = CheckpointDir(run.path(), 1, 1);
  EXPECT_DEATH(CopyPieces(tensors.Whole(), std::span<float>(buffer).first(10)), "Check failed");
  EXPECT_DEATH(
      {
        AsyncSaver saver;
        saver.Begin(dir, 0, 1, tensors.Whole());
        saver.Begin(dir, 0, 1, tensors.Whole());
      },
      "a save is in flight");
}

}  // namespace
}  // namespace swinfleet
