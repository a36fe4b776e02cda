// The engine in one process: the tree of leaves, norm, memory, state.
#include "distributed/zero_engine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
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
std::vector<float> SummedGradient(int64_t leaves, GradientNorm* norm,
                                  Accumulation accumulation = Accumulation::kPlain) {
  const ParameterTable table = FakeTable();
  MemoryClasses plan = MemoryClasses::DryRun();
  Context dry{.ops = &DryRunOps(), .workspace = &plan.workspace};
  const auto self = MakeSelfCommunicator();
  ZeroOptions options;
  options.optimizer.kind = OptimizerConfig::Kind::kSgd;
  options.optimizer.momentum = 0;
  options.micro_batches = leaves;
  options.accumulation = accumulation;
  options.hypers.assign(table.parameters().size(), {.weight_decay = 0, .lr_scale = 1});
  ZeroEngine(table, self.get(), options, &plan, &dry);
  MemoryClasses memory = MemoryClasses::OnHost(plan);
  Context context{.ops = &CpuOps(), .workspace = &memory.workspace};
  ZeroEngine engine(table, self.get(), options, &memory, &context);
  engine.BeginStep();
  for (int64_t leaf = 0; leaf < leaves; ++leaf) {
    engine.BeginMicroBatch(leaf);
    for (const int unit : {4, 3, 2, 1, 0}) {
      const TensorView gradient = ZeroedGradient(&engine, table, unit, &context);
      for (int64_t i = 0; i < table.units()[unit].size; ++i) {
        gradient.f32()[i] += FakeGradient(0, leaf, unit, i);
      }
      engine.GradientReady(unit);
    }
  }
  *norm = engine.FinishReduction();
  engine.Update(std::vector<double>(table.parameters().size(), 1.0), 0, 1.0f);
  engine.PublishParameters();
  const int parameter = table.Find("block.weight");
  std::vector<float> block(table.parameters()[parameter].size());
  engine.GetParameter(parameter, block);
  return block;
}

TEST(ZeroEngine, LeavesAreSummedAlongTheTree) {
  for (const Accumulation form : {Accumulation::kPlain, Accumulation::kSplit}) {
    for (const int64_t leaves : {1, 2, 4, 8, 16}) {
      GradientNorm norm;
      const std::vector<float> sum = SummedGradient(leaves, &norm, form);
      for (size_t i = 0; i < sum.size(); ++i) {
        ASSERT_EQ(sum[i], -TreeSum(0, leaves, 1, static_cast<int64_t>(i))) << leaves << " at " << i;
      }
      EXPECT_TRUE(norm.first_nonfinite.empty());
    }
  }
}

// 64 additions in bfloat16 alone would be off by several units in its last place.
TEST(ZeroEngine, LowPrecisionLosesNoMoreThanOneRounding) {
  for (const Accumulation form : {Accumulation::kLowPrecision, Accumulation::kSplitLowPrecision}) {
    for (const int64_t leaves : {1, 2, 7, 64}) {
      GradientNorm norm, plain_norm;
      const std::vector<float> sum = SummedGradient(leaves, &norm, form);
      const std::vector<float> plain = SummedGradient(leaves, &plain_norm);
      for (size_t i = 0; i < sum.size(); ++i) {
        double size = 0;
        for (int64_t leaf = 0; leaf < leaves; ++leaf) {
          size += std::abs(FakeGradient(0, leaf, 1, static_cast<int64_t>(i)));
        }
        // Where it is exchanged, each leaf is rounded too.
        const double each = form == Accumulation::kSplitLowPrecision ? 0x1p-8 : 0;
        ASSERT_NEAR(sum[i], plain[i], std::abs(plain[i]) * 0x1p-8 + size * (0x1p-14 + each))
            << leaves << ", " << i;
        ASSERT_EQ(std::bit_cast<uint32_t>(sum[i]) & 0xffff, 0u) << "is no bfloat16";
      }
      EXPECT_NEAR(norm.norm, plain_norm.norm, 3e-4 * plain_norm.norm);
    }
  }
}

