// What is planned, beside what steps and evaluations really take.
#include "worker/memory_plan.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/rng/counter_rng.h"
#include "distributed/zero_engine.h"
#include "tests/worker/small_jobs.h"
#include "worker/dry_run.h"
#include "worker/evaluate.h"
#include "worker/inference.h"
#include "worker/train_step.h"

namespace swinfleet {
namespace {

using Checkpointing = MemoryConfig::Checkpointing;

Batch RandomBatch(const JobConfig& job, int64_t pictures) {
  CounterRng random(0, RandomPurpose::kBenchmarkData, 0);
  Batch batch;
  batch.pictures = pictures;
  batch.image.resize(job.model.ImageShape(pictures).NumElements());
  for (float& value : batch.image) value = static_cast<float>(random.Normal());
  for (int64_t i = 0; i < pictures; ++i) {
    batch.label.push_back(i % job.model.num_classes);
    batch.sample.push_back(i);
  }
  return batch;
}

// Two steps and an evaluation on host memory as planned.
MemoryClasses Run(const JobConfig& job, const MemoryPlan& plan) {
  MemoryClasses memory = MemoryClasses::OnHost(plan.memory);
  Context context = {.ops = &CpuOps(),
                     .workspace = &memory.workspace,
                     .threads = job.parallel.threads_per_rank,
                     .count = nullptr};
  const auto model = MakeModel(job.model, job.pretrain, job.memory);
  const auto communicator = MakeSelfCommunicator();
  ZeroEngine engine(model->parameters(), communicator.get(),
                    ZeroOptionsFor(job, model->parameters()), &memory, &context);
  engine.Initialize(1);
  TrainStep step(job, /*steps_per_epoch=*/10, model.get(), &engine, &memory, &context);
  Batch batch = RandomBatch(job, job.train.micro_batch);
  for (int i = 0; i < 2; ++i) step.Run(i, i, {}, [&] { return &batch; });
  EvaluateBatch(job, RandomBatch(job, job.train.eval_batch), model.get(), &engine, &memory,
                &context);
  return memory;
}

// With drop path a plan is for any pictures that a step may leave out.
void ExpectEnough(const JobConfig& job) {
  const MemoryPlan plan = PlanMemory(job, 0, 1);
  const MemoryClasses used = Run(job, plan);
  EXPECT_LE(used.activations.high_water(), plan.memory.activations.high_water());
  EXPECT_LE(used.workspace.high_water(), plan.memory.workspace.high_water());
}

void ExpectExact(JobConfig job, const std::string& what) {
  SCOPED_TRACE(what);
  if (job.model.drop_path_rate > 0) ExpectEnough(job);
  job.model.drop_path_rate = 0;
  const MemoryPlan plan = PlanMemory(job, 0, 1);
  const MemoryClasses used = Run(job, plan);
  EXPECT_EQ(used.parameters.high_water(), plan.memory.parameters.high_water());
  EXPECT_EQ(used.gradients.high_water(), plan.memory.gradients.high_water());
  EXPECT_EQ(used.optimizer.high_water(), plan.memory.optimizer.high_water());
  EXPECT_EQ(used.activations.high_water(), plan.memory.activations.high_water());
  EXPECT_EQ(used.workspace.high_water(), plan.memory.workspace.high_water());
}

class MemoryPlanTest : public testing::TestWithParam<Architecture> {};

INSTANTIATE_TEST_SUITE_P(Architectures, MemoryPlanTest,
                         testing::Values(Architecture::kSwinV1, Architecture::kSwinV2,
                                         Architecture::kVideoSwin),
                         [](const auto& info) {
                           const std::string name = ArchitectureName(info.param);
                           return name.substr(0, name.find('_')) + name.substr(name.find('_') + 1);
                         });

// High-water marks of activations and workspace in the evaluation of one batch.
std::pair<size_t, size_t> TakenByEvaluation(const JobConfig& job, int64_t pictures, bool packed) {
  const auto model = MakeModel(job.model, job.pretrain, job.memory);
  MemoryClasses memory = MemoryClasses::DryRun();
  InferenceParameters parameters(model->parameters(), job.train.dtype, &memory.parameters);
  Context context = {.ops = &DryRunOps(),
                     .workspace = &memory.workspace,
                     .threads = job.parallel.threads_per_rank,
                     .packed_weights = packed ? parameters.packed() : nullptr};
  EvaluateBatch(job, DryBatch(job, pictures), model.get(), &parameters, &memory, &context);
  return {memory.activations.high_water(), memory.workspace.high_water()};
}

// The last batch of an evaluation is smaller than what was planned for.
TEST_P(MemoryPlanTest, SmallerBatchesTakeNoMore) {
  JobConfig job = SmallJob(GetParam());
  job.train.eval_batch = 100;
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int threads : {1, 2, 3}) {
      for (const bool packed : {false, true}) {
        job.train.dtype = dtype;
        job.parallel.threads_per_rank = threads;
        const auto [activations, workspace] = TakenByEvaluation(job, job.train.eval_batch, packed);
        for (int64_t pictures = 1; pictures < job.train.eval_batch; ++pictures) {
          const auto [fewer_activations, fewer_workspace] =
              TakenByEvaluation(job, pictures, packed);
          EXPECT_LE(fewer_activations, activations) << pictures << " pictures";
          EXPECT_LE(fewer_workspace, workspace)
              << pictures << " pictures " << NameOf(dtype) << ", threads " << threads;
        }
      }
    }
  }
}

