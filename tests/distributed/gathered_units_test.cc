// When units are gathered, and of what.
#include "distributed/gathered_units.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "kernels/ops.h"

namespace swinfleet {
namespace {

constexpr int kUnits = 5;

// Four ranks that only count, or one.
class Gathering {
 public:
  explicit Gathering(bool alone)
      : communicator_(alone ? MakeSelfCommunicator() : MakeDryRunCommunicator(1, 4)),
        layout_(Table(), communicator_->size()),
        memory_(alone ? Arena::OnHost("parameters", size_t{1} << 20) : Arena::DryRun("parameters")),
        context_{.ops = alone ? &CpuOps() : &DryRunOps(), .workspace = &workspace_} {
    for (int unit = 0; unit < kUnits; ++unit) {
      shards_.push_back(memory_.Allocate({layout_.ShardSize(unit)}));
    }
    used_by_shards_ = memory_.used();
    units_ = std::make_unique<GatheredUnits>(
        Table(), layout_, shards_, [this](int unit) { waited_for_.push_back(unit); },
        communicator_.get(), &context_, &memory_);
  }

  // What the latest collective was.
  std::string Latest() const { return communicator_->position().name; }
  uint64_t Collectives() const { return communicator_->position().sequence; }
  TensorView Use(int unit) {
    const TensorView values = units_->Acquire(unit);
    units_->Release(unit);
    return values;
  }
  void Pass() {
    for (int unit = 0; unit < kUnits; ++unit) Use(unit);
    for (int unit = kUnits - 1; unit >= 0; --unit) Use(unit);
  }
  GatheredUnits& units() { return *units_; }
  const std::vector<TensorView>& shards() const { return shards_; }
  // The units whose shards were waited for.
  std::vector<int>& waited_for() { return waited_for_; }
  size_t BufferBytes() const { return memory_.used() - used_by_shards_; }

 private:
  // Units of one to five chunks and a bit.
  static const ParameterTable& Table() {
    static const ParameterTable table = [] {
      ParameterTable made;
      for (int unit = 0; unit < kUnits; ++unit) {
        made.BeginUnit(std::to_string(unit));
        made.Add(std::to_string(unit) + ".weight", Shape{(unit + 1) * kNormChunk - 7}, {});
      }
      return made;
    }();
    return table;
  }

  std::unique_ptr<Communicator> communicator_;
  ShardLayout layout_;
  Arena memory_;
  Arena workspace_ = Arena::DryRun("workspace");
  Context context_;
  std::vector<TensorView> shards_;
  std::vector<int> waited_for_;
  size_t used_by_shards_ = 0;
  std::unique_ptr<GatheredUnits> units_;
};

TEST(GatheredUnits, TwoOfTheLargestAreAllThatIsHeld) {
  // Five chunks in four shards of whole chunks are eight.
  EXPECT_EQ(Gathering(false).BufferBytes(), 2 * 8 * kNormChunk * sizeof(float));
}

TEST(GatheredUnits, TheNextOneIsGatheredWhileOneIsUsed) {
  Gathering gathering(false);
  gathering.Pass();
  gathering.units().Forget();
  // Forward, from what the first pass has shown.
  for (int unit = 0; unit < kUnits; ++unit) {
    gathering.units().Acquire(unit);
    // The first one comes after itself in backward; from then on the order is known.
    const int next = unit == 0 ? 0 : std::min(unit + 1, kUnits - 1);
    EXPECT_EQ(gathering.Latest(), "all-gather " + std::to_string(next)) << unit;
    gathering.units().Release(unit);
  }
  // Backward begins with the two that are there.
  for (int unit = kUnits - 1; unit >= 0; --unit) {
    gathering.units().Acquire(unit);
    const int next = unit == kUnits - 1 ? unit : std::max(unit - 1, 0);
    EXPECT_EQ(gathering.Latest(), "all-gather " + std::to_string(next)) << unit;
    gathering.units().Release(unit);
  }
}

TEST(GatheredUnits, WhatIsThereIsNotGatheredAgain) {
  Gathering gathering(false);
  gathering.Pass();
  EXPECT_EQ(gathering.Collectives(), 5u + 3u);
  // Computing a block again.
  gathering.Use(0);
  gathering.Use(0);
  EXPECT_EQ(gathering.Collectives(), 8u);
  gathering.units().Forget();
  gathering.Use(0);
  EXPECT_EQ(gathering.Latest(), "all-gather 0");
  EXPECT_GT(gathering.Collectives(), 8u);
}

TEST(GatheredUnits, ShardsAreWaitedForWhenTheyAreGathered) {
  Gathering gathering(false);
  gathering.Pass();
  gathering.units().Forget();
  gathering.waited_for().clear();
  gathering.Use(0);
  EXPECT_EQ(gathering.waited_for(), std::vector<int>({0}));
  gathering.Use(1);
  EXPECT_EQ(gathering.waited_for(), std::vector<int>({0, 1, 2}));
}

TEST(GatheredUnits, ChangesAreSeenOnceTheyAreTold) {
  Gathering gathering(true);
  for (int unit = 0; unit < kUnits; ++unit) {
    for (float& value : gathering.shards()[unit].span()) value = static_cast<float>(unit);
  }
  for (int pass = 0; pass < 3; ++pass) {
    for (const int unit : {0, 1, 2, 3, 4, 3, 1, 4, 0, 0, 2}) {
      const TensorView values = gathering.Use(unit);
      ASSERT_EQ(values.NumElements(), (unit + 1) * kNormChunk);
      for (const float value : values.span()) ASSERT_EQ(value, static_cast<float>(unit + pass));
    }
    gathering.units().Forget();
    for (const TensorView& shard : gathering.shards()) {
      for (float& value : shard.span()) ++value;
    }
  }
}

TEST(GatheredUnitsDeath, OneUnitIsInUseAtATime) {
  Gathering gathering(false);
  gathering.units().Acquire(2);
  EXPECT_DEATH(gathering.units().Acquire(3), "while unit 2 is in use");
  EXPECT_DEATH(gathering.units().Forget(), "is in use");
  EXPECT_DEATH(gathering.units().Release(1), "is not in use");
}

}  // namespace
}  // namespace swinfleet
