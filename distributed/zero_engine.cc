#include "distributed/zero_engine.h"

#include <glog/logging.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <functional>

#include "core/checkpoint/async_saver.h"
#include "core/optim/optimizer.h"
#include "distributed/gathered_units.h"
#include "distributed/gradient_sums.h"
#include "distributed/master_weights.h"
#include "distributed/nccl_communicator.h"
#include "distributed/offload_files.h"
#include "kernels/accelerator.h"
#include "kernels/all_finite.h"
#include "kernels/error.h"
#include "kernels/placement.h"
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

  // Where tensors are a GPU's, NCCL exchanges them.
  void ExchangeByNccl(MemoryClasses* memory);
  void PlaceUnit(int index);
  void AllocateUnit(UnitState& unit, MemoryClasses* memory);
  void AllocateSums(MemoryClasses* memory);
  // All bits zero, which is zero in every dtype; sizes are whole chunks.
  void Zero(const TensorView& view) {
    if (view.device == Device::kCpu && context->device == Device::kCuda) {
      std::memset(view.data, 0, view.Bytes());
      return;
    }
    TensorView floats = view;
    floats.dtype = DType::kF32;
    floats.shape = Shape{static_cast<int64_t>(view.Bytes() / sizeof(float))};
    context->ops->fill({.x = floats, .value = 0}, *context);
  }
  // Zeros in the open gradient: where no product has written its weight yet, or everywhere else.
  void ZeroGradient(int unit, bool unwritten_weights);
  double Norm();
  // Begins to find out whether no value is infinite or NaN; the answer may be asked for after
  // FinishCopies.
  std::function<bool()> LookForNonfinite(const TensorView& values);
  // The first parameter of which a rank's part has an element that is not finite; empty when all
  // are. `part` gives the part that this rank saves. Collective.
  std::string FirstNonfinite(
      const std::function<TensorView(int unit, const ShardLayout::Segment& segment)>& part,
      const std::string& name);
  // What an update works on: elements [begin, begin + size) of a unit, among those that this rank
  // updates, all alike.
  struct OwnedPart {
    int64_t begin = 0;
    int64_t size = 0;
    TensorView weights;        // (size)
    TensorView gradient;       // (size)
    OptimizerState optimizer;  // (size) each
  };
  // One optimizer step on them, in place.
  void UpdateOwned(const UnitState& unit, const OwnedPart& owned, std::span<const double> rates,
                   int64_t update, float grad_scale, Context* used);
  // One optimizer step on everything: at once with the state in memory, started with it on disk.
  void UpdateAll(std::span<const double> rates, int64_t update, float grad_scale);
  void StartOffloadedUpdate(std::span<const double> rates, int64_t update, float grad_scale);
  // Waits for an update that is under way: until a unit's weights are the new ones, or until all of
  // it is over.
  void WaitForUpdate(int unit) {
    TimeWait([&] { streamed->WaitForUnit(unit); });
  }
  void FinishUpdate() {
    TimeWait([&] { streamed->FinishUpdate(); });
  }
  template <typename Wait>
  void TimeWait(const Wait& wait) {
    if (streamed == nullptr) return;
    const auto begin = std::chrono::steady_clock::now();
    wait();
    if (on_disk == nullptr) return;
    const std::chrono::duration<double> waited = std::chrono::steady_clock::now() - begin;
    disk_wait_seconds += waited.count();
  }
  // What this rank updates, a unit each.
  std::vector<OwnedElements> Owned() const;
  // Takes the state's place on the disk. Collective.
  void OffloadToDisk(MemoryClasses* memory);
  // The buffers of state that is in the host's memory.
  void OffloadToHost(MemoryClasses* memory);
  // Of operations on tensors of the host's.
  Context OnCpu() const {
    return context->device == Device::kCpu ? *context : ContextOn(nullptr, 1, nullptr);
  }
  // A tensor as the host sees it: itself, or its copy in `copy`.
  TensorView OnHost(const TensorView& tensor, std::vector<std::byte>* copy) const {
    if (tensor.device != Device::kCuda) return tensor;
    copy->resize(tensor.Bytes());
    CopyToHost(tensor, copy->data(), *context);
    return {copy->data(), tensor.shape, tensor.dtype, Device::kCpu};
  }
  // Lets `write` write a whole tensor on the host: itself, or what is copied there.
  void WriteOnHost(const TensorView& tensor,
                   const std::function<void(const TensorView& on_host)>& write) const {
    if (tensor.device != Device::kCuda) return write(tensor);
    std::vector<std::byte> copy(tensor.Bytes());
    write({copy.data(), tensor.shape, tensor.dtype, Device::kCpu});
    CopyFromHost(copy.data(), tensor, *context);
  }
  // Checkpoints take offloaded moments from this rank. At stage 0 all ranks have the same.
  bool GivesMoments() const { return options.stage > 0 || communicator->rank() == 0; }
  DiskUse UseOf(const OffloadedState& state) const;
  // The moments from a checkpoint; `buffer` has room for kReadChunk.
  void LoadMoments(const CheckpointReader& reader, std::span<float> buffer);
  // Those of a parameter from an element on.
  void LoadMoment(const CheckpointReader& reader, const std::string& prefix, int parameter,
                  int64_t element, const TensorView& moments, std::span<float> buffer);
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
  // Parameters and the optimizer's state are about to be written.
  void BeforeWriting();
  // The moments of the configured optimizer and the prefix of their tensors' names.
  std::vector<std::pair<std::string, TensorView>> States(const OptimizerState& state) const;
  // Elements [begin, begin + size) of its unit among those that this rank updates.
  TensorView OfOwned(const UnitState& unit, const TensorView& owned, int64_t begin,
                     int64_t size) const {
    return Slice(owned, begin - unit.owned_begin, size);
  }
  // The masters of elements [begin, begin + scratch.size()) of a unit, which this rank updates:
  // where they lie, or put together in `scratch`. Throws Error when the disk fails.
  std::span<const float> Masters(int unit, int64_t begin, std::span<float> scratch);
  // The part of a parameter's moments that is in memory, for a checkpoint.
  TensorPiece PieceOf(const std::string& tensor, const Shape& shape,
                      const ShardLayout::Segment& segment, const TensorView& moments) const;
  // Reads what weights lack of their masters from the disk.
  TensorView ReadMasters(int unit, const ShardLayout::Segment& segment, void* to);
  // What CopyState does on a GPU.
  std::vector<TensorPiece> CopyBeside(std::span<float> buffer);
  // Sets elements [begin, begin + masters.size()) of a parameter, those that this rank keeps.
  void SetWeights(int parameter, int64_t begin, std::span<const float> masters);
  // The tensor is there with this shape; throws Error.
  void CheckTensor(const CheckpointReader& reader, const std::string& tensor,
                   const Shape& shape) const;
  // The part of a parameter that this rank keeps.
  void LoadParameter(const CheckpointReader& reader, const ShardLayout::Segment& segment,
                     std::span<float> buffer);

  const ParameterTable& table;
  std::unique_ptr<Communicator> nccl;
  Communicator* communicator;
  ZeroOptions options;
  Context* context;
  Arena& workspace;
  ShardLayout layout;
  bool dry = false;
  std::vector<UnitState> units;
  std::unique_ptr<GradientSums> sums;
  // Of an update that runs beside other things: what it is called with.
  Context update_context;
  std::vector<double> update_rates;
  double disk_wait_seconds = 0;
  // Where state is on disk; then the units have none. The folder outlives what is in it, which uses
  // all of the above.
  std::unique_ptr<OffloadFolder> folder;
  std::unique_ptr<OffloadedState> on_disk;
  // Where the units' state is in the host's memory, and their weights are not.
  std::unique_ptr<PinnedState> on_host;
  // One of these two, where there is one.
  StreamedUpdate* streamed = nullptr;
  // At stage 3 on several ranks.
  std::unique_ptr<GatheredUnits> gathered;
  // Of this rank in a step.
  int64_t passes = 0;
  // The present leaf; -1 before the first of a step.
  int64_t leaf = -1;
  // The unit whose gradient is in use, and where it is; -1: none.
  int open = -1;
  TensorView open_gradient;
  UnwrittenWeights unwritten;
  // From FinishReduction until something else uses the gradients' memory.
  bool reduced = false;
  // Sums of squares of the chunks of this rank's shards, and of all ranks'.
  int64_t own_chunks = 0;
  double* own_sums = nullptr;
  double* all_sums = nullptr;
};

