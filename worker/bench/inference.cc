// swinfleet-bench inference: how fast a model's forward pass alone is on this machine.
#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "core/loss/objective.h"
#include "core/memory/memory_classes.h"
#include "core/nn/model.h"
#include "kernels/error.h"
#include "kernels/ops.h"
#include "worker/bench/bench.h"
#include "worker/inference.h"
#include "worker/processor.h"

namespace swinfleet::bench {
namespace {

struct InferenceCommand {
  Setting setting;
  int runs = 6;
  bool json = false;
};

// A model with its initial weights, and memory for one batch, reserved as for an evaluation.
class ForwardPass {
 public:
  explicit ForwardPass(const JobConfig& job)
      : job_(job), model_(MakeModel(job.model, job.pretrain, job.memory)) {
    MemoryClasses planned = MemoryClasses::DryRun();
    WorkCount work;
    Context dry = {.ops = &DryRunOps(),
                   .workspace = &planned.workspace,
                   .threads = job.parallel.threads_per_rank,
                   .count = &work};
    InferenceParameters counted(model_->parameters(), job.train.dtype, &planned.parameters);
    dry.packed_weights = counted.packed();
    RunOn(DryBatch(job, job.train.eval_batch), &counted, &planned, &dry);
    memory_.emplace(MemoryClasses::OnHost(planned));
    context_ = {.ops = &CpuOps(),
                .workspace = &memory_->workspace,
                .threads = job.parallel.threads_per_rank,
                .count = nullptr};
    parameters_.emplace(model_->parameters(), job.train.dtype, &memory_->parameters);
    parameters_->Initialize(0);
    context_.packed_weights = parameters_->packed();
  }

  void Run(const Batch& batch) { RunOn(batch, &*parameters_, &*memory_, &context_); }

 private:
  void RunOn(const Batch& batch, ParameterAccess* parameters, MemoryClasses* memory,
             Context* context) {
    Arena& activations = memory->activations;
    ArenaScope scope(&activations);
    ForwardOptions options;
    options.keep_for_backward = false;
    options.dtype = job_.train.dtype;
    const TensorView output =
        activations.Allocate(model_->OutputShape(batch.pictures), options.dtype);
    model_->Forward(InputOf(batch, job_, activations, *context), output, options, *parameters,
                    activations, *context);
  }

  JobConfig job_;
  std::unique_ptr<Model> model_;
  std::optional<MemoryClasses> memory_;
  std::optional<InferenceParameters> parameters_;
  Context context_;
};

// Of the runs after the first, in ascending order.
std::vector<double> TimeRuns(const JobConfig& job, int runs) {
  RequireNative(job.train.dtype, job.train.allow_emulation, "use fp32, or --allow-emulation");
  ForwardPass forward(job);
  const Batch batch = RandomBatch(job, job.train.eval_batch, 0);
  std::vector<double> seconds;
  seconds.reserve(runs);
  for (int i = 0; i < runs; ++i) seconds.push_back(SecondsOf([&] { forward.Run(batch); }));
  if (runs > 1) seconds.erase(seconds.begin());
  std::sort(seconds.begin(), seconds.end());
  return seconds;
}

void RunInference(const InferenceCommand& command) {
  const Setting& setting = command.setting;
  if (setting.checkpointing != "none") {
    throw Error("--checkpointing changes nothing where there is no backward; leave it out");
  }
  const std::vector<double> seconds = TimeRuns(MakeJob(setting), command.runs);
  const double best = seconds.front();
  const double median = seconds[seconds.size() / 2];
  const double images = static_cast<double>(setting.batch) / best;
  const size_t peak_mib = ProcessPeakBytes() >> 20;
  std::printf("%s, batch %" PRId64
              ", %s, %d threads, %s: %.4f s a run (median %.4f), %.2f images/s; process %zu MiB\n",
              setting.model.c_str(), setting.batch, setting.dtype.c_str(), setting.threads,
              CpuInstructionSet(), best, median, images, peak_mib);
  if (!command.json) return;
  const nlohmann::json line = {{"model", setting.model},
                               {"batch", setting.batch},
                               {"dtype", setting.dtype},
                               {"sequential", setting.sequential},
                               {"threads", setting.threads},
                               {"instruction_set", CpuInstructionSet()},
                               {"run_s", best},
                               {"run_s_median", median},
                               {"images_per_s", images},
                               {"peak_mib", peak_mib}};
  std::cout << line.dump() << std::endl;
}

}  // namespace

void AddInferenceCommand(CLI::App* app) {
  const auto command = std::make_shared<InferenceCommand>();
  CLI::App* inference =
      app->add_subcommand("inference", "forward passes alone on random pictures, as in evaluation");
  AddSettingOptions(inference, &command->setting);
  inference->add_option("--runs", command->runs, "runs; the first is not counted")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  inference->add_flag("--json", command->json, "one JSON object on the last line");
  inference->callback([command] { RunInference(*command); });
}

}  // namespace swinfleet::bench
