// Choosing by a budget, beside trying everything.
#include "worker/memory_budget.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <tuple>
#include <vector>

#include "kernels/error.h"
#include "tests/worker/small_jobs.h"
#include "worker/reproducibility.h"

namespace swinfleet {
namespace {

using Checkpointing = MemoryConfig::Checkpointing;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

// 128 windows in the first stage, so that groups of 64 are an option there; none in the second.
JobConfig Job(Architecture arch = Architecture::kSwinV2) {
  JobConfig job = SmallJob(arch);
  job.model.depths = {3, 2};
  job.train.global_batch = job.train.micro_batch = job.train.eval_batch = 32;
  return job;
}

// Every choice that the search has for Job.
std::vector<MemoryChoice> Everything(const JobConfig& job) {
  std::vector<MemoryChoice> choices;
  const std::vector<Checkpointing> levels = {Checkpointing::kNone, Checkpointing::kSelective,
                                             Checkpointing::kBlock};
  for (const Checkpointing first : levels) {
    for (const Checkpointing second : levels) {
      for (const int64_t group : {0, 64}) {
        JobConfig changed = job;
        changed.memory = {};
        changed.memory.checkpointing = {first, second};
        changed.memory.sequential_windows = {group, 0};
        const MemoryPlan plan = PlanMemory(changed, 0, 1);
        choices.push_back({changed.memory, plan.PredictedProcessBytes(), plan.step});
      }
    }
  }
  return choices;
}

TEST(MemoryBudget, TakesTheCheapestChoiceThatFits) {
  for (const Architecture arch : {Architecture::kSwinV1, Architecture::kSwinV2}) {
    const JobConfig job = Job(arch);
    const std::vector<MemoryChoice> all = Everything(job);
    // Every size that some choice has, and a byte less.
    for (const MemoryChoice& at : all) {
      for (const size_t limit : {at.process_bytes, at.process_bytes - 1}) {
        const MemoryChoice* best = nullptr;
        for (const MemoryChoice& choice : all) {
          if (choice.process_bytes > limit) continue;
          const auto cost = [](const MemoryChoice& c) {
            return std::tuple(c.step.matrix_flops, c.step.bytes);
          };
          if (best == nullptr || cost(choice) < cost(*best)) best = &choice;
        }
        const ChoiceSearch found = SearchChoices(job, 1, limit);
        ASSERT_EQ(found.cheapest.has_value(), best != nullptr) << limit;
        if (best == nullptr) continue;
        EXPECT_LE(found.cheapest->process_bytes, limit);
        EXPECT_EQ(found.cheapest->step.matrix_flops, best->step.matrix_flops) << limit;
        EXPECT_EQ(found.cheapest->step.bytes, best->step.bytes) << limit;
      }
    }
  }
}

TEST(MemoryBudget, KnowsTheLeast) {
  const JobConfig job = Job();
  size_t least = SIZE_MAX;
  for (const MemoryChoice& choice : Everything(job)) {
    least = std::min(least, choice.process_bytes);
  }
  const ChoiceSearch found = SearchChoices(job, 1, 0);
  EXPECT_EQ(found.least.process_bytes, least);
  EXPECT_LT(found.least.process_bytes, found.plain.process_bytes);
}

TEST(MemoryBudget, SetsTheJobAndSaysWhat) {
  JobConfig job = Job();
  EXPECT_EQ(ResolveBudget(&job, 1), "");
  EXPECT_THAT(job.memory.checkpointing, IsEmpty());

  job.memory.budget = int64_t{1} << 40;
  EXPECT_THAT(ResolveBudget(&job, 1), HasSubstr("memory.checkpointing none"));
  EXPECT_EQ(job.memory.checkpointing, std::vector(2, Checkpointing::kNone));

  JobConfig tight = Job();
  const ChoiceSearch found = SearchChoices(tight, 1, 0);
  tight.memory.budget = static_cast<int64_t>(found.least.process_bytes);
  const std::string line = ResolveBudget(&tight, 1);
  EXPECT_THAT(line, HasSubstr(CheckpointingText(tight.memory)));
  EXPECT_THAT(line, HasSubstr(BytesText(found.plain.process_bytes)));
  EXPECT_NE(tight.memory.checkpointing, std::vector(2, Checkpointing::kNone));
  EXPECT_LE(PlanMemory(tight, 0, 1).PredictedProcessBytes(), found.least.process_bytes);

  JobConfig again = Job();
  again.memory.budget = tight.memory.budget;
  EXPECT_EQ(ResolveBudget(&again, 1), line);
}

TEST(ReproducibilityKey, SaysWhatMultiplies) {
  JobConfig job = Job();
  const ReproducibilityKey key = MakeReproducibilityKey(job);
  job.train.matmul = Matmul::kTf32;
  EXPECT_THAT(key.Differences(MakeReproducibilityKey(job)), HasSubstr("in TF32"));
}

TEST(MemoryBudget, ItsGroupsArePartOfTheReproducibilityKey) {
  JobConfig job = Job();
  EXPECT_EQ(MakeReproducibilityKey(job).sequential_windows, (std::vector<int64_t>{0, 0}));
  job.memory.sequential_windows = {64, 0};
  const ReproducibilityKey by_hand = MakeReproducibilityKey(job);
  EXPECT_EQ(by_hand.sequential_windows, (std::vector<int64_t>{64, 0}));

  job.memory = {};
  job.memory.budget = int64_t{1} << 40;
  // Nothing is chosen yet.
  EXPECT_EQ(by_hand.Differences(MakeReproducibilityKey(job)), "");
  ResolveBudget(&job, 1);
  EXPECT_EQ(by_hand.Differences(MakeReproducibilityKey(job)),
            "sequential windows [64,0], now [0,0]");
}

TEST(MemoryBudget, RefusesLessThanTheLeastAndSaysWhatWouldWork) {
  JobConfig job = Job();
  const size_t least = SearchChoices(job, 1, 0).least.process_bytes;
  job.memory.budget = static_cast<int64_t>(least - 1);
  try {
    ResolveBudget(&job, 1);
    FAIL() << "no error";
  } catch (const Error& error) {
    const std::string what = error.what();
    EXPECT_THAT(what, HasSubstr("memory.budget"));
    EXPECT_THAT(what, HasSubstr("the least that this job needs on 1 rank, " + BytesText(least)));
    EXPECT_THAT(what, HasSubstr("What would work: memory.budget"));
    EXPECT_THAT(what, HasSubstr("or train.micro_batch 16"));
    EXPECT_THAT(what, HasSubstr("or checkpoint.asynchronous false"));
  }
  EXPECT_THAT(job.memory.checkpointing, IsEmpty());
  // Nothing makes it fit: not even the program does.
  job.memory.budget = 1 << 20;
  EXPECT_THAT(WhatWouldFit(job, 1, 1 << 20), IsEmpty());
  EXPECT_EQ(FewestRanks(job, 1 << 20), std::nullopt);
}

TEST(MemoryBudget, ProposesWhatFits) {
  JobConfig job = Job();
  // Large enough for sharding to save more than messages between ranks take.
  job.model.embed_dim = 96;
  job.train.global_batch = 128;
  job.train.eval_batch = 256;
  const size_t whole = PlanMemory(job, 0, 1).PredictedProcessBytes();
  // Evaluation is what takes most.
  EXPECT_THAT(WhatWouldFit(job, 1, whole - 1), testing::Contains("train.eval_batch 32"));

  job.train.eval_batch = 32;
  const size_t alone = PlanMemory(job, 0, 1).PredictedProcessBytes();
  const auto works = WhatWouldFit(job, 1, alone - 1);
  EXPECT_THAT(works, testing::Contains(HasSubstr("memory.checkpointing")));
  EXPECT_THAT(works, testing::Contains("2 ranks"));
  EXPECT_EQ(FewestRanks(job, alone), 1);
  EXPECT_EQ(FewestRanks(job, alone - 1), 2);
}

// Large activations, and 8 micro-batches for each of 2 ranks, whose sums take much.
JobConfig JobOfSums() {
  JobConfig job = Job();
  job.model.embed_dim = 96;
  job.train.micro_batch = job.train.eval_batch = 256;
  job.train.global_batch = 256 * 16;
  return job;
}

TEST(MemoryBudget, ProposesOtherFormsOfAccumulationAndDtypes) {
  const JobConfig job = JobOfSums();
  const auto works = [&](const JobConfig& changed, const std::string& phrase) {
    const size_t limit = PlanMemory(changed, 0, 2).PredictedProcessBytes();
    EXPECT_THAT(WhatWouldFit(job, 2, limit), testing::Contains(testing::StartsWith(phrase)));
    EXPECT_THAT(WhatWouldFit(job, 2, limit - 1), Not(testing::Contains(phrase)));
  };
  JobConfig split = job;
  split.train.accumulation = Accumulation::kSplit;
  works(split, "train.accumulation split");
  JobConfig shards = job;
  shards.parallel.zero_stage = 3;
  shards.train.accumulation = Accumulation::kSplit;
  works(shards, "parallel.zero_stage 3 with train.accumulation split");
  const size_t alone = PlanMemory(split, 0, 1).PredictedProcessBytes();
  EXPECT_THAT(WhatWouldFit(job, 1, alone), Not(testing::Contains(HasSubstr("zero_stage"))));
  JobConfig low = job;
  low.train.accumulation = Accumulation::kLowPrecision;
  works(low, "train.accumulation low_precision");
  JobConfig half = job;
  half.train.dtype = DType::kBF16;
  works(half, "train.dtype bf16");
  JobConfig disk = job;
  disk.parallel.offload = Offload::kDisk;
  disk.parallel.offload_dir = "/scratch";
  works(disk, "parallel.offload disk with parallel.offload_dir on a disk of each host's own");
  EXPECT_THAT(WhatWouldFit(disk, 2, PlanMemory(disk, 0, 2).PredictedProcessBytes() - 1),
              testing::Each(Not(HasSubstr("offload"))));

  // A split sum is in shards.
  JobConfig whole = job;
  whole.parallel.zero_stage = 0;
  const size_t limit = PlanMemory(split, 0, 2).PredictedProcessBytes();
  EXPECT_THAT(WhatWouldFit(whole, 2, limit),
              testing::Contains("train.accumulation split with parallel.zero_stage 1"));
  // The error of a budget has them too.
  JobConfig tight = job;
  tight.memory.budget = static_cast<int64_t>(SearchChoices(split, 2, 0).least.process_bytes);
  try {
    ResolveBudget(&tight, 2);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("or train.accumulation split"));
  }
}

TEST(MemoryBudget, ProposesTogetherWhatDoesNotHelpAlone) {
  const JobConfig job = JobOfSums();
  JobConfig changed = job;
  changed.train.accumulation = Accumulation::kLowPrecision;
  changed.train.micro_batch = changed.train.eval_batch = 1;
  const size_t limit = SearchChoices(changed, 2, 0).least.process_bytes;
  // Small batches alone have more sums; this form has one however many they are.
  const std::string together =
      "train.accumulation low_precision, train.micro_batch 1, train.eval_batch 1";
  const auto works = WhatWouldFit(job, 2, limit);
  ASSERT_THAT(works, Not(IsEmpty()));
  EXPECT_THAT(works[0], testing::StartsWith("memory.budget "));
  EXPECT_THAT(works[0], testing::EndsWith(", " + together));
  // A job that has the budget already is told the rest.
  JobConfig tight = job;
  tight.memory.budget = static_cast<int64_t>(limit);
  const auto rest = WhatWouldFit(tight, 2, limit);
  ASSERT_THAT(rest, Not(IsEmpty()));
  EXPECT_EQ(rest[0], together);
}

TEST(MemoryBudget, ProposalsTakeNoLongerThanTheyMay) {
  JobConfig job = Job();
  const size_t limit = PlanMemory(job, 0, 1).PredictedProcessBytes() - 1;
  EXPECT_THAT(WhatWouldFit(job, 1, limit), Not(IsEmpty()));
  EXPECT_THAT(WhatWouldFit(job, 1, limit, {}, /*seconds=*/0), IsEmpty());
}

TEST(MemoryBudget, FewerThreadsThatDecodeAreProposed) {
  JobConfig job = Job();
  job.data.loader_threads = 12;
  const size_t without = SearchChoices(job, 1, 0).least.process_bytes;
  // Enough for 4 threads, and far more than all else takes.
  constexpr size_t kPicture = size_t{1} << 30;
  PlanOptions options;
  options.data.train_decoding.picture = kPicture;
  const size_t limit = without + 4 * kPicture;
  EXPECT_THAT(WhatWouldFit(job, 1, limit, options), Not(IsEmpty()));
  job.memory.budget = static_cast<int64_t>(limit);
  try {
    ResolveBudget(&job, 1, options);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("or data.loader_threads 3"));
  }
  job.data.loader_threads = 3;
  EXPECT_NE(ResolveBudget(&job, 1, options), "");
  EXPECT_THAT(WhatWouldFit(job, 1, without / 2, options),
              testing::Each(Not(HasSubstr("loader_threads"))));
}

