#include "worker/memory_budget.h"

#include <glog/logging.h>

#include <algorithm>
#include <bit>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <functional>
#include <string>
#include <tuple>
#include <utility>

#include "core/config/names.h"
#include "core/loss/objective.h"
#include "core/nn/model.h"
#include "kernels/error.h"

namespace swinfleet {
namespace {

using Checkpointing = MemoryConfig::Checkpointing;

constexpr Checkpointing kLevels[] = {Checkpointing::kNone, Checkpointing::kSelective,
                                     Checkpointing::kBlock};
// A group of windows has about this many tokens at least: below, products become slow, and what
// they save is small beside the rest.
constexpr int64_t kGroupTokens = 1024;
// Sizes of groups that are tried, each four times the one before.
constexpr int kGroupSizes = 4;

// ---- What one choice leads to, by parts ----

// What a forward and a backward pass of one micro-batch, and an evaluation, take in memory.
struct Probed {
  // Of activations: what is kept at the end of the forward pass, and what backward adds.
  size_t kept = 0;
  size_t added = 0;
  // Of activations in evaluation.
  size_t evaluation = 0;
  // The workspace's high-water mark while each unit works.
  std::vector<size_t> workspace;
  WorkCount work;
};

// Parameters of a dry run that notice whose turn it is. A unit's work begins when it is acquired,
// with an empty workspace; what follows until the next one is counted as its own.
class UnitWatcher : public ParameterAccess {
 public:
  UnitWatcher(const ParameterTable& table, DType dtype, Arena* workspace)
      : workspace_(workspace),
        memory_(Arena::DryRun("parameters")),
        unwritten_(table),
        peaks_(table.units().size(), 0) {
    for (const Unit& unit : table.units()) {
      values_.push_back(memory_.Allocate({unit.padded_size}, dtype));
      gradients_.push_back(memory_.Allocate({unit.padded_size}));
    }
  }

  TensorView Acquire(int unit) override {
    if (workspace_->used() == 0) {
      Note();
      unit_ = unit;
    }
    return values_[unit];
  }
  void Release(int) override {}
  TensorView Gradient(int unit) override {
    if (unit != open_) unwritten_.Begin(unit);
    open_ = unit;
    return gradients_[unit];
  }
  bool TakeUnwritten(int parameter) override { return unwritten_.Take(parameter); }
  void GradientReady(int) override { open_ = -1; }

  // The peaks so far, one a unit.
  const std::vector<size_t>& Peaks() {
    Note();
    return peaks_;
  }

 private:
  // Books the workspace's high-water mark, and begins a new one.
  void Note() {
    peaks_[unit_] = std::max(peaks_[unit_], workspace_->high_water());
    *workspace_ = Arena::DryRun("workspace");
  }

