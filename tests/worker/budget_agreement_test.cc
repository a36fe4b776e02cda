// What ranks make of a budget that they would keep in different ways; runs under mpirun.
#include "worker/budget_agreement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <string>

#include "kernels/error.h"
#include "tests/distributed/mpi_test_main.h"
#include "tests/worker/small_jobs.h"

namespace swinfleet {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

JobConfig Job() {
  JobConfig job = SmallJob(Architecture::kSwinV2);
  job.train.micro_batch = job.train.eval_batch = 32;
  job.train.global_batch = 32 * TestWorld().size();
  return job;
}

// A processor whose scratch memory takes so much more.
PlanOptions Needing(size_t more) {
  PlanOptions options;
  options.data.held_bytes = more;
  return options;
}

// Bytes that checkpointing and sequential attention save at most.
size_t Range(const JobConfig& job) {
  const ChoiceSearch found = SearchChoices(job, TestWorld().size(), 0);
  return found.plain.process_bytes - found.least.process_bytes;
}

std::string MemoryText(const MemoryConfig& memory) {
  return CheckpointingText(memory) + ", " + SequentialText(memory);
}

TEST(AgreeOnChoice, RanksThatChooseAlikeKeepTheirChoice) {
  JobConfig job = Job(), alone = job;
  const ChoiceSearch least = SearchChoices(job, TestWorld().size(), 0);
  job.memory.budget = alone.memory.budget = static_cast<int64_t>(least.least.process_bytes);
  const ChoiceSearch own = ChooseForBudget(job, TestWorld().size());
  const std::string line = AgreeOnChoice(own, {}, &TestWorld(), &job);
  EXPECT_EQ(line, ResolveBudget(&alone, TestWorld().size()));
  EXPECT_EQ(MemoryText(job.memory), MemoryText(alone.memory));
}

// The last rank needs more, so that it would be more frugal than the others.
TEST(AgreeOnChoice, AllTakeWhatFitsOnEveryRank) {
  JobConfig job = Job();
  const int ranks = TestWorld().size(), last = ranks - 1;
  const size_t more = Range(job) / 2;
  job.memory.budget =
      static_cast<int64_t>(SearchChoices(job, ranks, 0).plain.process_bytes + more / 2);
  const PlanOptions options = Needing(TestWorld().rank() == last ? more : 0);
  const ChoiceSearch own = ChooseForBudget(job, ranks, options);
  JobConfig of_last = job;
  ResolveBudget(&of_last, ranks, Needing(more));
  EXPECT_NE(MemoryText(of_last.memory), "none, off");
  EXPECT_EQ(MemoryText(own.cheapest->memory),
            TestWorld().rank() == last ? MemoryText(of_last.memory) : "none, off");

  const std::string line = AgreeOnChoice(own, options, &TestWorld(), &job);
  EXPECT_EQ(MemoryText(job.memory), MemoryText(of_last.memory));
  EXPECT_THAT(line, HasSubstr("memory.sequential_windows " + SequentialText(job.memory)));
  EXPECT_LE(RunChoiceDry(job, job.memory, ranks, options).process_bytes,
            static_cast<size_t>(job.memory.budget));
}

TEST(AgreeOnChoice, TheMostFrugalWayIsTakenWhenNoChoiceFitsOnAll) {
  JobConfig job = Job();
  const int ranks = TestWorld().size();
  const ChoiceSearch own = SearchChoices(job, ranks, SIZE_MAX);
  EXPECT_EQ(MemoryText(own.cheapest->memory), "none, off");
  job.memory.budget = static_cast<int64_t>(own.plain.process_bytes);
  // Without any of it one of the ranks takes more than the budget.
  AgreeOnChoice(own, Needing(TestWorld().rank() == 0 ? 1 : 0), &TestWorld(), &job);
  EXPECT_EQ(MemoryText(job.memory), MemoryText(own.least.memory));
}

TEST(AgreeOnChoice, AllRanksFailWhenNothingFitsOnAll) {
  JobConfig job = Job();
  const int ranks = TestWorld().size();
  const ChoiceSearch own = SearchChoices(job, ranks, SIZE_MAX);
  job.memory.budget = static_cast<int64_t>(own.plain.process_bytes);
  const PlanOptions options = Needing(TestWorld().rank() == 0 ? Range(job) + 1 : 0);
  try {
    AgreeOnChoice(own, options, &TestWorld(), &job);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("does so on all of them"));
    EXPECT_THAT(error.what(), HasSubstr("Raise memory.budget"));
  }
  EXPECT_THAT(job.memory.checkpointing, IsEmpty());
}

}  // namespace
}  // namespace swinfleet
