// What becomes of an attempt whose data or pictures can't be had, and what it keeps of an earlier
// one.
#include "worker/attempt.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <zlib.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/file_ops.h"
#include "core/checkpoint/safetensors.h"
#include "tests/worker/png_file.h"
#include "tests/worker/small_jobs.h"

// What is larger finds no memory.
constexpr size_t kLargest = size_t{256} << 20;

// Not inlined: the compiler would see free() meet operator new, and warn.
[[gnu::noinline]] void* operator new(size_t size) {
  if (size > kLargest) throw std::bad_alloc();
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace swinfleet {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::ContainsRegex;
using testing::HasSubstr;

// PNG's bytes with a header that says `side` rows and columns.
std::string WithSide(std::string png, uint32_t side) {
  const auto put = [&](size_t at, size_t value) {
    for (int i = 0; i < 4; ++i) png[at + i] = static_cast<char>(value >> (24 - 8 * i) & 0xff);
  };
  put(16, side);
  put(20, side);
  put(29, crc32(0, reinterpret_cast<const Bytef*>(png.data()) + 12, 17));
  return png;
}

class HookReporter : public Reporter {
 public:
  void SetPhase(Phase) override {}
  void SetStep(int64_t step) override {
    if (at_step) at_step(step);
  }
  void ReportProgress(const TrainingProgress& progress) override { last = progress; }
  void ReportCheckpoint(const std::string&, int64_t) override {}
  bool CancelRequested() override { return false; }
  std::optional<TraceRequest> TakeTraceRequest() override {
    return std::exchange(trace, std::nullopt);
  }
  void ReportTrace(const TraceResult& result) override { traced.push_back(result); }

  std::function<void(int64_t)> at_step;
  TrainingProgress last;
  std::optional<TraceRequest> trace;
  std::vector<TraceResult> traced;
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

TEST_F(AttemptTest, WhatWasTrainedBeforeABrokenPictureIsKept) {
  options_.config.checkpoint.every_steps = 1000;
  reporter_.at_step = [&](int64_t step) {
    if (step == 1) Write("train/b/2.png", "no picture");
    if (step == 4) Write("train/a/2.png", "no picture");
  };
  const AttemptResult result = Run();
  EXPECT_EQ(result.outcome, Outcome::kFailed);
  ASSERT_GE(result.progress.step, 1);
  EXPECT_EQ(result.last_checkpoint,
            CheckpointDir(options_.config.run_dir, 1, result.progress.step));
  EXPECT_EQ(CheckpointReader::Open(result.last_checkpoint)->meta().step, result.progress.step);
}

TEST_F(AttemptTest, AnEvaluationThatFailedIsMadeAgain) {
  const std::string good = Png(std::string(16 * 16, 0), 16);
  Write("val/a/0.png", "no picture");
  options_.config.train.eval_every_epochs = 0;
  AttemptResult result = Run();
  EXPECT_EQ(result.outcome, Outcome::kFailed);
  EXPECT_EQ(result.progress.step, 8);
  EXPECT_EQ(result.last_checkpoint, CheckpointDir(options_.config.run_dir, 1, 8));
  Write("val/a/0.png", good);
  options_.attempt = 2;
  options_.resume_from = result.last_checkpoint;
  result = Run();
  EXPECT_EQ(result.outcome, Outcome::kSucceeded) << result.message;
  EXPECT_TRUE(result.progress.has_accuracy);
  EXPECT_EQ(result.progress.evaluated_step, 8);
  EXPECT_EQ(CheckpointReader::Open(result.last_checkpoint)->meta().metrics.at("evaluated_step"), 8);
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

TEST_F(AttemptTest, EachStepSaysHowLongItWaitedForOthers) {
  EXPECT_EQ(Run().outcome, Outcome::kSucceeded);
  std::ifstream metrics(folder_ + "/run/metrics/attempt-001.jsonl");
  int steps = 0;
  for (std::string line; std::getline(metrics, line);) {
    if (line.find("grad_norm") == std::string::npos) continue;
    ++steps;
    // There are none here.
    EXPECT_THAT(line, HasSubstr("\"exposed_communication_seconds\": 0, "));
    EXPECT_THAT(line, ContainsRegex("\"seconds\": [0-9]"));
  }
  EXPECT_EQ(steps, 8);
  EXPECT_EQ(reporter_.last.exposed_communication_seconds, 0);
}

// With clipping, over two micro-batches, with a save that is written beside the training: weights
// and moments of the last checkpoint are the same, and an attempt goes on from one to the bit.
// Also that no tensor memory is taken for it, which each step checks.
TEST_F(AttemptTest, ATraceChangesNoBit) {
  options_.config.model.drop_path_rate = 0.1;
  Run();
  const double loss = reporter_.last.loss, norm = reporter_.last.grad_norm;
  const double evaluated = reporter_.last.eval_loss;
  fs::remove_all(options_.config.run_dir);
  reporter_.at_step = [&](int64_t step) {
    if (step == 2) reporter_.trace = TraceRequest{.id = "t", .steps = 3};
  };
  EXPECT_EQ(Run().outcome, Outcome::kSucceeded);
  EXPECT_EQ(reporter_.last.loss, loss);
  EXPECT_EQ(reporter_.last.grad_norm, norm);
  EXPECT_EQ(reporter_.last.eval_loss, evaluated);
  ASSERT_EQ(reporter_.traced.size(), 1u);
  EXPECT_EQ(reporter_.traced[0].error, "");
  EXPECT_EQ(reporter_.traced[0].first_step, 4);
  EXPECT_EQ(reporter_.traced[0].steps, 3);
  EXPECT_GT(fs::file_size(reporter_.traced[0].path), 10000u);
}

// The last step is recorded, and no step follows in which it could be written.
TEST_F(AttemptTest, AnAttemptsEndWritesTheTraceThatThereIs) {
  reporter_.at_step = [&](int64_t step) {
    if (step == 6) reporter_.trace = TraceRequest{.id = "t", .steps = 3};
  };
  EXPECT_EQ(Run().outcome, Outcome::kSucceeded);
  ASSERT_EQ(reporter_.traced.size(), 1u);
  EXPECT_EQ(reporter_.traced[0].first_step, 8);
  EXPECT_EQ(reporter_.traced[0].steps, 1);
  EXPECT_TRUE(fs::exists(reporter_.traced[0].path));
}

TEST_F(AttemptTest, OffloadedStateChangesNoBit) {
  options_.config.train.micro_batch = 1;
  options_.config.train.clip_grad_norm = 0.1;
  options_.config.checkpoint.every_steps = 3;
  const AttemptResult memory = Run();
  EXPECT_EQ(memory.outcome, Outcome::kSucceeded) << memory.message;
  options_.config.run_dir = folder_ + "/offloaded";
  options_.config.parallel.offload = Offload::kDisk;
  options_.config.parallel.offload_dir = folder_ + "/scratch";
  AttemptResult disk = Run();
  EXPECT_EQ(disk.outcome, Outcome::kSucceeded) << disk.message;
  const auto expected = CheckpointReader::Open(memory.last_checkpoint);
  const auto expect_same = [&] {
    const auto got = CheckpointReader::Open(disk.last_checkpoint);
    for (const auto& [tensor, shape] : expected->tensors()) {
      std::vector<float> a(shape.NumElements()), b(a.size());
      expected->Read(tensor, 0, a);
      got->Read(tensor, 0, b);
      EXPECT_EQ(a, b) << tensor;
    }
  };
  expect_same();
  EXPECT_GT(reporter_.last.disk_wait_seconds, 0);
  EXPECT_TRUE(fs::is_empty(folder_ + "/scratch")) << "the files go with the attempt";
  fs::remove_all(disk.last_checkpoint);
  options_.attempt = 2;
  options_.resume_from = folder_ + "/offloaded/checkpoints/attempt-001/step-00000006";
  // The moments are written once, into the second file: in the first there is nothing yet.
  bool first_is_empty = false;
  reporter_.at_step = [&](int64_t step) {
    if (step != 6) return;
    for (const auto& file : fs::recursive_directory_iterator(folder_ + "/scratch")) {
      if (file.path().filename() != "moments-1.safetensors") continue;
      const SafetensorsFile moments(file.path());
      first_is_empty = true;
      for (const StoredTensor& tensor : moments.tensors()) {
        std::vector<float> values(tensor.shape.NumElements());
        moments.ReadAsF32(tensor, 0, values);
        for (const float value : values) first_is_empty = first_is_empty && value == 0;
      }
    }
  };
  disk = Run();
  EXPECT_TRUE(first_is_empty);
  reporter_.at_step = nullptr;
  EXPECT_EQ(disk.outcome, Outcome::kSucceeded) << disk.message;
  expect_same();
}

TEST_F(AttemptTest, StateIsNotOffloadedToTheHostThatComputes) {
  options_.config.parallel.offload = Offload::kHost;
  options_.device = DeviceRequest::kAuto;
  options_.device_text = "the CPU, because there is no GPU";
  const AttemptResult result = Run();
  EXPECT_EQ(result.outcome, Outcome::kFailed);
  EXPECT_THAT(result.message, HasSubstr("would compute on the CPU, because there is no GPU, and"));
  EXPECT_THAT(result.message, HasSubstr("parallel.offload: host"));
}

TEST_F(AttemptTest, AnOffloadFolderThatCantBeMadeFailsTheJob) {
  options_.config.parallel.offload = Offload::kDisk;
  options_.config.parallel.offload_dir = Write("scratch", "a file");
  const AttemptResult result = Run();
  EXPECT_EQ(result.outcome, Outcome::kFailed);
  EXPECT_THAT(result.message, HasSubstr("parallel.offload_dir " + folder_ + "/scratch"));
  // Nor would a later attempt find another.
  options_.attempt = 2;
  EXPECT_EQ(Run().outcome, Outcome::kFailed);
}

TEST_F(AttemptTest, AnOffloadFolderThatVanishesEndsTheAttemptNotTheJob) {
  options_.config.parallel.offload = Offload::kDisk;
  options_.config.parallel.offload_dir = folder_ + "/scratch";
  options_.config.checkpoint.every_steps = 3;
  reporter_.at_step = [&](int64_t step) {
    if (step == 2) fs::remove_all(folder_ + "/scratch");
  };
  try {
    Run();
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("the folder of offloaded state is gone"));
  }
  // The next one makes it again.
  reporter_.at_step = nullptr;
  options_.attempt = 2;
  const AttemptResult result = Run();
  EXPECT_EQ(result.outcome, Outcome::kSucceeded) << result.message;
}

TEST_F(AttemptTest, FilesThatVanishEndTheProcessNotTheJob) {
  reporter_.at_step = [&](int64_t) { fs::remove_all(folder_ + "/train"); };
  EXPECT_THROW(Run(), FileError);
}

TEST_F(AttemptTest, DataThatAFirstAttemptDoesNotFindFailsTheJob) {
  options_.config.data.path = folder_ + "/nowhere";
  const AttemptResult result = Run();
  EXPECT_EQ(result.outcome, Outcome::kFailed);
  EXPECT_THAT(result.message, HasSubstr(folder_ + "/nowhere does not exist"));
}

// What a folder looks like while its mount is away: gone, empty, or partly there.
TEST_F(AttemptTest, DataThatALaterAttemptDoesNotFindEndsTheProcessNotTheJob) {
  AttemptResult result = Run();
  ASSERT_EQ(result.outcome, Outcome::kSucceeded) << result.message;
  options_.attempt = 2;
  options_.resume_from = result.last_checkpoint;
  options_.config.train.epochs = 3;
  const auto expect_out_of_reach = [&](const std::string& what) {
    try {
      Run();
      ADD_FAILURE() << "no error for data that is away: " << what;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), AllOf(HasSubstr("the data in " + folder_ + "/data"),
                                      HasSubstr("an earlier attempt had"), HasSubstr(what)));
    }
  };
  options_.config.data.path = folder_ + "/data";
  expect_out_of_reach("does not exist");
  fs::create_directory(folder_ + "/data");
  expect_out_of_reach("there is no folder " + folder_ + "/data/train");
  fs::copy(folder_ + "/val", folder_ + "/data/val", fs::copy_options::recursive);
  fs::create_directory(folder_ + "/data/train");
  expect_out_of_reach("no class folders");
  fs::remove(folder_ + "/data/train");
  fs::copy(folder_ + "/train", folder_ + "/data/train", fs::copy_options::recursive);
  result = Run();
  EXPECT_EQ(result.outcome, Outcome::kSucceeded) << result.message;
  EXPECT_EQ(result.progress.step, 12);
}

TEST_F(AttemptTest, ARunGoesOnWithTheNormalisationThatItBeganWith) {
  DataConfig& data = options_.config.data;
  data.mean = {0.5, 0.25, 0.125};
  data.std = {1, 2, 4};
  const Normalisation first = {data.mean, data.std};
  AttemptResult result = Run();
  ASSERT_EQ(result.outcome, Outcome::kSucceeded) << result.message;
  EXPECT_EQ(CheckpointReader::Open(result.last_checkpoint)->meta().normalisation, first);
  // Another program's choice for a job that says nothing.
  data.mean = data.std = {7, 7, 7};
  options_.attempt = 2;
  options_.resume_from = result.last_checkpoint;
  options_.config.train.epochs = 3;
  result = Run();
  ASSERT_EQ(result.outcome, Outcome::kSucceeded) << result.message;
  EXPECT_EQ(result.progress.step, 12);
  EXPECT_EQ(CheckpointReader::Open(result.last_checkpoint)->meta().normalisation, first);
}

TEST_F(AttemptTest, InitialWeightsThatDoNotExistFailTheJob) {
  const std::string picture = Write("picture.png", "a file, no folder");
  for (const std::string& path : {folder_ + "/none.safetensors", picture + "/step-8",
                                  folder_ + "/" + std::string(300, 'a')}) {
    options_.config.init_from = path;
    const AttemptResult result = Run();
    EXPECT_EQ(result.outcome, Outcome::kFailed) << path;
    EXPECT_THAT(result.message, AllOf(HasSubstr("model.init_from: "), HasSubstr(path)));
    EXPECT_FALSE(fs::exists(options_.config.run_dir));
  }
}

// So that the folder is free for the job with the mistake corrected.
TEST_F(AttemptTest, InitialWeightsThatCannotBeUsedLeaveNoFolder) {
  AttemptResult result = Run();
  ASSERT_EQ(result.outcome, Outcome::kSucceeded) << result.message;
  options_.config.init_from = options_.config.run_dir;
  options_.config.run_dir = folder_ + "/second";
  options_.config.model.num_classes += 1;
  result = Run();
  EXPECT_EQ(result.outcome, Outcome::kFailed);
  EXPECT_THAT(result.message, AllOf(HasSubstr("they do not fit the model"), HasSubstr("head")));
  EXPECT_FALSE(fs::exists(options_.config.run_dir));
  const std::string weights = std::exchange(options_.config.init_from, "");
  options_.config.init_skip = {"head.*"};
  result = Run();
  EXPECT_EQ(result.outcome, Outcome::kFailed);
  EXPECT_THAT(result.message, HasSubstr("neither model.init_from nor an imported start"));
  EXPECT_FALSE(fs::exists(options_.config.run_dir));
  options_.config.init_from = weights;
  result = Run();
  EXPECT_EQ(result.outcome, Outcome::kSucceeded) << result.message;
}

TEST_F(AttemptTest, InitialWeightsOutOfReachEndTheProcessNotTheJob) {
  // To open a socket fails with ENXIO, like a device that is away.
  options_.config.init_from = folder_ + "/socket";
  ASSERT_EQ(mknod(options_.config.init_from.c_str(), S_IFSOCK | 0600, 0), 0);
  EXPECT_THROW(Run(), FileError);
}

TEST_F(AttemptTest, ARunThatGoesOnNeedsNoInitialWeights) {
  AttemptResult result = Run();
  ASSERT_EQ(result.outcome, Outcome::kSucceeded) << result.message;
  options_.attempt = 2;
  options_.resume_from = result.last_checkpoint;
  options_.config.train.epochs = 3;
  options_.config.init_from = folder_ + "/none.safetensors";
  result = Run();
  EXPECT_EQ(result.outcome, Outcome::kSucceeded) << result.message;
  EXPECT_EQ(result.progress.step, 12);
}

TEST_F(AttemptTest, WantOfMemoryEndsTheProcessNotTheJob) {
  const std::string large = WithSide(Png(std::string(16 * 16, 0), 16), 13000);
  options_.config.data.broken_pictures = DataConfig::BrokenPictures::kReplace;
  const std::string picture = Write("val/a/0.png", large);
  EXPECT_THROW(Run(), OutOfMemoryError);
  fs::remove_all(options_.config.run_dir);
  fs::rename(picture, folder_ + "/train/a/0.png");
  EXPECT_THROW(Run(), OutOfMemoryError);
}

}  // namespace
}  // namespace swinfleet
