// Models of every kind trained by the CUDA backend, as a program opens it, in the emulator; over
// ranks at every ZeRO stage under mpirun. What they come to is held against the CPU's.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "core/checkpoint/async_saver.h"
#include "tests/distributed/fake_training.h"
#include "tests/distributed/mpi_test_main.h"
#include "tests/worker/trainer.h"
#include "worker/compute_device.h"

namespace swinfleet {
namespace {

using Method = PretrainConfig::Method;

constexpr int kSteps = 2;

// The rank's GPU, for the process's life.
Accelerator* TheGpu() {
  static const auto* device = new ComputeDevice(TakeDevice(DeviceRequest::kCuda, &TestWorld()));
  return device->gpu.get();
}

class RankTrainer : public Trainer {
 public:
  using Trainer::Trainer;

  StepResult RunStep(int64_t step, bool broken = false) {
    int64_t leaf = 0;
    Batch batch;
    return step_.Run(step, step, {}, [&] {
      batch = RandomBatch(job_, step * job_.train.micro_batches() + step_.leaves()[leaf++]);
      if (broken) batch.image[0] = NAN;
      return &batch;
    });
  }
  ZeroEngine& engine() { return engine_; }
  size_t save_copy_bytes() const { return plan_.save_copy_bytes; }
  // Everything is as large as the dry run said, on the GPU and beside it.
  void ExpectPlannedMemory() const {
    const MemoryClasses& planned = plan_.memory;
    EXPECT_EQ(memory_.parameters.high_water(), planned.parameters.high_water());
    EXPECT_EQ(memory_.gradients.high_water(), planned.gradients.high_water());
    EXPECT_EQ(memory_.optimizer.high_water(), planned.optimizer.high_water());
    EXPECT_EQ(memory_.staging.high_water(), planned.staging.high_water());
    EXPECT_LE(memory_.activations.high_water(), planned.activations.high_water());
    EXPECT_LE(memory_.workspace.high_water(), planned.workspace.high_water());
  }
};

JobConfig WithStage(JobConfig job, int stage) {
  job.parallel.zero_stage = stage;
  job.train.accumulation = DefaultAccumulation(stage);
  return job;
}

// Two micro-batches of two pictures, and for Swin V2 windows of few pairs of tokens, so that the
// emulator soon has them.
JobConfig Short(JobConfig job) {
  if (job.model.arch == Architecture::kSwinV2) job.model.window_size = 2;
  job.train.micro_batch = 2;
  job.train.global_batch = 4;
  job.train.optimizer.learning_rate = 1e-3;
  job.train.clip_grad_norm = 0.5;
  return job;
}

// Losses that part by more than this are no roundings: two steps of models of two stages.
double ToleranceOf(DType dtype) {
  if (dtype == DType::kF32) return 1e-4;
  return dtype == DType::kBF16 ? 3e-2 : 1e-2;
}

std::vector<StepResult> RunAlone(const JobConfig& job) {
  RankTrainer trainer(job);
  std::vector<StepResult> results;
  for (int step = 0; step < kSteps; ++step) results.push_back(trainer.RunStep(step));
  return results;
}

void ExpectTrainsAs(const std::vector<StepResult>& expected, const JobConfig& job) {
  RankTrainer trainer(job, &TestWorld(), TheGpu());
  const double tolerance = ToleranceOf(job.train.dtype);
  for (int step = 0; step < kSteps; ++step) {
    SCOPED_TRACE("step " + std::to_string(step));
    const StepResult got = trainer.RunStep(step);
    EXPECT_EQ(got.skipped, expected[step].skipped) << got.first_nonfinite;
    EXPECT_NEAR(got.loss, expected[step].loss, tolerance * std::abs(expected[step].loss));
    // A norm gathers what all gradients are off by.
    EXPECT_NEAR(got.grad_norm, expected[step].grad_norm, 10 * tolerance * expected[step].grad_norm);
  }
  trainer.ExpectPlannedMemory();
}

// At these stages; a rank alone has everything at any stage.
void ExpectTrainsAsCpu(const JobConfig& job, const std::vector<int>& stages) {
  const std::vector<StepResult> expected = RunAlone(WithStage(job, 0));
  for (const int stage : TestWorld().size() == 1 ? std::vector<int>{0} : stages) {
    SCOPED_TRACE("stage " + std::to_string(stage));
    ExpectTrainsAs(expected, WithStage(job, stage));
  }
}

// Which model is trained at which stages makes no difference to either: each stage has several.
TEST(CudaTraining, SwinV1) {
  ExpectTrainsAsCpu(Short(SmallJob(Architecture::kSwinV1)), {0, 1, 2, 3});
}

TEST(CudaTraining, SwinV2) { ExpectTrainsAsCpu(Short(SmallJob(Architecture::kSwinV2)), {3}); }

TEST(CudaTraining, VideoSwinOfMixedClips) {
  JobConfig job = Short(SmallJob(Architecture::kVideoSwin));
  job.train.mix.mixup_alpha = 0.8;
  ExpectTrainsAsCpu(job, {1});
}

TEST(CudaTraining, SimMim) { ExpectTrainsAsCpu(Short(SmallPretraining(Method::kSimMim)), {2}); }

TEST(CudaTraining, Mae) { ExpectTrainsAsCpu(Short(SmallPretraining(Method::kMae)), {1}); }

TEST(CudaTraining, GreenMim) { ExpectTrainsAsCpu(Short(SmallPretraining(Method::kGreenMim)), {3}); }

TEST(CudaTraining, InSixteenBits) {
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    SCOPED_TRACE(NameOf(dtype));
    JobConfig job = Short(SmallJob(Architecture::kSwinV2));
    job.train.dtype = dtype;
    ExpectTrainsAsCpu(job, {3});
  }
}

// Gradients are exchanged in bfloat16; on one rank they are added up in it.
TEST(CudaTraining, WithSumsInSixteenBits) {
  for (const auto accumulation : {Accumulation::kLowPrecision, Accumulation::kSplitLowPrecision}) {
    SCOPED_TRACE(static_cast<int>(accumulation));
    JobConfig job = Short(SmallJob(Architecture::kSwinV2));
    const std::vector<StepResult> expected = RunAlone(WithStage(job, 0));
    job.parallel.zero_stage = 1;
    job.train.accumulation = accumulation;
    RankTrainer trainer(job, &TestWorld(), TheGpu());
    for (int step = 0; step < kSteps; ++step) {
      EXPECT_NEAR(trainer.RunStep(step).loss, expected[step].loss,
                  ToleranceOf(DType::kBF16) * expected[step].loss);
    }
  }
}

// The first tensor that is not finite has the same name on both.
TEST(CudaTraining, NamesWhatIsNotFinite) {
  const JobConfig job = Short(SmallJob(Architecture::kSwinV1));
  RankTrainer cpu(job), gpu(job, &TestWorld(), TheGpu());
  const StepResult expected = cpu.RunStep(0, /*broken=*/true);
  ASSERT_TRUE(expected.skipped);
  EXPECT_EQ(gpu.RunStep(0, /*broken=*/true).first_nonfinite, expected.first_nonfinite);
  EXPECT_EQ(gpu.RunStep(1).first_nonfinite, "");
}

TEST(CudaTraining, NamesWeightsThatAreNotFinite) {
  for (const DType dtype : {DType::kF32, DType::kF16}) {
    SCOPED_TRACE(NameOf(dtype));
    JobConfig job = Short(SmallJob(Architecture::kSwinV1));
    job.train.dtype = dtype;
    job.train.optimizer.learning_rate = dtype == DType::kF32 ? 1e39 : 1e6;
    RankTrainer trainer(job, &TestWorld(), TheGpu());
    EXPECT_EQ(trainer.RunStep(0).nonfinite_weight, "");
    EXPECT_NE(trainer.RunStep(1).nonfinite_weight, "");
  }
}

// As much pinned memory as was planned.
class PinnedCopy {
 public:
  explicit PinnedCopy(size_t bytes)
      : arena_(Arena::OnHost("copy", bytes)),
        buffer_(arena_.Allocate({static_cast<int64_t>(bytes / sizeof(float))}).span()) {
    if (!buffer_.empty()) TheGpu()->Pin(buffer_.data(), buffer_.size_bytes());
  }
  ~PinnedCopy() {
    if (!buffer_.empty()) TheGpu()->Unpin(buffer_.data());
  }
  PinnedCopy(const PinnedCopy&) = delete;
  PinnedCopy& operator=(const PinnedCopy&) = delete;
  std::span<float> buffer() const { return buffer_; }

