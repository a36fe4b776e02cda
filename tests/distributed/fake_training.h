// A "model" whose gradients are a function of leaf, step and place: what is trained with it shows
// the arithmetic of the engine alone.
#ifndef SWINFLEET_TESTS_DISTRIBUTED_FAKE_TRAINING_H_
#define SWINFLEET_TESTS_DISTRIBUTED_FAKE_TRAINING_H_

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/memory/memory_classes.h"
#include "core/optim/optimizer.h"
#include "distributed/shard_layout.h"
#include "distributed/zero_engine.h"
#include "kernels/ops.h"
#include "kernels/placement.h"

namespace swinfleet {

// Units of uneven sizes, parameters that cross the borders of shards, single elements.
inline ParameterTable FakeTable() {
  const Initializer normal{Initializer::Kind::kTruncatedNormal, 0.02};
  ParameterTable table;
  table.BeginUnit("embedding");
  table.Add("embedding.weight", Shape{48, 33}, normal);
  table.Add("embedding.bias", Shape{33}, {Initializer::Kind::kUniform, 0.1});
  table.BeginUnit("block");
  table.AddProductWeight("block.weight", Shape{201, 173}, normal);
  table.Add("block.scale", Shape{1}, {Initializer::Kind::kOnes});
  table.Add("block.out", Shape{173, 77}, normal);
  table.BeginUnit("exact");
  table.AddProductWeight("exact.weight", Shape{2, 4096}, normal);
  table.BeginUnit("head");
  table.Add("head.bias", Shape{10}, {});
  table.BeginUnit("single");
  table.Add("single.gain", Shape{1}, {Initializer::Kind::kOnes});
  return table;
}

// In (-0.5, 0.5), with all of the mantissa's bits in use, so that sums round.
inline float FakeGradient(int64_t step, int64_t leaf, int unit, int64_t i) {
  uint64_t x = (static_cast<uint64_t>(step) << 48) ^ (static_cast<uint64_t>(leaf) << 40) ^
               (static_cast<uint64_t>(unit) << 32) ^ static_cast<uint64_t>(i);
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  x ^= x >> 31;
  return static_cast<float>(static_cast<double>(x >> 11) * 0x1.0p-53 - 0.5) *
         (leaf % 3 == 0 ? 1.0f : 0.01f);
}

// The unit's gradient, of zeros all over: also where products are to write.
inline TensorView ZeroedGradient(ZeroEngine* engine, const ParameterTable& table, int unit,
                                 Context* context) {
  const TensorView gradient = engine->Gradient(unit);
  for (const int p : table.units()[unit].parameters) {
    const ParameterInfo& info = table.parameters()[p];
    if (!info.product_weight || !engine->TakeUnwritten(p)) continue;
    context->ops->fill({.x = gradient.Rows(info.offset, info.size()), .value = 0}, *context);
  }
  return gradient;
}

struct FakeOptions {
  int stage = 1;
  OptimizerConfig::Kind optimizer = OptimizerConfig::Kind::kAdamW;
  int64_t leaves = 8;
  double clip = 1.0;
  DType dtype = DType::kF32;
  Accumulation accumulation = Accumulation::kPlain;
  Reduction reduction = Reduction::kReproducible;
  bool overlap = true;
  OffloadOptions offload = {};
  DType moments = DType::kF32;
};

// All of a piece's, read in parts of uneven sizes.
inline std::vector<float> ElementsOf(const TensorPiece& piece) {
  std::vector<float> elements;
  std::vector<float> scratch(1999);
  while (std::ssize(elements) < piece.size) {
    const auto done = std::ssize(elements);
    const auto count = std::min<int64_t>(scratch.size(), piece.size - done);
    const auto part = piece.elements(done, std::span(scratch).first(count));
    elements.insert(elements.end(), part.begin(), part.end());
  }
  return elements;
}

// The state that pieces hold, by tensor; elements that are in none of them are NaN.
inline std::map<std::string, std::vector<float>> StateIn(const std::vector<TensorPiece>& pieces) {
  std::map<std::string, std::vector<float>> state;
  for (const TensorPiece& piece : pieces) {
    std::vector<float>& tensor = state[piece.tensor];
    tensor.resize(piece.shape.NumElements(), std::numeric_limits<float>::quiet_NaN());
    const std::vector<float> elements = ElementsOf(piece);
    std::copy(elements.begin(), elements.end(), tensor.begin() + piece.begin);
  }
  return state;
}

class FakeTraining {
 public:
  // On the CPU, or on a GPU.
  FakeTraining(Communicator* communicator, const FakeOptions& options, bool dry = false,
               Accelerator* gpu = nullptr)
      : communicator_(communicator),
        options_(options),
        table_(FakeTable()),
        zero_(MakeZeroOptions()),
        memory_(dry              ? MemoryClasses::DryRun()
                : gpu == nullptr ? MemoryClasses::OnHost(Plan(Device::kCpu))
                                 : MemoryClasses::OnDevice(Plan(Device::kCuda), gpu)),
        context_(dry ? Context{.ops = &DryRunOps(), .workspace = &memory_.workspace}
                     : ContextOn(gpu, /*threads=*/1, &memory_.workspace)),
        engine_(std::make_unique<ZeroEngine>(table_, communicator, zero_, &memory_, &context_)) {
    engine_->Initialize(17);
  }