ZeroEngine::Impl::Impl(const ParameterTable& table, Communicator* host_communicator,
                       const ZeroOptions& options, MemoryClasses* memory, Context* context)
    : table(table),
      communicator(host_communicator),
      options(options),
      context(context),
      workspace(memory->workspace),
      layout(table, communicator->size()),
      units(table.units().size()),
      unwritten(table) {
  CHECK(options.stage >= 0 && options.stage <= kMostZeroStage) << "ZeRO stage " << options.stage;
  CHECK(options.stage < 2 || SumsInRounds(options.accumulation))
      << "whole gradients at ZeRO stage " << options.stage;
  CHECK(options.optimizer.moments == DType::kF32 || options.offload.kind == Offload::kDisk)
      << "moments in memory are float32";
  CHECK(options.offload.kind != Offload::kHost || context->device == Device::kCuda)
      << "state in the host's memory is offloaded from a GPU";
  CHECK_EQ(options.hypers.size(), table.parameters().size());
  CHECK(options.reduction == Reduction::kReproducible || !SumsBf16(options.accumulation))
      << "the library does not sum bfloat16";
  CHECK(memory->device == context->device);
  dry = memory->parameters.device() == Device::kDryRun;
  if (context->device == Device::kCuda) ExchangeByNccl(memory);
  communicator->UseLibrarySums(options.reduction == Reduction::kLibrary);
  communicator->WaitAtOnce(!options.overlap);
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
    gathered = std::make_unique<GatheredUnits>(
        table, layout, std::move(shards), [this](int unit) { WaitForUpdate(unit); }, communicator,
        context, &memory->parameters);
  }
  AllocateSums(memory);
  if (options.offload.kind == Offload::kDisk) OffloadToDisk(memory);
  if (options.offload.kind == Offload::kHost) OffloadToHost(memory);
  // One thread keeps up with a disk, and the others compute. On a GPU each piece has a stream of
  // its own.
  update_context = {.ops = context->ops,
                    .workspace = nullptr,
                    .threads = 1,
                    .device = context->device,
                    .accelerator = context->accelerator,
                    .count = nullptr};
}