TEST_P(MemoryPlanTest, IsExactForEveryWayToHoldMemoryDown) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const Checkpointing level :
         {Checkpointing::kNone, Checkpointing::kSelective, Checkpointing::kBlock}) {
      for (const int64_t group : {0, 3}) {
        JobConfig job = SmallJob(GetParam());
        job.train.dtype = dtype;
        job.memory.checkpointing = {level, level};
        job.memory.sequential_windows = {group, group};
        job.parallel.threads_per_rank = group == 0 ? 2 : 1;
        ExpectExact(job, std::string(NameOf(dtype)) + " " + CheckpointingName(level) + " " +
                             std::to_string(group));
      }
    }
  }
}

TEST_P(MemoryPlanTest, IsEnoughForAnyPicturesThatDropPathLeaves) {
  JobConfig job = SmallJob(GetParam());
  job.train.global_batch = job.train.micro_batch = 9;
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int threads : {1, 3}) {
      for (const double rate : {0.1, 0.6}) {
        job.train.dtype = dtype;
        job.parallel.threads_per_rank = threads;
        job.model.drop_path_rate = rate;
        SCOPED_TRACE(std::string(NameOf(dtype)) + ", threads " + std::to_string(threads) +
                     ", rate " + std::to_string(rate));
        ExpectEnough(job);
      }
    }
  }
}

// At such a rate pictures are hardly ever left out.
TEST_P(MemoryPlanTest, GathersNothingForALowRate) {
  JobConfig job = SmallJob(GetParam());
  job.train.micro_batch = 32;
  job.train.global_batch = 32;
  const auto workspace = [&](double rate) {
    job.model.drop_path_rate = rate;
    return PlanMemory(job, 0, 1).memory.workspace.high_water();
  };
  EXPECT_LT(workspace(0.02), workspace(0.2));
}

TEST_P(MemoryPlanTest, IsExactForMixedStages) {
  JobConfig job = SmallJob(GetParam());
  job.memory.checkpointing = {Checkpointing::kBlock, Checkpointing::kSelective};
  job.memory.sequential_windows = {0, 2};
  ExpectExact(job, "mixed");
}

TEST_P(MemoryPlanTest, IsExactForEveryAccumulationAndNumberOfLeaves) {
  for (const Accumulation accumulation :
       {Accumulation::kPlain, Accumulation::kSplit, Accumulation::kLowPrecision,
        Accumulation::kSplitLowPrecision}) {
    for (const int64_t leaves : {1, 2, 4, 8}) {
      JobConfig job = SmallJob(GetParam());
      job.train.accumulation = accumulation;
      job.train.micro_batch = 2;
      job.train.global_batch = 2 * leaves;
      ExpectExact(job, std::to_string(static_cast<int>(accumulation)) + ", leaves " +
                           std::to_string(leaves));
    }
  }
}

