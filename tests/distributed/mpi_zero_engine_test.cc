// The engine over ranks against the engine in one process.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <string>
#include <vector>

#include "core/checkpoint/checkpoint.h"
#include "tests/distributed/fake_training.h"
#include "tests/distributed/mpi_test_main.h"
#include "tests/distributed/offload_test_util.h"
#include "tests/distributed/shared_folder.h"

namespace swinfleet {
namespace {

bool PowerOfTwoRanks() { return std::has_single_bit(static_cast<unsigned>(TestWorld().size())); }

void ExpectSameWeights(const std::vector<float>& got, const std::vector<float>& expected,
                       bool to_the_bit, float tolerance = 1e-4) {
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i) {
    if (to_the_bit) {
      ASSERT_EQ(std::bit_cast<uint32_t>(got[i]), std::bit_cast<uint32_t>(expected[i])) << i;
    } else {
      ASSERT_NEAR(got[i], expected[i], tolerance) << i;
    }
  }
}

class EngineOverRanks
    : public testing::TestWithParam<std::tuple<int, OptimizerConfig::Kind, double>> {};

TEST_P(EngineOverRanks, GivesTheBitsOfOneProcess) {
  const auto& [stage, kind, clip] = GetParam();
  const auto self = MakeSelfCommunicator();
  const FakeOptions options{.stage = stage,
                            .optimizer = kind,
                            .leaves = 8,
                            .clip = clip,
                            .accumulation = DefaultAccumulation(stage)};
  FakeTraining alone(self.get(), {.stage = 0, .optimizer = kind, .leaves = 8, .clip = clip});
  FakeTraining together(&TestWorld(), options);
  ExpectSameWeights(together.Weights(), alone.Weights(), true);
  for (int step = 0; step < 4; ++step) {
    const GradientNorm expected = alone.Step();
    const GradientNorm got = together.Step();
    if (PowerOfTwoRanks()) {
      ASSERT_EQ(got.norm, expected.norm) << "step " << step;
    } else {
      ASSERT_NEAR(got.norm, expected.norm, 1e-6 * expected.norm) << "step " << step;
    }
    ASSERT_GT(expected.norm, 1.0) << "clipping must be active";
  }
  ExpectSameWeights(together.Weights(), alone.Weights(), PowerOfTwoRanks());
}

INSTANTIATE_TEST_SUITE_P(Stages, EngineOverRanks,
                         testing::Combine(testing::Values(0, 1, 2, 3),
                                          testing::Values(OptimizerConfig::Kind::kAdamW,
                                                          OptimizerConfig::Kind::kSgd),
                                          testing::Values(0.0, 1.0)));

const char* NameOf(Accumulation form) {
  const char* const names[] = {"plain", "split", "low_precision", "split_low_precision"};
  return names[static_cast<int>(form)];
}

// What this rank saves of the state, against what the other one saves, which is as much or all.
void ExpectSameState(FakeTraining& got, FakeTraining& whole) {
  const auto expected = StateIn(whole.engine().OwnedState());
  for (const TensorPiece& piece : got.engine().OwnedState()) {
    const std::vector<float>& tensor = expected.at(piece.tensor);
    const std::vector<float> elements = ElementsOf(piece);
    for (size_t i = 0; i < elements.size(); ++i) {
      ASSERT_EQ(std::bit_cast<uint32_t>(elements[i]),
                std::bit_cast<uint32_t>(tensor[piece.begin + i]))
          << piece.tensor << " at " << piece.begin + i;
    }
  }
}

struct FormCase {
  int stage;
  DType dtype;
  Accumulation form;
};

std::vector<FormCase> AllForms() {
  std::vector<FormCase> cases;
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const Accumulation form : {Accumulation::kPlain, Accumulation::kLowPrecision}) {
      for (const int stage : {0, 1}) cases.push_back({stage, dtype, form});
    }
    for (const Accumulation form : {Accumulation::kSplit, Accumulation::kSplitLowPrecision}) {
      for (const int stage : {1, 2, 3}) cases.push_back({stage, dtype, form});
    }
  }
  return cases;
}

