#include "distributed/gradient_sums.h"

#include <glog/logging.h>

#include <algorithm>
#include <array>
#include <bit>
#include <optional>
#include <vector>

namespace swinfleet {
namespace {

// Trees are summed as they grow, as a binary counter counts: before leaf k come as many sums that
// wait as k has digits 1, the newest on top.
int WaitingSums(int64_t leaf) { return std::popcount(static_cast<uint64_t>(leaf)); }
// Sums that leaf k completes beside its own: one for each digit 1 at the end of k.
int CompletedSums(int64_t leaf) { return std::countr_one(static_cast<uint64_t>(leaf)); }

class Base : public GradientSums {
 public:
  explicit Base(const GradientSetting& setting) : setting_(setting) {
    for (size_t u = 0; u < units(); ++u) {
      const std::string& name = setting.table->units()[u].name;
      names_.push_back((setting.stage == 0 ? "all-reduce " : "reduce-scatter ") + name);
    }
  }

 protected:
  size_t units() const { return setting_.table->units().size(); }
  int64_t PaddedSize(int unit) const { return setting_.layout->PaddedSize(unit); }
  int64_t ShardSize(int unit) const { return setting_.layout->ShardSize(unit); }
  int64_t LargestPaddedSize() const {
    int64_t largest = 0;
    for (size_t u = 0; u < units(); ++u) {
      largest = std::max(largest, PaddedSize(static_cast<int>(u)));
    }
    return largest;
  }
  // This rank's part of what holds a whole unit.
  TensorView ShardOf(const TensorView& padded, int unit) const {
    return padded.Rows(setting_.layout->ShardBegin(unit, setting_.communicator->rank()),
                       ShardSize(unit));
  }
  int64_t OwnLeaves(Accumulation accumulation) const {
    return ShardLayout::LeavesOf(accumulation, setting_.communicator->rank(),
                                 setting_.communicator->size(), setting_.micro_batches)
        .count;
  }
  void Zero(const TensorView& view) {
    setting_.context->ops->fill({.x = view, .value = 0}, *setting_.context);
  }
  // All bits zero is zero in bfloat16 too; shards are whole chunks.
  void ZeroBf16(const TensorView& view) {
    TensorView floats = view;
    floats.dtype = DType::kF32;
    floats.shape = Shape{view.NumElements() / 2};
    Zero(floats);
  }
  void Add(const TensorView& x, const TensorView& y) {
    setting_.context->ops->add({.x = x, .y = y}, *setting_.context);
  }
  void Cast(const TensorView& x, const TensorView& y) {
    setting_.context->ops->cast({.x = x, .y = y}, *setting_.context);
  }
  static std::span<float> Floats(const TensorView& view) {
    return {view.f32(), static_cast<size_t>(view.NumElements())};
  }

  // The exchange of a unit's gradient in a round.
  struct Flight {
    int unit = 0;
    int64_t round = 0;
    // Empty: none.
    std::unique_ptr<CollectiveHandle> handle;
  };

  const GradientSetting setting_;
  // Of the unit's exchanges.
  std::vector<std::string> names_;
};

// Full gradients, each leaf's where the tree needs it.
class PlainSums : public Base {
 public:
  PlainSums(const GradientSetting& setting, MemoryClasses* memory)
      : Base(setting), leaves_(OwnLeaves(Accumulation::kPlain)), handles_(units()) {
    const int levels = std::bit_width(static_cast<uint64_t>(leaves_));
    for (size_t u = 0; u < units(); ++u) {
      std::vector<TensorView>& stack = sums_.emplace_back();
      for (int level = 0; level < levels; ++level) {
        stack.push_back(memory->gradients.Allocate({PaddedSize(static_cast<int>(u))}));
      }
    }
  }

  TensorView Open(int unit, int64_t leaf) override {
    const TensorView& gradient = sums_[unit][WaitingSums(leaf)];
    Zero(gradient);
    return gradient;
  }

  void Close(int unit, int64_t leaf) override {
    int top = WaitingSums(leaf);
    for (int i = CompletedSums(leaf); i > 0; --i) Merge(unit, top--);
    if (leaf + 1 < leaves_) return;
    // Only where the number of leaves is no power of two do sums still wait here.
    while (top > 0) Merge(unit, top--);
    const std::span<float> sum = Floats(sums_[unit][0]);
    handles_[unit] = setting_.stage == 0 ? setting_.communicator->AllReduce(sum, names_[unit])
                                         : setting_.communicator->ReduceScatter(sum, names_[unit]);
  }

  void Finish() override {
    for (size_t u = 0; u < units(); ++u) {
      CHECK(handles_[u] != nullptr) << names_[u] << ": no gradient of the last leaf";
      handles_[u]->Wait();
      handles_[u].reset();
    }
  }

  TensorView OwnShard(int unit) const override { return ShardOf(sums_[unit][0], unit); }
  TensorView Reduced(int unit) const override {
    return setting_.stage == 0 ? sums_[unit][0] : OwnShard(unit);
  }
  TensorView Staging(int unit) override { return sums_[unit][0]; }

