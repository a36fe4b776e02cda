#include "tests/golden/golden_check_trainer.h"

#include <algorithm>

#include "core/memory/memory_classes.h"
#include "core/optim/optimizer.h"
#include "distributed/zero_engine.h"

namespace swinfleet::golden {
namespace {

std::unique_ptr<Model> ModelOf(const Training& training) {
  return MakeModel(training.model, training.pretrain, MemoryConfig());
}

class LocalTrainer : public Trainer {
 public:
  LocalTrainer(const Golden& golden, const Training& training, const Machine& machine)
      : training_(training), runner_(golden, ModelOf(training), machine) {
    for (const ParameterInfo& info : runner_.table().parameters()) {
      first_.emplace_back(info.size());
      second_.emplace_back(OptimizerStateTensors(training.optimizer.kind) > 1 ? info.size() : 0);
    }
  }

  double RunStep() override {
    runner_.parameters().ZeroGradients();
    const ModelRunner::Pass& batch = training_.batch;
    const int64_t size = batch.pictures / training_.micro_batches;
    double loss = 0;
    for (int64_t i = 0; i < training_.micro_batches; ++i) {
      const ModelRunner::Result result =
          runner_.Run(training_.micro_batches == 1 ? batch : Slice(batch, i * size, size));
      loss += result.MeanLoss() / static_cast<double>(training_.micro_batches);
    }
    return loss;
  }
  double GradientNorm() override { return runner_.GradientNorm(); }
  std::vector<float> Gradient(int parameter) override {
    const std::span<float> values = runner_.parameters().GradientOf(parameter);
    return {values.begin(), values.end()};
  }
  std::vector<float> Value(int parameter) override {
    const std::span<float> values = runner_.parameters().Value(parameter);
    return {values.begin(), values.end()};
  }

  void Update(int64_t step, std::span<const double> rates, float grad_scale) override {
    for (size_t i = 0; i < rates.size(); ++i) {
      const int parameter = static_cast<int>(i);
      const OptimizerState state = {
          .first = View(first_[i]), .second = View(second_[i]), .master = {}};
      OpRunner(runner_.machine().threads).WithContext([&](Context& context) {
        UpdateSegment(training_.optimizer, training_.groups[i], rates[i], step, grad_scale,
                      View(runner_.parameters().Value(parameter)),
                      View(runner_.parameters().GradientOf(parameter)), state, context);
      });
    }
  }

 private:
  static TensorView View(std::span<float> values) {
    if (values.empty()) return {};
    return ViewOf(values.data(), Shape{static_cast<int64_t>(values.size())});
  }

  const Training& training_;
  ModelRunner runner_;
  // What the optimizer keeps of each parameter.
  std::vector<std::vector<float>> first_, second_;
};

class EngineTrainer : public Trainer {
 public:
  EngineTrainer(const Golden& golden, const Training& training, const Machine& machine,
                const EngineRanks& ranks)
      : training_(training),
        communicator_(*ranks.communicator),
        runner_(golden, ModelOf(training), machine),
        layout_(runner_.table(), communicator_.size()),
        options_(OptionsFor(ranks)),
        compute_(Planned(), machine.gpu, machine.threads, Matmul::kFloat32),
        engine_(runner_.table(), &communicator_, options_, &compute_.memory, &compute_.context) {
    if (training.batch.pictures % options_.micro_batches != 0 && !training.batch.loss) {
      throw Error(golden.path() + ": " + std::to_string(training.batch.pictures) +
                  " pictures in parts for " + std::to_string(options_.micro_batches));
    }
    for (int i = 0; i < static_cast<int>(training.groups.size()); ++i) {
      engine_.SetParameter(i, runner_.parameters().Value(i));
    }
  }

  double RunStep() override {
    const auto leaves = ShardLayout::LeavesOf(options_.accumulation, communicator_.rank(),
                                              communicator_.size(), options_.micro_batches);
    double loss = 0;
    engine_.BeginStep();
    for (int64_t i = 0; i < leaves.count; ++i) {
      engine_.BeginMicroBatch(i);
      loss += runner_.Run(Part(leaves[i]), &engine_).MeanLoss();
    }
    norm_ = engine_.FinishReduction().norm;
    communicator_.AllReduceSum({&loss, 1}, "loss");
    return loss / static_cast<double>(options_.micro_batches);
  }
  double GradientNorm() override { return norm_; }