class FormsOverRanks : public testing::TestWithParam<FormCase> {};

// Plain and split: the bits of one process. Low precision: those of the lowest stage that has the
// form, on as many ranks, and near the others.
TEST_P(FormsOverRanks, GivesTheBitsItPromises) {
  const FormCase& c = GetParam();
  const bool low = SumsBf16(c.form);
  const auto self = MakeSelfCommunicator();
  FakeTraining alone(self.get(), {.stage = 0, .dtype = c.dtype});
  FakeTraining twin(&TestWorld(), {.stage = c.form == Accumulation::kSplitLowPrecision ? 1 : 0,
                                   .dtype = c.dtype,
                                   .accumulation = low ? c.form : Accumulation::kPlain});
  FakeTraining together(&TestWorld(), {.stage = c.stage, .dtype = c.dtype, .accumulation = c.form});
  const bool same = PowerOfTwoRanks() && !low;
  for (int step = 0; step < 3; ++step) {
    const GradientNorm expected = alone.Step();
    const GradientNorm got = together.Step();
    ASSERT_NEAR(got.norm, expected.norm, (low ? 1e-3 : same ? 0 : 1e-6) * expected.norm);
    const double of_twin = twin.Step().norm;
    ASSERT_NEAR(got.norm, of_twin, low || PowerOfTwoRanks() ? 0 : 1e-6 * of_twin);
  }
  ExpectSameWeights(together.Weights(), alone.Weights(), same,
                    c.dtype == DType::kF32 && !low ? 1e-4 : 5e-2);
  if (same) ExpectSameState(together, alone);
  if (low || PowerOfTwoRanks()) {
    ExpectSameWeights(together.Weights(), twin.Weights(), true);
  }
}

INSTANTIATE_TEST_SUITE_P(All, FormsOverRanks, testing::ValuesIn(AllForms()),
                         [](const testing::TestParamInfo<FormCase>& info) {
                           return std::string(swinfleet::NameOf(info.param.dtype)) + "_stage" +
                                  std::to_string(info.param.stage) + "_" + NameOf(info.param.form);
                         });

// In whatever order the library adds.
TEST(EngineOverRanks, TheLibrarysSumsComeClose) {
  const auto self = MakeSelfCommunicator();
  for (int stage = 0; stage <= kMostZeroStage; ++stage) {
    FakeTraining alone(self.get(), {});
    FakeTraining together(&TestWorld(), {.stage = stage,
                                         .accumulation = DefaultAccumulation(stage),
                                         .reduction = Reduction::kLibrary});
    for (int step = 0; step < 3; ++step) {
      const double norm = alone.Step().norm;
      ASSERT_NEAR(together.Step().norm, norm, 1e-6 * norm) << "stage " << stage;
    }
    ExpectSameWeights(together.Weights(), alone.Weights(), false);
  }
}

// Waiting for each exchange where it is started costs time and changes nothing.
TEST(EngineOverRanks, OverlapDoesNotChangeTheBits) {
  for (int stage = 0; stage <= kMostZeroStage; ++stage) {
    std::vector<double> norms;
    std::vector<float> weights;
    // One after the other: it is the ranks' communicator that waits.
    for (const bool overlap : {false, true}) {
      FakeTraining training(
          &TestWorld(),
          {.stage = stage, .accumulation = DefaultAccumulation(stage), .overlap = overlap});
      for (int step = 0; step < 3; ++step) norms.push_back(training.Step().norm);
      const std::vector<float> trained = training.Weights();
      if (overlap) ExpectSameWeights(trained, weights, true);
      weights = trained;
    }
    for (int step = 0; step < 3; ++step) ASSERT_EQ(norms[step], norms[step + 3]) << stage;
  }
}

