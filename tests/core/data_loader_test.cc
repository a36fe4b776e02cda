#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <limits>
#include <memory>
#include <set>
#include <thread>
#include <vector>

#include "core/data/loader.h"
#include "tests/core/data_test_util.h"

namespace swinfleet {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

LoaderOptions Options() {
  LoaderOptions options;
  options.data.pad = 1;
  options.data.random_crop = true;
  options.data.flip = 0.5;
  options.data.prefetch = 3;
  options.image_h = 6;
  options.image_w = 5;
  options.in_chans = 1;
  options.num_classes = 10;
  options.seed = 17;
  options.micro_batch = 3;
  options.micro_batches_per_step = 4;
  options.leaves = 4;
  return options;
}

// 53 pictures: 4 steps of 12 an epoch, 5 are left over.
FakeDataset Data() { return FakeDataset(53, 5, 4, 1, 10); }

void ExpectSame(const std::vector<Batch>& a, const std::vector<Batch>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) ExpectSame(a[i], b[i]);
}

TEST(Loader, BatchesHaveTheirShapesAndLabels) {
  const FakeDataset data = Data();
  for (const Batch& batch : Take(data, Options(), 20)) {
    EXPECT_EQ(batch.pictures, 3);
    EXPECT_EQ(batch.image.size(), 3U * 6 * 5);
    ASSERT_EQ(batch.sample.size(), 3U);
    for (int i = 0; i < 3; ++i) EXPECT_EQ(batch.label[i], batch.sample[i] % 10);
  }
}

TEST(Loader, EpochsFollowTheShuffledIndexAndDropTheRest) {
  const FakeDataset data = Data();
  const auto batches = Take(data, Options(), 3 * 16);
  for (int64_t epoch = 0; epoch < 3; ++epoch) {
    std::set<int64_t> seen;
    for (int64_t i = 0; i < 48; ++i) {
      const int64_t sample = batches[epoch * 16 + i / 3].sample[i % 3];
      EXPECT_EQ(sample, ShuffledIndex(17, epoch, i, 53));
      seen.insert(sample);
    }
    EXPECT_EQ(seen.size(), 48U);
  }
}

TEST(Loader, ThreadsChangeNothing) {
  FakeDataset data = Data();
  const auto expected = Take(data, Options(), 40);
  data.jitter = true;
  for (int threads = 1; threads <= 4; ++threads) {
    for (int prefetch : {1, 2, 7}) {
      LoaderOptions options = Options();
      options.data.loader_threads = threads;
      options.data.prefetch = prefetch;
      ExpectSame(Take(data, options, 40), expected);
    }
  }
}

TEST(Loader, RanksSplitTheStepsOfOne) {
  const FakeDataset data = Data();
  const auto one = Take(data, Options(), 40);
  for (int64_t ranks : {2, 4}) {
    const int64_t leaves = 4 / ranks;
    for (int64_t rank = 0; rank < ranks; ++rank) {
      LoaderOptions options = Options();
      options.first_leaf = rank * leaves;
      options.leaves = leaves;
      options.data.loader_threads = 2;
      const auto own = Take(data, options, 10 * leaves);
      for (int64_t i = 0; i < 10 * leaves; ++i) {
        ExpectSame(own[i], one[i / leaves * 4 + rank * leaves + i % leaves]);
      }
    }
  }
}

TEST(Loader, RanksMayTakeLeavesInTurn) {
  const FakeDataset data = Data();
  const auto one = Take(data, Options(), 40);
  for (int64_t rank = 0; rank < 2; ++rank) {
    LoaderOptions options = Options();
    options.first_leaf = rank;
    options.leaf_stride = 2;
    options.leaves = 2;
    const auto own = Take(data, options, 20);
    for (int64_t i = 0; i < 20; ++i) ExpectSame(own[i], one[i / 2 * 4 + i % 2 * 2 + rank]);
  }
}

TEST(Loader, ResumingAtAStepEqualsRunningToIt) {
  const FakeDataset data = Data();
  const auto all = Take(data, Options(), 60);
  // In the first epoch, at its end, and in later ones.
  for (int64_t step : {1, 3, 4, 5, 11}) {
    LoaderOptions options = Options();
    options.first_step = step;
    const auto resumed = Take(data, options, 60 - step * 4);
    ExpectSame(resumed, std::vector<Batch>(all.begin() + step * 4, all.end()));
  }
}

