#include "distributed/zero_engine.h"

#include <glog/logging.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "core/optim/optimizer.h"
#include "distributed/gathered_units.h"
#include "distributed/gradient_sums.h"
#include "distributed/master_weights.h"
#include "kernels/error.h"
#include "kernels/profile.h"

namespace swinfleet {
namespace {

// Elements of a checkpoint's parameter that are read at a time.
constexpr int64_t kReadChunk = int64_t{1} << 18;

// Elements [begin, begin + size) of a flat tensor.
TensorView Slice(const TensorView& flat, int64_t begin, int64_t size) {
  return flat.Rows(begin, size);
}

}  // namespace

struct ZeroEngine::Impl {
  // Everything that belongs to one unit.
  struct UnitState {
    // The parameters that this rank keeps: all, or its shard.
    TensorView values;  // (kept size)
    int64_t kept_begin = 0;
    int64_t kept_size = 0;
    std::vector<ShardLayout::Segment> kept;
    // Of the elements that this rank updates, which are among those.
    OptimizerState optimizer;  // (owned size) each
    int64_t owned_begin = 0;
    int64_t owned_size = 0;
    std::vector<ShardLayout::Segment> updated;
    std::vector<ShardLayout::Segment> saved;
    // Where the sums of this unit's chunks begin among those of a rank.
    int64_t first_chunk = 0;
    // This leaf's gradient is complete.
    bool ready = false;
    // Of the exchange of new parameters, until somebody waits for it.
    std::unique_ptr<CollectiveHandle> published;
    std::string name;
    std::string publish_name;
  };

  Impl(const ParameterTable& table, Communicator* communicator, const ZeroOptions& options,
       MemoryClasses* memory, Context* context);

  void PlaceUnit(int index);
  void AllocateUnit(UnitState& unit, MemoryClasses* memory);
  void AllocateSums(MemoryClasses* memory);
  // All bits zero, which is zero in every dtype; sizes are whole chunks.
  void Zero(const TensorView& view) {
    TensorView floats = view;
    floats.dtype = DType::kF32;
    floats.shape = Shape{static_cast<int64_t>(view.Bytes() / sizeof(float))};
    context->ops->fill({.x = floats, .value = 0}, *context);
  }
  double Norm();
  // The first parameter of which a rank's part has an element that is not finite; empty when all
  // are. `part` gives the part that this rank saves. Collective.
  std::string FirstNonfinite(
      const std::function<TensorView(int unit, const ShardLayout::Segment& segment)>& part,
      const std::string& name);
  // What an update of a unit works on: of the elements that this rank updates, all alike.
  struct OwnedPart {
    TensorView weights;        // (owned size)
    TensorView gradient;       // (owned size)
    OptimizerState optimizer;  // (owned size) each
  };
  // One optimizer step on them.
  void UpdateOwned(const UnitState& unit, const OwnedPart& owned, std::span<const double> rates,
                   int64_t update, float grad_scale);
  // Those of the unit's parameters that this rank updates.
  TensorView OwnedValues(const UnitState& unit) const {
    return Slice(unit.values, unit.owned_begin - unit.kept_begin, unit.owned_size);
  }
  // Waits until a unit's new parameters are all there.
  static void WaitForParameters(UnitState* unit) {
    if (unit->published == nullptr) return;
    unit->published->Wait();
    unit->published.reset();
  }
  // Parameters are about to be written.
  void BeforeWriting();
  // The states of the configured optimizer and the prefix of their tensors' names.
  std::vector<std::pair<std::string, TensorView>> States(const UnitState& unit) const;
  // Elements [begin, begin + size) of its unit among those that this rank updates.
  TensorView OfOwned(const UnitState& unit, const TensorView& owned, int64_t begin,
                     int64_t size) const {
    return Slice(owned, begin - unit.owned_begin, size);
  }
  // The masters of a segment that this rank saves; `staging` holds the unit's shard of them.
  std::span<const float> Masters(UnitState& unit, const ShardLayout::Segment& segment,
                                 const TensorView& staging);
  // Sets elements [begin, begin + masters.size()) of a parameter, those that this rank keeps.
  void SetWeights(int parameter, int64_t begin, std::span<const float> masters);
  // The tensor is there with this shape; throws Error.
  void CheckTensor(const CheckpointReader& reader, const std::string& tensor,
                   const Shape& shape) const;
  // The part of a parameter that this rank keeps.
  void LoadParameter(const CheckpointReader& reader, const ShardLayout::Segment& segment,
                     std::span<float> buffer);

