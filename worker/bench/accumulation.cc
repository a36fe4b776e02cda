// swinfleet-bench accumulation: what the forms of gradient accumulation take, send and lose.
#include <algorithm>
#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/config/names.h"
#include "core/loss/objective.h"
#include "core/memory/memory_classes.h"
#include "core/nn/model.h"
#include "core/optim/loss_scaler.h"
#include "distributed/mpi_runtime.h"
#include "distributed/zero_engine.h"
#include "kernels/error.h"
#include "worker/bench/bench.h"
#include "worker/follow.h"
#include "worker/processor.h"

namespace swinfleet::bench {
namespace {

struct AccumulationCommand {
  Setting setting;
  int64_t micro_batches = 16;
};

// One float64 number for each element of each parameter.
using Sums = std::vector<std::vector<double>>;

// Adds up in float64 what modules leave as gradients; weights come from elsewhere.
class ExactSums : public ParameterAccess {
 public:
  ExactSums(const ParameterTable& table, ParameterAccess* weights)
      : table_(table), weights_(weights), unwritten_(table), sums_(table.parameters().size()) {
    for (size_t i = 0; i < sums_.size(); ++i) sums_[i].resize(table.parameters()[i].size());
  }

  TensorView Acquire(int unit) override { return weights_->Acquire(unit); }
  void Release(int unit) override { weights_->Release(unit); }
  TensorView Gradient(int unit) override {
    gradient_.assign(table_.units()[unit].padded_size, 0.0f);
    unwritten_.Begin(unit);
    return ViewOf(gradient_.data(), {static_cast<int64_t>(gradient_.size())});
  }
  // As the engine, for whose products the workspace is planned.
  bool TakeUnwritten(int parameter) override { return unwritten_.Take(parameter); }
  void GradientReady(int unit) override {
    for (const int parameter : table_.units()[unit].parameters) {
      const float* part = gradient_.data() + table_.parameters()[parameter].offset;
      for (double& sum : sums_[parameter]) sum += *part++;
    }
  }

  Sums Take() { return std::move(sums_); }

 private:
  const ParameterTable& table_;
  ParameterAccess* weights_;
  UnwrittenWeights unwritten_;
  std::vector<float> gradient_;
  Sums sums_;
};

// The pictures of the step's leaf number `leaf`.
Batch PicturesOf(const JobConfig& job, int64_t leaf) {
  return RandomBatch(job, job.train.micro_batch, leaf);
}

// This rank's part of the step's pictures.
std::vector<Batch> PicturesOfRank(const JobConfig& job, const Communicator& communicator) {
  const auto leaves = ShardLayout::LeavesOf(job.train.accumulation, communicator.rank(),
                                            communicator.size(), job.train.micro_batches());
  std::vector<Batch> batches;
  for (int64_t i = 0; i < leaves.count; ++i) batches.push_back(PicturesOf(job, leaves[i]));
  return batches;
}

// A rank's part in the gradient of one step: everything of a training step but the update.
class GradientOfStep {
 public:
  GradientOfStep(const JobConfig& job, Communicator* communicator)
      : job_(job),
        passes_(ShardLayout::PassesOf(job.train.accumulation, communicator->rank(),
                                      communicator->size(), job.train.micro_batches())),
        scale_(LossScaler(job.train.dtype).scale()) {
    MemoryPlan plan = PlanSteps(job, communicator->rank(), communicator->size());
    planned_ = std::move(plan.memory);
    memory_ = std::make_unique<MemoryClasses>(MemoryClasses::OnHost(planned_));
    context_ = {.ops = &CpuOps(),
                .workspace = &memory_->workspace,
                .threads = job.parallel.threads_per_rank,
                .count = nullptr};
    model_ = MakeModel(job.model, job.pretrain, job.memory);
    objective_ = MakeObjective(job, /*training=*/true);
    engine_ = std::make_unique<ZeroEngine>(model_->parameters(), communicator,
                                           ZeroOptionsFor(job, model_->parameters()), memory_.get(),
                                           &context_);
    engine_->Initialize(0);
  }