TEST(ZeroEngine, OtherNumbersOfLeavesAreSummedToo) {
  for (const Accumulation form : {Accumulation::kPlain, Accumulation::kSplit}) {
    for (const int64_t leaves : {3, 5, 6, 7, 9}) {
      GradientNorm norm;
      const std::vector<float> sum = SummedGradient(leaves, &norm, form);
      for (size_t i = 0; i < sum.size(); ++i) {
        double expected = 0;
        for (int64_t leaf = 0; leaf < leaves; ++leaf) {
          expected -= FakeGradient(0, leaf, 1, static_cast<int64_t>(i));
        }
        ASSERT_NEAR(sum[i], expected, 1e-6) << leaves << " at " << i;
      }
    }
  }
}

TEST(ZeroEngine, NormIsThatOfAllParameters) {
  GradientNorm norm;
  SummedGradient(1, &norm);
  const ParameterTable table = FakeTable();
  double squares = 0;
  for (int unit = 0; unit < 5; ++unit) {
    for (int64_t i = 0; i < table.units()[unit].size; ++i) {
      const double g = FakeGradient(0, 0, unit, i);
      squares += g * g;
    }
  }
  EXPECT_NEAR(norm.norm, std::sqrt(squares), 1e-9 * norm.norm);
}

// Elements of all units, and of the largest, with padding.
struct Sizes {
  size_t all = 0;
  size_t largest = 0;
};

Sizes SizesOf(const FakeTraining& training, int ranks) {
  const ShardLayout layout(training.table(), ranks);
  Sizes sizes;
  for (int unit = 0; unit < training.units(); ++unit) {
    const auto padded = static_cast<size_t>(layout.PaddedSize(unit));
    sizes.all += padded;
    sizes.largest = std::max(sizes.largest, padded);
  }
  return sizes;
}

TEST(ZeroEngine, MemoryIsWhatTheStagePromises) {
  for (const auto kind : {OptimizerConfig::Kind::kAdamW, OptimizerConfig::Kind::kSgd}) {
    for (const auto dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      for (const int ranks : {1, 2, 3, 8}) {
        for (int stage = 0; stage <= kMostZeroStage; ++stage) {
          const auto dry = MakeDryRunCommunicator(ranks - 1, ranks);
          FakeTraining training(dry.get(),
                                {.stage = stage,
                                 .optimizer = kind,
                                 .leaves = 8,
                                 .dtype = dtype,
                                 .accumulation = DefaultAccumulation(stage)},
                                true);
          const auto [all, largest] = SizesOf(training, ranks);
          // Sums that wait: of whole gradients, or of a rank's shard over the rounds.
          const size_t levels = ranks == 1 ? 4 : ranks == 2 ? 3 : ranks == 3 ? 2 : 1;
          const size_t waiting = ranks == 1 ? 3 : ranks <= 3 ? 2 : 1;
          const size_t states = kind == OptimizerConfig::Kind::kAdamW ? 8 : 4;
          const size_t master = dtype == DType::kF32 ? 0 : dtype == DType::kBF16 ? 2 : 4;
          const size_t parameters = stage < 3 || ranks == 1 ? all : all / ranks + 2 * largest;
          EXPECT_EQ(training.memory().parameters.high_water(), parameters * SizeOf(dtype));
          EXPECT_EQ(training.memory().gradients.high_water(),
                    stage < 2 ? 4 * levels * all : 4 * waiting * all / ranks + 8 * largest);
          EXPECT_EQ(training.memory().optimizer.high_water(),
                    (states + master) * all / (stage >= 1 ? ranks : 1));
        }
      }
    }
  }
}