  const ParameterTable& table;
  Communicator* communicator;
  ZeroOptions options;
  Context* context;
  ShardLayout layout;
  bool dry = false;
  std::vector<UnitState> units;
  std::unique_ptr<GradientSums> sums;
  // At stage 3 on several ranks.
  std::unique_ptr<GatheredUnits> gathered;
  // Of this rank in a step.
  int64_t passes = 0;
  // The present leaf; -1 before the first of a step.
  int64_t leaf = -1;
  // The unit whose gradient is in use, and where it is; -1: none.
  int open = -1;
  TensorView open_gradient;
  // From FinishReduction until something else uses the gradients' memory.
  bool reduced = false;
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
  CHECK(options.stage >= 0 && options.stage <= kMostZeroStage) << "ZeRO stage " << options.stage;
  CHECK(options.stage < 2 || options.accumulation == Accumulation::kSplit)
      << "whole gradients at ZeRO stage " << options.stage;
  CHECK_EQ(options.hypers.size(), table.parameters().size());
  CHECK(options.reduction == Reduction::kReproducible ||
        options.accumulation != Accumulation::kLowPrecision)
      << "the library does not sum bfloat16";
  communicator->UseLibrarySums(options.reduction == Reduction::kLibrary);
  communicator->WaitAtOnce(!options.overlap);
  dry = memory->parameters.device() == Device::kDryRun;
  passes = ShardLayout::PassesOf(options.accumulation, communicator->rank(), layout.ranks(),
                                 options.micro_batches);
  sums = MakeGradientSums(options.accumulation,
                          {.table = &table,
                           .layout = &layout,
                           .communicator = communicator,
                           .context = context,
                           .stage = options.stage,
                           .micro_batches = options.micro_batches},
                          memory);
  for (size_t u = 0; u < units.size(); ++u) {
    PlaceUnit(static_cast<int>(u));
    AllocateUnit(units[u], memory);
  }
  if (options.stage == 3 && layout.ranks() > 1) {
    std::vector<TensorView> shards;
    for (const UnitState& unit : units) shards.push_back(unit.values);
    gathered = std::make_unique<GatheredUnits>(table, layout, std::move(shards), communicator,
                                               context, &memory->parameters);
  }
  AllocateSums(memory);
}

void ZeroEngine::Impl::PlaceUnit(int index) {
  UnitState& unit = units[index];
  const int rank = communicator->rank();
  unit.name = table.units()[index].name;
  unit.publish_name = "all-gather " + unit.name;
  unit.saved = layout.ShardSegments(index, rank);
  unit.owned_begin = unit.kept_begin = layout.ShardBegin(index, rank);
  unit.owned_size = unit.kept_size = layout.ShardSize(index);
  unit.updated = unit.kept = unit.saved;
  if (options.stage < 3) {
    unit.kept_begin = 0;
    unit.kept_size = layout.PaddedSize(index);
    unit.kept = layout.UnitSegments(index);
  }
  if (options.stage == 0) {
    unit.owned_begin = 0;
    unit.owned_size = unit.kept_size;
    unit.updated = unit.kept;
  }
  unit.first_chunk = own_chunks;
  own_chunks += layout.ShardSize(index) / kNormChunk;
}

void ZeroEngine::Impl::AllocateUnit(UnitState& unit, MemoryClasses* memory) {
  const Shape owned{unit.owned_size};
  unit.values = memory->parameters.Allocate({unit.kept_size}, options.dtype);
  Zero(unit.values);
  unit.optimizer.first = memory->optimizer.Allocate(owned);
  Zero(unit.optimizer.first);
  if (OptimizerStateTensors(options.optimizer.kind) == 2) {
    unit.optimizer.second = memory->optimizer.Allocate(owned);
    Zero(unit.optimizer.second);
  }
  if (options.dtype == DType::kF32) return;
  unit.optimizer.master = memory->optimizer.Allocate(owned, MasterDType(options.dtype));
  Zero(unit.optimizer.master);
}

void ZeroEngine::Impl::AllocateSums(MemoryClasses* memory) {
  const size_t bytes = own_chunks * sizeof(double);
  own_sums = static_cast<double*>(memory->workspace.AllocateBytes(bytes));
  all_sums = own_sums;
  if (layout.ranks() > 1) {
    all_sums = static_cast<double*>(memory->workspace.AllocateBytes(bytes * layout.ranks()));
  }
}

double ZeroEngine::Impl::Norm() {
  const ProfileScope profile(*context, "gradient norm");
  for (size_t u = 0; u < units.size(); ++u) {
    const TensorView shard = sums->OwnShard(static_cast<int>(u));
    context->ops->sum_of_squares({.x = shard, .sums = own_sums + units[u].first_chunk}, *context);
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
      const double* chunk_sums = all_sums + r * own_chunks + units[u].first_chunk;
      for (int64_t c = 0; c < chunks; ++c) sum += chunk_sums[c];
    }
  }
  return std::sqrt(sum);
}