  const ParameterTable& table() const { return model_->parameters(); }
  ZeroEngine& engine() { return *engine_; }
  // What was reserved, to the byte.
  const MemoryClasses& planned() const { return planned_; }
  // What the gradients are multiplied with, so that they are no subnormal numbers of fp16.
  double scale() const { return scale_; }

  // Forward and backward of a leaf; the gradient goes to `access`.
  void Leaf(const Batch& batch, ParameterAccess& access) {
    Arena& activations = memory_->activations;
    ArenaScope scope(&activations);
    const ModelInput input = InputOf(batch, job_, activations, context_);
    const DType dtype = job_.train.dtype;
    const TensorView output = activations.Allocate(model_->OutputShape(batch.pictures), dtype);
    const TensorView doutput = activations.Allocate(output.shape, dtype);
    ForwardOptions options;
    options.dtype = dtype;
    model_->Forward(input, output, options, access, activations, context_);
    objective_->Compute(batch, input, output, doutput,
                        scale_ / static_cast<float>(job_.train.global_batch), activations,
                        context_);
    model_->Backward(doutput, {}, access, activations, context_);
  }

  // The whole step's gradient, over all ranks.
  void Run(const std::vector<Batch>& batches) {
    engine_->BeginStep();
    for (int64_t i = 0; i < passes_; ++i) {
      engine_->BeginMicroBatch(i);
      if (i < std::ssize(batches)) {
        Leaf(batches[i], *engine_);
      } else {
        FollowTraining(job_, model_.get(), engine_.get());
      }
    }
    engine_->FinishReduction();
  }

