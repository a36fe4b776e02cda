#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <utility>
#include <vector>

#include "core/optim/optimizer.h"
#include "core/rng/counter_rng.h"

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

// AdamW on moments that are kept in bfloat16 beside one whose moments are float32, of elements
// whose gradients have sizes of their own.
struct BesideFloat32 {
  static constexpr int64_t kElements = 2000;
  std::vector<float> wide_param, narrow_param, grad, wide_m, wide_v;
  std::vector<uint16_t> narrow_m, narrow_v;
  OptimizerConfig optimizer = Config(OptimizerConfig::Kind::kAdamW);
  int64_t updates = 0;

  BesideFloat32()
      : wide_param(kElements),
        narrow_param(kElements),
        grad(kElements),
        wide_m(kElements),
        wide_v(kElements),
        narrow_m(kElements),
        narrow_v(kElements) {
    optimizer.beta2 = 0.999;
  }

  static float Widened(uint16_t bf16) { return std::bit_cast<float>(uint32_t{bf16} << 16); }

  // As many updates with gradients of about `size`, whose signs and sizes vary.
  void Run(int64_t count, float size) {
    Context context;
    context.ops = &CpuOps();
    const Shape shape{kElements};
    for (int64_t i = 0; i < count; ++i, ++updates) {
      CounterRng random(3, RandomPurpose::kBenchmarkData, static_cast<uint64_t>(updates));
      for (int64_t e = 0; e < kElements; ++e) {
        const auto scale = static_cast<float>(1 + e % 7);
        grad[e] = size * scale * static_cast<float>(0.5 + random.Normal());
      }
      OptimizerState wide;
      wide.first = ViewOf(wide_m.data(), shape);
      wide.second = ViewOf(wide_v.data(), shape);
      OptimizerState narrow;
      narrow.first = {narrow_m.data(), shape, DType::kBF16};
      narrow.second = {narrow_v.data(), shape, DType::kBF16};
      narrow.rounding = MomentRounding(/*seed=*/5, updates, /*parameter=*/2, 0);
      const auto update = [&](std::vector<float>& param, const OptimizerState& state) {
        UpdateSegment(optimizer, Decaying(), 1e-3, updates, 1, ViewOf(param.data(), shape),
                      ViewOf(grad.data(), shape), state, context);
      };
      update(wide_param, wide);
      update(narrow_param, narrow);
    }
  }
  // Of the second moments: how far bfloat16's are off, relative to float32's, on average and as a
  // root of the mean square.
  std::pair<double, double> Errors() const {
    double sum = 0, squares = 0;
    for (int64_t e = 0; e < kElements; ++e) {
      const double error = Widened(narrow_v[e]) / wide_v[e] - 1.0;
      sum += error;
      squares += error * error;
    }
    return {sum / kElements, std::sqrt(squares / kElements)};
  }
};

// With beta2 = 0.999 a second moment changes by far less than its last place in bfloat16 at each
// update. Rounded to the nearest it would never shrink.
TEST(UpdateSegment, SecondMomentsInBf16FollowFloat32) {
  BesideFloat32 run;
  // Up, down to a hundredth of the gradients, and on without any. What is forgotten is replaced by
  // what is exact, so that errors stay where they are; where a moment only shrinks they add up.
  for (const auto& [size, most] : {std::pair(1.0f, 0.07), {0.01f, 0.16}, {0.0f, 0.22}}) {
    run.Run(3000, size);
    const auto [bias, spread] = run.Errors();
    EXPECT_LT(spread, most) << size;
    EXPECT_GT(spread, 0.01) << size;
    // Of the average of 2000 independent errors.
    EXPECT_LT(std::abs(bias), 4 * spread / std::sqrt(2000.0)) << size;
  }
  // The weights went the same way.
  double moved = 0, apart = 0;
  for (int64_t e = 0; e < BesideFloat32::kElements; ++e) {
    moved += std::abs(run.wide_param[e]);
    apart += std::abs(run.narrow_param[e] - run.wide_param[e]);
  }
  EXPECT_LT(apart, 0.02 * moved);
}

TEST(UpdateSegment, CuttingChangesNoBitOfBf16Moments) {
  for (const auto kind : {OptimizerConfig::Kind::kAdamW, OptimizerConfig::Kind::kSgd}) {
    const OptimizerConfig optimizer = Config(kind);
    Segment whole, cut;
    std::vector<uint16_t> whole_first(kCount), cut_first(kCount), whole_second(kCount),
        cut_second(kCount);
    Context context;
    context.ops = &CpuOps();
    const auto update = [&](Segment& segment, std::vector<uint16_t>& first,
                            std::vector<uint16_t>& second, int64_t step, int64_t begin,
                            int64_t end) {
      const Shape shape{end - begin};
      OptimizerState state;
      state.first = {first.data() + begin, shape, DType::kBF16};
      state.rounding = MomentRounding(1, step, 3, begin);
      if (OptimizerStateTensors(kind) == 2) {
        state.second = {second.data() + begin, shape, DType::kBF16};
      }
      UpdateSegment(optimizer, Decaying(), 0.01, step, 1,
                    ViewOf(segment.param.data() + begin, shape),
                    ViewOf(segment.grad.data() + begin, shape), state, context);
    };
    for (int step = 0; step < 3; ++step) {
      update(whole, whole_first, whole_second, step, 0, kCount);
      for (const auto& [begin, end] : {std::pair{0, 337}, {337, 338}, {338, int{kCount}}}) {
        update(cut, cut_first, cut_second, step, begin, end);
      }
    }
    EXPECT_EQ(whole.param, cut.param);
    EXPECT_EQ(whole_first, cut_first);
    EXPECT_EQ(whole_second, cut_second);
  }
}

// Another seed, update or parameter draws other numbers.
TEST(MomentRounding, DependsOnWhatItIsToldAlone) {
  const auto drawn = [](const StochasticRounding& rounding) {
    const RandomStream& s = rounding.stream;
    return Philox4x32({0, s.counter[0], s.counter[1], s.counter[2]}, s.key);
  };
  const auto first = drawn(MomentRounding(1, 2, 3, 0));
  EXPECT_EQ(first, drawn(MomentRounding(1, 2, 3, 0)));
  EXPECT_NE(first, drawn(MomentRounding(2, 2, 3, 0)));
  EXPECT_NE(first, drawn(MomentRounding(1, 3, 3, 0)));
  EXPECT_NE(first, drawn(MomentRounding(1, 2, 4, 0)));
  EXPECT_EQ(MomentRounding(1, 2, 3, 40).first, 40);
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