std::string ZeroEngine::Impl::FirstNonfinite(
    const std::function<TensorView(int unit, const ShardLayout::Segment& segment)>& part,
    const std::string& name) {
  const auto none = static_cast<double>(table.parameters().size());
  double first = none;
  for (size_t u = 0; u < units.size(); ++u) {
    for (const ShardLayout::Segment& segment : units[u].saved) {
      if (dry || segment.parameter >= first) continue;
      if (!AllFinite(part(static_cast<int>(u), segment))) first = segment.parameter;
    }
  }
  std::vector<double> of_ranks(layout.ranks(), first);
  if (layout.ranks() > 1) {
    communicator->AllGather(std::span<const double>(&first, 1), of_ranks, name);
  }
  const double least = *std::ranges::min_element(of_ranks);
  if (dry || least == none) return "";
  return table.parameters()[static_cast<int>(least)].name;
}

void ZeroEngine::Impl::UpdateOwned(const UnitState& unit, const OwnedPart& owned,
                                   std::span<const double> rates, int64_t update,
                                   float grad_scale) {
  for (const ShardLayout::Segment& segment : unit.updated) {
    const auto part = [&](const TensorView& all) {
      return all.empty() ? all : OfOwned(unit, all, segment.unit_begin, segment.size);
    };
    const OptimizerState state = {.first = part(owned.optimizer.first),
                                  .second = part(owned.optimizer.second),
                                  .master = part(owned.optimizer.master)};
    UpdateSegment(options.optimizer, options.hypers[segment.parameter], rates[segment.parameter],
                  update, grad_scale, part(owned.weights), part(owned.gradient), state, *context);
  }
}

void ZeroEngine::Impl::BeforeWriting() {
  for (UnitState& unit : units) WaitForParameters(&unit);
  if (gathered != nullptr) gathered->Forget();
}

std::vector<std::pair<std::string, TensorView>> ZeroEngine::Impl::States(
    const UnitState& unit) const {
  if (options.optimizer.kind == OptimizerConfig::Kind::kAdamW) {
    return {{"adamw_m/", unit.optimizer.first}, {"adamw_v/", unit.optimizer.second}};
  }
  return {{"sgd_momentum/", unit.optimizer.first}};
}

