#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>
#include <utility>
#include <vector>

#include "core/data/crop.h"
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

void Augment(const PictureTransform& transform, const Picture& picture, CounterRng rng,
             std::vector<float>* out) {
  TransformScratch scratch;
  transform.Augment(picture, rng, &scratch, {out->data(), transform.plane_size()});
}

void Center(const PictureTransform& transform, const Picture& picture, std::vector<float>* out) {
  TransformScratch scratch;
  transform.Center(picture, &scratch, {out->data(), transform.plane_size()});
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
    Center(transform, picture, &out);
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
    Augment(transform, picture, Rng(i), &out);
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
  Augment(transform, picture, Rng(0), &out);
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
      Augment(transform, picture, Rng(i), &out);
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
    Augment(transform, picture, Rng(0), &out);
    EXPECT_EQ(out, Naive(picture, data, 4, 4, 3, 0, 0, true)) << channels;
    Center(transform, picture, &out);
    EXPECT_EQ(out, Naive(picture, data, 4, 4, 3, 0, 0, false)) << channels;
  }
  EXPECT_THAT(
      ErrorOf([&] { transform.CheckFits(4, 4, 2, false); }),
      AllOf(HasSubstr("have 2 channels"), HasSubstr("takes 3"), HasSubstr("model.in_chans to 2")));
  EXPECT_THAT(ErrorOf([&] { transform.CheckFits(4, 4, 4, true); }), HasSubstr("4 channels"));
}

TEST(Transform, ColourBecomesGreyForOneChannel) {
  const Picture colour = TestPicture(3, 4, 3);
  // Pillow 12: convert("L").
  const uint8_t expected[] = {30, 141, 73, 107, 189, 73, 184, 39, 150, 82, 116, 198};
  const PictureTransform transform(DataConfig{}, 3, 4, 1);
  std::vector<float> out(transform.size());
  Center(transform, colour, &out);
  for (int i = 0; i < 12; ++i) EXPECT_EQ(out[i], static_cast<float>(expected[i] / 255.0)) << i;
  std::vector<float> augmented(transform.size());
  Augment(transform, colour, Rng(0), &augmented);
  EXPECT_EQ(augmented, out);
}

// Of the planes, in their order.
uint32_t PlaneChecksum(const std::vector<float>& planes) {
  std::vector<uint8_t> bytes;
  for (float x : planes) bytes.push_back(static_cast<uint8_t>(std::lround(x * 255)));
  return Checksum(bytes);
}

TEST(Transform, EvaluationIsTimms) {
  // timm 1.0's transforms_imagenet_eval with Pillow 12, of TestPicture(h, w, 3).
  struct Case {
    int64_t h, w, image_h, image_w;
    double crop;
    DataConfig::Interpolation interpolation;
    uint32_t checksum;
  };
  const Case cases[] = {
      {75, 100, 32, 32, 0.875, DataConfig::Interpolation::kBicubic, 2792845240u},
      {100, 75, 32, 32, 0.875, DataConfig::Interpolation::kBilinear, 4171767511u},
      {61, 97, 24, 40, 0.9, DataConfig::Interpolation::kBicubic, 3158944704u},
      {61, 97, 24, 40, 0.9, DataConfig::Interpolation::kRandom, 3158944704u},
      {20, 30, 32, 32, 1.0, DataConfig::Interpolation::kBicubic, 3563401740u},
      {97, 61, 33, 65, 0.8, DataConfig::Interpolation::kBilinear, 4159775672u},
  };
  for (const Case& c : cases) {
    DataConfig data;
    data.format = "imagefolder";
    data.eval_crop = c.crop;
    data.interpolation = c.interpolation;
    const PictureTransform transform(data, c.image_h, c.image_w, 3);
    std::vector<float> out(transform.size());
    Center(transform, TestPicture(c.h, c.w, 3), &out);
    EXPECT_EQ(PlaneChecksum(out), c.checksum) << c.h << "x" << c.w << " to " << c.image_h;
    // What training does changes nothing.
    data.crop_scale = {0.5, 1};
    const PictureTransform cropped(data, c.image_h, c.image_w, 3);
    Center(cropped, TestPicture(c.h, c.w, 3), &out);
    EXPECT_EQ(PlaneChecksum(out), c.checksum);
  }
}

