// Drop path leaves pictures out of branches, to the result that a factor of zero has.
#include <gtest/gtest.h>

#include <iterator>
#include <string>
#include <vector>

#include "tests/core/nn_experiment.h"

namespace swinfleet {
namespace {

constexpr int64_t kPictures = 5;
constexpr float kFactor = 1.25f;
// So small that what it multiplies vanishes beside anything, and no zero: its picture is computed.
constexpr float kVanishing = 1e-30f;

// Which pictures the branches drop, as bits: none, the first, the last, some in the middle, all but
// one, all.
constexpr int kPatterns[] = {0b00000, 0b00001, 0b10000, 0b01010, 0b11011, 0b11111};

bool Drops(int block, int branch, int64_t picture) {
  return kPatterns[(2 * block + branch) % std::size(kPatterns)] >> picture & 1;
}

DropPath Factors(float dropped) {
  return [dropped](int block, int branch, int64_t picture) {
    return Drops(block, branch, picture) ? dropped : kFactor;
  };
}

class DropPathTest : public testing::TestWithParam<Architecture> {};

TEST_P(DropPathTest, IsWhatAFactorOfZeroGives) {
  const ModelConfig model = SmallModelOf(GetParam());
  ExpectClose(Results(model, MemoryConfig(), kPictures, Factors(0)),
              Results(model, MemoryConfig(), kPictures, Factors(kVanishing)));
}

// Of many pictures some dropped ones are computed.
TEST_P(DropPathTest, FillsUpLargeBatches) {
  const ModelConfig model = SmallModelOf(GetParam());
  constexpr int64_t kMany = 17;
  for (const int64_t kept : {0, 1, 6, 7, 16, 17}) {
    const auto run = [&](float dropped) {
      const DropPath drop_path = [=](int block, int branch, int64_t picture) {
        return (picture * 5 + block + branch) % kMany < kept ? kFactor : dropped;
      };
      return Results(model, MemoryConfig(), kMany, drop_path);
    };
    SCOPED_TRACE(std::to_string(kept) + " kept");
    ExpectClose(run(0), run(kVanishing));
  }
}

TEST_P(DropPathTest, CheckpointingChangesNoBit) {
  const ModelConfig model = SmallModelOf(GetParam());
  const std::vector<float> plain = Results(model, MemoryConfig(), kPictures, Factors(0));
  for (const MemoryConfig::Checkpointing checkpointing :
       {MemoryConfig::Checkpointing::kSelective, MemoryConfig::Checkpointing::kBlock}) {
    MemoryConfig memory;
    memory.checkpointing = {checkpointing, checkpointing};
    EXPECT_EQ(Results(model, memory, kPictures, Factors(0)), plain)
        << CheckpointingName(checkpointing);
  }
}

TEST_P(DropPathTest, SequentialAttentionAgrees) {
  const ModelConfig model = SmallModelOf(GetParam());
  MemoryConfig memory;
  memory.sequential_windows = {3, 3};
  ExpectClose(Results(model, memory, kPictures, Factors(0)),
              Results(model, MemoryConfig(), kPictures, Factors(0)));
}

TEST_P(DropPathTest, HoldsLessTheMoreItDrops) {
  const ModelConfig model = SmallModelOf(GetParam());
  const auto activations = [&](int64_t kept) {
    const DropPath drop_path = [kept](int, int, int64_t picture) {
      return picture < kept ? kFactor : 0.0f;
    };
    return Experiment(model, MemoryConfig(), kPictures, drop_path).activation_bytes();
  };
  // A picture's share of what the branches keep.
  const size_t all = activations(kPictures), one_less = activations(kPictures - 1);
  EXPECT_LT(one_less, all * 95 / 100);
  EXPECT_LT(activations(1), one_less * 8 / 10);
  // Where nothing is left, one picture is computed.
  EXPECT_EQ(activations(0), activations(1));
}

INSTANTIATE_TEST_SUITE_P(Architectures, DropPathTest, kSwinKinds, SwinKindName);

}  // namespace
}  // namespace swinfleet