TEST(MemoryPlan, CountsTheBuffersAndTheDiskOfOffloadedState) {
  std::string folder = std::filesystem::temp_directory_path() / "memory_plan_XXXXXX";
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  for (const auto moments : {DType::kF32, DType::kBF16}) {
    JobConfig job = SmallJob(Architecture::kSwinV2);
    const MemoryPlan in_memory = PlanMemory(job, 0, 1);
    EXPECT_EQ(in_memory.disk.state, 0u);
    job.train.dtype = DType::kBF16;
    job.train.optimizer.moments = moments;
    job.parallel.offload = Offload::kDisk;
    job.parallel.offload_dir = folder;
    ExpectExact(job, NameOf(moments));
    const MemoryPlan plan = PlanMemory(job, 0, 1);
    // Of the copy the weights are left.
    EXPECT_EQ(plan.save_copy_bytes, in_memory.save_copy_bytes / 3);
    // Three sets of moments, two of masters, a page of header at least for each.
    const size_t elements =
        PlanMemory(SmallJob(Architecture::kSwinV2), 0, 1).memory.optimizer.high_water() / 8;
    EXPECT_GE(plan.disk.state, elements * (3 * 2 * SizeOf(moments) + 2 * 2) + 5 * 4096);
    EXPECT_GE(plan.disk.update, elements * (2 * SizeOf(moments) + 2) + 2 * 4096);
    // Of a checkpoint the moments are shared, and the weights are beside them.
    EXPECT_EQ(plan.disk.saving, plan.save_copy_bytes);
    EXPECT_GE(plan.disk.checkpoint, plan.save_copy_bytes + elements * 2 * SizeOf(moments));
    // A save that holds the training needs one set fewer.
    job.checkpoint.asynchronous = false;
    EXPECT_LE(PlanMemory(job, 0, 1).disk.state, plan.disk.state - elements * 2 * SizeOf(moments));
  }
  std::filesystem::remove_all(folder);
}

TEST(MemoryPlan, CountsAStepOfManyLeavesAsIfAllWereRun) {
  for (const Accumulation accumulation :
       {Accumulation::kPlain, Accumulation::kSplit, Accumulation::kLowPrecision,
        Accumulation::kSplitLowPrecision}) {
    std::vector<MemoryPlan> plans;
    for (const int64_t leaves : {1, 2, 8}) {
      JobConfig job = SmallJob(Architecture::kSwinV2);
      job.train.accumulation = accumulation;
      job.train.micro_batch = 1;
      job.train.global_batch = 4 * leaves;
      plans.push_back(PlanMemory(job, 3, 4));
      EXPECT_EQ(plans.back().leaves, leaves);
    }
    const auto expect_linear = [&](const auto& figure) {
      EXPECT_DOUBLE_EQ(figure(plans[2]),
                       figure(plans[0]) + 7 * (figure(plans[1]) - figure(plans[0])));
    };
    expect_linear([](const MemoryPlan& plan) { return plan.step.matrix_flops; });
    expect_linear([](const MemoryPlan& plan) { return plan.step.bytes; });
    expect_linear([](const MemoryPlan& plan) { return double(plan.traffic.reduce_scatter); });
    // Weights are gathered once, whatever the leaves.
    EXPECT_EQ(plans[2].traffic.all_gather, plans[0].traffic.all_gather);
    EXPECT_GT(plans[0].traffic.all_gather, 0u);
  }
}

TEST(MemoryPlan, CountsTheTrafficOfEachStage) {
  JobConfig job = SmallJob(Architecture::kSwinV1);
  job.train.global_batch = 16;
  const MemoryPlan sharded = PlanMemory(job, 0, 4);
  // A gradient leaves in float32, 3 of 4 parts of it, and 3 parts of the weights come the same way.
  EXPECT_EQ(sharded.traffic.reduce_scatter, sharded.traffic.all_gather);
  EXPECT_EQ(sharded.traffic.all_reduce, 0u);
  job.parallel.zero_stage = 0;
  const MemoryPlan whole = PlanMemory(job, 0, 4);
  EXPECT_EQ(whole.traffic.all_reduce, 2 * sharded.traffic.reduce_scatter);
  EXPECT_EQ(whole.traffic.reduce_scatter + whole.traffic.all_gather, 0u);
  EXPECT_GT(whole.memory.optimizer.high_water(), sharded.memory.optimizer.high_water());
}

