// swinfleet-bench: how fast a training step is on this machine.
#include <glog/logging.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "core/optim/parameter_groups.h"
#include "core/rng/counter_rng.h"
#include "distributed/communicator.h"
#include "kernels/error.h"
#include "worker/exit_codes.h"
#include "worker/logging.h"
#include "worker/memory_plan.h"
#include "worker/train_step.h"

namespace swinfleet {
namespace {

using Clock = std::chrono::steady_clock;

struct StepOptions {
  std::string model = "swinv2_tiny_window8_256";
  int64_t batch = 8;
  std::string dtype = "fp32";
  int threads = 1;
  int steps = 6;
  bool json = false;
};

struct StepFigures {
  // Of the steps after the first.
  double best_seconds = 0;
  double median_seconds = 0;
  double matrix_flops = 0;
  size_t peak_bytes = 0;
};

double SecondsOf(const std::function<void()>& work) {
  const Clock::time_point begin = Clock::now();
  work();
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

JobConfig MakeJob(const StepOptions& options) {
  JobConfig job;
  const std::optional<ModelConfig> preset = ModelPreset(options.model);
  if (!preset.has_value()) {
    std::string names;
    for (const std::string& name : ModelPresetNames()) names += " " + name;
    throw Error("unknown model \"" + options.model + "\"; there are:" + names);
  }
  if (options.dtype != "fp32") {
    throw Error("dtype \"" + options.dtype + "\" is not supported: use fp32");
  }
  job.model = *preset;
  job.train.global_batch = job.train.micro_batch = options.batch;
  job.train.label_smoothing = 0;
  job.parallel.threads_per_rank = options.threads;
  return job;
}

Batch RandomBatch(const JobConfig& job) {
  const ModelConfig& model = job.model;
  CounterRng random(0, RandomPurpose::kBenchmarkData, 0);
  Batch batch;
  batch.pictures = job.train.micro_batch;
  batch.image.resize(batch.pictures * model.in_chans * model.image_h * model.image_w);
  for (float& value : batch.image) value = static_cast<float>(random.Normal());
  for (int64_t i = 0; i < batch.pictures; ++i) {
    batch.label.push_back(static_cast<int64_t>(random.Below(model.num_classes)));
    batch.sample.push_back(i);
  }
  return batch;
}

// Whole steps as a job takes them: forward, loss, backward, norm, clipping, AdamW.
StepFigures TimeSteps(const JobConfig& job, int steps) {
  const MemoryPlan plan = PlanMemory(job, 0, 1, /*with_evaluation=*/false);
  MemoryClasses memory = MemoryClasses::OnHost(plan.memory);
  Context context = {.ops = &CpuOps(),
                     .workspace = &memory.workspace,
                     .threads = job.parallel.threads_per_rank,
                     .count = nullptr};
  SwinV2 model(job.model);
  const std::unique_ptr<Communicator> communicator = MakeSelfCommunicator();
  const ZeroOptions zero = {
      .stage = job.parallel.zero_stage,
      .optimizer = job.train.optimizer,
      .hypers = ClassificationGroups(model.parameters(), job.train.optimizer.weight_decay),
      .leaves = 1};
  ZeroEngine engine(model.parameters(), communicator.get(), zero, &memory, &context);
  engine.Initialize(0);
  TrainStep step(job, /*steps_per_epoch=*/1000, &model, &engine, communicator.get(), &memory,
                 &context);
  const Batch batch = RandomBatch(job);
  std::vector<double> seconds;
  for (int i = 0; i < steps; ++i) {
    seconds.push_back(SecondsOf([&] { step.Run(i, i, {}, [&] { return &batch; }); }));
  }
  if (steps > 1) seconds.erase(seconds.begin());
  std::sort(seconds.begin(), seconds.end());
  return {.best_seconds = seconds.front(),
          .median_seconds = seconds[seconds.size() / 2],
          .matrix_flops = plan.step.matrix_flops,
          .peak_bytes = ProcessPeakBytes()};
}

// FLOP/s of the best of several square products of 1024 to 4096.
double MatrixPeak(int threads) {
  Arena workspace = Arena::OnHost("workspace", size_t{64} << 20);
  Context context = {
      .ops = &CpuOps(), .workspace = &workspace, .threads = threads, .count = nullptr};
  double best = 0;
  for (int64_t n : {1024, 2048, 4096}) {
    std::vector<float> a(n * n, 0.5f), b(n * n, 0.25f), c(n * n);
    const LinearForwardArgs product = {.x = ViewOf(a.data(), {n, n}),
                                       .weight = ViewOf(b.data(), {n, n}),
                                       .bias = {},
                                       .y = ViewOf(c.data(), {n, n})};
    const int repeats = n == 4096 ? 2 : 4;
    for (int i = 0; i <= repeats; ++i) {
      const double seconds = SecondsOf([&] { context.ops->linear_forward(product, context); });
      if (i > 0) best = std::max(best, 2.0 * n * n * n / seconds);
    }
  }
  return best;
}

int BenchStep(const StepOptions& options) {
  const JobConfig job = MakeJob(options);
  const StepFigures figures = TimeSteps(job, options.steps);
  const double peak = MatrixPeak(options.threads);
  const double share = figures.matrix_flops / peak / figures.best_seconds;
  const double images = static_cast<double>(options.batch) / figures.best_seconds;
  std::printf("%s, batch %ld, %s, %d threads, %s: %.4f s a step (median %.4f), %.2f images/s\n",
              options.model.c_str(), static_cast<long>(options.batch), options.dtype.c_str(),
              options.threads, CpuInstructionSet(), figures.best_seconds, figures.median_seconds,
              images);
  std::printf(
      "matrix products: %.1f GFLOP a step, peak %.1f GFLOP/s, share %.1f%%; process %zu MiB\n",
      figures.matrix_flops / 1e9, peak / 1e9, 100 * share, figures.peak_bytes >> 20);
  if (options.json) {
    const nlohmann::json line = {{"model", options.model},
                                 {"batch", options.batch},
                                 {"dtype", options.dtype},
                                 {"threads", options.threads},
                                 {"instruction_set", CpuInstructionSet()},
                                 {"step_s", figures.best_seconds},
                                 {"step_s_median", figures.median_seconds},
                                 {"images_per_s", images},
                                 {"peak_mib", figures.peak_bytes >> 20},
                                 {"gemm_share", share},
                                 {"gemm_gflop", figures.matrix_flops / 1e9},
                                 {"gemm_peak_gflops", peak / 1e9}};
    std::cout << line.dump() << std::endl;
  }
  return kExitSuccess;
}

int Main(int argc, char** argv) {
  CLI::App app("Measures the speed of Swinfleet on this machine.", "swinfleet bench");
  app.require_subcommand(1);
  StepOptions options;
  CLI::App* step = app.add_subcommand("step", "whole training steps on random pictures");
  step->add_option("--model", options.model, "a preset's name")->capture_default_str();
  step->add_option("--batch", options.batch, "pictures a step")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  step->add_option("--dtype", options.dtype, "fp32")->capture_default_str();
  step->add_option("--threads", options.threads, "threads of the kernels")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  step->add_option("--steps", options.steps, "steps; the first is not counted")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  step->add_flag("--json", options.json, "one JSON object on the last line");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kExitSuccess : kExitUsage;
  }
  try {
    return BenchStep(options);
  } catch (const Error& error) {
    std::fprintf(stderr, "swinfleet bench: %s\n", error.what());
    return kExitUsage;
  }
}

}  // namespace
}  // namespace swinfleet

int main(int argc, char** argv) {
  swinfleet::InitLogging(argv[0]);
  return swinfleet::Main(argc, argv);
}
