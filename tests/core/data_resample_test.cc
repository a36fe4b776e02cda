#include "core/data/resample.h"

#include <gtest/gtest.h>
#include <hwy/targets.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <vector>

#include "core/rng/counter_rng.h"
#include "tests/core/data_test_util.h"

namespace swinfleet {
namespace {

Picture Resampled(const Picture& in, const CropBox& box, const PictureSize& size,
                  ResampleFilter filter) {
  ResampleScratch scratch;
  Picture out;
  Resample(in, box, size, {0, 0, size.height, size.width}, filter, &scratch, &out);
  return out;
}

Picture Resampled(const Picture& in, const PictureSize& size, ResampleFilter filter) {
  return Resampled(in, {0, 0, in.height, in.width}, size, filter);
}

// The values of Pillow 12's resize.
TEST(Resample, SmallPicturesAreAsPillowHasThem) {
  EXPECT_EQ(Resampled(TestPicture(7, 9, 3), {4, 5}, ResampleFilter::kBicubic).pixels,
            (std::vector<uint8_t>{110, 78,  106, 150, 116, 91,  112, 155, 117, 102, 119, 156,
                                  117, 99,  137, 146, 158, 116, 91,  145, 161, 121, 100, 152,
                                  164, 113, 110, 132, 157, 90,  109, 131, 177, 122, 101, 132,
                                  141, 120, 108, 126, 143, 117, 106, 126, 133, 164, 146, 129,
                                  148, 161, 81,  114, 154, 122, 72,  121, 166, 178, 78,  119}));
  EXPECT_EQ(Resampled(TestPicture(3, 4, 3), {5, 6}, ResampleFilter::kBilinear).pixels,
            (std::vector<uint8_t>{0,   37,  74,  56,  93,  130, 130, 124, 161, 203, 27,  64,  150,
                                  59,  96,  77,  114, 151, 75,  112, 47,  80,  117, 103, 103, 114,
                                  151, 176, 85,  122, 123, 83,  120, 50,  87,  124, 188, 225, 6,
                                  116, 153, 62,  62,  99,  136, 135, 172, 209, 82,  119, 156, 9,
                                  46,  83,  147, 184, 119, 152, 112, 98,  149, 58,  95,  120, 131,
                                  168, 118, 155, 115, 122, 159, 42,  120, 157, 194, 176, 85,  122,
                                  207, 31,  68,  110, 104, 141, 142, 179, 88,  197, 234, 15}));
}

TEST(Resample, IsPillowsToTheBit) {
  struct Case {
    int64_t h, w, out_h, out_w;
    ResampleFilter filter;
    uint32_t checksum;
  };
  const Case cases[] = {
      {37, 53, 24, 24, ResampleFilter::kBilinear, 1406287600u},
      {37, 53, 24, 24, ResampleFilter::kBicubic, 2808020443u},
      {37, 53, 24, 60, ResampleFilter::kBilinear, 2679753783u},
      {37, 53, 24, 60, ResampleFilter::kBicubic, 1358209802u},
      {37, 53, 80, 11, ResampleFilter::kBilinear, 4200784147u},
      {37, 53, 80, 11, ResampleFilter::kBicubic, 460088976u},
      {200, 150, 31, 57, ResampleFilter::kBilinear, 3616315756u},
      {200, 150, 31, 57, ResampleFilter::kBicubic, 764256883u},
      {5, 4, 64, 64, ResampleFilter::kBilinear, 4266749492u},
      {5, 4, 64, 64, ResampleFilter::kBicubic, 3450821615u},
      {37, 53, 37, 20, ResampleFilter::kBilinear, 2616584700u},
      {37, 53, 37, 20, ResampleFilter::kBicubic, 783933773u},
      {37, 53, 20, 53, ResampleFilter::kBilinear, 443174693u},
      {37, 53, 20, 53, ResampleFilter::kBicubic, 3578055439u},
      {1, 1, 3, 3, ResampleFilter::kBilinear, 3926396229u},
      {300, 2, 7, 9, ResampleFilter::kBilinear, 1853210019u},
      {300, 2, 7, 9, ResampleFilter::kBicubic, 2681373147u},
      {1, 99, 1, 10, ResampleFilter::kBilinear, 4284356458u},
      {1, 99, 1, 10, ResampleFilter::kBicubic, 3499504290u},
  };
  for (int64_t rest = hwy::SupportedTargets(); rest != 0; rest &= rest - 1) {
    const int64_t set = rest & -rest;
    hwy::SetSupportedTargetsForTest(set);
    for (const Case& c : cases) {
      const Picture out = Resampled(TestPicture(c.h, c.w, 3), {c.out_h, c.out_w}, c.filter);
      EXPECT_EQ(Checksum(out.pixels), c.checksum)
          << c.h << "x" << c.w << " to " << c.out_h << "x" << c.out_w << ", "
          << hwy::TargetName(set);
    }
  }
  hwy::SetSupportedTargetsForTest(0);
  const Picture box =
      Resampled(TestPicture(37, 53, 3), {5, 7, 21, 30}, {12, 16}, ResampleFilter::kBicubic);
  EXPECT_EQ(Checksum(box.pixels), 2796065749u);
}

// The definition in two dimensions at once, with plain weights and one rounding.
double Kernel(ResampleFilter filter, double x) {
  x = std::abs(x);
  if (filter == ResampleFilter::kBilinear) return std::max(0.0, 1 - x);
  if (x < 1) return 1.5 * x * x * x - 2.5 * x * x + 1;
  return x < 2 ? -0.5 * x * x * x + 2.5 * x * x - 4 * x + 2 : 0;
}

std::vector<double> Weights(int64_t in, int64_t out, int64_t i, ResampleFilter filter) {
  const double scale = static_cast<double>(in) / static_cast<double>(out);
  std::vector<double> weights(in);
  double sum = 0;
  for (int64_t k = 0; k < in; ++k) {
    const double distance = (static_cast<double>(k) + 0.5) - (static_cast<double>(i) + 0.5) * scale;
    weights[k] = Kernel(filter, distance / std::max(1.0, scale));
    sum += weights[k];
  }
  for (double& weight : weights) weight /= sum;
  return weights;
}

TEST(Resample, AgreesWithTheDefinition) {
  CounterRng rng(3, RandomPurpose::kBenchmarkData, 0);
  for (int i = 0; i < 40; ++i) {
    const auto side = [&](int64_t most) { return 1 + static_cast<int64_t>(rng.Below(most)); };
    const int64_t h = side(30), w = side(30), out_h = side(25), out_w = side(25);
    const int64_t channels = side(4);
    const auto filter = i % 2 ? ResampleFilter::kBicubic : ResampleFilter::kBilinear;
    // Smooth enough that the rounding between the two passes is never at the clipping.
    Picture in = TestPicture(h, w, channels);
    for (uint8_t& pixel : in.pixels) pixel = static_cast<uint8_t>(64 + pixel / 2);
    const Picture out = Resampled(in, {out_h, out_w}, filter);
    for (int64_t y = 0; y < out_h; ++y) {
      const std::vector<double> rows = Weights(h, out_h, y, filter);
      for (int64_t x = 0; x < out_w; ++x) {
        const std::vector<double> columns = Weights(w, out_w, x, filter);
        for (int64_t c = 0; c < channels; ++c) {
          double sum = 0;
          for (int64_t v = 0; v < h; ++v) {
            for (int64_t u = 0; u < w; ++u) {
              sum += rows[v] * columns[u] * in.pixels[(v * w + u) * channels + c];
            }
          }
          // Half a level for each rounding, the first one weighted by at most 1.26 (the sum of the
          // absolute weights).
          ASSERT_NEAR(out.pixels[(y * out_w + x) * channels + c], sum, 1.2)
              << h << "x" << w << " to " << out_h << "x" << out_w;
        }
      }
    }
  }
}

TEST(Resample, AWindowIsAPartOfTheWhole) {
  const Picture in = TestPicture(40, 33, 3);
  const CropBox box{3, 2, 35, 30};
  ResampleScratch scratch;
  for (const PictureSize size : {PictureSize{17, 12}, {35, 12}, {17, 30}, {35, 30}, {50, 60}}) {
    const Picture whole = Resampled(in, box, size, ResampleFilter::kBicubic);
    for (const CropBox& window :
         {CropBox{0, 0, 1, 1}, CropBox{4, 5, 9, 6}, CropBox{16, 0, 1, 12}, CropBox{0, 11, 17, 1}}) {
      Picture part;
      Resample(in, box, size, window, ResampleFilter::kBicubic, &scratch, &part);
      ASSERT_EQ(part.height, window.height);
      ASSERT_EQ(part.width, window.width);
      for (int64_t y = 0; y < window.height; ++y) {
        for (int64_t i = 0; i < window.width * 3; ++i) {
          ASSERT_EQ(part.pixels[y * window.width * 3 + i],
                    whole.pixels[((window.top + y) * size.width + window.left) * 3 + i]);
        }
      }
    }
  }
}

TEST(Resample, TheSameSizeIsACopy) {
  const Picture in = TestPicture(9, 7, 3);
  EXPECT_EQ(Resampled(in, {9, 7}, ResampleFilter::kBicubic).pixels, in.pixels);
}

TEST(Resample, ExtremeShapesTakeNoMoreMemoryThanTheirWindow) {
  Picture line = TestPicture(1, 60000, 3);
  ResampleScratch scratch;
  Picture out;
  // The whole result would have 46 GB.
  Resample(line, {0, 0, 1, 60000}, {512, int64_t{512} * 60000}, {0, 1000000, 448, 448},
           ResampleFilter::kBicubic, &scratch, &out);
  EXPECT_EQ(out.pixels.size(), 448U * 448 * 3);
}

}  // namespace
}  // namespace swinfleet
