// swinfleet-bench ranks: what the ZeRO stages take, send and wait for.
#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "core/config/names.h"
#include "distributed/mpi_runtime.h"
#include "distributed/zero_engine.h"
#include "kernels/error.h"
#include "worker/bench/bench.h"
#include "worker/processor.h"
#include "worker/train_step.h"

namespace swinfleet::bench {
namespace {

struct RanksCommand {
  Setting setting;
  int64_t micro_batches = 4;
  int steps = 3;
  std::vector<int> stages = {0, 1, 2, 3};
  // By their names.
  std::vector<std::string> reductions = {"reproducible", "library"};
};

// Of a rank, in its fastest step.
struct Figures {
  double seconds = 0;
  double exposed_seconds = 0;
};

Figures TimeStage(const JobConfig& job, const MemoryPlan& plan, int steps,
                  Communicator* communicator) {
  MemoryClasses memory = MemoryClasses::OnHost(plan.memory);
  Context context = {.ops = &CpuOps(),
                     .workspace = &memory.workspace,
                     .threads = job.parallel.threads_per_rank,
                     .count = nullptr};
  const std::unique_ptr<Model> model = MakeModel(job.model, job.pretrain, job.memory);
  ZeroEngine engine(model->parameters(), communicator, ZeroOptionsFor(job, model->parameters()),
                    &memory, &context);
  engine.Initialize(0);
  TrainStep step(job, /*steps_per_epoch=*/1000, model.get(), &engine, communicator, &memory,
                 &context);
  const Batch batch =
      RandomBatch(job, job.train.micro_batch, static_cast<uint64_t>(communicator->rank()));
  // Steps follow each other as in a job, since what one starts runs under the next one.
  Figures best;
  for (int number = 0; number <= steps; ++number) {
    StepResult result;
    const double seconds =
        SecondsOf([&] { result = step.Run(number, number, {}, [&] { return &batch; }); });
    if (number == 0 || (number > 1 && seconds >= best.seconds)) continue;
    best = {.seconds = seconds, .exposed_seconds = result.exposed_seconds};
  }
  return best;
}

void PrintStage(const JobConfig& job, int steps, Communicator* communicator) {
  const MemoryPlan plan = PlanSteps(job, communicator->rank(), communicator->size());
  const Figures figures = TimeStage(job, plan, steps, communicator);
  if (communicator->rank() != 0) return;
  const auto mib = [](double bytes) { return bytes / (1 << 20); };
  std::printf("| %d | %s | %s |", job.parallel.zero_stage,
              NameIn(AccumulationNames(), job.train.accumulation),
              NameIn(ReductionNames(), job.parallel.reduction));
  for (const Arena* arena :
       {&plan.memory.parameters, &plan.memory.gradients, &plan.memory.optimizer}) {
    std::printf(" %.1f |", mib(static_cast<double>(arena->high_water())));
  }
  const Traffic& sent = plan.traffic;
  const uint64_t bytes = sent.reduce_scatter + sent.all_gather + sent.all_reduce + sent.small;
  std::printf(" %.1f | %.3f | %.3f |\n", mib(static_cast<double>(bytes)), figures.seconds,
              figures.exposed_seconds);
  std::fflush(stdout);
}

void RunRanks(const RanksCommand& command) {
  std::unique_ptr<MpiRuntime> mpi;
  if (MpiRuntime::StartedByLauncher()) mpi = std::make_unique<MpiRuntime>();
  const std::unique_ptr<Communicator> communicator =
      mpi == nullptr ? MakeSelfCommunicator() : mpi->World();
  const int ranks = communicator->size();
  JobConfig job = MakeJob(command.setting);
  RequireNative(job.train.dtype, job.train.allow_emulation, "use fp32, or --allow-emulation");
  if (command.micro_batches < ranks) {
    throw Error("--micro-batches is " + std::to_string(command.micro_batches) + ", less than the " +
                std::to_string(ranks) + " ranks; use at least as many");
  }
  job.train.global_batch = job.train.micro_batch * command.micro_batches;
  if (communicator->rank() == 0) {
    std::printf(
        "%s, %s, micro-batches of %" PRId64 ", %" PRId64
        " a step; %d ranks of %d threads, %s. MiB, and seconds of the fastest step, of rank 0.\n\n"
        "| ZeRO | accumulation | reduction | parameters | gradients | optimizer | sent | step |"
        " exposed communication |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
        command.setting.model.c_str(), command.setting.dtype.c_str(), job.train.micro_batch,
        command.micro_batches, ranks, job.parallel.threads_per_rank, CpuInstructionSet());
  }
  for (const std::string& name : command.reductions) {
    job.parallel.reduction = *ValueIn(ReductionNames(), name);
    for (const int stage : command.stages) {
      job.parallel.zero_stage = stage;
      job.train.accumulation = DefaultAccumulation(stage);
      PrintStage(job, command.steps, communicator.get());
    }
  }
}

}  // namespace

void AddRanksCommand(CLI::App* app) {
  const auto command = std::make_shared<RanksCommand>();
  CLI::App* ranks = app->add_subcommand(
      "ranks",
      "training steps over the ranks of mpirun at each ZeRO stage, with sums that are reproducible "
      "and with the MPI library's, as a Markdown table");
  AddSettingOptions(ranks, &command->setting);
  ranks
      ->add_option("--micro-batches", command->micro_batches,
                   "of all ranks in a step, of --batch pictures each; a power of two")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  ranks->add_option("--steps", command->steps, "timed, after one that is not; the fastest counts")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  ranks->add_option("--stages", command->stages, "of ZeRO")
      ->check(CLI::Range(0, kMostZeroStage))
      ->capture_default_str();
  ranks->add_option("--reductions", command->reductions, "who sums, as parallel.reduction says it")
      ->check(CLI::IsMember({"reproducible", "library"}))
      ->capture_default_str();
  ranks->callback([command] { RunRanks(*command); });
}

}  // namespace swinfleet::bench