  Arena* workspace_;
  Arena memory_;
  std::vector<TensorView> values_, gradients_;
  UnwrittenWeights unwritten_;
  std::vector<size_t> peaks_;
  int unit_ = 0;
  // Whose gradient is being made; -1: none's.
  int open_ = -1;
};

Probed Probe(const JobConfig& config, const MemoryConfig& memory, bool evaluation) {
  Probed probed;
  const std::unique_ptr<Model> model = MakeModel(config.model, config.pretrain, memory);
  const DType dtype = config.train.dtype;
  Arena workspace = Arena::DryRun("workspace");
  UnitWatcher watcher(model->parameters(), dtype, &workspace);
  Context context = {.ops = &DryRunOps(),
                     .workspace = &workspace,
                     .threads = config.parallel.threads_per_rank,
                     .count = &probed.work};
  ForwardOptions options;
  options.dtype = dtype;
  if (model->HasDropPath()) {
    options.drop_path_factor = [](int, int, int64_t) { return 1.0f; };
    options.drop_path_rates = model->DropPathRates();
  }
  const auto pass = [&](int64_t pictures, Arena& activations, const auto& backward) {
    const Batch batch = DryBatch(config, pictures);
    const ModelInput input = InputOf(batch, config, activations, context);
    const TensorView output = activations.Allocate(model->OutputShape(pictures), dtype);
    model->Forward(input, output, options, watcher, activations, context);
    probed.kept = std::max(probed.kept, activations.used());
    backward(batch, input, output);
  };
  Arena training = Arena::DryRun("activations");
  const TensorView doutput = training.Allocate(model->OutputShape(config.train.micro_batch), dtype);
  pass(config.train.micro_batch, training, [&](const auto& batch, auto& input, auto& output) {
    MakeObjective(config, /*training=*/true)
        ->Compute(batch, input, output, doutput, 1, training, context);
    model->Backward(doutput, {}, watcher, training, context);
  });
  probed.added = training.high_water() - probed.kept;
  if (evaluation) {
    const size_t kept = probed.kept;
    context.count = nullptr;
    options.keep_for_backward = false;
    options.drop_path_factor = nullptr;
    Arena arena = Arena::DryRun("activations");
    pass(config.train.eval_batch, arena, [](const auto&, auto&, auto&) {});
    probed.evaluation = arena.high_water();
    probed.kept = kept;
  }
  probed.workspace = watcher.Peaks();
  return probed;
}

// ---- What a stage may do ----

// One way to run a stage, and its parts of what the job takes and costs (those that add up as
// differences to the plain way).
struct StageOption {
  Checkpointing checkpointing = Checkpointing::kNone;
  int64_t sequential = 0;
  double flops = 0;
  double bytes = 0;
  int64_t kept = 0;
  size_t added = 0;
  size_t evaluation = 0;
  // Of the units that this stage's options have an influence on.
  size_t workspace = 0;

  auto Cost() const { return std::tie(flops, bytes); }
  // At least as good in everything.
  bool Dominates(const StageOption& other) const {
    return flops <= other.flops && bytes <= other.bytes && kept <= other.kept &&
           added <= other.added && evaluation <= other.evaluation && workspace <= other.workspace;
  }
};

// One option for each stage from the first, taken together.
struct Combination : StageOption {
  std::vector<int> picks;
};

// Sizes of a stage's groups of windows.
std::vector<int64_t> GroupSizes(const JobConfig& config, int stage) {
  const ModelConfig& model = config.model;
  const WindowShape window = model.Window(stage, false);
  const int64_t tokens = window.size[0] * window.size[1] * window.size[2];
  const auto windows = static_cast<double>(config.train.micro_batch * model.StageTokens(stage)) /
                       static_cast<double>(tokens);
  std::vector<int64_t> sizes;
  // Global attention has one window, and GreenMIM packs windows into groups of its own.
  if (config.model.arch == Architecture::kVit ||
      config.pretrain.method == PretrainConfig::Method::kGreenMim) {
    return sizes;
  }
  auto size = static_cast<int64_t>(
      std::bit_ceil(static_cast<uint64_t>((kGroupTokens + tokens - 1) / tokens)));
  for (int i = 0; i < kGroupSizes && static_cast<double>(size) < windows; ++i, size *= 4) {
    sizes.push_back(size);
  }
  return sizes;
}

// The ways a stage may go; the plain one first.
std::vector<StageOption> Ways(const JobConfig& config, int stage) {
  std::vector<int64_t> groups = {0};
  for (const int64_t size : GroupSizes(config, stage)) groups.push_back(size);
  std::vector<StageOption> ways;
  for (const Checkpointing level : kLevels) {
    for (const int64_t group : groups) {
      StageOption& way = ways.emplace_back();
      way.checkpointing = level;
      way.sequential = group;
    }
  }
  return ways;
}

MemoryConfig PlainMemory(const JobConfig& config) {
  MemoryConfig memory;
  memory.budget = config.memory.budget;
  memory.checkpointing.assign(config.model.num_stages(), Checkpointing::kNone);
  memory.sequential_windows.assign(config.model.num_stages(), 0);
  return memory;
}

class Search {
 public:
  Search(const JobConfig& config, int ranks, const PlanOptions& options)
      : config_(config), ranks_(ranks), options_(options), plain_memory_(PlainMemory(config)) {
    plain_ = Plan(plain_memory_);
    ProbeStages();
    Combine();
  }

