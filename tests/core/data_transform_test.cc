#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>
#include <vector>

#include "core/data/transform.h"
#include "tests/core/data_test_util.h"

namespace swinfleet {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

Picture MakePicture(int64_t height, int64_t width, int64_t channels) {
  Picture picture{height, width, channels, {}, 0};
  for (int64_t i = 0; i < height * width * channels; ++i) picture.pixels.push_back(i % 255 + 1);
  return picture;
}

CounterRng Rng(uint64_t sample) { return CounterRng(1, RandomPurpose::kAugmentation, sample); }

// The definition, pixel by pixel: pixel (y, x) of the output comes from (y + top, x' + left).
std::vector<float> Naive(const Picture& picture, const DataConfig& data, int64_t h, int64_t w,
                         int64_t chans, int64_t top, int64_t left, bool flip) {
  std::vector<float> out;
  for (int64_t c = 0; c < chans; ++c) {
    for (int64_t y = 0; y < h; ++y) {
      for (int64_t x = 0; x < w; ++x) {
        const int64_t sy = y + top;
        const int64_t sx = (flip ? w - 1 - x : x) + left;
        double value = 0;
        if (sy >= 0 && sy < picture.height && sx >= 0 && sx < picture.width) {
          const int64_t channel = picture.channels == 1 ? 0 : c;
          value = picture.pixels[(sy * picture.width + sx) * picture.channels + channel] / 255.0;
        }
        const double mean = data.mean.empty() ? 0 : data.mean[c];
        const double std = data.std.empty() ? 1 : data.std[c];
        out.push_back(static_cast<float>((value - mean) / std));
      }
    }
  }
  return out;
}

TEST(Transform, CenterPadsAndCrops) {
  DataConfig data;
  data.mean = {0.25};
  data.std = {0.5};
  struct Case {
    int64_t in_h, in_w, out_h, out_w, top, left;
  };
  for (const Case& c :
       {Case{28, 28, 32, 32, -2, -2}, Case{28, 28, 28, 28, 0, 0}, Case{40, 36, 32, 32, 4, 2},
        Case{40, 20, 32, 32, 4, -6}, Case{5, 5, 8, 8, -1, -1}, Case{9, 9, 8, 8, 0, 0},
        Case{1, 1, 2, 4, 0, -1}}) {
    const Picture picture = MakePicture(c.in_h, c.in_w, 1);
    const PictureTransform transform(data, c.out_h, c.out_w, 1);
    std::vector<float> out(transform.size());
    transform.Center(picture, out);
    EXPECT_EQ(out, Naive(picture, data, c.out_h, c.out_w, 1, c.top, c.left, false)) << c.in_h;
  }
}

TEST(Transform, AugmentIsOneOfTheCropsAndFlipsAndReachesAll) {
  DataConfig data;
  data.pad = 2;
  data.random_crop = true;
  data.flip = 0.5;
  const Picture picture = MakePicture(3, 4, 1);
  const PictureTransform transform(data, 4, 5, 1);
  // Padded to 7x8: offsets 0..3 in both directions, with and without a flip.
  std::vector<std::vector<float>> all;
  for (int64_t top = -2; top <= 1; ++top) {
    for (int64_t left = -2; left <= 1; ++left) {
      for (bool flip : {false, true}) {
        all.push_back(Naive(picture, data, 4, 5, 1, top, left, flip));
      }
    }
  }
  std::vector<int64_t> counts(all.size());
  std::vector<float> out(transform.size());
  const int draws = 32000;
  for (int i = 0; i < draws; ++i) {
    transform.Augment(picture, Rng(i), out);
    const auto it = std::find(all.begin(), all.end(), out);
    ASSERT_NE(it, all.end()) << i;
    ++counts[it - all.begin()];
  }
  for (int64_t count : counts) EXPECT_NEAR(count, draws / 32.0, 6 * std::sqrt(draws / 32.0));
}

TEST(Transform, WithoutRandomCropTheMiddleIsTaken) {
  DataConfig data;
  data.pad = 3;
  const Picture picture = MakePicture(5, 6, 1);
  const PictureTransform transform(data, 4, 8, 1);
  std::vector<float> out(transform.size());
  transform.Augment(picture, Rng(0), out);
  // 11x12 after padding; 7 rows and 4 columns to spare.
  EXPECT_EQ(out, Naive(picture, data, 4, 8, 1, 3 - 3, 2 - 3, false));
}

TEST(Transform, FlipAlwaysAndNever) {
  DataConfig data;
  const Picture picture = MakePicture(4, 4, 1);
  for (double flip : {0.0, 1.0}) {
    data.flip = flip;
    const PictureTransform transform(data, 4, 4, 1);
    std::vector<float> out(transform.size());
    for (int i = 0; i < 100; ++i) {
      transform.Augment(picture, Rng(i), out);
      ASSERT_EQ(out, Naive(picture, data, 4, 4, 1, 0, 0, flip == 1));
    }
  }
}

TEST(Transform, Channels) {
  DataConfig data;
  data.mean = {0.1, 0.2, 0.3};
  data.std = {1, 2, 4};
  data.flip = 1;
  const PictureTransform transform(data, 4, 4, 3);
  std::vector<float> out(transform.size());
  for (int64_t channels : {1, 3}) {
    const Picture picture = MakePicture(4, 4, channels);
    transform.Augment(picture, Rng(0), out);
    EXPECT_EQ(out, Naive(picture, data, 4, 4, 3, 0, 0, true)) << channels;
    transform.Center(picture, out);
    EXPECT_EQ(out, Naive(picture, data, 4, 4, 3, 0, 0, false)) << channels;
  }
  const PictureTransform grey(DataConfig{}, 4, 4, 1);
  std::vector<float> small(grey.size());
  for (bool training : {false, true}) {
    EXPECT_THAT(ErrorOf([&] { grey.CheckFits(4, 4, 3, training); }),
                AllOf(HasSubstr("have 3 channels"), HasSubstr("takes 1"),
                      HasSubstr("model.in_chans to 3")));
  }
  EXPECT_THAT(ErrorOf([&] { transform.CheckFits(4, 4, 4, true); }), HasSubstr("4 channels"));
}

TEST(Transform, TooSmallAPictureSaysWhichPadWouldDo) {
  DataConfig data;
  data.pad = 1;
  const PictureTransform transform(data, 32, 32, 1);
  EXPECT_THAT(ErrorOf([&] { transform.CheckFits(28, 28, 1, true); }),
              AllOf(HasSubstr("28x28"), HasSubstr("32x32"), HasSubstr("data.pad 2 would do")));
  EXPECT_THAT(ErrorOf([&] { transform.CheckFits(40, 27, 1, true); }),
              HasSubstr("data.pad 3 would do"));
  transform.CheckFits(30, 30, 1, true);
  transform.CheckFits(28, 28, 1, false);
}

TEST(Transform, OptionsOutOfRange) {
  const auto error_of = [](auto change) {
    DataConfig data;
    change(&data);
    return ErrorOf([&] { PictureTransform(data, 4, 4, 3); });
  };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THAT(error_of([](DataConfig* d) { d->pad = -1; }), HasSubstr("data.pad"));
  EXPECT_THAT(error_of([](DataConfig* d) { d->pad = int64_t{1} << 60; }), HasSubstr("data.pad"));
  EXPECT_THAT(error_of([](DataConfig* d) { d->flip = 1.5; }), HasSubstr("data.flip"));
  EXPECT_THAT(error_of([&](DataConfig* d) { d->flip = nan; }), HasSubstr("data.flip"));
  EXPECT_THAT(error_of([](DataConfig* d) { d->mean = {0.5}; }),
              HasSubstr("data.mean has 1 values"));
  EXPECT_THAT(error_of([&](DataConfig* d) { d->mean = {0, nan, 0}; }), HasSubstr("data.mean"));
  EXPECT_THAT(error_of([](DataConfig* d) { d->std = {1, 0, 1}; }), HasSubstr("data.std"));
}

}  // namespace
}  // namespace swinfleet
