#include "worker/bench/bench.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>
#include <numeric>
#include <optional>
#include <utility>

#include "core/config/names.h"
#include "core/memory/compute.h"
#include "core/rng/counter_rng.h"
#include "distributed/communicator.h"
#include "kernels/error.h"
#include "worker/compute_device.h"
#include "worker/job_file.h"
#include "worker/processor.h"
#include "worker/train_step.h"

namespace swinfleet::bench {
namespace {

[[noreturn]] void ThrowUnknown(const std::string& what, const std::string& name,
                               const std::vector<std::string>& known) {
  std::string names;
  for (const std::string& one : known) names += " " + one;
  throw Error("unknown " + what + " \"" + name + "\"; there are:" + names);
}

template <typename Enum>
Enum ValueOf(const EnumNames<Enum>& names, const std::string& what, const std::string& name) {
  if (const std::optional<Enum> value = ValueIn(names, name)) return *value;
  ThrowUnknown(what, name, NamesOf(names));
}

// What the method asks of a job, as a job file that names it alone would have it.
void SetPretrain(const Setting& setting, JobConfig* job) {
  using Method = PretrainConfig::Method;
  PretrainConfig& pretrain = job->pretrain;
  pretrain.method = ValueOf(PretrainMethodNames(), "method", setting.pretrain);
  pretrain.mask_ratio = setting.mask_ratio;
  if (pretrain.method == Method::kGreenMim) pretrain.decoder_depth = 1;
  const std::vector<std::string> problems = ValidatePretrain(*job);
  if (!problems.empty()) throw Error(problems.front());
}

}  // namespace

void AddSettingOptions(CLI::App* command, Setting* setting) {
  command->add_option("--model", setting->model, "a preset's name")->capture_default_str();
  command->add_option("--batch", setting->batch, "pictures a step")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  command->add_option("--dtype", setting->dtype, "fp32, bf16 or fp16")->capture_default_str();
  command->add_option("--checkpointing", setting->checkpointing, "none, selective or block")
      ->capture_default_str();
  command
      ->add_option("--sequential", setting->sequential,
                   "windows in a group of sequential attention; 0: all at once")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 32))
      ->capture_default_str();
  command->add_option("--threads", setting->threads, "threads of the kernels")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command->add_flag("--allow-emulation", setting->allow_emulation,
                    "also with a dtype that this processor only emulates");
  command->add_option("--pretrain", setting->pretrain,
                      "simmim, mae or greenmim, in place of classification");
  command->add_option("--mask-ratio", setting->mask_ratio, "of --pretrain")->capture_default_str();
  command
      ->add_option("--drop-path-rate", setting->drop_path_rate,
                   "of the last block [default: the preset's]")
      ->check(CLI::Range(0.0, 0.99));
}

void ExcludeJobOptions(CLI::App* command, CLI::Option* job_file) {
  for (const char* option : {"--model", "--dtype", "--checkpointing", "--sequential", "--pretrain",
                             "--mask-ratio", "--drop-path-rate"}) {
    job_file->excludes(command->get_option(option));
  }
}

JobConfig MakeJob(const Setting& setting) {
  JobConfig job;
  const std::optional<ModelConfig> preset = ModelPreset(setting.model);
  if (!preset.has_value()) ThrowUnknown("model", setting.model, ModelPresetNames());
  job.model = *preset;
  job.model.drop_path_rate = setting.drop_path_rate.value_or(job.model.drop_path_rate);
  job.train.global_batch = job.train.micro_batch = job.train.eval_batch = setting.batch;
  job.train.label_smoothing = 0;
  job.train.dtype = ValueOf(DTypeNames(), "dtype", setting.dtype);
  job.train.matmul = ValueOf(MatmulNames(), "arithmetic", setting.matmul);
  if (job.train.matmul == Matmul::kTf32 && job.train.dtype != DType::kF32) {
    throw Error("--matmul tf32 is for --dtype fp32");
  }
  job.train.allow_emulation = setting.allow_emulation;
  job.memory.checkpointing.assign(
      job.model.num_stages(),
      ValueOf(CheckpointingNames(), "checkpointing", setting.checkpointing));
  job.memory.sequential_windows.assign(job.model.num_stages(), setting.sequential);
  job.parallel.threads_per_rank = setting.threads;
  if (!setting.pretrain.empty()) SetPretrain(setting, &job);
  return job;
}

JobConfig LoadJob(const std::string& path, int64_t ranks) {
  JobSpec spec;
  JobConfig job;
  std::string problems;
  for (const std::string& problem : LoadJobFile(path, "", ranks, &spec, &job)) {
    problems += (problems.empty() ? "" : "\n") + problem;
  }
  if (!problems.empty()) throw Error(problems);
  return job;
}

void CheckTrace(const std::string& path, const std::ofstream& trace) {
  if (trace.good()) return;
  throw Error("can't write the trace " + path + ": " + std::strerror(errno));
}