  const MemoryChoice& plain() const { return plain_; }

  // The cheapest that fits.
  std::optional<MemoryChoice> Cheapest(size_t limit) {
    if (plain_.process_bytes <= limit) return plain_;
    std::ranges::sort(combinations_, {}, [](const Combination& c) {
      return std::tie(c.flops, c.bytes, c.kept, c.picks);
    });
    for (const Combination& combination : combinations_) {
      if (Estimate(combination) > limit) continue;
      const MemoryChoice choice = Plan(MemoryOf(combination));
      if (choice.process_bytes <= limit) return choice;
    }
    return std::nullopt;
  }

  MemoryChoice Least() {
    const auto best = std::ranges::min_element(combinations_, {}, [&](const Combination& c) {
      return std::tuple(Estimate(c), c.flops, c.bytes, c.picks);
    });
    const MemoryChoice least = Plan(MemoryOf(*best));
    return least.process_bytes < plain_.process_bytes ? least : plain_;
  }

 private:
  MemoryChoice Plan(const MemoryConfig& memory) const {
    return RunChoiceDry(config_, memory, ranks_, options_);
  }

  // Runs every way of every stage dry, with all other stages plain.
  void ProbeStages() {
    probed_ = Probe(config_, plain_memory_, options_.evaluation);
    std::vector<bool> influenced(probed_.workspace.size(), false);
    for (int stage = 0; stage < config_.model.num_stages(); ++stage) {
      stages_.push_back(WithoutDominated(ProbeStage(stage, &influenced)));
    }
    for (size_t unit = 0; unit < influenced.size(); ++unit) {
      if (!influenced[unit]) rest_workspace_ = std::max(rest_workspace_, probed_.workspace[unit]);
    }
  }

  // The stage's ways with their parts. Marks the units whose workspace they have an influence on.
  std::vector<StageOption> ProbeStage(int stage, std::vector<bool>* influenced) const {
    std::vector<StageOption> ways = Ways(config_, stage);
    std::vector<Probed> probes;
    for (StageOption& way : ways) {
      MemoryConfig memory = plain_memory_;
      memory.checkpointing[stage] = way.checkpointing;
      memory.sequential_windows[stage] = way.sequential;
      probes.push_back(Probe(config_, memory, options_.evaluation));
      SetParts(probes.back(), &way);
    }
    for (size_t unit = 0; unit < influenced->size(); ++unit) {
      const bool differs = std::ranges::any_of(probes, [&](const Probed& probed) {
        return probed.workspace[unit] != probed_.workspace[unit];
      });
      if (!differs) continue;
      (*influenced)[unit] = true;
      for (size_t i = 0; i < ways.size(); ++i) {
        ways[i].workspace = std::max(ways[i].workspace, probes[i].workspace[unit]);
      }
    }
    return ways;
  }

  // Of one micro-batch: a step's all cost alike.
  void SetParts(const Probed& probed, StageOption* way) const {
    way->flops = probed.work.matrix_flops - probed_.work.matrix_flops;
    way->bytes = probed.work.bytes - probed_.work.bytes;
    way->kept = static_cast<int64_t>(probed.kept) - static_cast<int64_t>(probed_.kept);
    way->added = probed.added;
    way->evaluation = probed.evaluation;
  }

  template <typename Option>
  static std::vector<Option> WithoutDominated(std::vector<Option> options) {
    std::ranges::stable_sort(options, {}, [](const Option& option) { return option.Cost(); });
    std::vector<Option> kept;
    for (Option& option : options) {
      const bool dominated =
          std::ranges::any_of(kept, [&](const Option& better) { return better.Dominates(option); });
      if (!dominated) kept.push_back(std::move(option));
    }
    return kept;
  }