void ZeroEngine::Impl::ExchangeByNccl(MemoryClasses* memory) {
  if (layout.ranks() == 1) return;
  int64_t largest = 0;
  for (size_t u = 0; u < units.size(); ++u) {
    largest = std::max(largest, layout.PaddedSize(static_cast<int>(u)));
  }
  const auto bytes =
      static_cast<int64_t>(NcclCommunicator::ScratchBytes(largest * sizeof(float), layout.ranks()));
  const TensorView scratch =
      memory->gradients.Allocate({bytes / static_cast<int64_t>(sizeof(float))});
  if (dry) return;
  nccl = std::make_unique<NcclCommunicator>(communicator, scratch, context);
  communicator = nccl.get();
}

std::vector<OwnedElements> ZeroEngine::Impl::Owned() const {
  std::vector<OwnedElements> owned;
  for (const UnitState& unit : units) {
    owned.push_back({unit.name, unit.owned_begin, unit.owned_size, unit.updated});
  }
  return owned;
}

void ZeroEngine::Impl::OffloadToHost(MemoryClasses* memory) {
  PinnedSetting setting{
      .units = Owned(), .state = {}, .piece_elements = options.offload.piece_elements};
  for (const UnitState& unit : units) setting.state.push_back(unit.optimizer);
  on_host = std::make_unique<PinnedState>(setting, &memory->optimizer, context->accelerator);
  streamed = on_host.get();
}

void ZeroEngine::Impl::OffloadToDisk(MemoryClasses* memory) {
  OffloadSetting setting{.table = &table,
                         .units = Owned(),
                         .optimizer = options.optimizer.kind,
                         .dtype = options.dtype,
                         .moments = options.optimizer.moments,
                         .rank = communicator->rank(),
                         .folder = "",
                         .piece_elements = options.offload.piece_elements,
                         .ops = options.offload.ops};
  if (!dry) {
    std::string problem;
    try {
      folder = std::make_unique<OffloadFolder>(options.offload.run_folder, options.offload.attempt,
                                               setting.rank, *setting.ops);
      setting.folder = folder->path();
    } catch (const Error& error) {
      problem = error.what();
    }
    Arena counted = Arena::DryRun("offload");
    CheckOffloadSpace(
        setting.folder, UseOf(OffloadedState(setting, &counted)),
        {.run_dir = options.offload.run_dir, .kept = options.offload.kept_checkpoints}, problem,
        communicator, *setting.ops);
  }
  if (context->device == Device::kCpu) {
    on_disk = std::make_unique<OffloadedState>(setting, &memory->optimizer);
  } else {
    on_disk = std::make_unique<OffloadedState>(setting, &memory->offloaded, &memory->optimizer,
                                               context->accelerator);
  }
  streamed = on_disk.get();
}

DiskUse ZeroEngine::Impl::UseOf(const OffloadedState& state) const {
  const uint64_t moments = state.moment_bytes(), masters = state.master_bytes();
  DiskUse use{.state = 2 * (moments + masters), .update = moments + masters};
  const uint64_t shared = GivesMoments() ? moments : 0;
  uint64_t weights = 0;
  for (const UnitState& unit : units) {
    for (const ShardLayout::Segment& segment : unit.saved) weights += segment.size * sizeof(float);
  }
  use.checkpoint = weights + shared;
  if (options.offload.asynchronous_saves) {
    // Updates go on beside the save: the moments that it has are neither set's.
    use.state += shared;
    use.saving = weights;
  } else {
    // Beside the save there is one set of moments, and it is the checkpoint's.
    use.saving = weights > shared ? weights - shared : 0;
  }
  return use;
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
  if (options.offload.kind == Offload::kDisk) return;
  Arena& arena = options.offload.kind == Offload::kHost ? memory->offloaded : memory->optimizer;
  unit.optimizer.first = arena.Allocate(owned);
  Zero(unit.optimizer.first);
  if (OptimizerStateTensors(options.optimizer.kind) == 2) {
    unit.optimizer.second = arena.Allocate(owned);
    Zero(unit.optimizer.second);
  }
  if (options.dtype == DType::kF32) return;
  unit.optimizer.master = arena.Allocate(owned, MasterDType(options.dtype));
  Zero(unit.optimizer.master);
}

