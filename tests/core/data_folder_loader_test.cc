// Batches from folders of pictures and clips; broken pictures; mixing; masks.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "core/checkpoint/file_ops.h"
#include "core/data/crop.h"
#include "core/data/loader.h"
#include "core/data/mix.h"
#include "core/data/transform.h"
#include "core/loss/targets.h"
#include "tests/core/picture_test_util.h"

namespace swinfleet {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// One rank's, whatever the threads; and what more ranks and a resumed run make of the same steps.
void ExpectAFunctionOfTheOptions(const Dataset& data, const LoaderOptions& whole) {
  ASSERT_EQ(whole.leaves, 4);
  const auto one = Take(data, whole, 16);
  for (int threads : {2, 3}) {
    LoaderOptions options = whole;
    options.data.loader_threads = threads;
    const auto same = Take(data, options, 16);
    for (int i = 0; i < 16; ++i) ExpectSame(same[i], one[i]);
  }
  for (int64_t rank = 0; rank < 2; ++rank) {
    LoaderOptions options = whole;
    options.leaves = 2;
    options.first_leaf = 2 * rank;
    options.first_step = 1;
    const auto own = Take(data, options, 6);
    for (int64_t i = 0; i < 6; ++i) ExpectSame(own[i], one[4 + i / 2 * 4 + 2 * rank + i % 2]);
  }
}

class FolderLoaderTest : public ::testing::Test {
 protected:
  // 2 classes of 10 pictures each, of different sizes.
  void WritePictures() {
    for (int i = 0; i < 20; ++i) {
      WritePicture(folder_ / (std::string("train/") + (i < 10 ? "a/" : "b/") +
                              static_cast<char>('a' + i) + ".png"),
                   TestFile(12 + i, 30 - i));
    }
  }
  std::unique_ptr<Dataset> Open() {
    options_.data.path = folder_.string();
    return OpenDataset(options_.data, "train");
  }