  // All combinations of the stages' ways that no other beats in everything.
  void Combine() {
    combinations_ = {Combination{}};
    combinations_[0].workspace = rest_workspace_;
    for (const std::vector<StageOption>& ways : stages_) {
      std::vector<Combination> longer;
      for (const Combination& combination : combinations_) {
        for (size_t i = 0; i < ways.size(); ++i) {
          Combination& next = longer.emplace_back(combination);
          next.picks.push_back(static_cast<int>(i));
          next.flops += ways[i].flops;
          next.bytes += ways[i].bytes;
          next.kept += ways[i].kept;
          next.added = std::max(next.added, ways[i].added);
          next.evaluation = std::max(next.evaluation, ways[i].evaluation);
          next.workspace = std::max(next.workspace, ways[i].workspace);
        }
      }
      combinations_ = WithoutDominated(std::move(longer));
    }
  }

  // What the process will take, from the plain job's plan and the combination's parts.
  size_t Estimate(const Combination& c) const {
    const size_t activations = std::max(probed_.kept + probed_.added, probed_.evaluation);
    const size_t workspace = *std::ranges::max_element(probed_.workspace);
    const size_t rest = plain_.process_bytes - activations - workspace;
    return rest + std::max(probed_.kept + c.kept + c.added, c.evaluation) + c.workspace;
  }

  MemoryConfig MemoryOf(const Combination& combination) const {
    MemoryConfig memory = plain_memory_;
    for (size_t stage = 0; stage < stages_.size(); ++stage) {
      const StageOption& way = stages_[stage][combination.picks[stage]];
      memory.checkpointing[stage] = way.checkpointing;
      memory.sequential_windows[stage] = way.sequential;
    }
    return memory;
  }

