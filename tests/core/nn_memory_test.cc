// Activation checkpointing and sequential self-attention change memory, and not the result.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <tuple>
#include <vector>

#include "tests/core/nn_experiment.h"

namespace swinfleet {
namespace {

using Checkpointing = MemoryConfig::Checkpointing;

ModelConfig Model(Architecture arch) {
  ModelConfig model = SmallModel();
  model.arch = arch;
  model.image_h = 24;
  model.image_w = 32;
  model.depths = {2, 2};
  model.extra_norm_period = arch == Architecture::kSwinV2 ? 2 : 0;
  if (model.is_video()) {
    model.frames = 6;
    model.patch_frames = 2;
    model.window_frames = 2;
  }
  return model;
}

// Loss and all gradients.
std::vector<float> Results(const ModelConfig& model, const MemoryConfig& memory) {
  Experiment experiment(model, memory);
  std::vector<float> results = {static_cast<float>(experiment.Run())};
  for (int i = 0; i < experiment.Count(); ++i) {
    const std::vector<float> gradient = experiment.Gradient(i);
    results.insert(results.end(), gradient.begin(), gradient.end());
  }
  results.insert(results.end(), experiment.image_gradient().begin(),
                 experiment.image_gradient().end());
  return results;
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
      const std::vector<float> results = Results(model, memory);
      ASSERT_EQ(results.size(), plain.size());
      float largest = 0, worst = 0;
      for (size_t i = 0; i < plain.size(); ++i) {
        largest = std::max(largest, std::abs(plain[i]));
        worst = std::max(worst, std::abs(results[i] - plain[i]));
      }
      EXPECT_LE(worst, 2e-6f * largest) << windows << " windows";
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

INSTANTIATE_TEST_SUITE_P(Architectures, MemoryTest,
                         testing::Values(Architecture::kSwinV1, Architecture::kSwinV2,
                                         Architecture::kVideoSwin),
                         [](const auto& info) {
                           return std::string(info.param == Architecture::kSwinV1   ? "V1"
                                              : info.param == Architecture::kSwinV2 ? "V2"
                                                                                    : "Video");
                         });

}  // namespace
}  // namespace swinfleet