  TempFolder folder_;
  LoaderOptions options_ = [] {
    LoaderOptions options;
    options.data.format = "imagefolder";
    options.data.crop_scale = {0.2, 1};
    options.data.flip = 0.5;
    options.data.prefetch = 2;
    options.image_h = 10;
    options.image_w = 12;
    options.in_chans = 3;
    options.num_classes = 2;
    options.seed = 23;
    options.micro_batch = 2;
    options.micro_batches_per_step = 4;
    options.leaves = 4;
    return options;
  }();
};

TEST_F(FolderLoaderTest, TrainingIsTheTransformOfEachPicture) {
  WritePictures();
  const auto data = Open();
  const PictureTransform transform(options_.data, 10, 12, 3);
  TransformScratch scratch;
  Picture picture;
  std::vector<float> expected(transform.size());
  const auto batches = Take(*data, options_, 16);
  for (size_t i = 0; i < batches.size(); ++i) {
    const auto epoch = static_cast<uint32_t>(i / 8);
    for (int row = 0; row < 2; ++row) {
      const int64_t sample = batches[i].sample[row];
      data->Get(sample, &picture);
      transform.Augment(picture, CounterRng(23, RandomPurpose::kAugmentation, sample, epoch),
                        &scratch, {expected.data(), transform.plane_size()});
      const auto begin = batches[i].image.begin() + row * transform.size();
      ASSERT_TRUE(std::equal(expected.begin(), expected.end(), begin)) << i;
      ASSERT_EQ(batches[i].label[row], sample / 10);
      ASSERT_EQ(batches[i].target[row * 2 + sample / 10], 1);
      ASSERT_EQ(batches[i].target[row * 2 + 1 - sample / 10], 0);
    }
    EXPECT_THAT(batches[i].mask, IsEmpty());
  }
}

TEST_F(FolderLoaderTest, IsAFunctionOfTheOptions) {
  WritePictures();
  const auto data = Open();
  ExpectAFunctionOfTheOptions(*data, options_);
  options_.mix.mixup_alpha = 0.8;
  options_.mix.cutmix_alpha = 1;
  options_.label_smoothing = 0.1;
  ExpectAFunctionOfTheOptions(*data, options_);
}

TEST_F(FolderLoaderTest, EvaluationGoesOnceInOrder) {
  WritePictures();
  const auto data = Open();
  options_.training = false;
  options_.micro_batch = 8;
  options_.leaves = 10;
  const auto batches = Take(*data, options_, 10);
  ASSERT_EQ(batches.size(), 3U);
  EXPECT_EQ(batches[2].pictures, 4);
  const PictureTransform transform(options_.data, 10, 12, 3);
  TransformScratch scratch;
  Picture picture;
  std::vector<float> expected(transform.size());
  data->Get(17, &picture);
  transform.Center(picture, &scratch, {expected.data(), transform.plane_size()});
  EXPECT_TRUE(
      std::equal(expected.begin(), expected.end(), batches[2].image.begin() + transform.size()));
  EXPECT_THAT(batches[2].target, IsEmpty());
}

TEST_F(FolderLoaderTest, WithoutClassesLabelsAreNotLookedAt) {
  WritePictures();
  const auto data = Open();
  options_.num_classes = 0;
  const auto batches = Take(*data, options_, 2);
  EXPECT_THAT(batches[0].target, IsEmpty());
  options_.num_classes = 1;
  EXPECT_THAT(ErrorOf([&] { Take(*data, options_, 8); }),
              AllOf(HasSubstr("b/"), HasSubstr("has label 1"), HasSubstr("1 classes")));
  options_.in_chans = 4;
  EXPECT_THAT(ErrorOf([&] { Take(*data, options_, 1); }), HasSubstr("model.in_chans to 3"));
}

TEST_F(FolderLoaderTest, BrokenPicturesFailByName) {
  WritePictures();
  WriteBytes(folder_ / "train/a/d.png", "no picture");
  const auto data = Open();
  options_.data.loader_threads = 2;
  EXPECT_THAT(ErrorOf([&] { Take(*data, options_, 8); }),
              AllOf(HasSubstr((folder_ / "train/a/d.png").string()), HasSubstr("not a JPEG"),
                    HasSubstr("data.broken_pictures: replace")));
  options_.names.replace = "--some-option";
  EXPECT_THAT(ErrorOf([&] { Take(*data, options_, 8); }),
              EndsWith("; repair or remove it, or have broken pictures replaced by others with "
                       "--some-option"));
  options_.names.replace = "";
  EXPECT_THAT(ErrorOf([&] { Take(*data, options_, 8); }), EndsWith("; repair or remove it"));
}

TEST_F(FolderLoaderTest, NothingIsAdvisedThatIsRefused) {
  JobConfig job;
  job.data.format = "imagefolder";
  EXPECT_EQ(LoaderOptionsFor(job).names.replace, "data.broken_pictures: replace");
  EXPECT_EQ(LoaderOptionsFor(job, {.replace = "--x", .threads = "--y"}).names.replace, "--x");
  job.data.format = "idx";
  EXPECT_EQ(LoaderOptionsFor(job).names.replace, "");
  EXPECT_EQ(LoaderOptionsFor(job).names.threads, "data.loader_threads");
}

TEST_F(FolderLoaderTest, BrokenPicturesAreReplacedByTheNextGoodOne) {
  WritePictures();
  // Samples 3, 4 and 19.
  for (const char* name : {"a/d.png", "a/e.png", "b/t.png"}) {
    WriteBytes(folder_ / "train" / name, "");
  }
  options_.data.broken_pictures = DataConfig::BrokenPictures::kReplace;
  options_.training = false;
  options_.micro_batch = 20;
  options_.leaves = 1;
  const auto data = Open();
  Loader loader(data.get(), options_);
  const Batch batch = *loader.Next();
  std::vector<int64_t> all(20);
  std::iota(all.begin(), all.end(), 0);
  EXPECT_EQ(batch.sample, all);
  const int64_t size = 3 * 10 * 12;
  const auto row = [&](int64_t i) {
    return std::vector<float>(batch.image.begin() + i * size, batch.image.begin() + (i + 1) * size);
  };
  EXPECT_EQ(row(3), row(5));
  EXPECT_EQ(row(4), row(5));
  EXPECT_EQ(row(19), row(0));
  EXPECT_EQ(batch.label[19], 0);
  EXPECT_NE(row(2), row(3));
  EXPECT_EQ(loader.broken().replaced, 4);
  EXPECT_THAT(loader.broken().names, ElementsAre("a/d.png", "a/e.png", "b/t.png"));
}

TEST_F(FolderLoaderTest, ReplacingIsAFunctionOfTheOptionsAndCounted) {
  WritePictures();
  WriteBytes(folder_ / "train/a/d.png", "");
  options_.data.broken_pictures = DataConfig::BrokenPictures::kReplace;
  const auto data = Open();
  ExpectAFunctionOfTheOptions(*data, options_);
  // 4 epochs of 16 of the 20 samples.
  Loader loader(data.get(), options_);
  int64_t seen = 0;
  for (int i = 0; i < 32; ++i) {
    const Batch* batch = loader.Next();
    for (int row = 0; row < 2; ++row) {
      if (batch->sample[row] != 3) continue;
      ++seen;
      EXPECT_EQ(batch->label[row], 0);
    }
    EXPECT_EQ(loader.broken().replaced, seen);
  }
  EXPECT_GT(seen, 1);
  EXPECT_THAT(loader.broken().names, ElementsAre("a/d.png"));
}

TEST_F(FolderLoaderTest, AFileThatCannotBeReadIsNotBroken) {
  WritePictures();
  const auto data = Open();
  std::filesystem::remove(folder_ / "train/a/d.png");
  for (const auto choice :
       {DataConfig::BrokenPictures::kFail, DataConfig::BrokenPictures::kReplace}) {
    options_.data.broken_pictures = choice;
    try {
      Take(*data, options_, 8);
      ADD_FAILURE() << "no error";
    } catch (const FileError& error) {
      EXPECT_EQ(error.code(), ENOENT);
      EXPECT_THAT(error.what(), HasSubstr((folder_ / "train/a/d.png").string()));
    }
  }
}

TEST_F(FolderLoaderTest, NothingButBrokenPicturesIsAnError) {
  for (int i = 0; i < 20; ++i) {
    std::filesystem::create_directories(folder_ / "train/a");
    WriteBytes(folder_ / ("train/a/" + std::to_string(i) + ".png"), "");
  }
  options_.data.broken_pictures = DataConfig::BrokenPictures::kReplace;
  const auto data = Open();
  EXPECT_THAT(ErrorOf([&] { Take(*data, options_, 1); }),
              AllOf(HasSubstr("20 samples in a row are broken"), HasSubstr("is empty")));
}

TEST_F(FolderLoaderTest, MixingIsAFunctionOfStepAndLeaf) {
  WritePictures();
  const auto data = Open();
  options_.micro_batch = 4;
  options_.micro_batches_per_step = 2;
  options_.leaves = 2;
  options_.label_smoothing = 0.1;
  const auto plain = Take(*data, options_, 12);
  options_.mix.mixup_alpha = 0.8;
  options_.mix.cutmix_alpha = 1;
  for (const auto mode :
       {MixConfig::Mode::kBatch, MixConfig::Mode::kPair, MixConfig::Mode::kElement}) {
    options_.mix.mode = mode;
    const auto mixed = Take(*data, options_, 12);
    for (size_t i = 0; i < mixed.size(); ++i) {
      std::vector<MixEntry> entries(4);
      DrawMix(options_.mix, 10, 12,
              CounterRng(23, RandomPurpose::kMixing, i / 2, static_cast<uint32_t>(i % 2)), entries);
      std::vector<float> weight(8);
      std::vector<int32_t> box(16);
      DescribeMix(entries, weight, box);
      EXPECT_EQ(mixed[i].mix_weight, weight);
      EXPECT_EQ(mixed[i].mix_box, box);
      EXPECT_EQ(mixed[i].image, plain[i].image);
      std::vector<float> target(8);
      MixTargets(entries, plain[i].label, 2, 0.1, target);
      EXPECT_EQ(mixed[i].target, target);
      for (int row = 0; row < 4; ++row) {
        EXPECT_NEAR(mixed[i].target[2 * row] + mixed[i].target[2 * row + 1], 1, 1e-6);
      }
    }
  }
  // Evaluation mixes nothing.
  options_.training = false;
  const auto evaluated = Take(*data, options_, 1);
  options_.mix = MixConfig{};
  ExpectSame(evaluated[0], Take(*data, options_, 1)[0]);
}

TEST_F(FolderLoaderTest, MasksOfAPictureAreAFunctionOfEpochAndSample) {
  WritePictures();
  const auto data = Open();
  options_.num_classes = 0;
  for (const auto method : {PretrainConfig::Method::kSimMim, PretrainConfig::Method::kMae}) {
    options_.mask = {method, 0.6, 5, 6};
    options_.micro_batch = 2;
    options_.micro_batches_per_step = 4;
    options_.leaves = 4;
    const auto small = Take(*data, options_, 16);
    options_.micro_batch = 8;
    options_.micro_batches_per_step = 1;
    options_.leaves = 1;
    const auto large = Take(*data, options_, 4);
    std::set<std::vector<int32_t>> seen;
    for (int i = 0; i < 32; ++i) {
      const auto a = small[i / 2].mask.begin() + i % 2 * 30;
      const auto b = large[i / 8].mask.begin() + i % 8 * 30;
      ASSERT_EQ(small[i / 2].sample[i % 2], large[i / 8].sample[i % 8]);
      EXPECT_TRUE(std::equal(a, a + 30, b)) << i;
      EXPECT_EQ(std::accumulate(a, a + 30, 0), 18);
      seen.emplace(a, a + 30);
    }
    EXPECT_EQ(seen.size(), 32U) << "another mask in each epoch";
  }
}

TEST_F(FolderLoaderTest, GreenMimSharesAMaskInAMicroBatch) {
  WritePictures();
  const auto data = Open();
  options_.num_classes = 0;
  options_.mask = {PretrainConfig::Method::kGreenMim, 0.75, 5, 6};
  ExpectAFunctionOfTheOptions(*data, options_);
  std::set<std::vector<int32_t>> seen;
  for (const Batch& batch : Take(*data, options_, 16)) {
    const auto begin = batch.mask.begin();
    EXPECT_TRUE(std::equal(begin, begin + 30, begin + 30));
    EXPECT_EQ(std::accumulate(begin, begin + 30, 0), 30 - 7);
    seen.emplace(begin, begin + 30);
  }
  EXPECT_EQ(seen.size(), 16U);
}

TEST_F(FolderLoaderTest, EvaluationHasTheSameMasksEachTime) {
  WritePictures();
  const auto data = Open();
  options_.training = false;
  options_.leaves = 10;
  for (const auto method : {PretrainConfig::Method::kSimMim, PretrainConfig::Method::kGreenMim}) {
    options_.mask = {method, 0.5, 2, 3};
    const auto first = Take(*data, options_, 10);
    const auto again = Take(*data, options_, 10);
    for (size_t i = 0; i < first.size(); ++i) {
      EXPECT_EQ(first[i].mask.size(), 12U);
      ExpectSame(first[i], again[i]);
    }
  }
}

// Clips whose frame number f has the colour (10 f, x, clip).
class FramesLoaderTest : public FolderLoaderTest {
 protected:
  void SetUp() override {
    options_.data.format = "frames";
    options_.frames = 4;
    options_.data.frame_interval = 2;
    for (int clip = 0; clip < 8; ++clip) {
      for (int f = 0; f < kFrames; ++f) {
        PictureFile file{.height = 20, .width = 30};
        for (int i = 0; i < 600; ++i) {
          for (int v : {10 * f, i % 30, clip}) file.bytes.push_back(static_cast<uint8_t>(v));
        }
        WritePicture(folder_ / ("train/" + std::string(clip < 4 ? "a" : "b") + "/clip" +
                                std::to_string(clip) + "/img_" + std::to_string(f + 1) + ".png"),
                     file);
      }
    }
  }
  static constexpr int kFrames = 12;
  // Of row `row`: (channel, frame, y, x).
  static float At(const Batch& batch, int64_t row, int64_t c, int64_t t, int64_t y, int64_t x) {
    return batch.image[(((row * 3 + c) * 4 + t) * 10 + y) * 12 + x] * 255;
  }
};

TEST_F(FramesLoaderTest, EvaluationTakesTheMiddleClip) {
  const auto data = Open();
  options_.training = false;
  options_.leaves = 10;
  const auto batches = Take(*data, options_, 10);
  ASSERT_EQ(batches.size(), 4U);
  for (const Batch& batch : batches) {
    ASSERT_EQ(batch.image.size(), 2U * 3 * 4 * 10 * 12);
    for (int row = 0; row < 2; ++row) {
      for (int t = 0; t < 4; ++t) {
        // Starts 0 to 4: the middle is 2.
        EXPECT_NEAR(At(batch, row, 0, t, 5, 6), 10 * (2 + 2 * t), 0.01);
        EXPECT_NEAR(At(batch, row, 2, t, 5, 6), static_cast<double>(batch.sample[row]), 0.01);
      }
    }
  }
}

TEST_F(FramesLoaderTest, TrainingStartsAtRandomAndFramesShareCropAndFlip) {
  const auto data = Open();
  std::set<int> starts;
  int flipped = 0;
  for (const Batch& batch : Take(*data, options_, 40)) {
    for (int row = 0; row < 2; ++row) {
      const int start = static_cast<int>(std::lround(At(batch, row, 0, 0, 0, 0) / 10));
      starts.insert(start);
      flipped += At(batch, row, 1, 0, 0, 0) > At(batch, row, 1, 0, 0, 11);
      for (int t = 0; t < 4; ++t) {
        EXPECT_NEAR(At(batch, row, 0, t, 3, 3), 10 * (start + 2 * t), 0.01);
        for (int x = 0; x < 12; ++x) {
          ASSERT_EQ(At(batch, row, 1, t, 4, x), At(batch, row, 1, 0, 4, x));
        }
      }
    }
  }
  EXPECT_THAT(starts, ElementsAre(0, 1, 2, 3, 4));
  EXPECT_GT(flipped, 20);
  EXPECT_LT(flipped, 60);
}

TEST_F(FramesLoaderTest, IsAFunctionOfTheOptionsAndMixesClips) {
  const auto data = Open();
  ExpectAFunctionOfTheOptions(*data, options_);
  options_.mix.cutmix_alpha = 1;
  ExpectAFunctionOfTheOptions(*data, options_);
  // A box goes through all frames and channels.
  for (const Batch& batch : Take(*data, options_, 8)) {
    for (int y = 0; y < 10; ++y) {
      for (int x = 0; x < 12; ++x) {
        for (int t = 1; t < 4; ++t) {
          ASSERT_EQ(At(batch, 0, 2, t, y, x), At(batch, 0, 2, 0, y, x));
        }
      }
    }
  }
}

TEST_F(FramesLoaderTest, ABrokenFrameOrOneOfAnotherSizeBreaksTheClip) {
  WriteBytes(folder_ / "train/a/clip1/img_5.png", "x");
  WritePicture(folder_ / "train/b/clip6/img_7.png", TestFile(21, 30));
  options_.data.broken_pictures = DataConfig::BrokenPictures::kReplace;
  options_.training = false;
  options_.leaves = 10;
  const auto data = Open();
  Loader loader(data.get(), options_);
  std::vector<float> clips;
  while (const Batch* batch = loader.Next()) {
    for (int row = 0; row < 2; ++row) clips.push_back(At(*batch, row, 2, 0, 5, 6));
  }
  for (int i = 0; i < 8; ++i) EXPECT_NEAR(clips[i], i == 1 || i == 6 ? i + 1 : i, 0.01);
  EXPECT_THAT(loader.broken().names, ElementsAre("a/clip1", "b/clip6"));
  options_.data.broken_pictures = DataConfig::BrokenPictures::kFail;
  options_.first_leaf = 3;
  EXPECT_THAT(ErrorOf([&] { Take(*data, options_, 1); }),
              AllOf(HasSubstr("b/clip6"), HasSubstr("30x21"), HasSubstr("30x20")));
}

TEST(LoaderOptions, FollowFromTheJob) {
  JobConfig job;
  job.model.image_h = job.model.image_w = 192;
  job.model.frames = 8;
  job.model.num_classes = 7;
  job.train.label_smoothing = 0.2;
  job.train.mix.mixup_alpha = 0.8;
  LoaderOptions options = LoaderOptionsFor(job);
  EXPECT_EQ(options.frames, 8);
  EXPECT_EQ(options.num_classes, 7);
  EXPECT_EQ(options.label_smoothing, 0.2);
  EXPECT_EQ(options.mix.mixup_alpha, 0.8);
  EXPECT_FALSE(options.mask.on());
  job.pretrain.method = PretrainConfig::Method::kSimMim;
  options = LoaderOptionsFor(job);
  EXPECT_EQ(options.num_classes, 0);
  EXPECT_EQ(options.mask.units(), 36);
  EXPECT_EQ(options.mask.ratio, 0.6);
}

}  // namespace
}  // namespace swinfleet