  const JobConfig& config_;
  const int ranks_;
  const PlanOptions& options_;
  const MemoryConfig plain_memory_;
  MemoryChoice plain_;
  // Of the plain way.
  Probed probed_;
  std::vector<std::vector<StageOption>> stages_;
  // Of units that no option has an influence on.
  size_t rest_workspace_ = 0;
  std::vector<Combination> combinations_;
};

// "[a, b, b]", or "a" where all are alike.
template <typename T, typename Name>
std::string ListText(const std::vector<T>& values, const std::string& empty, const Name& name) {
  if (values.empty()) return empty;
  if (std::ranges::all_of(values, [&](const T& value) { return value == values[0]; })) {
    return name(values[0]);
  }
  std::string text;
  for (const T& value : values) text += (text.empty() ? "[" : ", ") + name(value);
  return text + "]";
}

// A bound in the form of job files, rounded up to whole MiB.
std::string BudgetText(size_t bytes) {
  return std::to_string((bytes + (1 << 20) - 1) >> 20) + "MiB";
}

std::string ChoiceText(const MemoryConfig& memory) {
  return "memory.checkpointing " + CheckpointingText(memory) + ", memory.sequential_windows " +
         SequentialText(memory);
}

// The job with a budget of `limit` in place of its own settings.
JobConfig WithBudget(JobConfig config, size_t limit) {
  config.memory = MemoryConfig();
  config.memory.budget = static_cast<int64_t>(limit);
  return config;
}

size_t LimitedBytes(const JobConfig& config, int ranks, const PlanOptions& options) {
  return PlanMemory(config, BusiestRank(config, ranks), ranks, options).LimitedBytes();
}

// The choice that takes least in most jobs: whole blocks, the smallest groups.
MemoryConfig Frugal(const JobConfig& config) {
  MemoryConfig memory = PlainMemory(config);
  for (int stage = 0; stage < config.model.num_stages(); ++stage) {
    memory.checkpointing[stage] = Checkpointing::kBlock;
    const std::vector<int64_t> sizes = GroupSizes(config, stage);
    if (!sizes.empty()) memory.sequential_windows[stage] = sizes.front();
  }
  return memory;
}

// With its own settings; with any, for a job that has a budget.
bool Fits(const JobConfig& config, int ranks, size_t limit, const PlanOptions& options) {
  if (config.memory.budget == 0) return LimitedBytes(config, ranks, options) <= limit;
  JobConfig frugal = config;
  frugal.memory = Frugal(config);
  const MemoryPlan plan = PlanMemory(frugal, BusiestRank(config, ranks), ranks, options);
  if (plan.PredictedProcessBytes() <= limit) return true;
  // No choice keeps less than whole blocks do, nor does one change the other classes.
  const size_t kept = Probe(frugal, frugal.memory, /*evaluation=*/false).kept;
  const size_t chosen = plan.memory.activations.high_water() + plan.memory.workspace.high_water();
  if (plan.PredictedProcessBytes() - chosen + kept > limit) return false;
  return SearchChoices(config, ranks, limit, options).cheapest.has_value();
}

// The number that a file begins with; 0 without one ("max").
size_t NumberIn(const std::string& path) {
  std::ifstream file(path);
  size_t number = 0;
  return file >> number ? number : 0;
}

// The least limit of the control groups (version 2) that this process is in; 0 without one.
size_t ControlGroupBytes() {
  std::ifstream groups("/proc/self/cgroup");
  std::string line, group;
  while (std::getline(groups, line)) {
    if (line.starts_with("0::")) group = line.substr(3);
  }
  size_t least = 0;
  while (true) {
    const size_t limit = NumberIn("/sys/fs/cgroup" + group + "/memory.max");
    if (limit > 0 && (least == 0 || limit < least)) least = limit;
    if (group.empty()) return least;
    group.erase(group.find_last_of('/') == std::string::npos ? 0 : group.find_last_of('/'));
  }
}

}  // namespace

ChoiceSearch SearchChoices(const JobConfig& config, int ranks, size_t limit,
                           const PlanOptions& options) {
  Search search(config, ranks, options);
  return {.plain = search.plain(), .least = search.Least(), .cheapest = search.Cheapest(limit)};
}

MemoryChoice RunChoiceDry(const JobConfig& config, const MemoryConfig& memory, int ranks,
                          const PlanOptions& options) {
  JobConfig chosen = config;
  chosen.memory = memory;
  const MemoryPlan plan = PlanMemory(chosen, BusiestRank(config, ranks), ranks, options);
  return {.memory = memory, .process_bytes = plan.PredictedProcessBytes(), .step = plan.step};
}

ChoiceSearch ChooseForBudget(const JobConfig& config, int ranks, const PlanOptions& options) {
  const auto budget = static_cast<size_t>(config.memory.budget);
  ChoiceSearch found = SearchChoices(config, ranks, budget, options);
  if (found.cheapest.has_value()) return found;
  std::string message =
      "memory.budget " + BytesText(budget) + " is below the least that this job needs on " +
      std::to_string(ranks) + (ranks == 1 ? " rank" : " ranks") + ", " +
      BytesText(found.least.process_bytes) + " a rank (with " + ChoiceText(found.least.memory) +
      "). What would work: memory.budget " + BudgetText(found.least.process_bytes);
  for (const std::string& change : WhatWouldFit(config, ranks, budget, options)) {
    message += "; or " + change;
  }
  throw Error(message);
}

std::string TakeChoice(const MemoryChoice& taken, const MemoryChoice& plain, JobConfig* config) {
  config->memory.checkpointing = taken.memory.checkpointing;
  config->memory.sequential_windows = taken.memory.sequential_windows;
  char more[32];
  std::snprintf(more, sizeof(more), "%.1f%%",
                100 * (taken.step.matrix_flops / plain.step.matrix_flops - 1));
  return "memory.budget " + BytesText(static_cast<size_t>(config->memory.budget)) + ": " +
         ChoiceText(taken.memory) + "; a rank takes " + BytesText(taken.process_bytes) + " with " +
         more + " more FLOPs than without, which takes " + BytesText(plain.process_bytes);
}

std::string ResolveBudget(JobConfig* config, int ranks, const PlanOptions& options) {
  if (config->memory.budget == 0) return "";
  const ChoiceSearch found = ChooseForBudget(*config, ranks, options);
  return TakeChoice(*found.cheapest, found.plain, config);
}

namespace {

// Of this thread, so that what is found doesn't depend on what else the machine does.
double CpuSeconds() {
  timespec time = {};
  CHECK_EQ(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time), 0);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// A job with changes, and how job files say them.
struct Changed {
  JobConfig config;
  std::string phrase = {};
  int changes = 0;

