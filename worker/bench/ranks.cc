// swinfleet-bench ranks: what the ZeRO stages take, send and wait for.
#include <chrono>
#include <cinttypes>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "core/config/names.h"
#include "core/memory/compute.h"
#include "distributed/flight_recorder.h"
#include "distributed/mpi_runtime.h"
#include "distributed/zero_engine.h"
#include "kernels/error.h"
#include "worker/bench/bench.h"
#include "worker/bench/profile_report.h"
#include "worker/compute_device.h"
#include "worker/memory_budget.h"
#include "worker/processor.h"
#include "worker/trace.h"
#include "worker/train_step.h"

namespace swinfleet::bench {
namespace {

struct RanksCommand {
  Setting setting;
  // In place of the setting and of all that follows but the steps.
  std::string job_file;
  int64_t micro_batches = 4;
  int steps = 3;
  std::vector<int> stages = {0, 1, 2, 3};
  // By their names.
  std::vector<std::string> reductions = {"reproducible", "library"};
  // "on", "off".
  std::vector<std::string> overlap = {"on"};
  std::string trace;
  bool json = false;
  // "cpu", "cuda" or "auto".
  std::string device = "cpu";
};

// Of a rank, in its fastest step.
struct Figures {
  double seconds = 0;
  double exposed_seconds = 0;
};

// Training steps of a job over the ranks.
class RanksRun {
 public:
  // `gpu` is null where the CPU computes.
  RanksRun(const JobConfig& job, Communicator* communicator, Accelerator* gpu)
      : job_(job),
        gpu_(gpu),
        plan_(PlanSteps(job, communicator->rank(), communicator->size(),
                        gpu == nullptr ? Device::kCpu : Device::kCuda)),
        compute_(plan_.memory, gpu, job.parallel.threads_per_rank, job.train.matmul),
        model_(MakeModel(job.model, job.pretrain, job.memory)),
        engine_(model_->parameters(), communicator, ZeroOptionsFor(job, model_->parameters()),
                &compute_.memory, &compute_.context),
        communicator_(engine_.communicator()),
        step_(job, /*steps_per_epoch=*/1000, model_.get(), &engine_, &compute_.memory,
              &compute_.context),
        batch_(
            RandomBatch(job, job.train.micro_batch, static_cast<uint64_t>(communicator->rank()))) {
    engine_.Initialize(0);
  }

  const MemoryPlan& plan() const { return plan_; }

  // Steps follow each other as in a job, since what one starts runs under the next one.
  Figures Time(int steps) {
    Figures best;
    for (int i = 0; i <= steps; ++i) {
      const Figures step = Step();
      if (i == 0 || (i > 1 && step.seconds >= best.seconds)) continue;
      best = step;
    }
    return best;
  }

  // One more step, with its profile. Of ranks other than 0 nothing.
  struct StepTrace {
    std::unique_ptr<Profile> profile;
    Trace trace;
  };
  StepTrace TraceStep();

 private:
  Figures Step() {
    StepResult result;
    const double seconds = SecondsOf([&] {
      result = step_.Run(number_, number_, {}, [&] { return &batch_; });
      if (gpu_ != nullptr) gpu_->Wait();
    });
    ++number_;
    return {.seconds = seconds, .exposed_seconds = result.exposed_seconds};
  }

