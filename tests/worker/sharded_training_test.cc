// Models of every kind, trained and evaluated over ranks at every ZeRO stage; runs under mpirun.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <memory>
#include <string>
#include <vector>

#include "core/data/dataset.h"
#include "kernels/error.h"
#include "tests/distributed/mpi_test_main.h"
#include "tests/worker/trainer.h"
#include "worker/evaluate.h"

namespace swinfleet {
namespace {

using testing::HasSubstr;
using Method = PretrainConfig::Method;

constexpr int64_t kMicroBatches = 4;

bool PowerOfTwoRanks() { return std::has_single_bit(static_cast<unsigned>(TestWorld().size())); }

// Seven pictures; one of them may be out of reach.
class FewPictures : public Dataset {
 public:
  FewPictures(const ModelConfig& model, int64_t broken) : broken_(broken) {
    identity_ = {.count = 7,
                 .channels = model.in_chans,
                 .height = model.image_h,
                 .width = model.image_w,
                 .num_classes = model.num_classes};
  }
  const DataIdentity& identity() const override { return identity_; }
  void Get(int64_t index, Picture* picture) const override {
    if (index == broken_) throw Error("picture " + std::to_string(index) + " is out of reach");
    picture->height = identity_.height;
    picture->width = identity_.width;
    picture->channels = identity_.channels;
    picture->pixels.resize(picture->height * picture->width * picture->channels);
    for (size_t i = 0; i < picture->pixels.size(); ++i) {
      picture->pixels[i] = static_cast<uint8_t>((index * 31 + static_cast<int64_t>(i) * 7) % 251);
    }
    picture->label = index % identity_.num_classes;
  }

 private:
  DataIdentity identity_;
  int64_t broken_;
};

class RankTrainer : public Trainer {
 public:
  using Trainer::Trainer;

  StepResult Step(int64_t step) {
    int64_t leaf = 0;
    Batch batch;
    return step_.Run(step, step, {}, [&] {
      batch = RandomBatch(job_, step * kMicroBatches + step_.leaves()[leaf++]);
      return &batch;
    });
  }
  std::vector<double> Share(int64_t broken = -1) {
    const FewPictures pictures(job_.model, broken);
    return EvaluateShare(job_, pictures, model_.get(), &engine_, communicator_->rank(),
                         communicator_->size(), &memory_, &context_);
  }
  double Evaluate() {
    std::vector<double> sums = Share();
    return SumShares(&sums, communicator_).loss;
  }