TEST(Loader, AugmentationIsAFunctionOfSeedEpochAndSample) {
  const FakeDataset data = Data();
  LoaderOptions options = Options();
  const auto find = [&](int64_t epoch, int64_t sample) {
    for (const Batch& batch : Take(data, options, (epoch + 1) * 48 / options.micro_batch)) {
      const auto it = std::find(batch.sample.begin(), batch.sample.end(), sample);
      if (it == batch.sample.end() || epoch-- > 0) continue;
      const int64_t row = it - batch.sample.begin();
      return std::vector<float>(batch.image.begin() + row * 30,
                                batch.image.begin() + (row + 1) * 30);
    }
    return std::vector<float>();
  };
  const int64_t sample = ShuffledIndex(17, 0, 5, 53);
  const auto first = find(0, sample);
  ASSERT_FALSE(first.empty());
  // Another micro-batch size puts it elsewhere in the batch and changes nothing else.
  options.micro_batch = 4;
  options.micro_batches_per_step = 3;
  options.leaves = 3;
  EXPECT_EQ(find(0, sample), first);
  int changed = 0;
  for (int64_t epoch = 1; epoch < 6; ++epoch) changed += find(epoch, sample) != first;
  EXPECT_GE(changed, 3);
}

TEST(Loader, EvaluationGoesOnceInOrder) {
  FakeDataset data = Data();
  data.jitter = true;
  LoaderOptions options = Options();
  options.training = false;
  options.micro_batch = 10;
  options.leaves = 100;
  options.data.loader_threads = 3;
  Loader loader(&data, options);
  for (int64_t first = 0; first < 53; first += 10) {
    const Batch* batch = loader.Next();
    ASSERT_NE(batch, nullptr);
    const int64_t pictures = first == 50 ? 3 : 10;
    EXPECT_EQ(batch->pictures, pictures);
    ASSERT_EQ(static_cast<int64_t>(batch->sample.size()), pictures);
    EXPECT_EQ(static_cast<int64_t>(batch->label.size()), pictures);
    EXPECT_EQ(static_cast<int64_t>(batch->image.size()), pictures * 30);
    for (int64_t i = 0; i < pictures; ++i) EXPECT_EQ(batch->sample[i], first + i);
  }
  EXPECT_EQ(loader.Next(), nullptr);
  EXPECT_EQ(loader.Next(), nullptr);
  EXPECT_EQ(data.gets, 53);
}

TEST(Loader, EvaluationSharesCoverTheSplitOnce) {
  const FakeDataset data = Data();
  LoaderOptions options = Options();
  options.training = false;
  options.micro_batch = 10;
  options.leaves = 6;
  const auto all = Take(data, options, 100);
  ASSERT_EQ(all.size(), 6U);
  std::vector<Batch> together;
  for (int64_t rank = 0; rank < 4; ++rank) {
    // 4 shares of 2 batches are more than there are: the last is empty.
    options.first_leaf = rank * 2;
    options.leaves = 2;
    const auto own = Take(data, options, 100);
    EXPECT_EQ(own.size(), rank == 3 ? 0U : 2U);
    together.insert(together.end(), own.begin(), own.end());
  }
  ExpectSame(together, all);
}

TEST(Loader, ABatchStaysValidUntilTheNextCall) {
  const FakeDataset data = Data();
  LoaderOptions options = Options();
  options.data.prefetch = 1;
  options.data.loader_threads = 4;
  Loader loader(&data, options);
  for (int i = 0; i < 20; ++i) {
    const Batch* batch = loader.Next();
    const Batch copy = *batch;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    ExpectSame(*batch, copy);
  }
}

TEST(Loader, RunsNoFurtherAheadThanPrefetch) {
  const FakeDataset data = Data();
  LoaderOptions options = Options();
  options.data.loader_threads = 4;
  Loader loader(&data, options);
  const auto expect_gets = [&](int64_t expected) {
    while (data.gets < expected) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    EXPECT_EQ(data.gets, expected);
  };
  expect_gets(3 * 3);
  loader.Next();
  expect_gets((1 + 3) * 3);
  loader.Next();
  expect_gets((2 + 3) * 3);
}

TEST(Loader, CountsTheWaiting) {
  FakeDataset data = Data();
  data.delay_ms = 5;
  Loader loader(&data, Options());
  EXPECT_EQ(loader.wait_seconds(), 0);
  for (int i = 0; i < 10; ++i) loader.Next();
  EXPECT_GT(loader.wait_seconds(), 0.005);
}

// Linux's niceness is a thread's own.
class WatchedDataset : public FakeDataset {
 public:
  using FakeDataset::FakeDataset;
  void Get(int64_t index, Picture* picture) const override {
    least_nice = std::min<int>(least_nice, getpriority(PRIO_PROCESS, 0));
    FakeDataset::Get(index, picture);
  }
  mutable std::atomic<int> least_nice = 20;
};

TEST(Loader, GivesWayToWhatComputes) {
  const int own = getpriority(PRIO_PROCESS, 0);
  const WatchedDataset data(53, 5, 4, 1, 10);
  Loader loader(&data, Options());
  for (int i = 0; i < 4; ++i) loader.Next();
  EXPECT_GE(data.least_nice, 10);
  EXPECT_EQ(getpriority(PRIO_PROCESS, 0), own);
}

