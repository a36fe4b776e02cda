// A training step and all that it needs.
#ifndef SWINFLEET_TESTS_WORKER_TRAINER_H_
#define SWINFLEET_TESTS_WORKER_TRAINER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "core/data/mix.h"
#include "core/memory/compute.h"
#include "core/optim/parameter_groups.h"
#include "core/rng/counter_rng.h"
#include "distributed/zero_engine.h"
#include "tests/worker/small_jobs.h"
#include "worker/compute_device.h"
#include "worker/memory_plan.h"
#include "worker/train_step.h"

namespace swinfleet {

// Of one rank, by default of one alone on the CPU.
class Trainer {
 public:
  explicit Trainer(const JobConfig& job, Communicator* communicator = nullptr,
                   Accelerator* gpu = nullptr)
      : job_(job),
        alone_(communicator == nullptr ? MakeSelfCommunicator() : nullptr),
        communicator_(communicator == nullptr ? alone_.get() : communicator),
        plan_(PlanMemory(job, communicator_->rank(), communicator_->size(),
                         {.device = gpu == nullptr ? Device::kCpu : Device::kCuda, .data = {}})),
        compute_(plan_.memory, gpu, job.parallel.threads_per_rank, job.train.matmul),
        model_(MakeModel(job.model, job.pretrain, job.memory)),
        engine_(model_->parameters(), communicator_, ZeroOptionsFor(job, model_->parameters()),
                &memory_, &context_),
        step_(job_, /*steps_per_epoch=*/10, model_.get(), &engine_, &memory_, &context_) {
    context_.tf32 = job.train.matmul == Matmul::kTf32;
    engine_.Initialize(1);
  }

  // A job of two micro-batches a step; null stands for one that can't be had.
  // `aside` is called with each of them.
  StepResult Step(
      int64_t step, std::vector<Batch*> batches, const std::function<void()>& aside = [] {}) {
    auto next = batches.begin();
    return step_.Run(step, step, {}, [&] {
      aside();
      return *next++;
    });
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

 protected:
  const JobConfig job_;
  const std::unique_ptr<Communicator> alone_;
  Communicator* const communicator_;
  MemoryPlan plan_;
  Compute compute_;
  MemoryClasses& memory_ = compute_.memory;
  Context& context_ = compute_.context;
  std::unique_ptr<Model> model_;
  ZeroEngine engine_;
  TrainStep step_;
};

// Where the job mixes: each picture in one of the two ways.
inline std::vector<MixEntry> SomeMix(const JobConfig& job) {
  std::vector<MixEntry> entries(job.train.micro_batch);
  for (size_t i = 0; i < entries.size(); ++i) {
    entries[i] = {.lam = 0.7, .cutmix = i % 2 == 1, .box = {1, job.model.image_h, 2, 5}};
  }
  return entries;
}

// The micro-batch of that number: noise, and labels and samples that follow it.
inline Batch RandomBatch(const JobConfig& job, uint64_t number) {
  CounterRng random(0, RandomPurpose::kBenchmarkData, number);
  Batch batch = DryBatch(job, job.train.micro_batch);
  batch.image.resize(job.model.ImageShape(batch.pictures).NumElements());
  for (float& value : batch.image) value = static_cast<float>(random.Normal());
  if (job.train.mix.on()) DescribeMix(SomeMix(job), batch.mix_weight, batch.mix_box);
  for (int64_t i = 0; i < batch.pictures; ++i) {
    const int64_t sample = static_cast<int64_t>(number) * batch.pictures + i;
    batch.label.push_back(sample % job.model.num_classes);
    batch.sample.push_back(sample);
  }
  return batch;
}

inline JobConfig TwoLeaves(JobConfig job) {
  job.train.global_batch = 2 * job.train.micro_batch;
  return job;
}

}  // namespace swinfleet

#endif  // SWINFLEET_TESTS_WORKER_TRAINER_H_