void ZeroEngine::Impl::AllocateSums(MemoryClasses* memory) {
  const size_t bytes = own_chunks * sizeof(double);
  Arena& host = memory->host_workspace();
  own_sums = static_cast<double*>(host.AllocateBytes(bytes));
  all_sums = own_sums;
  if (layout.ranks() > 1) {
    all_sums = static_cast<double*>(host.AllocateBytes(bytes * layout.ranks()));
  }
}

void ZeroEngine::Impl::ZeroGradient(int unit, bool unwritten_weights) {
  const auto zero = [&](int64_t begin, int64_t end) {
    if (begin < end) Zero(Slice(open_gradient, begin, end - begin));
  };
  int64_t done = 0;
  for (const int parameter : table.units()[unit].parameters) {
    if (!unwritten.Has(parameter)) continue;
    const ParameterInfo& info = table.parameters()[parameter];
    if (unwritten_weights) zero(info.offset, info.offset + info.size());
    if (!unwritten_weights) zero(done, info.offset);
    done = info.offset + info.size();
  }
  if (!unwritten_weights) zero(done, open_gradient.NumElements());
}

double ZeroEngine::Impl::Norm() {
  const ProfileScope profile(*context, "gradient norm");
  for (size_t u = 0; u < units.size(); ++u) {
    const TensorView shard = sums->OwnShard(static_cast<int>(u));
    context->ops->sum_of_squares({.x = shard, .sums = own_sums + units[u].first_chunk}, *context);
  }
  FinishCopies(*context);
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

std::function<bool()> ZeroEngine::Impl::LookForNonfinite(const TensorView& values) {
  if (context->device == Device::kCpu) {
    const bool finite = dry || CpuAllFinite(values, context->threads);
    return [finite] { return finite; };
  }
  // The square of a float32 number is one in float64 too: a sum is finite if all its elements are.
  const int64_t n = values.NumElements();
  const auto sums = std::make_shared<std::vector<double>>((n + kNormChunk - 1) / kNormChunk);
  // All at once, but for float16, which is widened.
  const int64_t most = values.dtype == DType::kF16 ? kReadChunk : n;
  for (int64_t done = 0; done < n; done += most) {
    ArenaScope scope(&workspace);
    TensorView piece = Slice(values, done, std::min(most, n - done));
    if (piece.dtype == DType::kF16) {
      const TensorView wide = workspace.Allocate(piece.shape);
      context->ops->cast({.x = piece, .y = wide}, *context);
      piece = wide;
    }
    context->ops->sum_of_squares({.x = piece, .sums = sums->data() + done / kNormChunk}, *context);
  }
  return
      [sums] { return std::ranges::all_of(*sums, [](double sum) { return std::isfinite(sum); }); };
}

std::string ZeroEngine::Impl::FirstNonfinite(
    const std::function<TensorView(int unit, const ShardLayout::Segment& segment)>& part,
    const std::string& name) {
  const auto none = static_cast<double>(table.parameters().size());
  double first = none;
  // All are asked before the first answer is needed, and what is in order is asked once: a GPU
  // takes its time to answer.
  std::vector<std::function<bool()>> finite(units.size());
  for (size_t u = 0; u < units.size(); ++u) {
    const std::vector<ShardLayout::Segment>& saved = units[u].saved;
    if (saved.empty()) continue;
    // Between parameters there are zeros.
    ShardLayout::Segment whole = saved.front();
    whole.size = saved.back().unit_begin + saved.back().size - whole.unit_begin;
    finite[u] = LookForNonfinite(part(static_cast<int>(u), whole));
  }
  FinishCopies(*context);
  for (size_t u = 0; u < units.size(); ++u) {
    if (finite[u] == nullptr || finite[u]()) continue;
    for (const ShardLayout::Segment& segment : units[u].saved) {
      if (segment.parameter >= first) continue;
      const auto of_segment = LookForNonfinite(part(static_cast<int>(u), segment));
      FinishCopies(*context);
      if (!of_segment()) first = segment.parameter;
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
                                   std::span<const double> rates, int64_t update, float grad_scale,
                                   Context* used) {
  for (const ShardLayout::Segment& segment : unit.updated) {
    const int64_t begin = std::max(segment.unit_begin, owned.begin);
    const int64_t end = std::min(segment.unit_begin + segment.size, owned.begin + owned.size);
    if (begin >= end) continue;
    const auto part = [&](const TensorView& all) {
      return all.empty() ? all : Slice(all, begin - owned.begin, end - begin);
    };
    const int64_t element = segment.parameter_begin + begin - segment.unit_begin;
    const OptimizerState state = {
        .first = part(owned.optimizer.first),
        .second = part(owned.optimizer.second),
        .master = part(owned.optimizer.master),
        .rounding = MomentRounding(options.seed, update, segment.parameter, element)};
    UpdateSegment(options.optimizer, options.hypers[segment.parameter], rates[segment.parameter],
                  update, grad_scale, part(owned.weights), part(owned.gradient), state, *used);
  }
}

void ZeroEngine::Impl::UpdateAll(std::span<const double> rates, int64_t update, float grad_scale) {
  if (streamed != nullptr) return StartOffloadedUpdate(rates, update, grad_scale);
  for (size_t u = 0; u < units.size(); ++u) {
    const UnitState& unit = units[u];
    UpdateOwned(unit,
                {.begin = unit.owned_begin,
                 .size = unit.owned_size,
                 .weights = OwnedValues(unit),
                 .gradient = sums->Reduced(static_cast<int>(u)),
                 .optimizer = unit.optimizer},
                rates, update, grad_scale, context);
  }
}

void ZeroEngine::Impl::StartOffloadedUpdate(std::span<const double> rates, int64_t update,
                                            float grad_scale) {
  update_rates.assign(rates.begin(), rates.end());
  Context* used = dry ? context : &update_context;
  streamed->StartUpdate([this, update, grad_scale, used](const UpdatePart& part) {
    const UnitState& unit = units[part.unit];
    update_context.stream = part.stream;
    UpdateOwned(unit,
                {.begin = part.begin,
                 .size = part.size,
                 .weights = OfOwned(unit, OwnedValues(unit), part.begin, part.size),
                 .gradient = OfOwned(unit, sums->Reduced(part.unit), part.begin, part.size),
                 .optimizer = part.state},
                update_rates, update, grad_scale, used);
  });
  if (!options.overlap) FinishUpdate();
}

void ZeroEngine::Impl::BeforeWriting() {
  FinishUpdate();
  for (UnitState& unit : units) WaitForParameters(&unit);
  if (gathered != nullptr) gathered->Forget();
  // The last copy for a checkpoint may still be under way.
  if (context->accelerator != nullptr) context->accelerator->ComputeAfterCopies();
}

std::vector<std::pair<std::string, TensorView>> ZeroEngine::Impl::States(
    const OptimizerState& state) const {
  if (options.optimizer.kind == OptimizerConfig::Kind::kAdamW) {
    return {{"adamw_m/", state.first}, {"adamw_v/", state.second}};
  }
  return {{"sgd_momentum/", state.first}};
}

std::span<const float> ZeroEngine::Impl::Masters(int unit, int64_t begin,
                                                 std::span<float> scratch) {
  const UnitState& state = units[unit];
  const auto size = static_cast<int64_t>(scratch.size());
  const TensorView weights = OfOwned(state, OwnedValues(state), begin, size);
  if (options.dtype == DType::kF32) {
    if (weights.device != Device::kCuda) return {weights.f32(), scratch.size()};
    CopyToHost(weights, scratch.data(), *context);
    return scratch;
  }
  if (on_disk == nullptr) {
    const TensorView kept = OfOwned(state, state.optimizer.master, begin, size);
    std::vector<std::byte> weights_copy, kept_copy;
    RestoreMasters(OnHost(weights, &weights_copy), OnHost(kept, &kept_copy), scratch);
    return scratch;
  }
  for (int64_t done = 0; done < size;) {
    const TensorView kept = on_disk->Masters(unit, begin + done, size - done);
    const int64_t count = kept.NumElements();
    std::vector<std::byte> copy;
    RestoreMasters(OnHost(Slice(weights, done, count), &copy), kept, scratch.subspan(done, count));
    done += count;
  }
  return scratch;
}

TensorPiece ZeroEngine::Impl::PieceOf(const std::string& tensor, const Shape& shape,
                                      const ShardLayout::Segment& segment,
                                      const TensorView& moments) const {
  if (moments.device != Device::kCuda) {
    return PieceInMemory(tensor, shape, segment.parameter_begin,
                         {moments.f32(), static_cast<size_t>(segment.size)});
  }
  const auto copied = [this, moments](int64_t first, std::span<float> scratch) {
    CopyToHost(Slice(moments, first, static_cast<int64_t>(scratch.size())), scratch.data(),
               *context);
    return std::span<const float>(scratch);
  };
  return {tensor, shape, segment.parameter_begin, segment.size, copied};
}

TensorView ZeroEngine::Impl::ReadMasters(int unit, const ShardLayout::Segment& segment, void* to) {
  const TensorView read = {to, Shape{segment.size}, MasterDType(options.dtype), Device::kCpu};
  for (int64_t done = 0; done < segment.size;) {
    const TensorView kept = on_disk->Masters(unit, segment.unit_begin + done, segment.size - done);
    std::memcpy(read.Rows(done, kept.NumElements()).data, kept.data, kept.Bytes());
    done += kept.NumElements();
  }
  return read;
}

std::vector<TensorPiece> ZeroEngine::Impl::CopyBeside(std::span<float> buffer) {
  FinishUpdate();
  Accelerator* gpu = context->accelerator;
  std::vector<TensorPiece> pieces;
  std::vector<DeviceRead> reads;
  // What is on the GPU later, the rest at once.
  const auto copy = [&](const TensorView& tensor, void* to) -> TensorView {
    if (tensor.device == Device::kCpu) std::memcpy(to, tensor.data, tensor.Bytes());
    if (tensor.device == Device::kCuda) reads.push_back({tensor.data, to, tensor.Bytes()});
    return {to, tensor.shape, tensor.dtype, Device::kCpu};
  };
  // Values in float32, or weights in 16 bits and what they lack of their masters, which take as
  // many bytes together and are joined when they are read.
  using Copied = std::pair<TensorView, TensorView>;
  const auto add = [&](const std::string& prefix, const ShardLayout::Segment& segment,
                       const std::function<Copied(void* to)>& copy_to) {
    const ParameterInfo& info = table.parameters()[segment.parameter];
    CHECK_LE(segment.size, std::ssize(buffer)) << prefix << info.name;
    const Copied copied = copy_to(buffer.data());
    buffer = buffer.subspan(segment.size);
    const auto read = [gpu, here = copied.first, rest = copied.second](
                          int64_t first, std::span<float> scratch) -> std::span<const float> {
      gpu->WaitForCopies();
      const TensorView part = here.Rows(first, std::ssize(scratch));
      if (rest.empty()) return part.span();
      RestoreMasters(part, rest.Rows(first, std::ssize(scratch)), scratch);
      return scratch;
    };
    pieces.push_back({prefix + info.name, info.shape, segment.parameter_begin, segment.size, read});
  };
  for (size_t u = 0; u < units.size(); ++u) {
    const UnitState& unit = units[u];
    for (const ShardLayout::Segment& segment : unit.saved) {
      const auto part = [&](const TensorView& owned) {
        return OfOwned(unit, owned, segment.unit_begin, segment.size);
      };
      const auto copy_masters = [&](void* to) {
        if (on_disk == nullptr) return copy(part(unit.optimizer.master), to);
        return ReadMasters(static_cast<int>(u), segment, to);
      };
      add("param/", segment, [&](void* to) -> Copied {
        // Beside weights in float16 there are whole masters.
        if (options.dtype == DType::kF16) return {copy_masters(to), {}};
        const TensorView weights = copy(part(OwnedValues(unit)), to);
        if (options.dtype == DType::kF32) return {weights, {}};
        return {weights, copy_masters(weights.u16() + weights.NumElements())};
      });
      if (on_disk != nullptr) continue;
      for (const auto& [prefix, moments] : States(unit.optimizer)) {
        add(prefix, segment, [&, &moments = moments](void* to) -> Copied {
          return {copy(part(moments), to), {}};
        });
      }
    }
  }
  gpu->CopyOutBeside(reads);
  return pieces;
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
    bool fits = true;
    WriteOnHost(Slice(unit.values, from - unit.kept_begin, size),
                [&](const TensorView& values) { fits = RoundWeights(kept, values); });
    if (fits) return;
    throw Error("parameter " + info.name + " holds a weight that " + NameOf(options.dtype) +
                " can't: use train.dtype bf16 or fp32");
  });
  if (options.dtype == DType::kF32) return;
  within(unit.owned_begin, unit.owned_size, [&](std::span<const float> owned, int64_t from) {
    if (on_disk != nullptr) return on_disk->SetMasters(info.unit, from, owned);
    WriteOnHost(OfOwned(unit, unit.optimizer.master, from, static_cast<int64_t>(owned.size())),
                [&](const TensorView& kept) { KeepMasters(owned, kept); });
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

void ZeroEngine::Impl::LoadMoment(const CheckpointReader& reader, const std::string& prefix,
                                  int parameter, int64_t element, const TensorView& moments,
                                  std::span<float> buffer) {
  const ParameterInfo& info = table.parameters()[parameter];
  const std::string tensor = prefix + info.name;
  CheckTensor(reader, tensor, info.shape);
  const bool direct = moments.dtype == DType::kF32 && moments.device == Device::kCpu;
  if (direct) return reader.Read(tensor, element, moments.span());
  for (int64_t done = 0; done < moments.NumElements(); done += kReadChunk) {
    const int64_t size = std::min(kReadChunk, moments.NumElements() - done);
    reader.Read(tensor, element + done, buffer.first(size));
    if (moments.dtype == DType::kF32) {
      CopyFromHost(buffer.data(), Slice(moments, done, size), *context);
      continue;
    }
    // Those that were kept in bfloat16 stay what they are.
    Context host = OnCpu();
    host.ops->cast({.x = ViewOf(buffer.data(), {size}), .y = Slice(moments, done, size)}, host);
  }
}

void ZeroEngine::Impl::LoadMoments(const CheckpointReader& reader, std::span<float> buffer) {
  // Elements [begin, begin + size) of a unit, of which `state` is the part that this rank updates.
  const auto load = [&](const UnitState& unit, int64_t begin, int64_t size,
                        const OptimizerState& state) {
    for (const auto& [prefix, part] : States(state)) {
      for (const ShardLayout::Segment& segment : unit.updated) {
        const int64_t from = std::max(segment.unit_begin, begin);
        const int64_t to = std::min(segment.unit_begin + segment.size, begin + size);
        if (from >= to) continue;
        LoadMoment(reader, prefix, segment.parameter,
                   segment.parameter_begin + from - segment.unit_begin,
                   Slice(part, from - begin, to - from), buffer);
      }
    }
  };
  if (on_disk == nullptr) {
    for (const UnitState& unit : units) {
      load(unit, unit.owned_begin, unit.owned_size, unit.optimizer);
    }
    return;
  }
  on_disk->SetMoments([&](const UpdatePart& part) {
    // Padding is zero.
    for (const auto& [prefix, moments] : States(part.state)) Zero(moments);
    load(units[part.unit], part.begin, part.size, part.state);
  });
}

ZeroOptions ZeroOptionsFor(const JobConfig& config, const ParameterTable& table) {
  OffloadOptions offload;
  offload.kind = config.parallel.offload;
  if (offload.kind == Offload::kDisk) {
    offload.run_folder = OffloadRunFolder(config.parallel.offload_dir, config.run_dir);
    offload.run_dir = config.run_dir;
    offload.kept_checkpoints = config.checkpoint.keep_last;
    offload.asynchronous_saves = config.checkpoint.asynchronous;
  }
  return {.stage = config.parallel.zero_stage,
          .optimizer = config.train.optimizer,
          .hypers = GroupsOf(config, table),
          .micro_batches = config.train.micro_batches(),
          .dtype = config.train.dtype,
          .accumulation = config.train.accumulation,
          .reduction = config.parallel.reduction,
          .overlap = config.parallel.overlap,
          .offload = std::move(offload),
          .seed = config.train.seed};
}

ZeroEngine::ZeroEngine(const ParameterTable& table, Communicator* communicator,
                       const ZeroOptions& options, MemoryClasses* memory, Context* context)
    : impl_(std::make_unique<Impl>(table, communicator, options, memory, context)) {}

ZeroEngine::~ZeroEngine() = default;

Communicator* ZeroEngine::communicator() { return impl_->communicator; }

void ZeroEngine::Initialize(uint64_t seed) {
  if (impl_->dry) return;
  impl_->reduced = false;
  impl_->BeforeWriting();
  for (size_t u = 0; u < impl_->units.size(); ++u) {
    Impl::UnitState& unit = impl_->units[u];
    const int index = static_cast<int>(u);
    const TensorView staging = impl_->sums->Staging(index);
    std::vector<float> copy(staging.device == Device::kCuda ? staging.NumElements() : 0);
    const std::span<float> initial = copy.empty() ? staging.span() : std::span(copy);
    InitializeUnit(impl_->table, index, seed, initial);
    for (const int p : impl_->table.units()[u].parameters) {
      const ParameterInfo& info = impl_->table.parameters()[p];
      impl_->SetWeights(p, 0, initial.subspan(info.offset, info.size()));
    }
    if (impl_->on_disk != nullptr) continue;
    impl_->Zero(unit.optimizer.first);
    if (!unit.optimizer.second.empty()) impl_->Zero(unit.optimizer.second);
  }
  if (impl_->on_disk == nullptr) return;
  impl_->on_disk->SetMoments([&](const UpdatePart& part) {
    impl_->Zero(part.state.first);
    if (!part.state.second.empty()) impl_->Zero(part.state.second);
  });
}

TensorView ZeroEngine::Acquire(int unit) {
  if (impl_->gathered != nullptr) return impl_->gathered->Acquire(unit);
  impl_->WaitForUpdate(unit);
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
    // Which uses the sums that are there.
    impl_->FinishUpdate();
    const ProfileScope profile(*impl_->context, "gradient sums");
    impl_->open_gradient = impl_->sums->Open(unit, impl_->leaf);
    impl_->unwritten.Begin(unit);
    impl_->ZeroGradient(unit, /*unwritten=*/false);
  }
  return impl_->open_gradient;
}

bool ZeroEngine::TakeUnwritten(int parameter) {
  CHECK_EQ(impl_->open, impl_->table.parameters()[parameter].unit)
      << impl_->table.parameters()[parameter].name << " before its unit's gradient is used";
  return impl_->unwritten.Take(parameter);
}

void ZeroEngine::GradientReady(int unit) {
  // What got no gradient has one of zeros.
  Gradient(unit);
  impl_->ZeroGradient(unit, /*unwritten=*/true);
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
  impl_->UpdateAll(rates, update, grad_scale);
  impl_->reduced = false;
}

void ZeroEngine::PublishParameters() {
  // At stage 3 whoever needs them gathers them.
  if (impl_->options.stage == 0 || impl_->options.stage == 3) return;
  for (size_t u = 0; u < impl_->units.size(); ++u) {
    Impl::UnitState& unit = impl_->units[u];
    impl_->WaitForUpdate(static_cast<int>(u));
    unit.published = impl_->communicator->AllGather(unit.values, unit.publish_name);
  }
}

void ZeroEngine::FinishUpdate() { impl_->FinishUpdate(); }

std::string ZeroEngine::FirstNonfiniteWeight() {
  const ProfileScope profile(*impl_->context, "weight check");
  impl_->FinishUpdate();
  const auto weights = [&](int unit, const ShardLayout::Segment& segment) {
    const Impl::UnitState& state = impl_->units[unit];
    return impl_->OfOwned(state, impl_->OwnedValues(state), segment.unit_begin, segment.size);
  };
  return impl_->FirstNonfinite(weights, "first non-finite weight");
}

TensorView ZeroEngine::ReducedGradient(int unit) {
  CHECK(impl_->reduced) << "no reduced gradient";
  const TensorView gradient = impl_->sums->Reduced(unit);
  if (gradient.dtype == DType::kF32) return gradient;
  const TensorView wide = impl_->sums->Staging(unit).Rows(0, gradient.NumElements());
  impl_->context->ops->cast({.x = gradient, .y = wide}, *impl_->context);
  return wide;
}

std::vector<TensorPiece> ZeroEngine::OwnedState() {
  impl_->FinishUpdate();
  std::vector<TensorPiece> pieces;
  for (size_t u = 0; u < impl_->units.size(); ++u) {
    const Impl::UnitState& unit = impl_->units[u];
    for (const ShardLayout::Segment& segment : unit.saved) {
      const ParameterInfo& info = impl_->table.parameters()[segment.parameter];
      const auto masters = [impl = impl_.get(), u, begin = segment.unit_begin](
                               int64_t first, std::span<float> scratch) {
        return impl->Masters(static_cast<int>(u), begin + first, scratch);
      };
      pieces.push_back(
          {"param/" + info.name, info.shape, segment.parameter_begin, segment.size, masters});
      if (impl_->on_disk != nullptr) continue;
      for (const auto& [prefix, owned] : impl_->States(unit.optimizer)) {
        const TensorView part = impl_->OfOwned(unit, owned, segment.unit_begin, segment.size);
        pieces.push_back(impl_->PieceOf(prefix + info.name, info.shape, segment, part));
      }
    }
  }
  return pieces;
}

std::vector<TensorPiece> ZeroEngine::CopyState(std::span<float> buffer) {
  if (impl_->context->accelerator != nullptr) return impl_->CopyBeside(buffer);
  return CopyPieces(OwnedState(), buffer);
}

std::optional<SharedShard> ZeroEngine::PinState() {
  if (impl_->on_disk == nullptr || !impl_->GivesMoments()) return std::nullopt;
  impl_->FinishUpdate();
  return impl_->on_disk->Pin();
}

DiskUse ZeroEngine::disk_use() const {
  return impl_->on_disk == nullptr ? DiskUse() : impl_->UseOf(*impl_->on_disk);
}

double ZeroEngine::disk_wait_seconds() const { return impl_->disk_wait_seconds; }

void ZeroEngine::Load(const CheckpointReader& reader) {
  CHECK(!impl_->dry) << "a dry run has no state";
  std::vector<float> buffer(kReadChunk);
  impl_->BeforeWriting();
  for (Impl::UnitState& unit : impl_->units) {
    for (const ShardLayout::Segment& segment : unit.kept) {
      impl_->LoadParameter(reader, segment, buffer);
    }
  }
  impl_->LoadMoments(reader, buffer);
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
  std::vector<std::byte> copy;
  WidenWeights(impl_->OnHost(Slice(Acquire(info.unit), info.offset, info.size()), &copy), values);
  Release(info.unit);
}

}  // namespace swinfleet