  void Add(const std::string& change) { phrase += (changes++ == 0 ? "" : ", ") + change; }
};

Changed WithAccumulation(Changed changed, Accumulation form) {
  std::string phrase = std::string("train.accumulation ") + NameIn(AccumulationNames(), form);
  changed.config.train.accumulation = form;
  if (SumsInRounds(form) && changed.config.parallel.zero_stage == 0) {
    changed.config.parallel.zero_stage = 1;
    phrase += " with parallel.zero_stage 1";
  }
  changed.Add(phrase);
  return changed;
}

// The stage that holds least, with a form that it can have.
Changed WithAllShards(Changed changed, Accumulation form) {
  std::string phrase = "parallel.zero_stage " + std::to_string(kMostZeroStage);
  changed.config.parallel.zero_stage = kMostZeroStage;
  if (changed.config.train.accumulation != form) {
    changed.config.train.accumulation = form;
    phrase += std::string(" with train.accumulation ") + NameIn(AccumulationNames(), form);
  }
  changed.Add(phrase);
  return changed;
}

Changed WithOffload(Changed changed) {
  changed.config.parallel.offload = Offload::kDisk;
  // For the plan, which looks at no disk.
  changed.config.parallel.offload_dir = "/";
  changed.Add("parallel.offload disk with parallel.offload_dir on a disk of each host's own");
  return changed;
}

Changed WithBf16(Changed changed) {
  std::string phrase = "train.dtype bf16";
  changed.config.train.dtype = DType::kBF16;
  if (!CpuHasNative(DType::kBF16) && !changed.config.train.allow_emulation) {
    changed.config.train.allow_emulation = true;
    phrase += " with train.allow_emulation true";
  }
  changed.Add(phrase);
  return changed;
}

// Ways to sum gradients, to keep state and to compute: the job's own, then what gives the same
// bits, then what rounds sums alone, then what needs a disk, then each of these in 16 bits.
std::vector<Changed> Forms(const Changed& own) {
  std::vector<Changed> forms = {own};
  const JobConfig& job = own.config;
  // Above stage 1 only those that sum in rounds are left.
  const bool choice = job.parallel.zero_stage < 2;
  if (choice && job.train.accumulation != Accumulation::kSplit) {
    forms.push_back(WithAccumulation(own, Accumulation::kSplit));
  }
  if (job.parallel.zero_stage < kMostZeroStage) {
    forms.push_back(WithAllShards(own, Accumulation::kSplit));
  }
  const Accumulation low = choice ? Accumulation::kLowPrecision : Accumulation::kSplitLowPrecision;
  if (job.train.accumulation != low) forms.push_back(WithAccumulation(own, low));
  if (job.parallel.zero_stage < kMostZeroStage) {
    forms.push_back(WithAllShards(own, Accumulation::kSplitLowPrecision));
  }
  if (job.parallel.offload == Offload::kNone) {
    forms.push_back(WithOffload(own));
    if (job.parallel.zero_stage < kMostZeroStage)
      forms.push_back(WithOffload(WithAllShards(own, Accumulation::kSplit)));
  }
  const size_t alone = forms.size();
  for (size_t i = 0; i < alone && own.config.train.dtype == DType::kF32; ++i) {
    forms.push_back(WithBf16(forms[i]));
  }
  return forms;
}

// Looks for changes, each alone and then, if none helps, together; until its time is over.
class Proposer {
 public:
  Proposer(const JobConfig& config, int ranks, size_t limit, const PlanOptions& options,
           double seconds)
      : config_(config),
        ranks_(ranks),
        limit_(limit),
        options_(options),
        end_(CpuSeconds() + seconds) {}

  std::vector<std::string> Find() {
    ProposeChoice();
    ProposeBatches();
    ProposeThreads();
    ProposeSynchronous();
    ProposeForms();
    TryMoreRanks({.config = config_});
    if (found_.empty()) ProposeTogether();
    return std::move(found_);
  }

 private:
  bool InTime() const { return CpuSeconds() < end_; }

  // Whether it fits, and is proposed.
  bool Try(const Changed& changed) {
    if (!InTime() || !Fits(changed.config, ranks_, limit_, options_)) return false;
    found_.push_back(changed.phrase);
    return true;
  }