 private:
  JobConfig job_;
  int64_t passes_;
  float scale_;
  MemoryClasses planned_ = MemoryClasses::DryRun();
  std::unique_ptr<MemoryClasses> memory_;
  Context context_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Objective> objective_;
  std::unique_ptr<ZeroEngine> engine_;
};

// Every rank adds up the leaves of all ranks itself, in one order.
Sums ExactGradient(const JobConfig& job) {
  const std::unique_ptr<Communicator> alone = MakeSelfCommunicator();
  GradientOfStep step(job, alone.get());
  ExactSums sums(step.table(), &step.engine());
  for (int64_t leaf = 0; leaf < job.train.micro_batches(); ++leaf) {
    step.Leaf(PicturesOf(job, leaf), sums);
  }
  return sums.Take();
}

// Relative error in the 2-norm: of the whole gradient, and of the parameter that is worst off.
struct GradientError {
  double all = 0;
  double worst = 0;
  std::string worst_name;
};

GradientError ErrorOf(GradientOfStep* step, const Sums& exact, Communicator* communicator) {
  const ParameterTable& table = step->table();
  const ShardLayout layout(table, communicator->size());
  const size_t count = table.parameters().size();
  // Squares of differences, then of what is right.
  std::vector<double> squares(2 * count);
  for (int unit = 0; unit < static_cast<int>(table.units().size()); ++unit) {
    const auto* shard = static_cast<const float*>(step->engine().ReducedGradient(unit).data);
    const int64_t begin = layout.ShardBegin(unit, communicator->rank());
    for (const auto& segment : layout.ShardSegments(unit, communicator->rank())) {
      for (int64_t i = 0; i < segment.size; ++i) {
        const double right = exact[segment.parameter][segment.parameter_begin + i];
        const double off = shard[segment.unit_begin - begin + i] / step->scale() - right;
        squares[segment.parameter] += off * off;
        squares[count + segment.parameter] += right * right;
      }
    }
  }
  communicator->AllReduceSum(squares, "errors");
  GradientError error;
  double off = 0, right = 0;
  for (size_t i = 0; i < count; ++i) {
    off += squares[i];
    right += squares[count + i];
    if (squares[count + i] == 0) continue;
    const double relative = std::sqrt(squares[i] / squares[count + i]);
    if (relative <= error.worst) continue;
    error.worst = relative;
    error.worst_name = table.parameters()[i].name;
  }
  error.all = std::sqrt(off / right);
  return error;
}

double MiB(uint64_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

void PrintForm(const JobConfig& job, const Sums& exact, Communicator* communicator) {
  const std::vector<Batch> batches = PicturesOfRank(job, *communicator);
  const size_t resident_before = ProcessResidentBytes();
  GradientOfStep step(job, communicator);
  step.Run(batches);
  const size_t resident = ProcessResidentBytes();
  const uint64_t sent_before = communicator->bytes_sent();
  const double seconds = SecondsOf([&] { step.Run(batches); });
  const uint64_t sent = communicator->bytes_sent() - sent_before;
  const GradientError error = ErrorOf(&step, exact, communicator);
  if (communicator->rank() != 0) return;
  std::printf("| %s | %s |", NameIn(DTypeNames(), job.train.dtype),
              NameIn(AccumulationNames(), job.train.accumulation));
  const MemoryClasses& planned = step.planned();
  for (const Arena* arena : {&planned.parameters, &planned.gradients, &planned.optimizer,
                             &planned.activations, &planned.workspace}) {
    std::printf(" %.1f |", MiB(arena->high_water()));
  }
  std::printf(" %.1f | %.1f | %.1f | %.2f | %.1e | %.1e, %s |\n", MiB(planned.TotalHighWater()),
              MiB(resident) - MiB(resident_before), MiB(sent), seconds, error.all, error.worst,
              error.worst_name.c_str());
  std::fflush(stdout);
}

JobConfig JobOf(const AccumulationCommand& command, int ranks) {
  JobConfig job = MakeJob(command.setting);
  job.train.global_batch = job.train.micro_batch * command.micro_batches;
  job.parallel.ranks = ranks;
  return job;
}

void RunAccumulation(const AccumulationCommand& command) {
  std::unique_ptr<MpiRuntime> mpi;
  if (MpiRuntime::StartedByLauncher()) mpi = std::make_unique<MpiRuntime>();
  const std::unique_ptr<Communicator> communicator =
      mpi == nullptr ? MakeSelfCommunicator() : mpi->World();
  const int ranks = communicator->size();
  JobConfig job = JobOf(command, ranks);
  RequireNative(job.train.dtype, job.train.allow_emulation, "use fp32, or --allow-emulation");
  if (command.micro_batches < ranks) {
    throw Error("--micro-batches is " + std::to_string(command.micro_batches) + ", less than the " +
                std::to_string(ranks) + " ranks; use at least as many");
  }
  if (communicator->rank() == 0) {
    std::printf(
        "%s, micro-batches of %" PRId64 ", %" PRId64
        " a step; %d ranks of %d threads, %s. MiB of rank 0: the classes as planned and reserved,"
        " their sum, and what the process grew by from before that to after a step. The error is"
        " that of the step's gradient against fp32 micro-batches summed in float64.\n\n"
        "| dtype | accumulation | parameters | gradients | optimizer | activations | workspace |"
        " planned | measured | sent a step | gradient of a step, s | error |"
        " of the worst parameter |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
        command.setting.model.c_str(), job.train.micro_batch, command.micro_batches, ranks,
        job.parallel.threads_per_rank, CpuInstructionSet());
  }
  JobConfig exact_job = job;
  exact_job.train.dtype = DType::kF32;
  const Sums exact = ExactGradient(exact_job);
  std::vector<DType> dtypes = {DType::kF32};
  if (job.train.dtype != DType::kF32) dtypes.push_back(job.train.dtype);
  for (const DType dtype : dtypes) {
    job.train.dtype = dtype;
    for (const auto& [name, form] : AccumulationNames()) {
      job.train.accumulation = form;
      PrintForm(job, exact, communicator.get());
    }
  }
}

}  // namespace

void AddAccumulationCommand(CLI::App* app) {
  const auto command = std::make_shared<AccumulationCommand>();
  CLI::App* accumulation = app->add_subcommand(
      "accumulation",
      "memory, traffic and error of the forms of gradient accumulation, as a Markdown table: in "
      "fp32, and in --dtype if that is another; several ranks: under mpirun");
  AddSettingOptions(accumulation, &command->setting);
  accumulation
      ->add_option("--micro-batches", command->micro_batches,
                   "of all ranks in a step, of --batch pictures each; a power of two")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  accumulation->callback([command] { RunAccumulation(*command); });
}

}  // namespace swinfleet::bench
