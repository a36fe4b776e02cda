// The arithmetic of weights at other windows, against PyTorch's and FITPACK's values.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/checkpoint/weight_transfer.h"

namespace swinfleet {
namespace {

// i -> sin(1.3 i) + 0.1 i.
std::vector<float> Waves(int64_t count) {
  std::vector<float> values;
  for (int64_t i = 0; i < count; ++i) {
    const auto x = static_cast<double>(i);
    values.push_back(static_cast<float>(std::sin(1.3 * x) + 0.1 * x));
  }
  return values;
}

void ExpectNear(const std::vector<float>& values, const std::vector<float>& expected) {
  ASSERT_EQ(values.size(), expected.size());
  for (size_t i = 0; i < values.size(); ++i) EXPECT_NEAR(values[i], expected[i], 2e-6) << i;
}

// Two channels: the values, and twice the values.
std::vector<float> Doubled(const std::vector<float>& values) {
  std::vector<float> both;
  for (const float value : values) both.insert(both.end(), {value, 2 * value});
  return both;
}

TEST(ResizeBicubic, IsPyTorchs) {
  const std::vector<float> expected = {0.20528686F,    1.07050824F,   -0.365363479F, -0.0513098091F,
                                       1.22481894F,    0.225025967F,  -0.326774359F, 1.3235209F,
                                       1.11759686F,    -0.177827448F, 0.978220403F,  1.76322532F,
                                       0.00256242231F, 0.675373375F,  2.09935498F};
  ExpectNear(ResizeBicubic(Waves(12), {3, 4}, {5, 3}, 1), expected);
  ExpectNear(ResizeBicubic(Doubled(Waves(12)), {3, 4}, {5, 3}, 2), Doubled(expected));
}

TEST(ResizeBicubic, OfTheSameSizeChangesNothing) {
  ExpectNear(ResizeBicubic(Waves(12), {3, 4}, {3, 4}, 1), Waves(12));
  // A single entry is the same everywhere.
  ExpectNear(ResizeBicubic(Waves(2), {1, 1}, {2, 1}, 2), {0, Waves(2)[1], 0, Waves(2)[1]});
}

TEST(ResizeGeometric, IsThatOfSimMimsFineTuning) {
  // The ratio reaches the border: nothing lies beyond the source's places.
  ExpectNear(ResizeGeometric(Waves(25), 5, 7, 1), {0,
                                                   0.536109567F,
                                                   1.06355822F,
                                                   0.715501368F,
                                                   -0.387766153F,
                                                   -0.928889394F,
                                                   -0.483454645F,
                                                   0.163122475F,
                                                   0.710049808F,
                                                   1.19231737F,
                                                   0.788693547F,
                                                   -0.309939027F,
                                                   -0.811061621F,
                                                   -0.347580701F,
                                                   0.715120018F,
                                                   1.28355658F,
                                                   1.59854329F,
                                                   1.0190984F,
                                                   -0.0278264694F,
                                                   -0.374292105F,
                                                   0.138016418F,
                                                   1.42016709F,
                                                   1.99538422F,
                                                   2.08677197F,
                                                   1.30775368F,
                                                   0.370875984F,
                                                   0.238903388F,
                                                   0.795167148F,
                                                   2.1055398F,
                                                   2.66167355F,
                                                   2.52879524F,
                                                   1.59136343F,
                                                   0.813084424F,
                                                   0.90539664F,
                                                   1.4806391F,
                                                   2.61779499F,
                                                   3.14319181F,
                                                   2.8416853F,
                                                   1.81157625F,
                                                   1.18308008F,
                                                   1.44982886F,
                                                   2.02344561F,
                                                   2.76255846F,
                                                   3.27463794F,
                                                   2.92732787F,
                                                   1.88006008F,
                                                   1.30150497F,
                                                   1.61739171F,
                                                   2.18574739F});
  // To a smaller window.
  const std::vector<float> smaller = {1.59854329F, 1.0190984F,  -0.0278264694F,
                                      2.08677197F, 1.30775368F, 0.370875984F,
                                      2.52879524F, 1.59136343F, 0.813084424F};
  ExpectNear(ResizeGeometric(Waves(25), 5, 3, 1), smaller);
  ExpectNear(ResizeGeometric(Doubled(Waves(25)), 5, 3, 2), Doubled(smaller));
}

TEST(ResizeGeometric, IsConstantBeyondTheSource) {
  // A window of 3 can't be stretched to one of 5: the largest ratio is 1.5.
  const std::vector<float> wide = ResizeGeometric(Waves(25), 5, 9, 1);
  const std::vector<float> inner = ResizeGeometric(Waves(25), 5, 7, 1);
  ASSERT_EQ(wide.size(), 81u);
  for (int64_t y = 0; y < 9; ++y) {
    for (int64_t x = 0; x < 9; ++x) {
      const int64_t from_y = std::clamp<int64_t>(y - 1, 0, 6);
      const int64_t from_x = std::clamp<int64_t>(x - 1, 0, 6);
      EXPECT_NEAR(wide[y * 9 + x], inner[from_y * 7 + from_x], 2e-6) << y << ", " << x;
    }
  }
}

TEST(InflateProjection, RepeatsAndDivides) {
  // Two rows of two values, over two frames.
  EXPECT_EQ(InflateProjection(std::vector<float>{2, 4, 6, 8}, 2, 2),
            (std::vector<float>{1, 2, 1, 2, 3, 4, 3, 4}));
}

TEST(RepeatTable, Repeats) {
  EXPECT_EQ(RepeatTable(std::vector<float>{1, 2}, 3), (std::vector<float>{1, 2, 1, 2, 1, 2}));
}

}  // namespace
}  // namespace swinfleet