TEST(Loader, ErrorsOfThreadsComeAtTheirPlaceAndStay) {
  FakeDataset data = Data();
  data.bad_sample = ShuffledIndex(17, 0, 20, 53);  // in micro-batch 6
  for (int threads : {1, 3}) {
    LoaderOptions options = Options();
    options.data.loader_threads = threads;
    Loader loader(&data, options);
    for (int i = 0; i < 6; ++i) EXPECT_NE(loader.Next(), nullptr);
    for (int i = 0; i < 2; ++i) {
      EXPECT_THAT(ErrorOf([&] { loader.Next(); }), HasSubstr("is unreadable"));
    }
  }
}

TEST(Loader, LabelsBeyondTheClasses) {
  for (int64_t label : {10, -1}) {
    for (bool training : {true, false}) {
      FakeDataset data = Data();
      data.odd_sample = ShuffledIndex(17, 0, 0, 53);
      data.odd_label = label;
      LoaderOptions options = Options();
      options.training = training;
      options.leaves = training ? 4 : 100;
      const std::string error = ErrorOf([&] { Take(data, options, 18); });
      EXPECT_THAT(error, AllOf(HasSubstr("sample " + std::to_string(data.odd_sample) +
                                         " has label " + std::to_string(label)),
                               HasSubstr("10 classes")));
    }
  }
}

TEST(Loader, AGlobalBatchLargerThanTheData) {
  EXPECT_EQ(Loader::StepsPerEpoch(53, 54), 0);
  EXPECT_EQ(Loader::StepsPerEpoch(53, 53), 1);
  const FakeDataset data = Data();
  LoaderOptions options = Options();
  options.micro_batches_per_step = 18;
  EXPECT_THAT(ErrorOf([&] { Loader(&data, options); }),
              AllOf(HasSubstr("54"), HasSubstr("53"), HasSubstr("train.global_batch")));
  // A batch of evaluation may be larger, and takes no memory for what is not there.
  options = Options();
  options.training = false;
  options.micro_batch = int64_t{1} << 40;
  const auto batches = Take(data, options, 2);
  ASSERT_EQ(batches.size(), 1U);
  EXPECT_EQ(batches[0].pictures, 53);
}

TEST(Loader, PicturesThatDoNotFitAreRefusedAtOnce) {
  const FakeDataset data = Data();
  LoaderOptions options = Options();
  options.image_w = 9;
  EXPECT_THAT(ErrorOf([&] { Loader(&data, options); }), HasSubstr("data.pad 3 would do"));
  const FakeDataset colour(53, 5, 4, 2, 10);
  EXPECT_THAT(ErrorOf([&] { Loader(&colour, Options()); }), HasSubstr("model.in_chans"));
  EXPECT_EQ(data.gets, 0);
}

TEST(Loader, OptionsOutOfRange) {
  const FakeDataset data = Data();
  const auto error_of = [&](auto change) {
    LoaderOptions options = Options();
    change(&options.data);
    return ErrorOf([&] { Loader(&data, options); });
  };
  EXPECT_THAT(error_of([](DataConfig* d) { d->loader_threads = 0; }),
              HasSubstr("data.loader_threads is 0"));
  EXPECT_THAT(error_of([](DataConfig* d) { d->loader_threads = 1 << 30; }),
              HasSubstr("data.loader_threads"));
  EXPECT_THAT(error_of([](DataConfig* d) { d->prefetch = 0; }), HasSubstr("data.prefetch is 0"));
}

TEST(Loader, EndsAtAnyMoment) {
  for (int threads = 1; threads <= 4; ++threads) {
    LoaderOptions options = Options();
    options.data.loader_threads = threads;
    FakeDataset data = Data();
    // At once; threads blocked on a full queue; in the middle; threads in the middle of a picture;
    // after the end; after an error.
    { Loader loader(&data, options); }
    {
      Loader loader(&data, options);
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    {
      Loader loader(&data, options);
      for (int i = 0; i < 5; ++i) loader.Next();
    }
    data.delay_ms = 5;
    {
      Loader loader(&data, options);
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    data.delay_ms = 0;
    LoaderOptions evaluation = options;
    evaluation.training = false;
    {
      Loader loader(&data, evaluation);
      while (loader.Next() != nullptr) {
      }
    }
    data.bad_sample = ShuffledIndex(17, 0, 0, 53);
    {
      Loader loader(&data, options);
      EXPECT_THAT(ErrorOf([&] { loader.Next(); }), HasSubstr("unreadable"));
    }
    { Loader loader(&data, options); }
  }
}

TEST(Loader, GreyPicturesFillColourBatches) {
  const FakeDataset data = Data();
  LoaderOptions options = Options();
  const auto grey = Take(data, options, 1);
  options.in_chans = 3;
  const auto colour = Take(data, options, 1);
  ASSERT_EQ(colour[0].image.size(), 3U * 3 * 30);
  for (int64_t b = 0; b < 3; ++b) {
    for (int64_t c = 0; c < 3; ++c) {
      for (int64_t i = 0; i < 30; ++i) {
        ASSERT_EQ(colour[0].image[(b * 3 + c) * 30 + i], grey[0].image[b * 30 + i]);
      }
    }
  }
}

}  // namespace
}  // namespace swinfleet
