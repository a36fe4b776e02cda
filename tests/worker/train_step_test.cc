// A step in which a rank has no pictures: it takes part to the end, and nothing changes.
#include "worker/train_step.h"

#include <gtest/gtest.h>

#include <vector>

#include "tests/worker/trainer.h"

namespace swinfleet {
namespace {

void ExpectHarmless(const JobConfig& job) {
  Batch first = RandomBatch(job, 0), second = RandomBatch(job, 1);
  Trainer trainer(job), undisturbed(job);
  const std::vector<float> before = trainer.Weights();
  for (const std::vector<Batch*>& batches :
       {std::vector<Batch*>{nullptr, nullptr}, {&first, nullptr}, {nullptr, &second}}) {
    EXPECT_EQ(trainer.Step(0, batches).without_input, 1);
    EXPECT_EQ(trainer.Weights(), before);
  }
  const StepResult result = trainer.Step(0, {&first, &second});
  EXPECT_EQ(result.without_input, 0);
  EXPECT_EQ(result.loss, undisturbed.Step(0, {&first, &second}).loss);
  EXPECT_NE(trainer.Weights(), before);
  EXPECT_EQ(trainer.Weights(), undisturbed.Weights());
}

TEST(TrainStep, WithoutInputChangesNothing) {
  for (const Architecture arch :
       {Architecture::kSwinV1, Architecture::kSwinV2, Architecture::kVideoSwin}) {
    SCOPED_TRACE(ArchitectureName(arch));
    ExpectHarmless(TwoLeaves(SmallJob(arch)));
  }
  for (const Accumulation accumulation :
       {Accumulation::kSplit, Accumulation::kLowPrecision, Accumulation::kSplitLowPrecision}) {
    JobConfig job = TwoLeaves(SmallJob(Architecture::kSwinV2));
    job.train.accumulation = accumulation;
    ExpectHarmless(job);
  }
  JobConfig scaled = TwoLeaves(SmallJob(Architecture::kSwinV2));
  scaled.train.dtype = DType::kF16;
  ExpectHarmless(scaled);
}

TEST(TrainStep, WithoutInputChangesNothingInPretraining) {
  for (const auto method : {PretrainConfig::Method::kSimMim, PretrainConfig::Method::kMae,
                            PretrainConfig::Method::kGreenMim}) {
    SCOPED_TRACE(static_cast<int>(method));
    ExpectHarmless(TwoLeaves(SmallPretraining(method)));
  }
}

// The same as pictures that were mixed before.
TEST(TrainStep, MixesPictures) {
  for (const Architecture arch : {Architecture::kSwinV2, Architecture::kVideoSwin}) {
    SCOPED_TRACE(ArchitectureName(arch));
    const JobConfig plain = TwoLeaves(SmallJob(arch));
    JobConfig job = plain;
    job.train.mix.mixup_alpha = 0.8;
    Batch first = RandomBatch(job, 0), second = RandomBatch(job, 1);
    Batch mixed = RandomBatch(plain, 0), second_again = RandomBatch(job, 1);
    const int64_t pictures = mixed.pictures, area = job.model.image_h * job.model.image_w;
    const auto pixels = static_cast<int64_t>(mixed.image.size()) / pictures;
    const std::vector<MixEntry> entries = SomeMix(job);
    for (int64_t i = 0; i < pictures * pixels; ++i) {
      const MixEntry& entry = entries[i / pixels];
      const float own = first.image[i];
      const float other = first.image[(pictures - 1 - i / pixels) * pixels + i % pixels];
      const int64_t row = i % area / job.model.image_w, column = i % job.model.image_w;
      const MixBox& box = entry.box;
      const bool inside = row >= box.y0 && row < box.y1 && column >= box.x0 && column < box.x1;
      mixed.image[i] = entry.cutmix ? (inside ? other : own)
                                    : own * float{0.7} + other * static_cast<float>(0.3);
    }
    Trainer trainer(job), expected(job);
    const StepResult result = trainer.Step(0, {&first, &second});
    EXPECT_EQ(result.loss, expected.Step(0, {&mixed, &second_again}).loss);
    EXPECT_EQ(first.image, mixed.image);
    EXPECT_EQ(trainer.Weights(), expected.Weights());
  }
}

TEST(TrainStep, CountsReplacedPictures) {
  const JobConfig job = TwoLeaves(SmallJob(Architecture::kSwinV1));
  Batch first = RandomBatch(job, 0), second = RandomBatch(job, 1);
  Trainer trainer(job);
  EXPECT_EQ(trainer.Step(0, {&first, &second}).replaced_pictures, 0);
  first.broken = {{"a", "is empty"}};
  second.broken = {{"b", "is empty"}, {"c", "is empty"}};
  EXPECT_EQ(trainer.Step(1, {&first, &second}).replaced_pictures, 3);
  first.broken.clear();
  EXPECT_EQ(trainer.Step(2, {&first, &second}).replaced_pictures, 2);
}

}  // namespace
}  // namespace swinfleet