std::span<const float> ZeroEngine::Impl::Masters(UnitState& unit,
                                                 const ShardLayout::Segment& segment,
                                                 const TensorView& staging) {
  const TensorView values = OfOwned(unit, OwnedValues(unit), segment.unit_begin, segment.size);
  const auto size = static_cast<size_t>(segment.size);
  if (options.dtype == DType::kF32) return {values.f32(), size};
  const TensorView kept = OfOwned(unit, unit.optimizer.master, segment.unit_begin, segment.size);
  if (options.dtype == DType::kF16) return {kept.f32(), size};
  const int64_t shard_begin =
      layout.ShardBegin(table.parameters()[segment.parameter].unit, communicator->rank());
  const TensorView place = Slice(staging, segment.unit_begin - shard_begin, segment.size);
  if (!dry) RestoreMasters(values, kept, place.span());
  return {place.f32(), size};
}

void ZeroEngine::Impl::SetWeights(int parameter, int64_t begin, std::span<const float> masters) {
  const ParameterInfo& info = table.parameters()[parameter];
  UnitState& unit = units[info.unit];
  const int64_t at = info.offset + begin, end = at + static_cast<int64_t>(masters.size());
  // Those among [first, first + size) of the unit.
  const auto within = [&](int64_t first, int64_t size, const auto& set) {
    const int64_t from = std::max(at, first), to = std::min(end, first + size);
    if (from < to) set(masters.subspan(from - at, to - from), from);
  };
  within(unit.kept_begin, unit.kept_size, [&](std::span<const float> kept, int64_t from) {
    const auto size = static_cast<int64_t>(kept.size());
    if (RoundWeights(kept, Slice(unit.values, from - unit.kept_begin, size))) return;
    throw Error("parameter " + info.name + " holds a weight that " + NameOf(options.dtype) +
                " can't: use train.dtype bf16 or fp32");
  });
  if (options.dtype == DType::kF32) return;
  within(unit.owned_begin, unit.owned_size, [&](std::span<const float> owned, int64_t from) {
    KeepMasters(owned,
                OfOwned(unit, unit.optimizer.master, from, static_cast<int64_t>(owned.size())));
  });
}

void ZeroEngine::Impl::CheckTensor(const CheckpointReader& reader, const std::string& tensor,
                                   const Shape& shape) const {
  const auto found = reader.tensors().find(tensor);
  if (found == reader.tensors().end()) {
    throw Error("checkpoint " + reader.dir() + " has no tensor " + tensor +
                "; it was written with another model or optimizer");
  }
  if (found->second != shape) {
    throw Error("checkpoint " + reader.dir() + ": tensor " + tensor + " has shape " +
                found->second.ToString() + ", the model's is " + shape.ToString());
  }
}

void ZeroEngine::Impl::LoadParameter(const CheckpointReader& reader,
                                     const ShardLayout::Segment& segment, std::span<float> buffer) {
  const ParameterInfo& info = table.parameters()[segment.parameter];
  const std::string tensor = "param/" + info.name;
  CheckTensor(reader, tensor, info.shape);
  for (int64_t done = 0; done < segment.size; done += kReadChunk) {
    const std::span<float> part = buffer.first(std::min(kReadChunk, segment.size - done));
    reader.Read(tensor, segment.parameter_begin + done, part);
    SetWeights(segment.parameter, segment.parameter_begin + done, part);
  }
}

ZeroOptions ZeroOptionsFor(const JobConfig& config, const ParameterTable& table) {
  return {.stage = config.parallel.zero_stage,
          .optimizer = config.train.optimizer,
          .hypers = GroupsOf(config, table),
          .micro_batches = config.train.micro_batches(),
          .dtype = config.train.dtype,
          .accumulation = config.train.accumulation,
          .reduction = config.parallel.reduction,
          .overlap = config.parallel.overlap};
}

ZeroEngine::ZeroEngine(const ParameterTable& table, Communicator* communicator,
                       const ZeroOptions& options, MemoryClasses* memory, Context* context)
    : impl_(std::make_unique<Impl>(table, communicator, options, memory, context)) {}

ZeroEngine::~ZeroEngine() = default;