  // One step; parameters in `poisoned` get a NaN from the global leaf `poisoned_leaf`.
  GradientNorm Step(const std::vector<std::string>& poisoned = {}, int64_t poisoned_leaf = 0) {
    engine_->BeginStep();
    const ShardLayout::Leaves own = leaves();
    for (int64_t i = 0; i < passes(); ++i) {
      engine_->BeginMicroBatch(i);
      const bool poison = i < own.count && own[i] == poisoned_leaf;
      for (int unit = 0; unit < units(); ++unit) Use(unit);
      for (int unit = units() - 1; unit >= 0; --unit) {
        Use(unit);
        if (i < own.count) {
          AddGradient(unit, own[i], poison ? poisoned : std::vector<std::string>{});
        }
        engine_->GradientReady(unit);
      }
    }
    const GradientNorm norm = engine_->FinishReduction();
    if (!std::isfinite(norm.norm)) return norm;
    const std::vector<double> rates(table_.parameters().size(), 0.01);
    engine_->Update(rates, step_, ClipFactor(norm.norm, options_.clip));
    engine_->PublishParameters();
    ++step_;
    return norm;
  }

  // And nothing of it is under way any more.
  GradientNorm WholeStep() {
    const GradientNorm norm = Step();
    engine_->FinishUpdate();
    return norm;
  }

  std::vector<float> Weights() {
    std::vector<float> all;
    for (size_t p = 0; p < table_.parameters().size(); ++p) {
      std::vector<float> values(table_.parameters()[p].size());
      engine_->GetParameter(static_cast<int>(p), values);
      all.insert(all.end(), values.begin(), values.end());
    }
    return all;
  }

  // Of memory as it is planned for the device.
  MemoryClasses Plan(Device device) const {
    MemoryClasses memory = MemoryClasses::DryRun(device);
    Context context{.ops = device == Device::kCuda ? &CudaDryRunOps() : &DryRunOps(),
                    .workspace = &memory.workspace,
                    .device = device};
    const auto silent = MakeDryRunCommunicator(communicator_->rank(), communicator_->size());
    ZeroEngine engine(table_, silent.get(), zero_, &memory, &context);
    // The norm takes scratch.
    engine.BeginStep();
    for (int64_t i = 0; i < passes(); ++i) {
      engine.BeginMicroBatch(i);
      for (int unit = units() - 1; unit >= 0; --unit) engine.GradientReady(unit);
    }
    engine.FinishReduction();
    return memory;
  }

  void set_step(int64_t step) { step_ = step; }
  ZeroEngine& engine() { return *engine_; }
  const ParameterTable& table() const { return table_; }
  const MemoryClasses& memory() const { return memory_; }
  int units() const { return static_cast<int>(table_.units().size()); }
  // This rank's.
  ShardLayout::Leaves leaves() const {
    return ShardLayout::LeavesOf(options_.accumulation, communicator_->rank(),
                                 communicator_->size(), options_.leaves);
  }

 private:
  int64_t passes() const {
    return ShardLayout::PassesOf(options_.accumulation, communicator_->rank(),
                                 communicator_->size(), options_.leaves);
  }
  ZeroOptions MakeZeroOptions() const {
    ZeroOptions zero;
    zero.stage = options_.stage;
    zero.optimizer.kind = options_.optimizer;
    zero.optimizer.moments = options_.moments;
    for (const ParameterInfo& info : table_.parameters()) {
      zero.hypers.push_back({.weight_decay = info.shape.rank() > 1 ? 0.05 : 0.0, .lr_scale = 1});
    }
    zero.micro_batches = options_.leaves;
    zero.dtype = options_.dtype;
    zero.accumulation = options_.accumulation;
    zero.reduction = options_.reduction;
    zero.overlap = options_.overlap;
    zero.offload = options_.offload;
    return zero;
  }

  // As a module does.
  void Use(int unit) {
    engine_->Acquire(unit);
    engine_->Release(unit);
  }

  void AddGradient(int unit, int64_t leaf, const std::vector<std::string>& poisoned) {
    const TensorView gradient = ZeroedGradient(engine_.get(), table_, unit, &context_);
    if (gradient.device == Device::kDryRun) return;
    const ElementsOnHost<float> before(gradient, context_);
    HostElements<float> sum(gradient, context_);
    std::memmove(sum.data(), before.span().data(), gradient.Bytes());
    for (const int p : table_.units()[unit].parameters) {
      const ParameterInfo& info = table_.parameters()[p];
      float* values = sum.data() + info.offset;
      for (int64_t i = 0; i < info.size(); ++i) {
        values[i] += FakeGradient(step_, leaf, unit, info.offset + i);
      }
      for (const std::string& name : poisoned) {
        if (info.name == name) values[info.size() - 1] = std::numeric_limits<float>::quiet_NaN();
      }
    }
    sum.Publish();
  }

  Communicator* communicator_;
  FakeOptions options_;
  ParameterTable table_;
  ZeroOptions zero_;
  MemoryClasses memory_;
  Context context_;
  std::unique_ptr<ZeroEngine> engine_;
  int64_t step_ = 0;
};

}  // namespace swinfleet

#endif  // SWINFLEET_TESTS_DISTRIBUTED_FAKE_TRAINING_H_
