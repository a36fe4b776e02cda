#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/optim/optimizer.h"

namespace swinfleet {
namespace {

constexpr int64_t kCount = 1000;

// A parameter with its gradient and optimizer state.
struct Segment {
  std::vector<float> param, grad, first, second;

  Segment() : param(kCount), grad(kCount), first(kCount), second(kCount) {
    for (int64_t i = 0; i < kCount; ++i) {
      param[i] = std::sin(0.1f * static_cast<float>(i));
      grad[i] = 0.3f * std::cos(0.7f * static_cast<float>(i));
    }
  }
};

OptimizerConfig Config(OptimizerConfig::Kind kind) {
  OptimizerConfig optimizer;
  optimizer.kind = kind;
  optimizer.learning_rate = 0.01;
  return optimizer;
}

ParameterHyper Decaying() {
  ParameterHyper hyper;
  hyper.weight_decay = 0.05;
  return hyper;
}

void Update(const OptimizerConfig& optimizer, int64_t updates_made, float grad_scale,
            Segment& segment, int64_t begin, int64_t end) {
  const auto view = [&](std::vector<float>& values) {
    return ViewOf(values.data() + begin, Shape{end - begin});
  };
  OptimizerState state;
  state.first = view(segment.first);
  if (OptimizerStateTensors(optimizer.kind) == 2) state.second = view(segment.second);
  Arena workspace = Arena::OnHost("workspace", 1 << 16);
  Context context;
  context.ops = &CpuOps();
  context.workspace = &workspace;
  UpdateSegment(optimizer, Decaying(), optimizer.learning_rate, updates_made, grad_scale,
                view(segment.param), view(segment.grad), state, context);
}

TEST(UpdateSegment, FirstAdamWStepMovesByTheRate) {
  const OptimizerConfig optimizer = Config(OptimizerConfig::Kind::kAdamW);
  Segment segment;
  const Segment before = segment;
  Update(optimizer, 0, 1, segment, 0, kCount);
  for (int64_t i = 0; i < kCount; ++i) {
    // Bias-corrected moments of a first gradient are g and g^2.
    const double g = before.grad[i];
    const double expected =
        before.param[i] * (1 - 0.01 * 0.05) - 0.01 * g / (std::abs(g) + optimizer.eps);
    EXPECT_NEAR(segment.param[i], expected, 1e-6) << i;
  }
}

TEST(UpdateSegment, SgdIsNesterov) {
  const OptimizerConfig optimizer = Config(OptimizerConfig::Kind::kSgd);
  Segment segment;
  const Segment before = segment;
  Update(optimizer, 0, 1, segment, 0, kCount);
  Update(optimizer, 1, 1, segment, 0, kCount);
  for (int64_t i = 0; i < kCount; ++i) {
    double w = before.param[i];
    double momentum = 0;
    for (int step = 0; step < 2; ++step) {
      const double g = before.grad[i] + 0.05 * w;
      momentum = 0.9 * momentum + g;
      w -= 0.01 * (g + 0.9 * momentum);
    }
    EXPECT_NEAR(segment.param[i], w, 1e-6) << i;
  }
}

TEST(UpdateSegment, GradientIsScaledFirst) {
  for (const auto kind : {OptimizerConfig::Kind::kAdamW, OptimizerConfig::Kind::kSgd}) {
    const OptimizerConfig optimizer = Config(kind);
    Segment scaled;
    Segment small;
    for (float& g : small.grad) g *= 0.25f;
    Update(optimizer, 0, 0.25f, scaled, 0, kCount);
    Update(optimizer, 0, 1, small, 0, kCount);
    EXPECT_EQ(scaled.param, small.param);
    EXPECT_EQ(scaled.first, small.first);
  }
}

// A shard may end anywhere: what it cuts in two gets the same bits.
TEST(UpdateSegment, CuttingChangesNoBit) {
  for (const auto kind : {OptimizerConfig::Kind::kAdamW, OptimizerConfig::Kind::kSgd}) {
    const OptimizerConfig optimizer = Config(kind);
    Segment whole;
    Segment cut;
    for (int step = 0; step < 3; ++step) {
      Update(optimizer, step, 0.5f, whole, 0, kCount);
      Update(optimizer, step, 0.5f, cut, 0, 337);
      Update(optimizer, step, 0.5f, cut, 337, 338);
      Update(optimizer, step, 0.5f, cut, 338, kCount);
    }
    EXPECT_EQ(whole.param, cut.param);
    EXPECT_EQ(whole.first, cut.first);
    EXPECT_EQ(whole.second, cut.second);
  }
}

TEST(UpdateSegmentDeathTest, WeightsBelowFloat32NeedAMaster) {
  Segment segment;
  std::vector<uint16_t> bits(kCount);
  Context context;
  context.ops = &CpuOps();
  OptimizerState state;
  state.first = ViewOf(segment.first.data(), Shape{kCount});
  EXPECT_DEATH(UpdateSegment(Config(OptimizerConfig::Kind::kSgd), Decaying(), 0.01, 0, 1,
                             {bits.data(), Shape{kCount}, DType::kBF16},
                             ViewOf(segment.grad.data(), Shape{kCount}), state, context),
               "master");
}

TEST(ClipFactor, ScalesLongGradientsOnly) {
  EXPECT_EQ(ClipFactor(10, 0), 1);
  EXPECT_EQ(ClipFactor(4.9, 5), 1);
  EXPECT_FLOAT_EQ(ClipFactor(10, 5), 0.5f);
  EXPECT_EQ(ClipFactor(0, 5), 1);
}

TEST(ClipFactorDeathTest, NormThatIsNotANumberIsABrokenInvariant) {
  EXPECT_DEATH(ClipFactor(std::nan(""), 5), "finite");
}

TEST(BaseRate, ScalesTheLearningRate) {
  ParameterHyper hyper;
  hyper.lr_scale = 0.75;
  EXPECT_DOUBLE_EQ(BaseRate(Config(OptimizerConfig::Kind::kSgd), hyper), 0.0075);
}

}  // namespace
}  // namespace swinfleet
