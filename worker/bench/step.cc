// swinfleet-bench step: how fast a training step is on this machine.
#include <cinttypes>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "core/config/names.h"
#include "kernels/machine_limits.h"
#include "worker/bench/bench.h"
#include "worker/bench/profile_report.h"
#include "worker/compute_device.h"
#include "worker/memory_budget.h"
#include "worker/trace.h"

namespace swinfleet::bench {
namespace {

struct StepCommand {
  Setting setting;
  // Of --job; the setting's batch and threads replace the file's where the command line has them.
  std::string job_file;
  bool has_batch = false;
  bool has_threads = false;
  int steps = 6;
  bool profile = false;
  std::string trace;
  bool json = false;
  // "cpu", "cuda" or "auto".
  std::string device = "cpu";
};

// What a step ran on.
struct Machine {
  ComputeDevice device;
  // Of a GPU only where they are asked for.
  std::optional<MachineLimits> limits;

  std::string name() const { return device.gpu ? device.gpu->name() : CpuInstructionSet(); }
};

// One micro-batch of the file's job, with what its memory budget leads to, or of the setting's.
JobConfig JobOf(const StepCommand& command, bool on_gpu) {
  const bool has_file = !command.job_file.empty();
  JobConfig job = has_file ? LoadJob(command.job_file) : MakeJob(command.setting);
  const std::string problem = on_gpu ? WhyNotOnGpu(job) : WhyNotOnCpu(job);
  if (!problem.empty()) {
    throw Error((has_file ? command.job_file : command.setting.model) + ": " + problem);
  }
  if (!has_file) return job;
  if (command.has_batch) job.train.micro_batch = command.setting.batch;
  if (command.has_threads) job.parallel.threads_per_rank = command.setting.threads;
  if (command.setting.allow_emulation) job.train.allow_emulation = true;
  job.train.global_batch = job.train.micro_batch;
  ResolveBudget(&job, 1);
  return job;
}

nlohmann::json JsonOf(const std::string& name, const JobConfig& job, const StepFigures& figures,
                      const Machine& machine) {
  nlohmann::json line = {
      {"model", name},
      {"batch", job.train.micro_batch},
      {"dtype", NameIn(DTypeNames(), job.train.dtype)},
      {"matmul", NameIn(MatmulNames(), job.train.matmul)},
      {"pretrain", NameIn(PretrainMethodNames(), job.pretrain.method)},
      {"checkpointing", CheckpointingText(job.memory)},
      {"sequential", SequentialText(job.memory)},
      {"threads", job.parallel.threads_per_rank},
      {"device", machine.device.gpu ? "cuda" : "cpu"},
      {"instruction_set", machine.name()},
      {"step_s", figures.best_seconds},
      {"step_s_median", figures.median_seconds},
      {"images_per_s", static_cast<double>(job.train.micro_batch) / figures.best_seconds},
      {"peak_mib", figures.peak_bytes >> 20},
      {"planned_mib", figures.planned_bytes >> 20},
      {"gpu_mib", figures.gpu_bytes >> 20},
      {"gemm_gflop", figures.matrix_flops / 1e9}};
  if (!machine.limits) return line;
  line["gemm_share"] = figures.matrix_flops / machine.limits->flops / figures.best_seconds;
  line["gemm_peak_gflops"] = machine.limits->flops / 1e9;
  if (!machine.device.gpu) line["handover_ns"] = machine.limits->handover_seconds * 1e9;
  return line;
}

void PrintFigures(const std::string& name, const JobConfig& job, const StepFigures& figures,
                  const Machine& machine) {
  const bool tf32 = job.train.matmul == Matmul::kTf32;
  const std::string dtype = tf32 ? "fp32 in tf32" : NameIn(DTypeNames(), job.train.dtype);
  const std::string pretrain = NameIn(PretrainMethodNames(), job.pretrain.method);
  std::printf("%s%s%s, batch %" PRId64
              ", %s, checkpointing %s, sequential %s, %d threads, %s: %.4f s a step (median %.4f), "
              "%.2f images/s\n",
              name.c_str(), pretrain.empty() ? "" : ", ", pretrain.c_str(), job.train.micro_batch,
              dtype.c_str(), CheckpointingText(job.memory).c_str(),
              SequentialText(job.memory).c_str(), job.parallel.threads_per_rank,
              machine.name().c_str(), figures.best_seconds, figures.median_seconds,
              static_cast<double>(job.train.micro_batch) / figures.best_seconds);
  std::printf("matrix products: %.1f GFLOP a step, ", figures.matrix_flops / 1e9);
  if (machine.limits) {
    std::printf("%s peak %.1f GFLOP/s, share %.1f%%; ", dtype.c_str(), machine.limits->flops / 1e9,
                100 * figures.matrix_flops / machine.limits->flops / figures.best_seconds);
  }
  if (machine.device.gpu) {
    std::printf("GPU memory %zu MiB\n", figures.gpu_bytes >> 20);
    return;
  }
  std::printf("process %zu MiB, planned %zu MiB\n", figures.peak_bytes >> 20,
              figures.planned_bytes >> 20);
  if (job.parallel.threads_per_rank > 1) {
    std::printf("a line of the cache goes from the first thread to the last in %.0f ns\n",
                machine.limits->handover_seconds * 1e9);
  }
}

void RunStep(const StepCommand& command) {
  const std::string& name = command.job_file.empty() ? command.setting.model : command.job_file;
  // Opened before anything is measured.
  std::ofstream trace;
  if (!command.trace.empty()) trace.open(command.trace);
  CheckTrace(command.trace, trace);
  Profile profile(CpuOps());
  const bool profiles = command.profile || !command.trace.empty();
  Machine machine = {
      .device = TakeDevice(DeviceRequestOf(command.device), MakeSelfCommunicator().get()),
      .limits = {}};
  Accelerator* gpu = machine.device.gpu.get();
  const JobConfig job = JobOf(command, gpu != nullptr);
  const StepFigures figures = TimeSteps(job, command.steps, profiles ? &profile : nullptr, gpu);
  if (gpu == nullptr || profiles) {
    machine.limits = MeasureMachineLimits(job.train.dtype, job.parallel.threads_per_rank, gpu,
                                          job.train.matmul == Matmul::kTf32);
  }
  PrintFigures(name, job, figures, machine);
  nlohmann::json line = JsonOf(name, job, figures, machine);
  if (profiles) {
    const ProfileReport report(profile, figures.profiled_seconds, *machine.limits);
    if (command.profile) report.Print();
    if (!command.trace.empty()) {
      WriteTrace({.profile = &profile, .limits = &*machine.limits}, &trace);
    }
    CheckTrace(command.trace, trace);
    line["profile"] = report.Json();
  }
  if (command.json) std::cout << line.dump() << std::endl;
}

}  // namespace

void AddStepCommand(CLI::App* app) {
  const auto command = std::make_shared<StepCommand>();
  CLI::App* step = app->add_subcommand("step", "whole training steps on random pictures");
  AddSettingOptions(step, &command->setting);
  CLI::Option* matmul =
      step->add_option("--matmul", command->setting.matmul,
                       "fp32, or on GPUs tf32: what factors of fp32 are rounded to")
          ->capture_default_str();
  CLI::Option* job = step->add_option("--job", command->job_file,
                                      "a job file, in place of the options that describe a job: "
                                      "its model, one micro-batch, its threads a rank");
  ExcludeJobOptions(step, job);
  job->excludes(matmul);
  step->add_option("--steps", command->steps, "steps; the first is not counted")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  step->add_flag("--profile", command->profile,
                 "what the operations and modules of one more step take, beside their limits");
  step->add_option("--trace", command->trace,
                   "a file for that step as a Chrome trace (chrome://tracing, ui.perfetto.dev)");
  step->add_option("--device", command->device, "what computes: cpu, cuda or auto")
      ->check(CLI::IsMember(DeviceRequestTexts()))
      ->capture_default_str();
  step->add_flag("--json", command->json, "one JSON object on the last line");
  step->callback([command, step] {
    command->has_batch = step->count("--batch") > 0;
    command->has_threads = step->count("--threads") > 0;
    RunStep(*command);
  });
}

}  // namespace swinfleet::bench
