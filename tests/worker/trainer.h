// A training step and all that it needs, on one rank.
#ifndef SWINFLEET_TESTS_WORKER_TRAINER_H_
#define SWINFLEET_TESTS_WORKER_TRAINER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "core/optim/parameter_groups.h"
#include "core/rng/counter_rng.h"
#include "distributed/zero_engine.h"
#include "tests/worker/small_jobs.h"
#include "worker/memory_plan.h"
#include "worker/train_step.h"

namespace swinfleet {

// A job of two micro-batches a step, on one rank.
class Trainer {
 public:
  explicit Trainer(const JobConfig& job)
      : job_(job),
        memory_(MemoryClasses::OnHost(PlanMemory(job, 0, 1).memory)),
        context_{.ops = &CpuOps(),
                 .workspace = &memory_.workspace,
                 .threads = job.parallel.threads_per_rank,
                 .count = nullptr},
        model_(MakeModel(job.model, job.pretrain, job.memory)),
        communicator_(MakeSelfCommunicator()),
        engine_(model_->parameters(), communicator_.get(),
                ZeroOptionsFor(job, model_->parameters()), &memory_, &context_),
        step_(job_, /*steps_per_epoch=*/10, model_.get(), &engine_, communicator_.get(), &memory_,
              &context_) {
    engine_.Initialize(1);
  }

  // Null stands for a micro-batch that can't be had.
  // `aside` is called with each of them.
  StepResult Step(
      int64_t step, std::vector<const Batch*> batches, const std::function<void()>& aside = [] {}) {
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

 private:
  const JobConfig job_;
  MemoryClasses memory_;
  Context context_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Communicator> communicator_;
  ZeroEngine engine_;
  TrainStep step_;
};

inline Batch RandomBatch(const JobConfig& job, uint64_t number) {
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

inline JobConfig TwoLeaves(JobConfig job) {
  job.train.global_batch = 2 * job.train.micro_batch;
  return job;
}

}  // namespace swinfleet

#endif  // SWINFLEET_TESTS_WORKER_TRAINER_H_