TEST(ZeroEngine, MemoryIsWhatTheFormPromises) {
  for (const int ranks : {1, 2, 3, 4, 8}) {
    const auto dry = MakeDryRunCommunicator(0, ranks);
    FakeTraining split(dry.get(), {.leaves = 8, .accumulation = Accumulation::kSplit}, true);
    const Sizes sizes = SizesOf(split, ranks);
    const size_t waiting = ranks == 1 ? 3 : ranks <= 3 ? 2 : 1;
    EXPECT_EQ(split.memory().gradients.high_water(),
              4 * waiting * sizes.all / ranks + 8 * sizes.largest);
    for (const int64_t leaves : {int64_t{ranks}, int64_t{8}}) {
      FakeTraining split_low(
          dry.get(),
          {.stage = 2, .leaves = leaves, .accumulation = Accumulation::kSplitLowPrecision}, true);
      EXPECT_EQ(split_low.memory().gradients.high_water(),
                (leaves > ranks ? 4 : 2) * sizes.all / ranks + 6 * sizes.largest);
    }
    for (const int stage : {0, 1}) {
      FakeTraining low(dry.get(),
                       {.stage = stage, .leaves = 8, .accumulation = Accumulation::kLowPrecision},
                       true);
      EXPECT_EQ(low.memory().gradients.high_water(), 4 * sizes.all + 4 * sizes.largest);
    }
  }
}

// What a rank of two sends: the norm's chunks, the parameters, and the gradients so many times.
TEST(ZeroEngine, ADryStepTouchesNothingAndCountsItsTraffic) {
  struct Case {
    Accumulation form;
    DType dtype;
    size_t gradient_bytes;
    size_t parameter_bytes;
  };
  for (const Case& c : {Case{Accumulation::kPlain, DType::kF32, 4, 4},
                        Case{Accumulation::kPlain, DType::kBF16, 4, 2},
                        Case{Accumulation::kSplit, DType::kF32, 4 * 4, 4},
                        Case{Accumulation::kSplit, DType::kF16, 4 * 4, 2},
                        Case{Accumulation::kLowPrecision, DType::kBF16, 2, 2},
                        Case{Accumulation::kSplitLowPrecision, DType::kBF16, 4 * 2, 2}}) {
    const auto dry = MakeDryRunCommunicator(0, 2);
    FakeTraining training(dry.get(), {.dtype = c.dtype, .accumulation = c.form}, true);
    EXPECT_EQ(training.Step().norm, 0);
    const size_t shards = SizesOf(training, 2).all / 2;
    EXPECT_EQ(dry->bytes_sent(), (c.gradient_bytes + c.parameter_bytes) * shards +
                                     shards / kNormChunk * sizeof(double));
    EXPECT_FALSE(training.engine().OwnedState().empty());
  }
}

// At stage 3 a unit is gathered in each forward and each backward pass, but where one of them ends
// the other begins with what is in the buffers; an update makes them stale.
TEST(ZeroEngine, AStepGathersEachUnitAsOftenAsItIsUsed) {
  for (const auto dtype : {DType::kF32, DType::kBF16}) {
    const auto dry = MakeDryRunCommunicator(0, 2);
    FakeTraining training(dry.get(),
                          {.stage = 3, .dtype = dtype, .accumulation = Accumulation::kSplit}, true);
    const ShardLayout layout(training.table(), 2);
    // 8 leaves on 2 ranks.
    const size_t rounds = 4;
    size_t sent = SizesOf(training, 2).all / 2 / kNormChunk * sizeof(double);
    for (int unit = 0; unit < 5; ++unit) {
      const size_t gathers = unit < 2 ? rounds + 1 : unit < 3 ? 2 * rounds : rounds;
      sent += (gathers * SizeOf(dtype) + rounds * 4) * layout.ShardSize(unit);
    }
    for (int step = 0; step < 3; ++step) {
      const uint64_t before = dry->bytes_sent();
      training.Step();
      EXPECT_EQ(dry->bytes_sent() - before, sent) << "step " << step;
    }
  }
}

TEST(ZeroEngine, PlanAndUseAgree) {
  const auto self = MakeSelfCommunicator();
  for (const Accumulation form : {Accumulation::kPlain, Accumulation::kSplit,
                                  Accumulation::kLowPrecision, Accumulation::kSplitLowPrecision}) {
    const FakeOptions options{
        .stage = form == Accumulation::kSplit ? 3 : 1, .dtype = DType::kBF16, .accumulation = form};
    FakeTraining training(self.get(), options);
    training.Step();
    EXPECT_EQ(training.memory().workspace.high_water(), training.memory().workspace.used());
    const auto silent = MakeDryRunCommunicator(0, 1);
    FakeTraining planned(silent.get(), options, true);
    EXPECT_EQ(training.memory().TotalHighWater(), planned.memory().TotalHighWater());
  }
}