 private:
  // Adds the newer sum at `top` to the older one below.
  void Merge(int unit, int top) { Add(sums_[unit][top], sums_[unit][top - 1]); }

  const int64_t leaves_;
  std::vector<std::vector<TensorView>> sums_;  // (padded) each
  std::vector<std::unique_ptr<CollectiveHandle>> handles_;
};

// Each leaf's gradient is reduced at once; what waits are sums of a shard over rounds. While one
// unit's gradient is exchanged, the next one's is computed: hence two leaf gradients.
class SplitSums : public Base {
 public:
  SplitSums(const GradientSetting& setting, MemoryClasses* memory)
      : Base(setting),
        rounds_(ShardLayout::Rounds(setting.communicator->size(), setting.micro_batches)) {
    CHECK_GE(setting.stage, 1) << "split accumulation at a stage that keeps whole gradients";
    for (TensorView& scratch : scratch_)
      scratch = memory->gradients.Allocate({LargestPaddedSize()});
    const int levels = std::bit_width(static_cast<uint64_t>(rounds_) + 1) - 1;
    for (size_t u = 0; u < units(); ++u) {
      std::vector<TensorView>& stack = sums_.emplace_back();
      for (int level = 0; level < levels; ++level) {
        stack.push_back(memory->gradients.Allocate({ShardSize(static_cast<int>(u))}));
      }
    }
  }

  TensorView Open(int unit, int64_t leaf) override {
    Land(next_);
    const TensorView gradient = scratch_[next_].Rows(0, PaddedSize(unit));
    Zero(gradient);
    return gradient;
  }

  void Close(int unit, int64_t leaf) override {
    const TensorView gradient = scratch_[next_].Rows(0, PaddedSize(unit));
    flights_[next_] = {
        .unit = unit,
        .round = leaf,
        .handle = setting_.communicator->ReduceScatter(Floats(gradient), names_[unit])};
    next_ = 1 - next_;
  }

  void Finish() override {
    Land(next_);
    Land(1 - next_);
  }

  TensorView OwnShard(int unit) const override { return sums_[unit][0]; }
  TensorView Reduced(int unit) const override { return sums_[unit][0]; }
  TensorView Staging(int unit) override { return scratch_[0].Rows(0, PaddedSize(unit)); }

 private:
  // Waits for the exchange of that leaf gradient and adds its outcome to the tree over rounds.
  void Land(int slot) {
    Flight& flight = flights_[slot];
    if (flight.handle == nullptr) return;
    flight.handle->Wait();
    flight.handle.reset();
    std::vector<TensorView>& sums = sums_[flight.unit];
    const TensorView leaf = ShardOf(scratch_[slot].Rows(0, PaddedSize(flight.unit)), flight.unit);
    int waiting = WaitingSums(flight.round);
    const int completed = CompletedSums(flight.round);
    if (completed == 0) {
      Cast(leaf, sums[waiting++]);
    } else {
      Add(leaf, sums[waiting - 1]);
      for (int i = 1; i < completed; ++i, --waiting) Add(sums[waiting - 1], sums[waiting - 2]);
    }
    if (flight.round + 1 < rounds_) return;
    for (; waiting > 1; --waiting) Add(sums[waiting - 1], sums[waiting - 2]);
  }

  const int64_t rounds_;
  std::array<TensorView, 2> scratch_;  // (largest padded) each
  std::array<Flight, 2> flights_;
  int next_ = 0;
  std::vector<std::vector<TensorView>> sums_;  // (shard) each
};

// A running sum of each unit and what its rounding left.
class LowPrecisionSums : public Base {
 public:
  LowPrecisionSums(const GradientSetting& setting, MemoryClasses* memory)
      : Base(setting), leaves_(OwnLeaves(Accumulation::kLowPrecision)), handles_(units()) {
    scratch_ = memory->gradients.Allocate({LargestPaddedSize()});
    for (size_t u = 0; u < units(); ++u) {
      both_.push_back(memory->gradients.Allocate({PaddedSize(static_cast<int>(u))}));
    }
  }

  TensorView Open(int unit, int64_t leaf) override {
    const TensorView gradient = Staging(unit);
    Zero(gradient);
    return gradient;
  }

  void Close(int unit, int64_t leaf) override {
    // All bits zero is zero in bfloat16 too.
    if (leaf == 0) Zero(both_[unit]);
    setting_.context->ops->add_compensated(
        {.x = Staging(unit), .sum = Half(unit, 0), .error = Half(unit, 1)}, *setting_.context);
    if (leaf + 1 < leaves_) return;
    const TensorView sum = Half(unit, 0);
    const std::span<uint16_t> numbers(sum.u16(), static_cast<size_t>(sum.NumElements()));
    handles_[unit] = setting_.stage == 0
                         ? setting_.communicator->AllReduceBf16(numbers, names_[unit])
                         : setting_.communicator->ReduceScatterBf16(numbers, names_[unit]);
  }

