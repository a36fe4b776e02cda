#include "worker/memory_plan.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <set>
#include <utility>

#include "core/checkpoint/async_saver.h"
#include "core/data/mask.h"
#include "core/optim/parameter_groups.h"
#include "core/rng/counter_rng.h"
#include "distributed/shard_layout.h"
#include "worker/dry_run.h"
#include "worker/evaluate.h"

namespace swinfleet {
namespace {

// Micro-batches of a rank that are run dry one by one.
constexpr int64_t kLeavesRun = 2;
// Resident code and libraries, their heaps, and oneDNN's kernels: what a worker's process has
// beside the classes that are planned (measured with `swinfleet bench memory`).
constexpr size_t kProgramBytes = size_t{42} << 20;
// oneDNN's kernels for the numbers of pictures that drop path leaves.
constexpr size_t kDropPathBytes = size_t{10} << 20;
// What the libraries that decode pictures add, which only jobs with pictures in files load.
constexpr size_t kPictureLibraryBytes = size_t{20} << 20;

// Counts what it sends.
DryRun CountingRun(const JobConfig& config, int rank, int ranks, Device device) {
  return DryRun(
      config,
      [rank, ranks](DryRun* run) { return MakeDryRunCommunicator(rank, ranks, &run->traffic); },
      device);
}

void EvaluateOnce(DryRun* run) {
  // Its work is not the step's, nor are its gathers.
  run->context.count = nullptr;
  const Traffic of_step = run->traffic;
  const Batch batch = DryBatch(run->config, run->config.train.eval_batch);
  EvaluateBatch(run->config, batch, run->model.get(), &run->engine, &run->memory, &run->context);
  run->traffic = of_step;
}

// The figure of a step of `leaves` micro-batches, from steps of one and of two.
template <typename T>
T Extrapolate(T one, T two, int64_t leaves) {
  return one + static_cast<T>(leaves - 1) * (two - one);
}

// Moves the arenas out of a run that is over.
void TakeRun(DryRun* run, MemoryPlan* plan) {
  plan->memory = std::move(run->memory);
  plan->step = run->work;
  plan->traffic = run->traffic;
}

// A step, and one batch of evaluation, of a rank with few leaves.
void PlanShortStep(const JobConfig& config, int rank, int ranks, const PlanOptions& options,
                   MemoryPlan* plan) {
  DryRun run = CountingRun(config, rank, ranks, options.device);
  run.Step();
  if (config.checkpoint.asynchronous) {
    plan->save_copy_bytes = SaveBufferElements(run.engine.OwnedState()) * sizeof(float);
  }
  plan->disk = run.engine.disk_use();
  if (options.evaluation) EvaluateOnce(&run);
  TakeRun(&run, plan);
}

// The same of a rank with many.
void PlanLongStep(const JobConfig& config, int rank, int ranks, const PlanOptions& options,
                  MemoryPlan* plan) {
  const int64_t leaves = plan->leaves;
  PlanShortStep(WithLeaves(config, ranks, kLeavesRun), rank, ranks, options, plan);
  DryRun one = CountingRun(WithLeaves(config, ranks, 1), rank, ranks, options.device);
  one.Step();
  const auto work = [&](double WorkCount::*field) {
    plan->step.*field = Extrapolate(one.work.*field, plan->step.*field, leaves);
  };
  work(&WorkCount::matrix_flops);
  work(&WorkCount::bytes);
  plan->step.calls = Extrapolate(one.work.calls, plan->step.calls, leaves);
  // Ranks that sum in rounds exchange in every one, whether they have a leaf in it or not.
  const int64_t rounds = SumsInRounds(config.train.accumulation)
                             ? ShardLayout::Rounds(ranks, config.train.micro_batches())
                             : leaves;
  const auto sent = [&](uint64_t Traffic::*field) {
    plan->traffic.*field = Extrapolate(one.traffic.*field, plan->traffic.*field, rounds);
  };
  sent(&Traffic::reduce_scatter);
  sent(&Traffic::all_gather);
  sent(&Traffic::all_reduce);
  sent(&Traffic::small);
  DryRun whole = CountingRun(config, rank, ranks, options.device);
  plan->memory.gradients = std::move(whole.memory.gradients);
}

// Bytes of a micro-batch as the loader holds it.
size_t BatchBytes(const JobConfig& config, int64_t pictures, bool training) {
  const ModelConfig& model = config.model;
  int64_t words = model.in_chans * model.frames * model.image_h * model.image_w;
  if (training && !config.pretrain.on()) words += model.num_classes;
  const MaskConfig mask = MaskConfigFor(model, config.pretrain);
  if (mask.on()) words += mask.units();
  // And its label and its index.
  return static_cast<size_t>(pictures) * (static_cast<size_t>(words) * 4 + 16);
}

size_t LoaderBytes(const JobConfig& config, int ranks, const PlanOptions& options) {
  const TrainConfig& train = config.train;
  if (!options.loader) return BatchBytes(config, train.micro_batch, /*training=*/true);
  // The consumer holds one more than may be ahead.
  const int64_t slots = config.data.prefetch + 1;
  size_t bytes = slots * BatchBytes(config, train.micro_batch, /*training=*/true);
  if (!options.evaluation) return bytes;
  int64_t eval_slots = slots, pictures = train.eval_batch;
  if (options.data.eval_pictures > 0) {
    const int64_t batches = (options.data.eval_pictures + pictures - 1) / pictures;
    eval_slots = std::min(slots, (batches + ranks - 1) / ranks + 1);
    pictures = std::min(pictures, options.data.eval_pictures);
  }
  return bytes + eval_slots * BatchBytes(config, pictures, /*training=*/false);
}

// One index for each kind of window.
size_t TableBytes(const ModelConfig& model) {
  if (model.arch == Architecture::kVit) return 0;
  std::set<std::pair<std::array<int64_t, 3>, int64_t>> tables;
  size_t bytes = 0;
  for (int stage = 0; stage < model.num_stages(); ++stage) {
    const std::array<int64_t, 3> size = model.Window(stage, false).size;
    const int64_t tokens = size[0] * size[1] * size[2];
    if (!tables.insert({model.TableWindow(stage), tokens}).second) continue;
    bytes += static_cast<size_t>(tokens * tokens) * sizeof(int32_t);
  }
  return bytes;
}

// The training's threads keep what they have, or go on, while those of an evaluation decode.
size_t DecodingBytes(const JobConfig& config, const PlanOptions& options) {
  if (!options.loader) return 0;
  const int64_t threads = config.data.loader_threads;
  return options.data.train_decoding.Bytes(threads) +
         (options.evaluation ? options.data.eval_decoding.Bytes(threads) : 0);
}

std::vector<std::pair<std::string, size_t>> TensorClasses(const MemoryClasses& memory) {
  std::vector<std::pair<std::string, size_t>> classes;
  for (const Arena* arena : {&memory.parameters, &memory.gradients, &memory.optimizer,
                             &memory.activations, &memory.workspace}) {
    classes.emplace_back(arena->name(), arena->high_water());
  }
  return classes;
}

}  // namespace

DataFacts FactsOf(const Dataset& train, const Dataset& eval) {
  return {.held_bytes = train.HeldBytes() + eval.HeldBytes(),
          .train_decoding = train.Decoding(),
          .eval_decoding = eval.Decoding(),
          .eval_pictures = eval.identity().count};
}

std::vector<std::pair<std::string, size_t>> MemoryPlan::Classes() const {
  std::vector<std::pair<std::string, size_t>> classes;
  if (memory.device == Device::kCpu) {
    classes = TensorClasses(memory);
  } else {
    classes.emplace_back(memory.staging.name(), memory.staging.high_water());
    classes.emplace_back(memory.offloaded.name(), memory.offloaded.high_water());
  }
  classes.emplace_back("checkpoint copy", save_copy_bytes);
  classes.emplace_back("loader", loader_bytes);
  classes.emplace_back("decoding", decoding_bytes);
  classes.emplace_back("data", data_bytes);
  classes.emplace_back("messages", message_bytes);
  classes.emplace_back("tables", table_bytes);
  classes.emplace_back("program", program_bytes);
  return classes;
}

std::vector<std::pair<std::string, size_t>> MemoryPlan::GpuClasses() const {
  if (memory.device == Device::kCpu) return {};
  return TensorClasses(memory);
}

size_t MemoryPlan::PredictedProcessBytes() const {
  size_t bytes = 0;
  for (const auto& [name, size] : Classes()) bytes += size;
  return bytes;
}

size_t MemoryPlan::LimitedBytes() const {
  return memory.device == Device::kCpu ? PredictedProcessBytes() : memory.DeviceHighWater();
}

int BusiestRank(const JobConfig& config, int ranks) {
  int busiest = 0;
  int64_t most = 0;
  for (int rank = 0; rank < ranks; ++rank) {
    const int64_t leaves =
        ShardLayout::LeavesOf(config.train.accumulation, rank, ranks, config.train.micro_batches())
            .count;
    if (leaves > most) busiest = rank;
    most = std::max(most, leaves);
  }
  return busiest;
}

Batch DryBatch(const JobConfig& config, int64_t pictures) {
  Batch batch;
  batch.pictures = pictures;
  // An address that is not null: the dry run looks at no more.
  batch.image.resize(1);
  if (config.train.mix.on()) {
    // Nothing is mixed.
    for (int64_t row = 0; row < pictures; ++row)
      batch.mix_weight.insert(batch.mix_weight.end(), {1, 0});
    batch.mix_box.resize(4 * pictures);
  }
  const MaskConfig mask = MaskConfigFor(config.model, config.pretrain);
  if (!mask.on()) return batch;
  batch.mask.resize(pictures * mask.units());
  std::vector<int64_t> scratch;
  for (int64_t row = 0; row < pictures; ++row) {
    const bool shared = mask.method == PretrainConfig::Method::kGreenMim;
    DrawMask(mask, CounterRng(config.train.seed, RandomPurpose::kMask, shared ? 0 : row), &scratch,
             std::span(batch.mask).subspan(row * mask.units(), mask.units()));
  }
  return batch;
}

MemoryPlan PlanMemory(const JobConfig& config, int rank, int ranks, const PlanOptions& options) {
  MemoryPlan plan;
  plan.leaves =
      ShardLayout::LeavesOf(config.train.accumulation, rank, ranks, config.train.micro_batches())
          .count;
  const auto plan_step = plan.leaves > kLeavesRun ? PlanLongStep : PlanShortStep;
  plan_step(config, rank, ranks, options, &plan);
  if (!options.checkpoints) plan.save_copy_bytes = 0;
  plan.loader_bytes = LoaderBytes(config, ranks, options);
  plan.decoding_bytes = DecodingBytes(config, options);
  plan.data_bytes = options.data.held_bytes;
  plan.message_bytes = CommunicatorBytes(ranks);
  plan.table_bytes = TableBytes(config.model);
  const bool decodes = options.loader && config.data.format != "idx";
  const bool drops = options.device == Device::kCpu && config.model.drop_path_rate > 0 &&
                     config.train.micro_batch > 1;
  plan.program_bytes =
      kProgramBytes + (decodes ? kPictureLibraryBytes : 0) + (drops ? kDropPathBytes : 0);
  return plan;
}

std::string BytesText(size_t bytes) {
  char text[32];
  const bool large = bytes >= size_t{1} << 30;
  std::snprintf(text, sizeof(text), large ? "%.1f GiB" : "%.1f MiB",
                static_cast<double>(bytes) / (large ? 1 << 30 : 1 << 20));
  return text;
}

}  // namespace swinfleet