TEST(ZeroEngine, PaddingStaysZero) {
  const auto self = MakeSelfCommunicator();
  for (const auto dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    FakeTraining training(self.get(), {.dtype = dtype});
    for (int i = 0; i < 3; ++i) training.Step();
    for (int unit = 0; unit < training.units(); ++unit) {
      const TensorView values = training.engine().Acquire(unit);
      EXPECT_EQ(values.dtype, dtype);
      std::vector<bool> used(values.NumElements());
      for (const int p : training.table().units()[unit].parameters) {
        const ParameterInfo& info = training.table().parameters()[p];
        for (int64_t i = 0; i < info.size(); ++i) used[info.offset + i] = true;
      }
      const size_t bytes = SizeOf(dtype);
      const char* data = static_cast<const char*>(values.data);
      for (int64_t i = 0; i < values.NumElements(); ++i) {
        if (used[i]) continue;
        ASSERT_TRUE(std::all_of(data + i * bytes, data + (i + 1) * bytes,
                                [](char byte) { return byte == 0; }))
            << unit << " at " << i;
      }
      training.engine().Release(unit);
    }
  }
}

// The gradients here don't depend on the weights, so that masters must go the way of float32
// weights, to the bit, and the values are what rounding makes of them.
TEST(ZeroEngine, MastersAreFloat32Weights) {
  const auto self = MakeSelfCommunicator();
  for (const auto kind : {OptimizerConfig::Kind::kAdamW, OptimizerConfig::Kind::kSgd}) {
    for (const auto dtype : {DType::kBF16, DType::kF16}) {
      FakeTraining wide(self.get(), {.optimizer = kind});
      FakeTraining narrow(self.get(), {.optimizer = kind, .dtype = dtype});
      for (int step = 0; step < 4; ++step) {
        const auto wide_state = StateIn(wide.engine().OwnedState());
        const auto narrow_state = StateIn(narrow.engine().OwnedState());
        EXPECT_EQ(wide_state, narrow_state) << NameOf(dtype) << " step " << step;
        const std::vector<float> masters = wide.Weights(), values = narrow.Weights();
        const double unit = dtype == DType::kBF16 ? 0x1p-8 : 0x1p-11;
        const double tiny = dtype == DType::kBF16 ? 0 : 0x1p-25;
        for (size_t i = 0; i < masters.size(); ++i) {
          ASSERT_NEAR(values[i], masters[i], std::abs(masters[i]) * unit + tiny);
          if (dtype != DType::kBF16) continue;
          const uint32_t bits = std::bit_cast<uint32_t>(masters[i]);
          ASSERT_EQ(std::bit_cast<uint32_t>(values[i]), (bits + 0x8000) & 0xffff0000u);
        }
        EXPECT_EQ(wide.Step().norm, narrow.Step().norm);
      }
    }
  }
}

TEST(ZeroEngine, ParametersAreSetWithTheirMasters) {
  const auto self = MakeSelfCommunicator();
  for (const auto dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    FakeTraining training(self.get(), {.dtype = dtype});
    const int parameter = training.table().Find("embedding.bias");
    std::vector<float> values(33);
    for (int i = 0; i < 33; ++i) values[i] = std::sin(static_cast<float>(i)) * 1e-3f;
    training.engine().SetParameter(parameter, values);
    EXPECT_EQ(StateIn(training.engine().OwnedState()).at("param/embedding.bias"), values);
    std::vector<float> got(33);
    training.engine().GetParameter(parameter, got);
    for (int i = 0; i < 33; ++i) EXPECT_NEAR(got[i], values[i], 4e-6);
    values[20] = 1e5f;
    if (dtype != DType::kF16) {
      training.engine().SetParameter(parameter, values);
      continue;
    }
    try {
      training.engine().SetParameter(parameter, values);
      FAIL() << "float16 ends at 65504";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("embedding.bias"), std::string::npos);
    }
  }
}

