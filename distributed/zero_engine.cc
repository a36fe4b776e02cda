#include "distributed/zero_engine.h"

#include <glog/logging.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "core/optim/optimizer.h"
#include "kernels/error.h"

namespace swinfleet {
namespace {

// Elements [begin, begin + size) of a flat float32 tensor.
TensorView Slice(const TensorView& flat, int64_t begin, int64_t size) {
  return flat.Rows(begin, size);
}

bool AllFinite(std::span<const float> values) {
  return std::ranges::all_of(values, [](float value) { return std::isfinite(value); });
}

}  // namespace

struct ZeroEngine::Impl {
  // Everything that belongs to one unit.
  struct UnitState {
    TensorView values;  // (padded)
    // A stack of sums of leaves, as the digits of a binary counter; at most the counter's length.
    std::vector<TensorView> gradients;  // (padded) each
    // Of the elements that this rank updates.
    OptimizerState optimizer;  // (owned size) each
    int64_t owned_begin = 0;
    int64_t owned_size = 0;
    std::vector<ShardLayout::Segment> updated;
    std::vector<ShardLayout::Segment> saved;
    // Where the sums of this unit's chunks begin among those of a rank.
    int64_t first_chunk = 0;
    bool zeroed = false;
    bool ready = false;
    std::unique_ptr<CollectiveHandle> reduction;
    std::string reduce_name;
    std::string publish_name;
  };

  Impl(const ParameterTable& table, Communicator* communicator, const ZeroOptions& options,
       MemoryClasses* memory, Context* context);

  void Allocate(MemoryClasses* memory);
  // Where the present leaf's gradient is summed: above the sums that wait, one for each digit 1 of
  // the leaf's number.
  int StackTop() const { return std::popcount(static_cast<uint64_t>(leaf)); }
  TensorView& LeafGradient(UnitState& unit) { return unit.gradients[StackTop()]; }
  void Fill(const TensorView& view) { context->ops->fill({.x = view, .value = 0}, *context); }
  // Adds the newer sum at `top` to the older one below.
  void Merge(UnitState& unit, int top) {
    context->ops->add({.x = unit.gradients[top], .y = unit.gradients[top - 1]}, *context);
  }
  void StartReduction(UnitState& unit);
  TensorView OwnShard(int unit) const;
  double Norm();
  std::string FirstNonfinite();
  void UpdateUnit(UnitState& unit, std::span<const double> rates, int64_t update, float grad_scale);
  // The states of the configured optimizer and the prefix of their tensors' names.
  std::vector<std::pair<std::string, TensorView>> States(const UnitState& unit) const;
  void LoadTensor(const CheckpointReader& reader, const std::string& tensor, const Shape& shape,
                  int64_t begin, std::span<float> out) const;