  void Finish() override {
    for (size_t u = 0; u < units(); ++u) {
      CHECK(handles_[u] != nullptr) << names_[u] << ": no gradient of the last leaf";
      handles_[u]->Wait();
      handles_[u].reset();
    }
  }

  TensorView OwnShard(int unit) const override { return ShardOf(Half(unit, 0), unit); }
  TensorView Reduced(int unit) const override {
    return setting_.stage == 0 ? Half(unit, 0) : OwnShard(unit);
  }
  TensorView Staging(int unit) override { return scratch_.Rows(0, PaddedSize(unit)); }

 private:
  // The sum (0) or the error (1), bfloat16, (padded).
  TensorView Half(int unit, int which) const {
    TensorView view = both_[unit];
    view.dtype = DType::kBF16;
    view.data = static_cast<char*>(view.data) + which * view.Bytes();
    return view;
  }

  const int64_t leaves_;
  TensorView scratch_;            // (largest padded), float32
  std::vector<TensorView> both_;  // (padded) each, as float32: sum, then error
  std::vector<std::unique_ptr<CollectiveHandle>> handles_;
};

// Each leaf's gradient is rounded to bfloat16 and reduced at once, under the next unit's backward;
// what is kept is a shard's running sum over rounds and, where there are several, what its rounding
// left.
class SplitLowPrecisionSums : public Base {
 public:
  SplitLowPrecisionSums(const GradientSetting& setting, MemoryClasses* memory)
      : Base(setting),
        rounds_(ShardLayout::Rounds(setting.communicator->size(), setting.micro_batches)) {
    CHECK_GE(setting.stage, 1) << "split accumulation at a stage that keeps whole gradients";
    scratch_ = memory->gradients.Allocate({LargestPaddedSize()});
    flying_ = memory->gradients.Allocate({LargestPaddedSize()}, DType::kBF16);
    for (size_t u = 0; u < units(); ++u) {
      const Shape shard{ShardSize(static_cast<int>(u))};
      sums_.push_back(memory->gradients.Allocate(shard, DType::kBF16));
      if (rounds_ > 1) errors_.push_back(memory->gradients.Allocate(shard, DType::kBF16));
    }
  }

  TensorView Open(int unit, int64_t leaf) override {
    const TensorView gradient = Staging(unit);
    Zero(gradient);
    return gradient;
  }

  void Close(int unit, int64_t leaf) override {
    Land();
    const TensorView rounded = flying_.Rows(0, PaddedSize(unit));
    Cast(Staging(unit), rounded);
    const std::span<uint16_t> numbers(rounded.u16(), static_cast<size_t>(rounded.NumElements()));
    flight_ = {.unit = unit,
               .round = leaf,
               .handle = setting_.communicator->ReduceScatterBf16(numbers, names_[unit])};
  }

  void Finish() override { Land(); }

  TensorView OwnShard(int unit) const override { return sums_[unit]; }
  TensorView Reduced(int unit) const override { return sums_[unit]; }
  TensorView Staging(int unit) override { return scratch_.Rows(0, PaddedSize(unit)); }

 private:
  // Waits for the exchange under way and adds its outcome to the sums.
  void Land() {
    if (flight_.handle == nullptr) return;
    flight_.handle->Wait();
    flight_.handle.reset();
    const int unit = flight_.unit;
    const TensorView leaf = ShardOf(flying_.Rows(0, PaddedSize(unit)), unit);
    if (flight_.round == 0) {
      Cast(leaf, sums_[unit]);
      if (rounds_ > 1) ZeroBf16(errors_[unit]);
    } else {
      setting_.context->ops->add_compensated(
          {.x = leaf, .sum = sums_[unit], .error = errors_[unit]}, *setting_.context);
    }
  }

  const int64_t rounds_;
  TensorView scratch_;  // (largest padded), float32
  TensorView flying_;   // (largest padded), bfloat16
  Flight flight_;
  std::vector<TensorView> sums_;    // (shard) each, bfloat16
  std::vector<TensorView> errors_;  // the same; none where there is one round
};

}  // namespace

std::unique_ptr<GradientSums> MakeGradientSums(Accumulation accumulation,
                                               const GradientSetting& setting,
                                               MemoryClasses* memory) {
  switch (accumulation) {
    case Accumulation::kPlain:
      return std::make_unique<PlainSums>(setting, memory);
    case Accumulation::kSplit:
      return std::make_unique<SplitSums>(setting, memory);
    case Accumulation::kLowPrecision:
      return std::make_unique<LowPrecisionSums>(setting, memory);
    case Accumulation::kSplitLowPrecision:
      return std::make_unique<SplitLowPrecisionSums>(setting, memory);
  }
  LOG(FATAL) << "accumulation " << static_cast<int>(accumulation);
}

}  // namespace swinfleet