TEST(Transform, RandomResizedCropIsCropResampleAndFlip) {
  DataConfig data;
  data.format = "imagefolder";
  data.crop_scale = {0.2, 0.9};
  data.crop_ratio = {0.5, 2};
  data.flip = 0.5;
  data.interpolation = DataConfig::Interpolation::kRandom;
  const PictureTransform transform(data, 12, 10, 3);
  const Picture picture = TestPicture(40, 31, 3);
  std::vector<float> out(transform.size());
  int flips = 0;
  int bilinear = 0;
  constexpr int kDraws = 400;
  for (int i = 0; i < kDraws; ++i) {
    Augment(transform, picture, Rng(i), &out);
    CounterRng rng = Rng(i);
    const CropBox box = RandomResizedCrop(40, 31, 0.2, 0.9, 0.5, 2, &rng);
    // Which of the four was taken.
    int matches = 0;
    for (const ResampleFilter filter : {ResampleFilter::kBilinear, ResampleFilter::kBicubic}) {
      ResampleScratch scratch;
      Picture resized;
      Resample(picture, box, {12, 10}, {0, 0, 12, 10}, filter, &scratch, &resized);
      for (const bool flip : {false, true}) {
        if (out != Naive(resized, DataConfig{}, 12, 10, 3, 0, 0, flip)) continue;
        ++matches;
        flips += flip;
        bilinear += filter == ResampleFilter::kBilinear;
      }
    }
    ASSERT_EQ(matches, 1) << i;
  }
  const double sigma = std::sqrt(kDraws / 4.0);
  EXPECT_NEAR(flips, kDraws / 2, 5 * sigma);
  EXPECT_NEAR(bilinear, kDraws / 2, 5 * sigma);
}

TEST(Transform, FoldersWithoutCropScaleAreResizedThenPaddedAndCropped) {
  DataConfig data;
  data.format = "imagefolder";
  data.eval_crop = 1;
  data.pad = 2;
  data.random_crop = true;
  const PictureTransform transform(data, 8, 8, 3);
  const Picture picture = TestPicture(16, 24, 3);
  ResampleScratch scratch;
  Picture resized;
  Resample(picture, {0, 0, 16, 24}, {8, 12}, {0, 0, 8, 12}, ResampleFilter::kBicubic, &scratch,
           &resized);
  std::vector<float> out(transform.size());
  std::set<std::pair<int64_t, int64_t>> seen;
  for (int i = 0; i < 600; ++i) {
    Augment(transform, picture, Rng(i), &out);
    for (int64_t top = -2; top <= 2; ++top) {
      for (int64_t left = -2; left <= 6; ++left) {
        if (out == Naive(resized, DataConfig{}, 8, 8, 3, top, left, false)) {
          seen.insert({top, left});
        }
      }
    }
  }
  EXPECT_EQ(seen.size(), 5U * 9);
}

TEST(Transform, FramesOfAClipGoSideBySide) {
  DataConfig data;
  const PictureTransform transform(data, 4, 4, 3);
  const Picture picture = TestPicture(4, 4, 3);
  std::vector<float> alone(transform.size());
  Center(transform, picture, &alone);
  constexpr int64_t kFrames = 3;
  std::vector<float> clip(transform.size() * kFrames, -1);
  TransformScratch scratch;
  transform.Center(picture, &scratch, {clip.data() + 16, 16 * kFrames});
  for (int64_t c = 0; c < 3; ++c) {
    for (int64_t t = 0; t < kFrames; ++t) {
      for (int64_t i = 0; i < 16; ++i) {
        EXPECT_EQ(clip[(c * kFrames + t) * 16 + i], t == 1 ? alone[c * 16 + i] : -1);
      }
    }
  }
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
  EXPECT_THAT(error_of([](DataConfig* d) { d->crop_scale = {0.5}; }), HasSubstr("crop_scale is"));
  EXPECT_THAT(error_of([](DataConfig* d) { d->crop_scale = {0.5, 2}; }), HasSubstr("at most 1"));
  EXPECT_THAT(error_of([](DataConfig* d) {
                d->crop_scale = {0.5, 1};
                d->crop_ratio = {0, 1};
              }),
              HasSubstr("crop_ratio"));
  EXPECT_THAT(error_of([](DataConfig* d) {
                d->crop_scale = {0.5, 1};
                d->pad = 1;
              }),
              HasSubstr("excludes data.pad"));
  EXPECT_THAT(error_of([&](DataConfig* d) { d->eval_crop = nan; }), HasSubstr("data.eval_crop"));
  EXPECT_THAT(error_of([](DataConfig* d) { d->mean = {0.5}; }),
              HasSubstr("data.mean has 1 values"));
  EXPECT_THAT(error_of([&](DataConfig* d) { d->mean = {0, nan, 0}; }), HasSubstr("data.mean"));
  EXPECT_THAT(error_of([](DataConfig* d) { d->std = {1, 0, 1}; }), HasSubstr("data.std"));
}

}  // namespace
}  // namespace swinfleet