  const ParameterTable& table;
  Communicator* communicator;
  ZeroOptions options;
  Context* context;
  ShardLayout layout;
  bool dry = false;
  std::vector<UnitState> units;
  // The present leaf; -1 before the first of a step.
  int64_t leaf = -1;
  // Sums of squares of the chunks of this rank's shards, and of all ranks'.
  int64_t own_chunks = 0;
  double* own_sums = nullptr;
  double* all_sums = nullptr;
};

ZeroEngine::Impl::Impl(const ParameterTable& table, Communicator* communicator,
                       const ZeroOptions& options, MemoryClasses* memory, Context* context)
    : table(table),
      communicator(communicator),
      options(options),
      context(context),
      layout(table, communicator->size()),
      units(table.units().size()) {
  CHECK(options.stage == 0 || options.stage == 1) << "ZeRO stage " << options.stage;
  CHECK_GE(options.leaves, 1);
  CHECK_EQ(options.hypers.size(), table.parameters().size());
  dry = memory->parameters.device() == Device::kDryRun;
  const int rank = communicator->rank();
  for (size_t u = 0; u < units.size(); ++u) {
    UnitState& unit = units[u];
    const int index = static_cast<int>(u);
    const std::string& name = table.units()[u].name;
    const bool everything = options.stage == 0;
    unit.owned_begin = everything ? 0 : layout.ShardBegin(index, rank);
    unit.owned_size = everything ? layout.PaddedSize(index) : layout.ShardSize(index);
    unit.saved = layout.ShardSegments(index, rank);
    unit.updated = everything ? layout.UnitSegments(index) : unit.saved;
    unit.first_chunk = own_chunks;
    unit.reduce_name = (everything ? "all-reduce " : "reduce-scatter ") + name;
    unit.publish_name = "all-gather " + name;
    own_chunks += layout.ShardSize(index) / kNormChunk;
  }
  Allocate(memory);
}

void ZeroEngine::Impl::Allocate(MemoryClasses* memory) {
  const int levels = std::bit_width(static_cast<uint64_t>(options.leaves));
  const int states = OptimizerStateTensors(options.optimizer.kind);
  for (size_t u = 0; u < units.size(); ++u) {
    UnitState& unit = units[u];
    const Shape padded{layout.PaddedSize(static_cast<int>(u))};
    unit.values = memory->parameters.Allocate(padded);
    Fill(unit.values);
    for (int level = 0; level < levels; ++level) {
      unit.gradients.push_back(memory->gradients.Allocate(padded));
    }
    unit.optimizer.first = memory->optimizer.Allocate(Shape{unit.owned_size});
    Fill(unit.optimizer.first);
    if (states < 2) continue;
    unit.optimizer.second = memory->optimizer.Allocate(Shape{unit.owned_size});
    Fill(unit.optimizer.second);
  }
  const size_t bytes = own_chunks * sizeof(double);
  own_sums = static_cast<double*>(memory->workspace.AllocateBytes(bytes));
  all_sums = own_sums;
  if (layout.ranks() > 1) {
    all_sums = static_cast<double*>(memory->workspace.AllocateBytes(bytes * layout.ranks()));
  }
}

void ZeroEngine::Impl::StartReduction(UnitState& unit) {
  const std::span<float> sum(unit.gradients[0].f32(), unit.gradients[0].NumElements());
  unit.reduction = options.stage == 0 ? communicator->AllReduce(sum, unit.reduce_name)
                                      : communicator->ReduceScatter(sum, unit.reduce_name);
}

TensorView ZeroEngine::Impl::OwnShard(int unit) const {
  return Slice(units[unit].gradients[0], layout.ShardBegin(unit, communicator->rank()),
               layout.ShardSize(unit));
}

double ZeroEngine::Impl::Norm() {
  for (size_t u = 0; u < units.size(); ++u) {
    context->ops->sum_of_squares(
        {.x = OwnShard(static_cast<int>(u)), .sums = own_sums + units[u].first_chunk}, *context);
  }
  const int ranks = layout.ranks();
  if (ranks > 1) {
    communicator->AllGather(std::span<const double>(own_sums, own_chunks),
                            std::span(all_sums, own_chunks * ranks), "gradient norm");
  }
  if (dry) return 0;
  std::vector<int> rank_of_shard(ranks);
  for (int r = 0; r < ranks; ++r) rank_of_shard[ShardLayout::ShardIndex(r, ranks)] = r;
  // In the order of the elements, so that the sum doesn't depend on how they were cut; chunks of
  // padding add zero.
  double sum = 0;
  for (size_t u = 0; u < units.size(); ++u) {
    const int64_t chunks = layout.ShardSize(static_cast<int>(u)) / kNormChunk;
    for (const int r : rank_of_shard) {
      const double* sums = all_sums + r * own_chunks + units[u].first_chunk;
      for (int64_t c = 0; c < chunks; ++c) sum += sums[c];
    }
  }
  return std::sqrt(sum);
}

std::string ZeroEngine::Impl::FirstNonfinite() {
  double first = std::numeric_limits<double>::max();
  for (const UnitState& unit : units) {
    for (const ShardLayout::Segment& segment : unit.saved) {
      const TensorView part = Slice(unit.gradients[0], segment.unit_begin, segment.size);
      if (segment.parameter < first && !AllFinite(part.span())) first = segment.parameter;
    }
  }
  std::vector<double> of_ranks(layout.ranks(), first);
  if (layout.ranks() > 1) {
    communicator->AllGather(std::span<const double>(&first, 1), of_ranks, "first non-finite");
  }
  const double least = *std::ranges::min_element(of_ranks);
  CHECK_LT(least, static_cast<double>(table.parameters().size()))
      << "the norm is not finite but every gradient is";
  return table.parameters()[static_cast<int>(least)].name;
}

void ZeroEngine::Impl::UpdateUnit(UnitState& unit, std::span<const double> rates, int64_t update,
                                  float grad_scale) {
  for (const ShardLayout::Segment& segment : unit.updated) {
    const int64_t at = segment.unit_begin - unit.owned_begin;
    OptimizerState state;
    state.first = Slice(unit.optimizer.first, at, segment.size);
    if (!unit.optimizer.second.empty()) {
      state.second = Slice(unit.optimizer.second, at, segment.size);
    }
    UpdateSegment(options.optimizer, options.hypers[segment.parameter], rates[segment.parameter],
                  update, grad_scale, Slice(unit.values, segment.unit_begin, segment.size),
                  Slice(unit.gradients[0], segment.unit_begin, segment.size), state, *context);
  }
}

std::vector<std::pair<std::string, TensorView>> ZeroEngine::Impl::States(
    const UnitState& unit) const {
  if (options.optimizer.kind == OptimizerConfig::Kind::kAdamW) {
    return {{"adamw_m/", unit.optimizer.first}, {"adamw_v/", unit.optimizer.second}};
  }
  return {{"sgd_momentum/", unit.optimizer.first}};
}

void ZeroEngine::Impl::LoadTensor(const CheckpointReader& reader, const std::string& tensor,
                                  const Shape& shape, int64_t begin, std::span<float> out) const {
  const auto found = reader.tensors().find(tensor);
  if (found == reader.tensors().end()) {
    throw Error("checkpoint " + reader.dir() + " has no tensor " + tensor +
                "; it was written with another model or optimizer");
  }
  if (found->second != shape) {
    throw Error("checkpoint " + reader.dir() + ": tensor " + tensor + " has shape " +
                found->second.ToString() + ", the model's is " + shape.ToString());
  }
  reader.Read(tensor, begin, out);
}

ZeroEngine::ZeroEngine(const ParameterTable& table, Communicator* communicator,
                       const ZeroOptions& options, MemoryClasses* memory, Context* context)
    : impl_(std::make_unique<Impl>(table, communicator, options, memory, context)) {}

ZeroEngine::~ZeroEngine() = default;

void ZeroEngine::Initialize(uint64_t seed) {
  if (impl_->dry) return;
  for (size_t u = 0; u < impl_->units.size(); ++u) {
    Impl::UnitState& unit = impl_->units[u];
    InitializeUnit(impl_->table, static_cast<int>(u), seed, unit.values.span());
    impl_->Fill(unit.optimizer.first);
    if (!unit.optimizer.second.empty()) impl_->Fill(unit.optimizer.second);
  }
}

TensorView ZeroEngine::Acquire(int unit) { return impl_->units[unit].values; }

void ZeroEngine::Release(int unit) {}

TensorView ZeroEngine::Gradient(int unit) {
  Impl::UnitState& state = impl_->units[unit];
  CHECK_GE(impl_->leaf, 0) << "gradient of a unit outside of a micro-batch";
  CHECK(!state.ready) << state.reduce_name << ": gradient used after it was declared ready";
  if (!state.zeroed) {
    impl_->Fill(impl_->LeafGradient(state));
    state.zeroed = true;
  }
  return impl_->LeafGradient(state);
}

void ZeroEngine::GradientReady(int unit) {
  // A unit that got no gradient has one of zeros.
  Gradient(unit);
  Impl::UnitState& state = impl_->units[unit];
  state.ready = true;
  int top = impl_->StackTop();
  for (int64_t digits = impl_->leaf; digits & 1; digits >>= 1) impl_->Merge(state, top--);
  if (impl_->leaf + 1 < impl_->options.leaves) return;
  // Only where the number of leaves is no power of two do sums still wait here.
  while (top > 0) impl_->Merge(state, top--);
  impl_->StartReduction(state);
}

void ZeroEngine::BeginStep() {
  impl_->leaf = -1;
  for (const Impl::UnitState& unit : impl_->units) {
    CHECK(unit.reduction == nullptr) << unit.reduce_name << " of the last step is not finished";
  }
}

void ZeroEngine::BeginMicroBatch(int64_t leaf) {
  CHECK_EQ(leaf, impl_->leaf + 1) << "micro-batches come in order";
  CHECK_LT(leaf, impl_->options.leaves);
  for (Impl::UnitState& unit : impl_->units) {
    CHECK(leaf == 0 || unit.ready) << unit.reduce_name << ": no gradient of leaf " << leaf - 1;
    unit.zeroed = false;
    unit.ready = false;
  }
  impl_->leaf = leaf;
}

GradientNorm ZeroEngine::FinishReduction() {
  CHECK_EQ(impl_->leaf + 1, impl_->options.leaves) << "micro-batches are missing";
  for (Impl::UnitState& unit : impl_->units) {
    CHECK(unit.reduction != nullptr) << unit.reduce_name << ": no gradient of the last leaf";
    unit.reduction->Wait();
    unit.reduction.reset();
  }
  GradientNorm result;
  result.norm = impl_->Norm();
  if (!std::isfinite(result.norm)) result.first_nonfinite = impl_->FirstNonfinite();
  return result;
}

void ZeroEngine::Update(double base_rate, int64_t update, float grad_scale) {
  for (const ParameterHyper& hyper : impl_->options.hypers) CHECK_EQ(hyper.lr_scale, 1);
  Update(std::vector<double>(impl_->options.hypers.size(), base_rate), update, grad_scale);
}

void ZeroEngine::Update(std::span<const double> rates, int64_t update, float grad_scale) {
  CHECK_EQ(rates.size(), impl_->table.parameters().size());
  for (Impl::UnitState& unit : impl_->units) impl_->UpdateUnit(unit, rates, update, grad_scale);
}

void ZeroEngine::PublishParameters() {
  if (impl_->options.stage == 0) return;
  std::vector<std::unique_ptr<CollectiveHandle>> handles;
  for (Impl::UnitState& unit : impl_->units) {
    const std::span<float> values(unit.values.f32(), unit.values.NumElements());
    handles.push_back(impl_->communicator->AllGather(values, unit.publish_name));
  }
  for (const auto& handle : handles) handle->Wait();
}

std::vector<TensorPiece> ZeroEngine::OwnedState() const {
  std::vector<TensorPiece> pieces;
  for (const Impl::UnitState& unit : impl_->units) {
    const auto states = impl_->States(unit);
    for (const ShardLayout::Segment& segment : unit.saved) {
      const ParameterInfo& info = impl_->table.parameters()[segment.parameter];
      const auto add = [&](const std::string& prefix, const TensorView& flat, int64_t begin) {
        const std::span<const float> part(Slice(flat, begin, segment.size).f32(),
                                          static_cast<size_t>(segment.size));
        pieces.push_back({prefix + info.name, info.shape, segment.parameter_begin, part});
      };
      add("param/", unit.values, segment.unit_begin);
      for (const auto& [prefix, flat] : states) {
        add(prefix, flat, segment.unit_begin - unit.owned_begin);
      }
    }
  }
  return pieces;
}

void ZeroEngine::Load(const CheckpointReader& reader) {
  CHECK(!impl_->dry) << "a dry run has no state";
  for (size_t p = 0; p < impl_->table.parameters().size(); ++p) {
    const ParameterInfo& info = impl_->table.parameters()[p];
    impl_->LoadTensor(reader, "param/" + info.name, info.shape, 0,
                      ParameterValues(static_cast<int>(p)));
  }
  for (Impl::UnitState& unit : impl_->units) {
    for (const auto& [prefix, flat] : impl_->States(unit)) {
      for (const ShardLayout::Segment& segment : unit.updated) {
        const ParameterInfo& info = impl_->table.parameters()[segment.parameter];
        const TensorView part = Slice(flat, segment.unit_begin - unit.owned_begin, segment.size);
        impl_->LoadTensor(reader, prefix + info.name, info.shape, segment.parameter_begin,
                          part.span());
      }
    }
  }
}

std::span<float> ZeroEngine::ParameterValues(int parameter) {
  const ParameterInfo& info = impl_->table.parameters()[parameter];
  return Slice(impl_->units[info.unit].values, info.offset, info.size()).span();
}

}  // namespace swinfleet