TEST(MemoryPlan, CountsWhatEachStageHolds) {
  JobConfig job = SmallJob(Architecture::kSwinV1);
  job.train.global_batch = 16;
  const auto high = [](const MemoryPlan& plan) {
    return std::array{plan.memory.parameters.high_water(), plan.memory.gradients.high_water(),
                      plan.memory.optimizer.high_water()};
  };
  const MemoryPlan one = PlanMemory(job, 0, 4);
  job.train.accumulation = Accumulation::kSplit;
  const MemoryPlan split = PlanMemory(job, 0, 4);
  job.parallel.zero_stage = 2;
  const MemoryPlan two = PlanMemory(job, 0, 4);
  job.parallel.zero_stage = 3;
  const MemoryPlan three = PlanMemory(job, 0, 4);
  EXPECT_EQ(high(two), high(split));
  EXPECT_LT(two.memory.gradients.high_water(), one.memory.gradients.high_water());
  EXPECT_LT(three.memory.parameters.high_water(), two.memory.parameters.high_water());
  EXPECT_EQ(three.memory.gradients.high_water(), two.memory.gradients.high_water());
  EXPECT_EQ(three.memory.optimizer.high_water(), two.memory.optimizer.high_water());
  // Weights come before they are used, forward and backward, instead of once.
  EXPECT_EQ(two.traffic.all_gather, one.traffic.all_gather);
  EXPECT_GT(three.traffic.all_gather, two.traffic.all_gather);
  EXPECT_LT(three.traffic.all_gather, 2 * two.traffic.all_gather);
}

TEST(MemoryPlan, CountsEverythingElseThatAProcessHolds) {
  JobConfig job = SmallJob(Architecture::kSwinV2);
  job.data.prefetch = 2;
  job.data.loader_threads = 3;
  const PlanOptions options = {.evaluation = true,
                               .checkpoints = true,
                               .loader = true,
                               .data = {.held_bytes = 12345,
                                        .train_decoding = {1000, {500, 50}},
                                        .eval_decoding = {100, {40, 30, 20, 10}},
                                        .eval_pictures = 5}};
  const MemoryPlan plan = PlanMemory(job, 0, 1, options);
  EXPECT_EQ(plan.data_bytes, 12345u);
  EXPECT_EQ(plan.decoding_bytes, 3u * (1000 + 100) + 500 + 50 + 40 + 30 + 20);
  // Three micro-batches of 4 pictures, and two batches of evaluation that holds 5.
  const size_t picture = 16 * 16 * 3 * 4 + 16, target = 5 * 4;
  EXPECT_EQ(plan.loader_bytes, 3 * 4 * (picture + target) + 2 * 5 * picture);
  // One index for both stages, whose windows are alike.
  EXPECT_EQ(plan.table_bytes, 16u * 16 * 4);
  // Masters and both moments.
  const auto model = MakeModel(job.model, job.pretrain, job.memory);
  EXPECT_EQ(plan.save_copy_bytes, 12u * model->parameters().TotalElements());
  EXPECT_EQ(plan.message_bytes, 0u);
  size_t sum = 0;
  for (const auto& [name, bytes] : plan.Classes()) sum += bytes;
  EXPECT_EQ(sum, plan.PredictedProcessBytes());
  job.checkpoint.asynchronous = false;
  EXPECT_EQ(PlanMemory(job, 0, 1, options).save_copy_bytes, 0u);
}

TEST(MemoryPlan, KnowsTheBusiestRank) {
  JobConfig job = SmallJob(Architecture::kSwinV1);
  job.train.global_batch = 16 * job.train.micro_batch;
  EXPECT_EQ(BusiestRank(job, 1), 0);
  EXPECT_EQ(BusiestRank(job, 4), 0);
  // 16 leaves over 3 ranks: 5, 5 and 6.
  EXPECT_EQ(BusiestRank(job, 3), 2);
  job.train.accumulation = Accumulation::kSplit;
  EXPECT_EQ(BusiestRank(job, 3), 0);
}

}  // namespace
}  // namespace swinfleet
