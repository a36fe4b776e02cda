// The engine in one process: the tree of leaves, norm, memory, state.
#include "distributed/zero_engine.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <vector>

#include "kernels/error.h"
#include "tests/distributed/fake_training.h"

namespace swinfleet {
namespace {

// The sum of leaves [begin, end), a power of two of them, along the binary tree.
float TreeSum(int64_t begin, int64_t end, int unit, int64_t i) {
  if (end - begin == 1) return FakeGradient(0, begin, unit, i);
  const int64_t middle = (begin + end) / 2;
  return TreeSum(begin, middle, unit, i) + TreeSum(middle, end, unit, i);
}

// A step of SGD without momentum and decay at rate 1 from weights 0 leaves the negative gradient.
std::vector<float> SummedGradient(int64_t leaves, GradientNorm* norm) {
  const ParameterTable table = FakeTable();
  MemoryClasses plan = MemoryClasses::DryRun();
  Context dry{.ops = &DryRunOps(), .workspace = &plan.workspace};
  const auto self = MakeSelfCommunicator();
  ZeroOptions options;
  options.optimizer.kind = OptimizerConfig::Kind::kSgd;
  options.optimizer.momentum = 0;
  options.leaves = leaves;
  options.hypers.assign(table.parameters().size(), {.weight_decay = 0, .lr_scale = 1});
  ZeroEngine(table, self.get(), options, &plan, &dry);
  MemoryClasses memory = MemoryClasses::OnHost(plan);
  Context context{.ops = &CpuOps(), .workspace = &memory.workspace};
  ZeroEngine engine(table, self.get(), options, &memory, &context);
  engine.BeginStep();
  for (int64_t leaf = 0; leaf < leaves; ++leaf) {
    engine.BeginMicroBatch(leaf);
    for (const int unit : {3, 2, 1, 0}) {
      const TensorView gradient = engine.Gradient(unit);
      for (int64_t i = 0; i < table.units()[unit].size; ++i) {
        gradient.f32()[i] += FakeGradient(0, leaf, unit, i);
      }
      engine.GradientReady(unit);
    }
  }
  *norm = engine.FinishReduction();
  engine.Update(1.0, 0, 1.0f);
  engine.PublishParameters();
  const auto block = engine.ParameterValues(table.Find("block.weight"));
  return {block.begin(), block.end()};
}

TEST(ZeroEngine, LeavesAreSummedAlongTheTree) {
  for (const int64_t leaves : {1, 2, 4, 8, 16}) {
    GradientNorm norm;
    const std::vector<float> sum = SummedGradient(leaves, &norm);
    for (size_t i = 0; i < sum.size(); ++i) {
      ASSERT_EQ(sum[i], -TreeSum(0, leaves, 1, static_cast<int64_t>(i))) << leaves << " at " << i;
    }
    EXPECT_TRUE(norm.first_nonfinite.empty());
  }
}

TEST(ZeroEngine, OtherNumbersOfLeavesAreSummedToo) {
  for (const int64_t leaves : {3, 5, 6, 7, 9}) {
    GradientNorm norm;
    const std::vector<float> sum = SummedGradient(leaves, &norm);
    for (size_t i = 0; i < sum.size(); ++i) {
      double expected = 0;
      for (int64_t leaf = 0; leaf < leaves; ++leaf) {
        expected -= FakeGradient(0, leaf, 1, static_cast<int64_t>(i));
      }
      ASSERT_NEAR(sum[i], expected, 1e-6) << leaves << " at " << i;
    }
  }
}

TEST(ZeroEngine, NormIsThatOfAllParameters) {
  GradientNorm norm;
  SummedGradient(1, &norm);
  const ParameterTable table = FakeTable();
  double squares = 0;
  for (int unit = 0; unit < 4; ++unit) {
    for (int64_t i = 0; i < table.units()[unit].size; ++i) {
      const double g = FakeGradient(0, 0, unit, i);
      squares += g * g;
    }
  }
  EXPECT_NEAR(norm.norm, std::sqrt(squares), 1e-9 * norm.norm);
}

TEST(ZeroEngine, MemoryIsWhatTheStagePromises) {
  for (const auto kind : {OptimizerConfig::Kind::kAdamW, OptimizerConfig::Kind::kSgd}) {
    for (const int ranks : {1, 2, 3, 8}) {
      for (const int stage : {0, 1}) {
        const auto dry = MakeDryRunCommunicator(ranks - 1, ranks);
        FakeTraining training(dry.get(), {.stage = stage, .optimizer = kind, .leaves = 8}, true);
        const ShardLayout layout(training.table(), ranks);
        size_t full = 0;
        for (int unit = 0; unit < 4; ++unit) full += layout.PaddedSize(unit) * sizeof(float);
        const size_t levels = ranks == 1 ? 4 : ranks == 2 ? 3 : ranks == 3 ? 2 : 1;
        const size_t states = kind == OptimizerConfig::Kind::kAdamW ? 2 : 1;
        EXPECT_EQ(training.memory().parameters.high_water(), full);
        EXPECT_EQ(training.memory().gradients.high_water(), levels * full);
        EXPECT_EQ(training.memory().optimizer.high_water(),
                  states * full / (stage == 1 ? ranks : 1));
      }
    }
  }
}

TEST(ZeroEngine, ADryStepTouchesNothingAndCountsItsTraffic) {
  const auto dry = MakeDryRunCommunicator(0, 2);
  FakeTraining training(dry.get(), {.stage = 1}, true);
  EXPECT_EQ(training.Step().norm, 0);
  const ShardLayout layout(training.table(), 2);
  uint64_t bytes = 0;
  for (int unit = 0; unit < 4; ++unit) {
    bytes += 2 * layout.ShardSize(unit) * sizeof(float);
    bytes += layout.ShardSize(unit) / kNormChunk * sizeof(double);
  }
  EXPECT_EQ(dry->bytes_sent(), bytes);
}

TEST(ZeroEngine, PlanAndUseAgree) {
  const auto self = MakeSelfCommunicator();
  FakeTraining training(self.get(), {});
  training.Step();
  EXPECT_EQ(training.memory().workspace.high_water(), training.memory().workspace.used());
  const auto silent = MakeDryRunCommunicator(0, 1);
  FakeTraining planned(silent.get(), {}, true);
  EXPECT_EQ(training.memory().TotalHighWater(), planned.memory().TotalHighWater());
}

TEST(ZeroEngine, PaddingStaysZero) {
  const auto self = MakeSelfCommunicator();
  FakeTraining training(self.get(), {});
  for (int i = 0; i < 3; ++i) training.Step();
  for (int unit = 0; unit < 4; ++unit) {
    const TensorView values = training.engine().Acquire(unit);
    std::vector<bool> used(values.NumElements());
    for (const int p : training.table().units()[unit].parameters) {
      const ParameterInfo& info = training.table().parameters()[p];
      for (int64_t i = 0; i < info.size(); ++i) used[info.offset + i] = true;
    }
    for (int64_t i = 0; i < values.NumElements(); ++i) {
      if (used[i]) continue;
      ASSERT_EQ(values.f32()[i], 0.0f) << unit << " at " << i;
    }
    training.engine().Release(unit);
  }
}

TEST(ZeroEngine, AUnitWithoutGradientHasOneOfZeros) {
  const auto self = MakeSelfCommunicator();
  FakeTraining training(self.get(), {.leaves = 1});
  training.Step();
  ZeroEngine& engine = training.engine();
  engine.BeginStep();
  engine.BeginMicroBatch(0);
  for (int unit = 0; unit < 4; ++unit) engine.GradientReady(unit);
  EXPECT_EQ(engine.FinishReduction().norm, 0);
}

TEST(ZeroEngineDeathTest, ALeafThatIsMissingIsABrokenInvariant) {
  const auto self = MakeSelfCommunicator();
  FakeTraining training(self.get(), {.leaves = 2});
  ZeroEngine& engine = training.engine();
  engine.BeginStep();
  engine.BeginMicroBatch(0);
  EXPECT_DEATH(engine.BeginMicroBatch(1), "no gradient of leaf 0");
  for (int unit = 0; unit < 4; ++unit) engine.GradientReady(unit);
  EXPECT_DEATH(engine.FinishReduction(), "micro-batches are missing");
}

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "zero_engine_XXXXXX").string();
    CHECK(mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// Throws what a load of the file `dir` into an engine of that optimizer throws.
void Save(FakeTraining& training, const std::string& dir) {
  const ShardRecord record = WriteShard(dir, 0, 1, training.engine().OwnedState());
  CommitManifest(dir, CheckpointMeta{}, {record});
}

TEST(ZeroEngine, LoadedStateContinuesToTheBit) {
  const TemporaryFolder folder;
  const std::string dir = folder.path() / "step";
  const auto self = MakeSelfCommunicator();
  FakeTraining original(self.get(), {});
  original.Step();
  original.Step();
  Save(original, dir);
  FakeTraining resumed(self.get(), {.stage = 0});
  resumed.engine().Load(*CheckpointReader::Open(dir));
  resumed.set_step(2);
  EXPECT_EQ(original.Weights(), resumed.Weights());
  EXPECT_EQ(original.Step().norm, resumed.Step().norm);
  EXPECT_EQ(original.Weights(), resumed.Weights());
}

TEST(ZeroEngine, ACheckpointOfAnotherOptimizerIsRefused) {
  const TemporaryFolder folder;
  const std::string dir = folder.path() / "step";
  const auto self = MakeSelfCommunicator();
  FakeTraining sgd(self.get(), {.optimizer = OptimizerConfig::Kind::kSgd});
  Save(sgd, dir);
  FakeTraining adamw(self.get(), {});
  try {
    adamw.engine().Load(*CheckpointReader::Open(dir));
    FAIL() << "loaded";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("adamw_m/embedding.weight"), std::string::npos)
        << error.what();
  }
}

TEST(ZeroEngine, ATensorOfAnotherShapeIsRefused) {
  const TemporaryFolder folder;
  const std::string dir = folder.path() / "step";
  const auto self = MakeSelfCommunicator();
  FakeTraining training(self.get(), {.optimizer = OptimizerConfig::Kind::kSgd});
  std::vector<TensorPiece> pieces = training.engine().OwnedState();
  for (TensorPiece& piece : pieces) {
    if (piece.tensor.ends_with("head.bias")) piece.shape = Shape{2, 5};
  }
  CommitManifest(dir, CheckpointMeta{}, {WriteShard(dir, 0, 1, pieces)});
  try {
    training.engine().Load(*CheckpointReader::Open(dir));
    FAIL() << "loaded";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("(2, 5), the model's is (10)"), std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace swinfleet
