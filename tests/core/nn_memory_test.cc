// Activation checkpointing and sequential self-attention change memory, and not the result.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <tuple>
#include <vector>

#include "tests/core/nn_experiment.h"

namespace swinfleet {
namespace {

using Checkpointing = MemoryConfig::Checkpointing;

// With maps that windows don't divide.
ModelConfig Model(Architecture arch) {
  ModelConfig model = SmallModelOf(arch);
  model.image_h = 24;
  return model;
}

class MemoryTest : public testing::TestWithParam<Architecture> {};

TEST_P(MemoryTest, CheckpointingChangesNoBit) {
  const ModelConfig model = Model(GetParam());
  const std::vector<float> plain = Results(model, MemoryConfig());
  for (const Checkpointing first : {Checkpointing::kSelective, Checkpointing::kBlock}) {
    for (const Checkpointing second :
         {Checkpointing::kNone, Checkpointing::kSelective, Checkpointing::kBlock}) {
      MemoryConfig memory;
      memory.checkpointing = {first, second};
      EXPECT_EQ(Results(model, memory), plain)
          << CheckpointingName(first) << ", " << CheckpointingName(second);
    }
  }
}

TEST_P(MemoryTest, SequentialAttentionIsExact) {
  const ModelConfig model = Model(GetParam());
  const std::vector<float> plain = Results(model, MemoryConfig());
  // One window at a time, groups that don't divide the windows, and more than there are.
  for (const int64_t windows : {1, 5, 1000}) {
    for (const Checkpointing checkpointing : {Checkpointing::kNone, Checkpointing::kBlock}) {
      MemoryConfig memory;
      memory.sequential_windows = {windows, windows};
      memory.checkpointing = {checkpointing, checkpointing};
      SCOPED_TRACE(std::to_string(windows) + " windows");
      ExpectClose(Results(model, memory), plain);
    }
  }
}

TEST_P(MemoryTest, EachTechniqueHoldsLess) {
  ModelConfig model = Model(GetParam());
  model.image_h = model.image_w = 64;
  // Whole windows: padded clips are computed window by window anyway.
  if (model.is_video()) model.frames = 8;
  const auto activations = [&](const MemoryConfig& memory) {
    return Experiment(model, memory).activation_bytes();
  };
  MemoryConfig selective, block, sequential;
  selective.checkpointing = {Checkpointing::kSelective, Checkpointing::kSelective};
  block.checkpointing = {Checkpointing::kBlock, Checkpointing::kBlock};
  sequential.sequential_windows = {1, 1};
  const size_t plain = activations(MemoryConfig());
  EXPECT_LT(activations(selective), plain * 8 / 10);
  EXPECT_LT(activations(block), plain * 6 / 10);
  EXPECT_LT(activations(sequential), plain * 8 / 10);
}

INSTANTIATE_TEST_SUITE_P(Architectures, MemoryTest, kSwinKinds, SwinKindName);

}  // namespace
}  // namespace swinfleet