// More ranks than leaves in the last round: the others give zeros.
TEST(EngineOverRanks, RoundsNeedNotBeFull) {
  const auto self = MakeSelfCommunicator();
  const int64_t leaves = TestWorld().size() + 1;
  for (const FormCase& c : AllForms()) {
    if (c.dtype != DType::kF32) continue;
    const Accumulation form = c.form;
    FakeTraining alone(self.get(), {.leaves = leaves});
    FakeTraining together(&TestWorld(), {.stage = c.stage, .leaves = leaves, .accumulation = form});
    for (int step = 0; step < 2; ++step) {
      const double norm = alone.Step().norm;
      const double tolerance = SumsBf16(form) ? 1e-3 : 1e-6;
      ASSERT_NEAR(together.Step().norm, norm, tolerance * norm) << NameOf(form);
    }
  }
}

TEST(EngineOverRanks, OffloadedStateHasTheBitsOfStateInMemory) {
  const SharedFolder folder;
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (int stage = 0; stage <= kMostZeroStage; ++stage) {
      const std::string name = swinfleet::NameOf(dtype) + ("-stage-" + std::to_string(stage));
      FakeOptions options{
          .stage = stage, .dtype = dtype, .accumulation = DefaultAccumulation(stage)};
      FakeTraining memory(&TestWorld(), options);
      options.offload = OffloadTo(folder / (name + "-run"));
      FakeTraining disk(&TestWorld(), options);
      for (int step = 0; step < 2; ++step) {
        ASSERT_EQ(memory.Step().norm, disk.Step().norm);
        ASSERT_EQ(memory.Weights(), disk.Weights()) << name;
      }
      SaveTogether(disk, folder / name);
      FakeTraining resumed(&TestWorld(),
                           {.stage = kMostZeroStage - stage,
                            .dtype = dtype,
                            .accumulation = DefaultAccumulation(kMostZeroStage - stage)});
      resumed.engine().Load(*CheckpointReader::Open(folder / name));
      resumed.set_step(2);
      memory.Step();
      resumed.Step();
      ExpectSameWeights(memory.Weights(), resumed.Weights(), PowerOfTwoRanks(), 5e-2);
    }
  }
}

// Draws of the rounding depend on elements, not on who updates them.
TEST(EngineOverRanks, MomentsInBf16HaveTheBitsOfOneRank) {
  const SharedFolder folder;
  const auto self = MakeSelfCommunicator();
  FakeOptions options{.dtype = DType::kBF16, .moments = DType::kBF16};
  options.offload = OffloadTo(folder / ("alone-" + std::to_string(TestWorld().rank())));
  FakeTraining alone(self.get(), options);
  for (int step = 0; step < 4; ++step) alone.Step();
  for (int stage = 0; stage <= kMostZeroStage; ++stage) {
    options.stage = stage;
    options.accumulation = DefaultAccumulation(stage);
    options.offload = OffloadTo(folder / ("stage-" + std::to_string(stage)));
    FakeTraining together(&TestWorld(), options);
    for (int step = 0; step < 4; ++step) together.Step();
    ExpectSameWeights(alone.Weights(), together.Weights(), PowerOfTwoRanks(), 5e-2);
  }
}