  // The same on the fewest ranks that are more than there are, with shards.
  bool TryMoreRanks(Changed changed) {
    int& stage = changed.config.parallel.zero_stage;
    stage = std::max(stage, 1);
    const int64_t most = std::min(changed.config.train.micro_batches(), kMostRanks);
    for (auto more = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(ranks_) + 1));
         more <= most && InTime(); more *= 2) {
      if (!Fits(changed.config, static_cast<int>(more), limit_, options_)) continue;
      found_.push_back((changed.changes == 0 ? "" : changed.phrase + " on ") +
                       std::to_string(more) + " ranks" +
                       (config_.parallel.zero_stage > 0 ? "" : " with parallel.zero_stage 1"));
      return true;
    }
    return false;
  }

  // Where it doesn't, there is little hope for fewer.
  bool FitsOnMostRanks(const Changed& changed) const {
    const int64_t most = std::min(changed.config.train.micro_batches(), kMostRanks);
    const auto power = static_cast<int>(std::bit_floor(static_cast<uint64_t>(most)));
    return InTime() && Fits(changed.config, power, limit_, options_);
  }

  void ProposeChoice() {
    if (config_.memory.budget > 0 || !InTime()) return;
    const auto cheapest = SearchChoices(config_, ranks_, limit_, options_).cheapest;
    if (cheapest.has_value()) found_.push_back(ChoiceText(cheapest->memory));
  }

  void ProposeBatches() {
    // Evaluation first, which is one try: where it is what doesn't fit, no micro-batch helps.
    const std::optional<Changed> evaluated = WithSmallerEvaluation({.config = config_});
    if (evaluated.has_value()) Try(*evaluated);
    const int64_t micro_batch =
        LargestMicroBatch(config_, ranks_, limit_, options_, [this] { return InTime(); });
    if (micro_batch > 0) found_.push_back("train.micro_batch " + std::to_string(micro_batch));
  }

  void ProposeThreads() {
    Changed fewer = {.config = config_};
    int& threads = fewer.config.data.loader_threads;
    while (options_.loader && options_.data.train_decoding.picture > 0 && threads > 1) {
      threads /= 2;
      fewer.phrase = "data.loader_threads " + std::to_string(threads);
      if (Try(fewer)) return;
    }
  }

  void ProposeSynchronous() {
    if (!options_.checkpoints || !config_.checkpoint.asynchronous) return;
    Changed synchronous = {.config = config_};
    synchronous.config.checkpoint.asynchronous = false;
    synchronous.Add("checkpoint.asynchronous false");
    Try(synchronous);
  }

  void ProposeForms() {
    if (ranks_ > 1 && config_.parallel.zero_stage == 0) Try(WithShards({.config = config_}));
    for (const Changed& form : Forms({.config = config_})) {
      // One rank shares nothing: there a higher stage is what its form of accumulation is.
      const int stage = form.config.parallel.zero_stage;
      const bool higher = stage > std::max(config_.parallel.zero_stage, 1);
      if (form.changes == 1 && (ranks_ > 1 || !higher)) Try(form);
    }
  }

  static Changed WithShards(Changed changed) {
    changed.config.parallel.zero_stage = 1;
    changed.Add("parallel.zero_stage 1");
    return changed;
  }

  // Evaluation keeps nothing: with batches of training's size it takes less than that does.
  std::optional<Changed> WithSmallerEvaluation(Changed changed) const {
    TrainConfig& train = changed.config.train;
    if (!options_.evaluation || train.eval_batch <= train.micro_batch) return std::nullopt;
    train.eval_batch = train.micro_batch;
    changed.Add("train.eval_batch " + std::to_string(train.eval_batch));
    return changed;
  }

  // With the smallest batches that the job may have.
  std::optional<Changed> WithSmallestBatches(Changed changed) const {
    TrainConfig& train = changed.config.train;
    const size_t problems = ValidateJob(config_, ranks_).size();
    while (train.micro_batch % 2 == 0) {
      train.micro_batch /= 2;
      if (ValidateJob(changed.config, ranks_).size() <= problems) continue;
      train.micro_batch *= 2;
      break;
    }
    if (train.micro_batch == config_.train.micro_batch) return std::nullopt;
    changed.Add("train.micro_batch " + std::to_string(train.micro_batch));
    if (options_.evaluation && train.eval_batch > 1) {
      train.eval_batch = 1;
      changed.Add("train.eval_batch 1");
    }
    return changed;
  }