 private:
  Arena arena_;
  std::span<float> buffer_;
};

// What the rank has of each tensor.
std::map<std::string, std::vector<float>> ElementsIn(const std::vector<TensorPiece>& pieces) {
  std::map<std::string, std::vector<float>> elements;
  for (const TensorPiece& piece : pieces) elements[piece.tensor] = ElementsOf(piece);
  return elements;
}

// Whatever has been updated before somebody reads them, and one save after the other.
void ExpectCopiesOfTheirStep(int stage, DType dtype) {
  JobConfig job = WithStage(Short(SmallJob(Architecture::kSwinV1)), stage);
  // A unit that is large enough for both ranks to have a part of it.
  job.model.embed_dim = 16;
  job.model.depths = {1, 1};
  job.train.dtype = dtype;
  RankTrainer trainer(job, &TestWorld(), TheGpu());
  const PinnedCopy copy(trainer.save_copy_bytes());
  EXPECT_FALSE(trainer.RunStep(0).skipped);
  for (int step = 1; step < 3; ++step) {
    const auto expected = ElementsIn(trainer.engine().OwnedState());
    const std::vector<TensorPiece> pieces = trainer.engine().CopyState(copy.buffer());
    EXPECT_FALSE(trainer.RunStep(step).skipped);
    std::thread([&] { EXPECT_EQ(ElementsIn(pieces), expected); }).join();
    EXPECT_NE(ElementsIn(trainer.engine().OwnedState()), expected);
  }
}

TEST(CudaTraining, CopiesOfTheStateAreOfTheirStep) {
  for (const int stage : TestWorld().size() == 1 ? std::vector<int>{0} : std::vector{0, 1, 2, 3}) {
    SCOPED_TRACE("stage " + std::to_string(stage));
    ExpectCopiesOfTheirStep(stage, DType::kF32);
  }
}

TEST(CudaTraining, CopiesOfMastersAreOfTheirStep) {
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    SCOPED_TRACE(NameOf(dtype));
    ExpectCopiesOfTheirStep(3, dtype);
  }
}

}  // namespace
}  // namespace swinfleet