  std::vector<float> Gradient(int parameter) override {
    const ParameterInfo& info = runner_.table().parameters()[parameter];
    std::vector<double> all(info.size(), 0.0);
    const int rank = communicator_.rank();
    const ElementsOnHost<float> reduced(engine_.ReducedGradient(info.unit), compute_.context);
    const int64_t begin = options_.stage == 0 ? 0 : layout_.ShardBegin(info.unit, rank);
    for (const ShardLayout::Segment& segment : layout_.ShardSegments(info.unit, rank)) {
      if (segment.parameter != parameter) continue;
      const float* from = reduced.span().data() + (segment.unit_begin - begin);
      std::copy_n(from, segment.size, all.begin() + segment.parameter_begin);
    }
    communicator_.AllReduceSum(all, info.name);
    return {all.begin(), all.end()};
  }
  std::vector<float> Value(int parameter) override {
    std::vector<float> values(runner_.table().parameters()[parameter].size());
    engine_.GetParameter(parameter, values);
    return values;
  }
  void Update(int64_t step, std::span<const double> rates, float grad_scale) override {
    engine_.Update(rates, step, grad_scale);
    engine_.PublishParameters();
  }

 private:
  ZeroOptions OptionsFor(const EngineRanks& ranks) const {
    return {.stage = ranks.zero_stage,
            .optimizer = training_.optimizer,
            .hypers = training_.groups,
            .micro_batches = training_.micro_batches * communicator_.size(),
            .accumulation = DefaultAccumulation(ranks.zero_stage)};
  }

  MemoryClasses Planned() const {
    const bool on_gpu = runner_.machine().gpu != nullptr;
    MemoryClasses memory = MemoryClasses::DryRun(on_gpu ? Device::kCuda : Device::kCpu);
    Context context{.ops = on_gpu ? &CudaDryRunOps() : &DryRunOps(),
                    .workspace = &memory.workspace,
                    .device = memory.device};
    const auto silent = MakeDryRunCommunicator(communicator_.rank(), communicator_.size());
    ZeroEngine engine(runner_.table(), silent.get(), options_, &memory, &context);
    // A step without a model, for what the engine's own operations take.
    engine.BeginStep();
    const auto leaves = ShardLayout::LeavesOf(options_.accumulation, communicator_.rank(),
                                              communicator_.size(), options_.micro_batches);
    for (int64_t leaf = 0; leaf < leaves.count; ++leaf) {
      engine.BeginMicroBatch(leaf);
      for (auto unit = std::ssize(runner_.table().units()) - 1; unit >= 0; --unit) {
        engine.GradientReady(static_cast<int>(unit));
      }
    }
    engine.FinishReduction();
    engine.Update(std::vector<double>(training_.groups.size()), 0, 1);
    engine.PublishParameters();
    return memory;
  }

  // A leaf's part of the batch.
  ModelRunner::Pass Part(int64_t leaf) const {
    if (!training_.batch.loss) {
      const int64_t size = training_.batch.pictures / options_.micro_batches;
      return Slice(training_.batch, leaf * size, size);
    }
    ModelRunner::Pass whole = training_.batch;
    whole.loss = [this](const TensorView& output, const TensorView& loss, const TensorView& doutput,
                        Arena& activations, Context& context) {
      training_.batch.loss(output, loss, doutput, activations, context);
      for (float& value : doutput.span()) value /= static_cast<float>(options_.micro_batches);
    };
    return whole;
  }

  const Training& training_;
  Communicator& communicator_;
  ModelRunner runner_;
  ShardLayout layout_;
  ZeroOptions options_;
  Compute compute_;
  ZeroEngine engine_;
  double norm_ = 0;
};

}  // namespace

std::unique_ptr<Trainer> MakeLocalTrainer(const Golden& golden, const Training& training,
                                          const Machine& machine) {
  return std::make_unique<LocalTrainer>(golden, training, machine);
}

std::unique_ptr<Trainer> MakeEngineTrainer(const Golden& golden, const Training& training,
                                           const Machine& machine, const EngineRanks& ranks) {
  return std::make_unique<EngineTrainer>(golden, training, machine, ranks);
}

}  // namespace swinfleet::golden