void ZeroEngine::Initialize(uint64_t seed) {
  if (impl_->dry) return;
  impl_->reduced = false;
  impl_->BeforeWriting();
  for (size_t u = 0; u < impl_->units.size(); ++u) {
    Impl::UnitState& unit = impl_->units[u];
    const int index = static_cast<int>(u);
    const std::span<float> initial = impl_->sums->Staging(index).span();
    InitializeUnit(impl_->table, index, seed, initial);
    for (const int p : impl_->table.units()[u].parameters) {
      const ParameterInfo& info = impl_->table.parameters()[p];
      impl_->SetWeights(p, 0, initial.subspan(info.offset, info.size()));
    }
    impl_->Zero(unit.optimizer.first);
    if (!unit.optimizer.second.empty()) impl_->Zero(unit.optimizer.second);
  }
}

TensorView ZeroEngine::Acquire(int unit) {
  if (impl_->gathered != nullptr) return impl_->gathered->Acquire(unit);
  Impl::WaitForParameters(&impl_->units[unit]);
  return impl_->units[unit].values;
}

void ZeroEngine::Release(int unit) {
  if (impl_->gathered != nullptr) impl_->gathered->Release(unit);
}

TensorView ZeroEngine::Gradient(int unit) {
  Impl::UnitState& state = impl_->units[unit];
  CHECK_GE(impl_->leaf, 0) << "gradient of a unit outside of a micro-batch";
  CHECK(!state.ready) << state.name << ": gradient used after it was declared ready";
  if (impl_->open != unit) {
    CHECK_EQ(impl_->open, -1) << state.name << ": gradient used before that of "
                              << impl_->units[impl_->open].name << " is ready";
    impl_->open = unit;
    const ProfileScope profile(*impl_->context, "gradient sums");
    impl_->open_gradient = impl_->sums->Open(unit, impl_->leaf);
  }
  return impl_->open_gradient;
}

void ZeroEngine::GradientReady(int unit) {
  // A unit that got no gradient has one of zeros.
  Gradient(unit);
  impl_->units[unit].ready = true;
  impl_->open = -1;
  const ProfileScope profile(*impl_->context, "gradient sums");
  impl_->sums->Close(unit, impl_->leaf);
}

void ZeroEngine::BeginStep() {
  impl_->leaf = -1;
  impl_->reduced = false;
}

void ZeroEngine::BeginMicroBatch(int64_t leaf) {
  CHECK_EQ(leaf, impl_->leaf + 1) << "micro-batches come in order";
  CHECK_LT(leaf, impl_->passes);
  for (Impl::UnitState& unit : impl_->units) {
    CHECK(leaf == 0 || unit.ready) << unit.name << ": no gradient of leaf " << leaf - 1;
    unit.ready = false;
  }
  impl_->leaf = leaf;
}

GradientNorm ZeroEngine::FinishReduction() {
  CHECK_EQ(impl_->leaf + 1, impl_->passes) << "micro-batches are missing";
  for (const Impl::UnitState& unit : impl_->units) {
    CHECK(unit.ready) << unit.name << ": no gradient of the last leaf";
  }
  {
    const ProfileScope profile(*impl_->context, "gradient sums");
    impl_->sums->Finish();
  }
  impl_->reduced = true;
  GradientNorm result;
  result.norm = impl_->Norm();
  if (std::isfinite(result.norm)) return result;
  const auto gradient = [&](int unit, const ShardLayout::Segment& segment) {
    return impl_->OfOwned(impl_->units[unit], impl_->sums->Reduced(unit), segment.unit_begin,
                          segment.size);
  };
  result.first_nonfinite = impl_->FirstNonfinite(gradient, "first non-finite");
  CHECK(!result.first_nonfinite.empty()) << "the norm is not finite but every gradient is";
  return result;
}