  const ParameterTable& table() const { return model_->parameters(); }
  const MemoryPlan& plan() const { return plan_; }
  const MemoryClasses& memory() const { return memory_; }
};

JobConfig WithStage(JobConfig job, int stage) {
  job.train.global_batch = kMicroBatches * job.train.micro_batch;
  // What every step is clipped to.
  job.train.clip_grad_norm = 0.01;
  job.data.mean.assign(job.model.in_chans, 0.5);
  job.data.std.assign(job.model.in_chans, 0.25);
  job.parallel.zero_stage = stage;
  job.train.accumulation = DefaultAccumulation(stage);
  return job;
}

// Bytes that parameters, gradients and optimizer state may take in fp32 with AdamW.
void ExpectPromisedMemory(const RankTrainer& trainer, int stage) {
  const int ranks = TestWorld().size();
  const ShardLayout layout(trainer.table(), ranks);
  size_t all = 0, largest = 0;
  for (int unit = 0; unit < static_cast<int>(trainer.table().units().size()); ++unit) {
    const auto padded = static_cast<size_t>(layout.PaddedSize(unit));
    all += padded;
    largest = std::max(largest, padded);
  }
  const MemoryClasses& memory = trainer.memory();
  EXPECT_EQ(memory.optimizer.high_water(), 8 * all / (stage == 0 ? 1 : ranks));
  EXPECT_EQ(memory.parameters.high_water(),
            stage < 3 ? 4 * all : 4 * all / ranks + 2 * 4 * largest);
  if (stage >= 2) {
    const int64_t rounds = ShardLayout::Rounds(ranks, kMicroBatches);
    const size_t waiting = std::bit_width(static_cast<uint64_t>(rounds + 1)) - 1;
    EXPECT_EQ(memory.gradients.high_water(), 4 * all / ranks * waiting + 2 * 4 * largest);
  }
  EXPECT_EQ(memory.parameters.high_water(), trainer.plan().memory.parameters.high_water());
  EXPECT_EQ(memory.gradients.high_water(), trainer.plan().memory.gradients.high_water());
}

void ExpectSameTraining(const JobConfig& job) {
  const auto self = MakeSelfCommunicator();
  RankTrainer alone(WithStage(job, 0), self.get());
  const double tolerance = PowerOfTwoRanks() ? 0 : 1e-4;
  std::vector<StepResult> expected;
  std::vector<double> losses;
  for (int step = 0; step < 2; ++step) {
    expected.push_back(alone.Step(step));
    ASSERT_GT(expected.back().grad_norm, 0.01) << "not clipped";
    losses.push_back(alone.Evaluate());
  }
  const std::vector<float> weights = alone.Weights();
  for (int stage = 0; stage <= kMostZeroStage; ++stage) {
    SCOPED_TRACE("stage " + std::to_string(stage));
    RankTrainer together(WithStage(job, stage), &TestWorld());
    for (int step = 0; step < 2; ++step) {
      const StepResult got = together.Step(step);
      ASSERT_NEAR(got.loss, expected[step].loss, tolerance * expected[step].loss);
      ASSERT_NEAR(got.grad_norm, expected[step].grad_norm, tolerance * expected[step].grad_norm);
      ASSERT_NEAR(together.Evaluate(), losses[step], tolerance * losses[step]);
    }
    const std::vector<float> got = together.Weights();
    ASSERT_EQ(got.size(), weights.size());
    if (PowerOfTwoRanks()) {
      EXPECT_TRUE(got == weights);
    } else {
      for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], weights[i], 1e-2) << i;
    }
    ExpectPromisedMemory(together, stage);
  }
}

TEST(ShardedTraining, GivesTheBitsOfOneProcess) {
  for (const Architecture arch : {Architecture::kSwinV1, Architecture::kSwinV2}) {
    SCOPED_TRACE(ArchitectureName(arch));
    for (const auto level :
         {MemoryConfig::Checkpointing::kNone, MemoryConfig::Checkpointing::kBlock}) {
      JobConfig job = SmallJob(arch);
      job.memory.checkpointing = {level, level};
      ExpectSameTraining(job);
    }
  }
}

TEST(ShardedTraining, GivesTheBitsOfOneProcessInPretraining) {
  for (const auto method : {Method::kSimMim, Method::kMae, Method::kGreenMim}) {
    SCOPED_TRACE(static_cast<int>(method));
    ExpectSameTraining(SmallPretraining(method));
  }
}

// Whoever meets it takes part in the gathers of those that don't.
TEST(ShardedTraining, AnEvaluationThatFailsOnOneRankLeavesNobodyWaiting) {
  RankTrainer trainer(WithStage(SmallJob(Architecture::kSwinV2), 3), &TestWorld());
  trainer.Step(0);
  const double loss = trainer.Evaluate();
  std::string problem;
  try {
    trainer.Share(/*broken=*/0);
  } catch (const Error& error) {
    problem = error.what();
  }
  const std::vector<std::string> problems = TestWorld().AllGatherText(problem, "problems");
  EXPECT_THAT(problems, testing::Contains(HasSubstr("picture 0 is out of reach")));
  EXPECT_EQ(std::ranges::count(problems, ""), TestWorld().size() - 1);
  EXPECT_EQ(trainer.Evaluate(), loss);
}

}  // namespace
}  // namespace swinfleet