  // Everything that may be changed together with `base`, what trains alike first.
  std::vector<Changed> Together(const Changed& base) const {
    std::vector<Changed> together;
    for (const Changed& form : Forms(base)) {
      together.push_back(form);
      for (const auto& smaller : {WithSmallerEvaluation(form), WithSmallestBatches(form)}) {
        if (smaller.has_value()) together.push_back(*smaller);
      }
    }
    return together;
  }

  // The first that fits on these ranks, and the first that fits on more. A change alone was tried.
  void ProposeTogether() {
    Changed base = {.config = WithBudget(config_, limit_)};
    if (config_.memory.budget == 0) base.Add("memory.budget " + BudgetText(limit_));
    const bool shards = ranks_ > 1 && config_.parallel.zero_stage == 0;
    for (const Changed& changed : Together(shards ? WithShards(base) : base)) {
      if (changed.changes > 1 && Try(changed)) break;
    }
    int& stage = base.config.parallel.zero_stage;
    stage = std::max(stage, 1);
    for (const Changed& changed : Together(base)) {
      // What fits without more ranks.
      if (!found_.empty() && changed.phrase == found_.front()) break;
      if (changed.changes > 0 && FitsOnMostRanks(changed) && TryMoreRanks(changed)) break;
    }
  }

  const JobConfig& config_;
  const int ranks_;
  const size_t limit_;
  const PlanOptions& options_;
  // In CpuSeconds.
  const double end_;
  std::vector<std::string> found_;
};

}  // namespace

std::vector<std::string> WhatWouldFit(const JobConfig& config, int ranks, size_t limit,
                                      const PlanOptions& options, double seconds) {
  return Proposer(config, ranks, limit, options, seconds).Find();
}

std::optional<int> FewestRanks(const JobConfig& config, size_t limit, const PlanOptions& options) {
  const int64_t most = std::min(config.train.micro_batches(), kMostRanks);
  for (int64_t ranks = 1; ranks <= most; ranks *= 2) {
    if (Fits(config, static_cast<int>(ranks), limit, options)) return static_cast<int>(ranks);
  }
  return std::nullopt;
}

int64_t LargestMicroBatch(const JobConfig& config, int ranks, size_t limit,
                          const PlanOptions& options, const std::function<bool()>& go_on) {
  const size_t problems = ValidateJob(config, ranks).size();
  JobConfig changed = config;
  for (int64_t size = config.train.global_batch; go_on == nullptr || go_on(); size /= 2) {
    changed.train.micro_batch = size;
    // Pairs of pictures that are mixed, for example, need an even number.
    const bool valid = ValidateJob(changed, ranks).size() <= problems;
    if (valid && changed.train.micro_batches() >= ranks && Fits(changed, ranks, limit, options)) {
      return size;
    }
    if (size % 2 != 0) break;
  }
  return 0;
}

size_t MachineBytes() {
  std::ifstream meminfo("/proc/meminfo");
  std::string word;
  size_t kib = 0;
  while (meminfo >> word && word != "MemTotal:") continue;
  meminfo >> kib;
  const size_t machine = meminfo ? kib * 1024 : 0, group = ControlGroupBytes();
  if (machine == 0 || group == 0) return std::max(machine, group);
  return std::min(machine, group);
}

std::string CheckpointingText(const MemoryConfig& memory) {
  return ListText(memory.checkpointing, "none",
                  [](Checkpointing level) { return std::string(CheckpointingName(level)); });
}

std::string SequentialText(const MemoryConfig& memory) {
  const auto& groups = memory.sequential_windows;
  if (std::ranges::all_of(groups, [](int64_t windows) { return windows == 0; })) return "off";
  return ListText(groups, "off", [](int64_t windows) { return std::to_string(windows); });
}

}  // namespace swinfleet