void ZeroEngine::Update(std::span<const double> rates, int64_t update, float grad_scale) {
  const ProfileScope profile(*impl_->context, "optimizer");
  CHECK_EQ(rates.size(), impl_->table.parameters().size());
  CHECK(impl_->reduced) << "an update without a reduced gradient";
  impl_->BeforeWriting();
  for (size_t u = 0; u < impl_->units.size(); ++u) {
    const Impl::UnitState& unit = impl_->units[u];
    impl_->UpdateOwned(unit,
                       {.weights = impl_->OwnedValues(unit),
                        .gradient = impl_->sums->Reduced(static_cast<int>(u)),
                        .optimizer = unit.optimizer},
                       rates, update, grad_scale);
  }
  impl_->reduced = false;
}

void ZeroEngine::PublishParameters() {
  // At stage 3 whoever needs them gathers them.
  if (impl_->options.stage == 0 || impl_->options.stage == 3) return;
  for (Impl::UnitState& unit : impl_->units) {
    unit.published = impl_->communicator->AllGather(unit.values, unit.publish_name);
  }
}

std::string ZeroEngine::FirstNonfiniteWeight() {
  const auto weights = [&](int unit, const ShardLayout::Segment& segment) {
    const Impl::UnitState& state = impl_->units[unit];
    return impl_->OfOwned(state, impl_->OwnedValues(state), segment.unit_begin, segment.size);
  };
  return impl_->FirstNonfinite(weights, "first non-finite weight");
}

TensorView ZeroEngine::ReducedGradient(int unit) {
  CHECK(impl_->reduced) << "no reduced gradient";
  return impl_->sums->Reduced(unit);
}

std::vector<TensorPiece> ZeroEngine::OwnedState() {
  // Whoever skipped the update doesn't need the gradient any more.
  impl_->reduced = false;
  std::vector<TensorPiece> pieces;
  for (size_t u = 0; u < impl_->units.size(); ++u) {
    Impl::UnitState& unit = impl_->units[u];
    const TensorView staging = impl_->sums->ShardStaging(static_cast<int>(u));
    const auto states = impl_->States(unit);
    for (const ShardLayout::Segment& segment : unit.saved) {
      const ParameterInfo& info = impl_->table.parameters()[segment.parameter];
      const auto add = [&](const std::string& prefix, std::span<const float> data) {
        pieces.push_back({prefix + info.name, info.shape, segment.parameter_begin, data});
      };
      add("param/", impl_->Masters(unit, segment, staging));
      for (const auto& [prefix, owned] : states) {
        const TensorView part = impl_->OfOwned(unit, owned, segment.unit_begin, segment.size);
        add(prefix, {part.f32(), static_cast<size_t>(segment.size)});
      }
    }
  }
  return pieces;
}

void ZeroEngine::Load(const CheckpointReader& reader) {
  CHECK(!impl_->dry) << "a dry run has no state";
  std::vector<float> buffer(kReadChunk);
  impl_->BeforeWriting();
  for (Impl::UnitState& unit : impl_->units) {
    for (const ShardLayout::Segment& segment : unit.kept) {
      impl_->LoadParameter(reader, segment, buffer);
    }
    for (const auto& [prefix, owned] : impl_->States(unit)) {
      for (const ShardLayout::Segment& segment : unit.updated) {
        const ParameterInfo& info = impl_->table.parameters()[segment.parameter];
        const std::string tensor = prefix + info.name;
        impl_->CheckTensor(reader, tensor, info.shape);
        const TensorView part = impl_->OfOwned(unit, owned, segment.unit_begin, segment.size);
        reader.Read(tensor, segment.parameter_begin, part.span());
      }
    }
  }
}

void ZeroEngine::SetParameter(int parameter, std::span<const float> values) {
  CHECK(!impl_->dry) << "a dry run has no state";
  CHECK_EQ(static_cast<int64_t>(values.size()), impl_->table.parameters()[parameter].size());
  impl_->BeforeWriting();
  impl_->SetWeights(parameter, 0, values);
}

void ZeroEngine::GetParameter(int parameter, std::span<float> values) {
  CHECK(!impl_->dry) << "a dry run has no state";
  const ParameterInfo& info = impl_->table.parameters()[parameter];
  WidenWeights(Slice(Acquire(info.unit), info.offset, info.size()), values);
  Release(info.unit);
}

}  // namespace swinfleet
