// The engine over ranks against the engine in one process.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <vector>

#include "core/checkpoint/checkpoint.h"
#include "tests/distributed/fake_training.h"
#include "tests/distributed/mpi_test_main.h"

namespace swinfleet {
namespace {

bool PowerOfTwoRanks() { return std::has_single_bit(static_cast<unsigned>(TestWorld().size())); }

void ExpectSameWeights(const std::vector<float>& got, const std::vector<float>& expected,
                       bool to_the_bit) {
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i) {
    if (to_the_bit) {
      ASSERT_EQ(std::bit_cast<uint32_t>(got[i]), std::bit_cast<uint32_t>(expected[i])) << i;
    } else {
      ASSERT_NEAR(got[i], expected[i], 1e-4) << i;
    }
  }
}

class EngineOverRanks
    : public testing::TestWithParam<std::tuple<int, OptimizerConfig::Kind, double>> {};

TEST_P(EngineOverRanks, GivesTheBitsOfOneProcess) {
  const auto& [stage, kind, clip] = GetParam();
  const auto self = MakeSelfCommunicator();
  const FakeOptions options{.stage = stage, .optimizer = kind, .leaves = 8, .clip = clip};
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
                         testing::Combine(testing::Values(0, 1),
                                          testing::Values(OptimizerConfig::Kind::kAdamW,
                                                          OptimizerConfig::Kind::kSgd),
                                          testing::Values(0.0, 1.0)));

// The same folder on all ranks, removed by rank 0.
class SharedFolder {
 public:
  SharedFolder() {
    std::string name;
    if (TestWorld().rank() == 0) {
      name = (std::filesystem::temp_directory_path() / "mpi_zero_engine_XXXXXX").string();
      CHECK(mkdtemp(name.data()) != nullptr);
    }
    path_ = TestWorld().AllGatherText(name, "folder")[0];
  }
  ~SharedFolder() {
    TestWorld().Barrier("folder no longer used");
    if (TestWorld().rank() == 0) std::filesystem::remove_all(path_);
  }
  std::string operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

void Save(FakeTraining& training, const std::string& dir) {
  Communicator& world = TestWorld();
  const ShardRecord record =
      WriteShard(dir, world.rank(), world.size(), training.engine().OwnedState());
  const auto texts = world.AllGatherText(record.ToJson(), "shards");
  if (world.rank() == 0) {
    std::vector<ShardRecord> records;
    for (const std::string& text : texts) records.push_back(ShardRecord::FromJson(text, "a rank"));
    CommitManifest(dir, CheckpointMeta{}, records);
  }
  world.Barrier("committed");
}

TEST(EngineOverRanks, StateMovesBetweenNumbersOfRanksAndStages) {
  const SharedFolder folder;
  const auto self = MakeSelfCommunicator();
  FakeTraining alone(self.get(), {.stage = 0});
  for (const int stage : {0, 1}) {
    const std::string dir = folder / ("stage-" + std::to_string(stage));
    FakeTraining together(&TestWorld(), {.stage = stage});
    for (int step = 0; step < 2; ++step) together.Step();
    Save(together, dir);
    const auto reader = CheckpointReader::Open(dir);

    FakeTraining resumed_alone(self.get(), {.stage = 1});
    resumed_alone.engine().Load(*reader);
    resumed_alone.set_step(2);
    ExpectSameWeights(resumed_alone.Weights(), together.Weights(), true);
    FakeTraining resumed_together(&TestWorld(), {.stage = 1 - stage});
    resumed_together.engine().Load(*reader);
    resumed_together.set_step(2);
    for (int step = 0; step < 2; ++step) {
      together.Step();
      resumed_alone.Step();
      resumed_together.Step();
    }
    ExpectSameWeights(resumed_together.Weights(), together.Weights(), true);
    ExpectSameWeights(resumed_alone.Weights(), together.Weights(), PowerOfTwoRanks());
  }
}

TEST(EngineOverRanks, AllRanksNameTheFirstTensorThatIsNotFinite) {
  for (const int stage : {0, 1}) {
    FakeTraining training(&TestWorld(), {.stage = stage});
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
  }
}

}  // namespace
}  // namespace swinfleet