  const JobConfig job_;
  Accelerator* const gpu_;
  const MemoryPlan plan_;
  Compute compute_;
  const std::unique_ptr<Model> model_;
  ZeroEngine engine_;
  Communicator* const communicator_;
  TrainStep step_;
  Batch batch_;
  int64_t number_ = 0;
};

RanksRun::StepTrace RanksRun::TraceStep() {
  const uint64_t before = communicator_->position().sequence;
  Context& context = compute_.context;
  StepTrace traced;
  traced.profile = gpu_ == nullptr
                       ? std::make_unique<Profile>(*context.ops)
                       : std::make_unique<Profile>(gpu_, static_cast<size_t>(plan_.step.calls));
  Trace& trace = traced.trace;
  trace.profile = traced.profile.get();
  trace.profile_start = trace.origin =
      std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count() -
      traced.profile->Now();
  const OpTable* plain_ops = std::exchange(context.ops, &ProfilingOps());
  context.profile = traced.profile.get();
  Step();
  context.ops = plain_ops;
  context.profile = nullptr;
  // After which what the step started has ended too.
  traced.profile->Finish();
  communicator_->Barrier("trace");
  if (communicator_->rank() != 0) return {};
  for (const CollectiveRecord& record : communicator_->recent()) {
    // Those that run under the step, also when an earlier one started them.
    if (record.ended >= trace.profile_start && record.name != "trace") {
      trace.collectives.push_back(record);
    }
  }
  const uint64_t collectives = communicator_->position().sequence - before;
  if (collectives > FlightRecorder::kRecords) {
    std::fprintf(stderr,
                 "of the step's %" PRIu64 " collectives the trace has the last %" PRIu64 "\n",
                 collectives - 1, FlightRecorder::kRecords - 1);
  }
  return traced;
}

const char* OverlapName(const JobConfig& job) { return job.parallel.overlap ? "on" : "off"; }

uint64_t BytesSent(const MemoryPlan& plan) {
  const Traffic& sent = plan.traffic;
  return sent.reduce_scatter + sent.all_gather + sent.all_reduce + sent.small;
}

void PrintRow(const JobConfig& job, const MemoryPlan& plan, const Figures& figures) {
  const auto mib = [](double bytes) { return bytes / (1 << 20); };
  std::printf("| %d | %s | %s | %s |", job.parallel.zero_stage,
              NameIn(AccumulationNames(), job.train.accumulation),
              NameIn(ReductionNames(), job.parallel.reduction), OverlapName(job));
  for (const Arena* arena :
       {&plan.memory.parameters, &plan.memory.gradients, &plan.memory.optimizer}) {
    std::printf(" %.1f |", mib(static_cast<double>(arena->high_water())));
  }
  std::printf(" %.1f | %.3f | %.3f |\n", mib(static_cast<double>(BytesSent(plan))), figures.seconds,
              figures.exposed_seconds);
  std::fflush(stdout);
}

nlohmann::json JsonOf(const JobConfig& job, const MemoryPlan& plan, const Figures& figures) {
  return {{"zero_stage", job.parallel.zero_stage},
          {"accumulation", NameIn(AccumulationNames(), job.train.accumulation)},
          {"reduction", NameIn(ReductionNames(), job.parallel.reduction)},
          {"overlap", job.parallel.overlap},
          {"parameters_bytes", plan.memory.parameters.high_water()},
          {"gradients_bytes", plan.memory.gradients.high_water()},
          {"optimizer_bytes", plan.memory.optimizer.high_water()},
          {"bytes_sent", BytesSent(plan)},
          {"step_s", figures.seconds},
          {"images_per_s", static_cast<double>(job.train.global_batch) / figures.seconds},
          {"exposed_communication_s", figures.exposed_seconds},
          {"gpu_mib", plan.memory.DeviceHighWater() >> 20},
          // Of the process since it began, rows before this one included.
          {"peak_mib", ProcessPeakBytes() >> 20}};
}

// The jobs to run, one a row.
std::vector<JobConfig> JobsOf(const RanksCommand& command, int ranks) {
  if (!command.job_file.empty()) {
    JobConfig job = LoadJob(command.job_file, ranks);
    ResolveBudget(&job, ranks);
    return {job};
  }
  if (command.micro_batches < ranks) {
    throw Error("--micro-batches is " + std::to_string(command.micro_batches) + ", less than the " +
                std::to_string(ranks) + " ranks; use at least as many");
  }
  std::vector<JobConfig> jobs;
  JobConfig job = MakeJob(command.setting);
  job.train.global_batch = job.train.micro_batch * command.micro_batches;
  for (const std::string& overlap : command.overlap) {
    job.parallel.overlap = overlap == "on";
    for (const std::string& name : command.reductions) {
      job.parallel.reduction = *ValueIn(ReductionNames(), name);
      for (const int stage : command.stages) {
        job.parallel.zero_stage = stage;
        job.train.accumulation = DefaultAccumulation(stage);
        jobs.push_back(job);
      }
    }
  }
  return jobs;
}

void PrintHead(const RanksCommand& command, const JobConfig& job, int ranks,
               const std::string& device) {
  const bool has_file = !command.job_file.empty();
  std::printf(
      "%s, %s, micro-batches of %" PRId64 ", %" PRId64
      " a step; %d ranks of %d threads, %s. MiB, and seconds of the fastest step, of rank 0.\n\n"
      "| ZeRO | accumulation | reduction | overlap | parameters | gradients | optimizer | sent |"
      " step | exposed communication |\n"
      "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
      (has_file ? command.job_file : command.setting.model).c_str(),
      NameIn(DTypeNames(), job.train.dtype), job.train.micro_batch, job.train.micro_batches(),
      ranks, job.parallel.threads_per_rank, device.c_str());
}

void RunRanks(const RanksCommand& command) {
  std::unique_ptr<MpiRuntime> mpi;
  if (MpiRuntime::StartedByLauncher()) mpi = std::make_unique<MpiRuntime>();
  const std::unique_ptr<Communicator> communicator =
      mpi == nullptr ? MakeSelfCommunicator() : mpi->World();
  const bool speaks = communicator->rank() == 0;
  const std::vector<JobConfig> jobs = JobsOf(command, communicator->size());
  const ComputeDevice device = TakeDevice(DeviceRequestOf(command.device), communicator.get());
  if (device.gpu == nullptr) {
    const std::string problem = WhyNotOnCpu(jobs[0]);
    if (!problem.empty()) throw Error("this job can't be computed on the CPU: " + problem);
    RequireNative(jobs[0].train.dtype, jobs[0].train.allow_emulation,
                  "use fp32, or --allow-emulation");
  }
  if (!command.trace.empty() && jobs.size() > 1) {
    throw Error("--trace is of one row, and this would be " + std::to_string(jobs.size()) +
                "; name one of --stages, --reductions and --overlap each");
  }
  // Opened before anything is measured.
  std::ofstream trace;
  if (speaks && !command.trace.empty()) trace.open(command.trace);
  CheckTrace(command.trace, trace);
  if (speaks) {
    PrintHead(command, jobs[0], communicator->size(),
              device.gpu == nullptr ? CpuInstructionSet() : device.gpu->name());
  }
  nlohmann::json rows = nlohmann::json::array();
  RanksRun::StepTrace traced;
  for (const JobConfig& job : jobs) {
    RanksRun run(job, communicator.get(), device.gpu.get());
    const Figures figures = run.Time(command.steps);
    if (!command.trace.empty()) traced = run.TraceStep();
    if (!speaks) continue;
    PrintRow(job, run.plan(), figures);
    rows.push_back(JsonOf(job, run.plan(), figures));
  }
  if (traced.profile != nullptr) {
    // Once the run's memory is free again.
    const MachineLimits limits =
        MeasureMachineLimits(jobs[0].train.dtype, jobs[0].parallel.threads_per_rank,
                             device.gpu.get(), jobs[0].train.matmul == Matmul::kTf32);
    traced.trace.limits = &limits;
    WriteTrace(traced.trace, &trace);
  }
  CheckTrace(command.trace, trace);
  if (speaks && command.json) {
    std::cout << nlohmann::json{{"ranks", communicator->size()}, {"rows", rows}}.dump()
              << std::endl;
  }
}

// The rows of the table.
void AddRowOptions(CLI::App* ranks, RanksCommand* command) {
  ranks
      ->add_option("--micro-batches", command->micro_batches,
                   "of all ranks in a step, of --batch pictures each; a power of two")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  ranks->add_option("--stages", command->stages, "of ZeRO")
      ->check(CLI::Range(0, kMostZeroStage))
      ->capture_default_str();
  ranks->add_option("--reductions", command->reductions, "who sums, as parallel.reduction says it")
      ->check(CLI::IsMember({"reproducible", "library"}))
      ->capture_default_str();
  ranks
      ->add_option(
          "--overlap", command->overlap,
          "on, off or both: whether ranks exchange while they compute, as parallel.overlap")
      ->check(CLI::IsMember({"on", "off"}))
      ->capture_default_str();
}

}  // namespace

void AddRanksCommand(CLI::App* app) {
  const auto command = std::make_shared<RanksCommand>();
  CLI::App* ranks = app->add_subcommand(
      "ranks",
      "training steps over the ranks of mpirun at each ZeRO stage, with sums that are reproducible "
      "and with the MPI library's, as a Markdown table");
  AddSettingOptions(ranks, &command->setting);
  AddRowOptions(ranks, command.get());
  CLI::Option* job = ranks->add_option("--job", command->job_file,
                                       "a job file, in place of all options that describe jobs: "
                                       "one row, as the job is");
  ExcludeJobOptions(ranks, job);
  for (const char* option : {"--batch", "--threads", "--allow-emulation", "--micro-batches",
                             "--stages", "--reductions", "--overlap"}) {
    job->excludes(ranks->get_option(option));
  }
  ranks->add_option("--steps", command->steps, "timed, after one that is not; the fastest counts")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  ranks->add_option("--trace", command->trace,
                    "a file for one more step of rank 0 as a Chrome trace (chrome://tracing, "
                    "ui.perfetto.dev), with collectives on a row of their own");
  ranks->add_option("--device", command->device, "what computes: cpu, cuda or auto")
      ->check(CLI::IsMember(DeviceRequestTexts()))
      ->capture_default_str();
  ranks->add_flag("--json", command->json, "one JSON object on the last line");
  ranks->callback([command] { RunRanks(*command); });
}

}  // namespace swinfleet::bench
