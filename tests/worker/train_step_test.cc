// A step in which a rank has no pictures: it takes part to the end, and nothing changes.
#include "worker/train_step.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "core/optim/parameter_groups.h"
#include "core/rng/counter_rng.h"
#include "distributed/zero_engine.h"
#include "tests/worker/small_jobs.h"
#include "worker/memory_plan.h"

namespace swinfleet {
namespace {

// A job of two micro-batches a step, on one rank.
class Trainer {
 public:
  explicit Trainer(const JobConfig& job)
      : job_(job),
        memory_(MemoryClasses::OnHost(PlanMemory(job, 0, 1).memory)),
        context_{.ops = &CpuOps(), .workspace = &memory_.workspace, .threads = 1, .count = nullptr},
        model_(MakeModel(job.model, job.pretrain, job.memory)),
        communicator_(MakeSelfCommunicator()),
        engine_(model_->parameters(), communicator_.get(),
                ZeroOptionsFor(job, model_->parameters()), &memory_, &context_),
        step_(job_, /*steps_per_epoch=*/10, model_.get(), &engine_, communicator_.get(), &memory_,
              &context_) {
    engine_.Initialize(1);
  }

  // Null stands for a micro-batch that can't be had.
  StepResult Step(int64_t step, std::vector<const Batch*> batches) {
    auto next = batches.begin();
    return step_.Run(step, step, {}, [&] { return *next++; });
  }
  std::vector<float> Weights() {
    std::vector<float> weights;
    const auto& parameters = model_->parameters().parameters();
    for (int i = 0; i < static_cast<int>(parameters.size()); ++i) {
      std::vector<float> values(parameters[i].size());
      engine_.GetParameter(i, values);
      weights.insert(weights.end(), values.begin(), values.end());
    }
    return weights;
  }

 private:
  const JobConfig job_;
  MemoryClasses memory_;
  Context context_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Communicator> communicator_;
  ZeroEngine engine_;
  TrainStep step_;
};

Batch RandomBatch(const JobConfig& job, uint64_t number) {
  CounterRng random(0, RandomPurpose::kBenchmarkData, number);
  Batch batch = DryBatch(job, job.train.micro_batch);
  batch.image.resize(job.model.ImageShape(batch.pictures).NumElements());
  for (float& value : batch.image) value = static_cast<float>(random.Normal());
  for (int64_t i = 0; i < batch.pictures; ++i) {
    batch.label.push_back(i % job.model.num_classes);
    batch.sample.push_back(i);
  }
  return batch;
}

JobConfig TwoLeaves(JobConfig job) {
  job.train.global_batch = 2 * job.train.micro_batch;
  return job;
}

void ExpectHarmless(const JobConfig& job) {
  const Batch first = RandomBatch(job, 0), second = RandomBatch(job, 1);
  Trainer trainer(job), undisturbed(job);
  const std::vector<float> before = trainer.Weights();
  for (const std::vector<const Batch*>& batches :
       {std::vector<const Batch*>{nullptr, nullptr}, {&first, nullptr}, {nullptr, &second}}) {
    EXPECT_EQ(trainer.Step(0, batches).without_input, 1);
    EXPECT_EQ(trainer.Weights(), before);
  }
  const StepResult result = trainer.Step(0, {&first, &second});
  EXPECT_EQ(result.without_input, 0);
  EXPECT_EQ(result.loss, undisturbed.Step(0, {&first, &second}).loss);
  EXPECT_NE(trainer.Weights(), before);
  EXPECT_EQ(trainer.Weights(), undisturbed.Weights());
}

TEST(TrainStep, WithoutInputChangesNothing) {
  for (const Architecture arch :
       {Architecture::kSwinV1, Architecture::kSwinV2, Architecture::kVideoSwin}) {
    SCOPED_TRACE(ArchitectureName(arch));
    ExpectHarmless(TwoLeaves(SmallJob(arch)));
  }
  for (const Accumulation accumulation : {Accumulation::kSplit, Accumulation::kLowPrecision}) {
    JobConfig job = TwoLeaves(SmallJob(Architecture::kSwinV2));
    job.train.accumulation = accumulation;
    ExpectHarmless(job);
  }
  JobConfig scaled = TwoLeaves(SmallJob(Architecture::kSwinV2));
  scaled.train.dtype = DType::kF16;
  ExpectHarmless(scaled);
}

TEST(TrainStep, WithoutInputChangesNothingInPretraining) {
  for (const auto method : {PretrainConfig::Method::kSimMim, PretrainConfig::Method::kMae,
                            PretrainConfig::Method::kGreenMim}) {
    SCOPED_TRACE(static_cast<int>(method));
    ExpectHarmless(TwoLeaves(SmallPretraining(method)));
  }
}

TEST(TrainStep, CountsReplacedPictures) {
  const JobConfig job = TwoLeaves(SmallJob(Architecture::kSwinV1));
  Batch first = RandomBatch(job, 0), second = RandomBatch(job, 1);
  Trainer trainer(job);
  EXPECT_EQ(trainer.Step(0, {&first, &second}).replaced_pictures, 0);
  first.broken = {{"a", "is empty"}};
  second.broken = {{"b", "is empty"}, {"c", "is empty"}};
  EXPECT_EQ(trainer.Step(1, {&first, &second}).replaced_pictures, 3);
  first.broken.clear();
  EXPECT_EQ(trainer.Step(2, {&first, &second}).replaced_pictures, 2);
}

}  // namespace
}  // namespace swinfleet