TEST(MemoryBudget, LargestMicroBatchIsAPowerOfTwoOfTheGlobalOne) {
  JobConfig job = Job();
  job.train.global_batch = 96;
  job.train.eval_batch = 1;
  job.train.micro_batch = 12;
  const auto bytes = [&](int64_t micro_batch) {
    JobConfig changed = job;
    changed.train.micro_batch = micro_batch;
    return PlanMemory(changed, 0, 1).PredictedProcessBytes();
  };
  EXPECT_EQ(LargestMicroBatch(job, 1, bytes(96)), 96);
  EXPECT_EQ(LargestMicroBatch(job, 1, bytes(96) - 1), 48);
  EXPECT_EQ(LargestMicroBatch(job, 1, bytes(24)), 24);
  // Every one of 8 ranks needs one.
  EXPECT_EQ(LargestMicroBatch(job, 8, bytes(96)), 12);
  EXPECT_EQ(LargestMicroBatch(job, 1, 1 << 20), 0);
  // Whoever has no time for the smaller ones gets none of them.
  int tries = 0;
  EXPECT_EQ(LargestMicroBatch(job, 1, bytes(24), {}, [&] { return ++tries < 3; }), 0);
  EXPECT_EQ(tries, 3);
  // A budget may choose: then a larger one fits in the same memory.
  job.memory.budget = static_cast<int64_t>(bytes(24));
  EXPECT_GT(LargestMicroBatch(job, 1, bytes(24)), 24);
}

TEST(MemoryBudget, KnowsTheMachine) { EXPECT_GT(MachineBytes(), size_t{64} << 20); }

}  // namespace
}  // namespace swinfleet