// A float32 master that float16 rounds to infinity: Load refuses a checkpoint with it.
TEST(ZeroEngine, AnUpdateThatLeavesFloat16IsTold) {
  const auto self = MakeSelfCommunicator();
  for (const auto dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    FakeTraining training(self.get(), {.dtype = dtype});
    training.Step();
    EXPECT_EQ(training.engine().FirstNonfiniteWeight(), "");
    // An update changes each by up to 0.01, up or down.
    for (const char* name : {"embedding.bias", "block.scale"}) {
      const int parameter = training.table().Find(name);
      training.engine().SetParameter(
          parameter, std::vector<float>(training.table().parameters()[parameter].size(),
                                        std::nextafter(65520.0f, 0.0f)));
    }
    EXPECT_EQ(training.engine().FirstNonfiniteWeight(), "");
    training.Step();
    EXPECT_EQ(training.engine().FirstNonfiniteWeight(),
              dtype == DType::kF16 ? "embedding.bias" : "");
  }
}

TEST(ZeroEngine, AUnitWithoutGradientHasOneOfZeros) {
  const auto self = MakeSelfCommunicator();
  for (const Accumulation form : {Accumulation::kPlain, Accumulation::kSplit,
                                  Accumulation::kLowPrecision, Accumulation::kSplitLowPrecision}) {
    FakeTraining training(self.get(), {.leaves = 1, .accumulation = form});
    training.Step();
    ZeroEngine& engine = training.engine();
    engine.BeginStep();
    engine.BeginMicroBatch(0);
    for (int unit = 0; unit < training.units(); ++unit) engine.GradientReady(unit);
    EXPECT_EQ(engine.FinishReduction().norm, 0);
  }
}

TEST(ZeroEngineDeathTest, ALeafThatIsMissingIsABrokenInvariant) {
  const auto self = MakeSelfCommunicator();
  FakeTraining training(self.get(), {.leaves = 2});
  ZeroEngine& engine = training.engine();
  engine.BeginStep();
  engine.BeginMicroBatch(0);
  EXPECT_DEATH(engine.BeginMicroBatch(1), "no gradient of leaf 0");
  for (int unit = 0; unit < training.units(); ++unit) engine.GradientReady(unit);
  EXPECT_DEATH(engine.FinishReduction(), "micro-batches are missing");
}

TEST(ZeroEngineDeathTest, GradientsOfTwoUnitsAtATimeAreABrokenInvariant) {
  const auto self = MakeSelfCommunicator();
  FakeTraining training(self.get(), {.leaves = 1});
  ZeroEngine& engine = training.engine();
  engine.BeginStep();
  engine.BeginMicroBatch(0);
  engine.Gradient(1);
  EXPECT_DEATH(engine.Gradient(0), "before that of block is ready");
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

TEST(ZeroEngine, ACheckpointGoesOnInAnotherDtype) {
  const TemporaryFolder folder;
  const auto self = MakeSelfCommunicator();
  for (const auto from : {DType::kF32, DType::kBF16, DType::kF16}) {
    const std::string dir = folder.path() / NameOf(from);
    FakeTraining original(self.get(), {.dtype = from});
    original.Step();
    Save(original, dir);
    const auto state = StateIn(original.engine().OwnedState());
    for (const auto to : {DType::kF32, DType::kBF16, DType::kF16}) {
      for (const Accumulation form :
           {Accumulation::kPlain, Accumulation::kSplit, Accumulation::kLowPrecision,
            Accumulation::kSplitLowPrecision}) {
        FakeTraining resumed(self.get(), {.dtype = to, .accumulation = form});
        resumed.engine().Load(*CheckpointReader::Open(dir));
        EXPECT_EQ(StateIn(resumed.engine().OwnedState()), state) << NameOf(from) << NameOf(to);
      }
    }
  }
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