TEST(EngineOverRanks, StateMovesBetweenNumbersOfRanksAndStages) {
  const SharedFolder folder;
  const auto self = MakeSelfCommunicator();
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (int stage = 0; stage <= kMostZeroStage; ++stage) {
      const std::string dir =
          folder / (swinfleet::NameOf(dtype) + ("-stage-" + std::to_string(stage)));
      const int other = kMostZeroStage - stage;
      FakeTraining together(
          &TestWorld(),
          {.stage = stage, .dtype = dtype, .accumulation = DefaultAccumulation(stage)});
      for (int step = 0; step < 2; ++step) together.Step();
      SaveTogether(together, dir);
      const auto reader = CheckpointReader::Open(dir);

      FakeTraining resumed_alone(self.get(), {.stage = 1, .dtype = dtype});
      resumed_alone.engine().Load(*reader);
      resumed_alone.set_step(2);
      ExpectSameWeights(resumed_alone.Weights(), together.Weights(), true);
      ExpectSameState(together, resumed_alone);
      FakeTraining resumed_together(
          &TestWorld(),
          {.stage = other, .dtype = dtype, .accumulation = DefaultAccumulation(other)});
      resumed_together.engine().Load(*reader);
      resumed_together.set_step(2);
      for (int step = 0; step < 2; ++step) {
        together.Step();
        resumed_alone.Step();
        resumed_together.Step();
      }
      ExpectSameWeights(resumed_together.Weights(), together.Weights(), PowerOfTwoRanks(), 5e-2);
      ExpectSameWeights(resumed_alone.Weights(), together.Weights(), PowerOfTwoRanks(), 5e-2);
      if (PowerOfTwoRanks()) ExpectSameState(together, resumed_alone);
    }
  }
}

// Its promise: as many ranks, the same bits, whatever happened between.
TEST(EngineOverRanks, LowPrecisionResumesToTheBitOnAsManyRanks) {
  const SharedFolder folder;
  // Form, stage, stage after the resume.
  const std::tuple<Accumulation, int, int> cases[] = {{Accumulation::kLowPrecision, 1, 0},
                                                      {Accumulation::kSplitLowPrecision, 3, 2}};
  for (const auto& [form, stage, other_stage] : cases) {
    FakeOptions options{.stage = stage, .dtype = DType::kBF16, .accumulation = form};
    FakeTraining undisturbed(&TestWorld(), options);
    undisturbed.Step();
    SaveTogether(undisturbed, folder / NameOf(form));
    undisturbed.Step();
    options.stage = other_stage;
    FakeTraining resumed(&TestWorld(), options);
    resumed.engine().Load(*CheckpointReader::Open(folder / NameOf(form)));
    resumed.set_step(1);
    resumed.Step();
    // Each rank saves the same part of it at all stages but 0.
    if (other_stage == 0) {
      ExpectSameState(undisturbed, resumed);
    } else {
      ExpectSameState(resumed, undisturbed);
    }
  }
}

TEST(EngineOverRanks, AllRanksNameTheFirstTensorThatIsNotFinite) {
  for (const FormCase& c : AllForms()) {
    if (c.dtype != DType::kBF16) continue;
    FakeTraining training(&TestWorld(),
                          {.stage = c.stage, .dtype = c.dtype, .accumulation = c.form});
    for (const int64_t leaf : {0, 5, 7}) {
      const auto weights = training.Weights();
      const GradientNorm norm = training.Step({"head.bias", "block.out"}, leaf);
      EXPECT_FALSE(std::isfinite(norm.norm));
      EXPECT_EQ(norm.first_nonfinite, "block.out");
      EXPECT_EQ(training.Weights(), weights);
      EXPECT_EQ(training.Step({"embedding.bias"}, leaf).first_nonfinite, "embedding.bias");
    }
    const GradientNorm good = training.Step();
    EXPECT_TRUE(std::isfinite(good.norm));
    EXPECT_EQ(good.first_nonfinite, "");
    EXPECT_EQ(training.engine().FirstNonfiniteWeight(), "");
    // In the parts of several ranks.
    for (const char* name : {"exact.weight", "block.out"}) {
      const int parameter = training.table().Find(name);
      std::vector<float> values(training.table().parameters()[parameter].size(), 1.0f);
      values.back() = std::numeric_limits<float>::infinity();
      training.engine().SetParameter(parameter, values);
    }
    EXPECT_EQ(training.engine().FirstNonfiniteWeight(), "block.out");
  }
}

}  // namespace
}  // namespace swinfleet