Batch RandomBatch(const JobConfig& job, int64_t count, uint64_t stream) {
  CounterRng random(0, RandomPurpose::kBenchmarkData, stream);
  Batch batch = DryBatch(job, count);
  batch.image.resize(job.model.ImageShape(count).NumElements());
  for (float& value : batch.image) value = static_cast<float>(random.Normal());
  for (int64_t i = 0; i < count; ++i) {
    batch.label.push_back(static_cast<int64_t>(random.Below(job.model.num_classes)));
    batch.sample.push_back(i);
  }
  return batch;
}

double SecondsOf(const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

MemoryPlan PlanSteps(const JobConfig& job, int rank, int ranks, Device device) {
  return PlanMemory(job, rank, ranks,
                    {.evaluation = false,
                     .checkpoints = false,
                     .loader = false,
                     .device = device,
                     .data = DataFacts()});
}

namespace {

// FLOPs of the matrix products of a record, and of what `run` does.
double FlopsOf(const Profile& record) {
  double flops = 0;
  for (const Profile::Call& call : record.calls()) flops += call.matrix_flops;
  return flops;
}
double FlopsOf(const std::function<double()>& run, Context* context) {
  Profile record(*context->ops);
  const OpTable* const ops = std::exchange(context->ops, &ProfilingOps());
  context->profile = &record;
  run();
  context->profile = nullptr;
  context->ops = ops;
  return FlopsOf(record);
}

// The first step is left out where there are others. The others' times become what the mean of
// their work would take, which is returned.
double ToMeanWork(std::vector<double> flops, std::vector<double>* seconds) {
  if (seconds->size() > 1) {
    flops.erase(flops.begin());
    seconds->erase(seconds->begin());
  }
  const double mean =
      std::accumulate(flops.begin(), flops.end(), 0.0) / static_cast<double>(flops.size());
  for (size_t i = 0; i < flops.size(); ++i) (*seconds)[i] *= mean / flops[i];
  return mean;
}

}  // namespace

StepFigures TimeSteps(const JobConfig& job, int steps, Profile* profile, Accelerator* gpu) {
  if (gpu == nullptr) {
    RequireNative(job.train.dtype, job.train.allow_emulation, "use fp32, or --allow-emulation");
  }
  const MemoryPlan plan =
      PlanSteps(job, /*rank=*/0, /*ranks=*/1, gpu == nullptr ? Device::kCpu : Device::kCuda);
  Compute compute(plan.memory, gpu, job.parallel.threads_per_rank, job.train.matmul);
  MemoryClasses& memory = compute.memory;
  Context& context = compute.context;
  const std::unique_ptr<Model> model = MakeModel(job.model, job.pretrain, job.memory);
  const std::unique_ptr<Communicator> communicator = MakeSelfCommunicator();
  ZeroEngine engine(model->parameters(), communicator.get(),
                    ZeroOptionsFor(job, model->parameters()), &memory, &context);
  engine.Initialize(0);
  TrainStep step(job, /*steps_per_epoch=*/1000, model.get(), &engine, &memory, &context);
  Batch batch = RandomBatch(job, job.train.micro_batch, 0);
  int64_t number = 0;
  const auto run = [&] {
    return SecondsOf([&] {
      step.Run(number, number, {}, [&] { return &batch; });
      if (gpu != nullptr) gpu->Wait();
    });
  };
  std::vector<double> seconds;
  for (; number < steps; ++number) seconds.push_back(run());
  // Before anything is recorded.
  const size_t peak_bytes = ProcessPeakBytes();
  // Drop path leaves each step with other work: once more, for how much it is.
  std::vector<double> flops(steps, plan.step.matrix_flops);
  if (model->HasDropPath() && gpu == nullptr) {
    for (number = 0; number < steps; ++number) flops[number] = FlopsOf(run, &context);
  }
  double profiled = 0, least = 0;
  context.ops = profile == nullptr ? context.ops : &ProfilingOps();
  for (; profile != nullptr && number < 2 * steps; ++number) {
    Profile record =
        gpu == nullptr ? Profile(CpuOps()) : Profile(gpu, static_cast<size_t>(plan.step.calls));
    context.profile = &record;
    const double taken = run();
    // Of all the fastest one for its work, which drop path varies.
    const double relative = taken / (gpu == nullptr ? FlopsOf(record) : plan.step.matrix_flops);
    if (number > steps && relative >= least) continue;
    record.Finish();
    profiled = taken;
    least = relative;
    *profile = std::move(record);
  }
  const double mean_flops = ToMeanWork(flops, &seconds);
  std::sort(seconds.begin(), seconds.end());
  return {.best_seconds = seconds.front(),
          .median_seconds = seconds[seconds.size() / 2],
          .profiled_seconds = profiled,
          .matrix_flops = mean_flops,
          .peak_bytes = peak_bytes,
          .planned_bytes = plan.PredictedProcessBytes(),
          .gpu_bytes = plan.memory.DeviceHighWater()};
}

}  // namespace swinfleet::bench
