// The arithmetic of weights at other windows, against PyTorch's and FITPACK's values.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <optional>
#include <vector>

#include "core/checkpoint/weight_transfer.h"
#include "kernels/ops.h"

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

// ---- Tables of clips ----

using Window = std::array<int64_t, 3>;

// PyTorch's bicubic kernel, a = -0.75, at any distance.
double Cubic(double x) {
  constexpr double a = -0.75;
  x = std::abs(x);
  if (x < 1) return (a + 2) * x * x * x - (a + 3) * x * x + 1;
  return x < 2 ? a * x * x * x - 5 * a * x * x + 8 * a * x - 4 * a : 0;
}

// Entry (offset, y, x, channel) of the table of `out`, by definition: a sum over 4 x 4 places of
// the slice whose offset in time is the nearest that the source has.
double NaiveEntry(const std::vector<float>& table, const Window& in, const Window& out,
                  int64_t channels, int64_t offset, int64_t y, int64_t x, int64_t channel) {
  const int64_t h = 2 * in[1] - 1, w = 2 * in[2] - 1;
  const int64_t last = in[0] - 1, slice = std::clamp(offset, -last, last) + last;
  const auto place = [](int64_t i, int64_t from, int64_t to) {
    return (static_cast<double>(i) + 0.5) * static_cast<double>(from) / static_cast<double>(to) -
           0.5;
  };
  const double at_y = place(y, h, 2 * out[1] - 1), at_x = place(x, w, 2 * out[2] - 1);
  double sum = 0;
  for (auto i = static_cast<int64_t>(std::floor(at_y)) - 1; i <= std::floor(at_y) + 2; ++i) {
    for (auto j = static_cast<int64_t>(std::floor(at_x)) - 1; j <= std::floor(at_x) + 2; ++j) {
      const int64_t row = std::clamp<int64_t>(i, 0, h - 1);
      const int64_t column = std::clamp<int64_t>(j, 0, w - 1);
      sum += Cubic(at_y - static_cast<double>(i)) * Cubic(at_x - static_cast<double>(j)) *
             table[((slice * h + row) * w + column) * channels + channel];
    }
  }
  return sum;
}

std::vector<float> TableOf(const Window& window, int64_t channels) {
  return Waves((2 * window[0] - 1) * (2 * window[1] - 1) * (2 * window[2] - 1) * channels);
}

TEST(ResizeClipTable, IsItsDefinition) {
  constexpr int64_t kChannels = 2;
  const Window in = {3, 2, 4};
  const std::vector<float> table = TableOf(in, kChannels);
  for (const Window& out : {Window{3, 3, 5}, {5, 2, 4}, {2, 2, 4}, {5, 4, 3}, {1, 1, 1}}) {
    const std::vector<float> resized = ResizeClipTable(table, in, out, kChannels);
    ASSERT_EQ(resized.size(), TableOf(out, kChannels).size());
    auto value = resized.begin();
    for (int64_t offset = 1 - out[0]; offset < out[0]; ++offset) {
      for (int64_t y = 0; y < 2 * out[1] - 1; ++y) {
        for (int64_t x = 0; x < 2 * out[2] - 1; ++x) {
          for (int64_t c = 0; c < kChannels; ++c) {
            EXPECT_NEAR(*value++, NaiveEntry(table, in, out, kChannels, offset, y, x, c), 2e-5)
                << offset << ", " << y << ", " << x << ", " << c;
          }
        }
      }
    }
  }
}

TEST(ResizeClipTable, OfTheSameWindowChangesNothing) {
  const std::vector<float> table = TableOf({8, 7, 7}, 3);
  EXPECT_EQ(ResizeClipTable(table, {8, 7, 7}, {8, 7, 7}, 3), table);
}

TEST(ResizeClipTable, OffsetsInTimeKeepTheirBiases) {
  // One place and one channel: offsets -2 to 2.
  const std::vector<float> table = {1, 2, 3, 4, 5};
  EXPECT_EQ(ResizeClipTable(table, {3, 1, 1}, {5, 1, 1}, 1),
            (std::vector<float>{1, 1, 1, 2, 3, 4, 5, 5, 5}));
  EXPECT_EQ(ResizeClipTable(table, {3, 1, 1}, {2, 1, 1}, 1), (std::vector<float>{2, 3, 4}));
  // From Kinetics' window to Something-Something's and back.
  const std::vector<float> shallow = TableOf({8, 7, 7}, 2);
  EXPECT_EQ(
      ResizeClipTable(ResizeClipTable(shallow, {8, 7, 7}, {16, 7, 7}, 2), {16, 7, 7}, {8, 7, 7}, 2),
      shallow);
  // Of a window without depth, as of a picture's, each offset is a copy.
  EXPECT_EQ(ResizeClipTable(TableOf({1, 3, 3}, 2), {1, 3, 3}, {2, 3, 3}, 2),
            RepeatTable(TableOf({1, 3, 3}, 2), 3));
}

std::vector<float> Coordinates(MapSize window, int64_t units) {
  std::vector<float> coords((2 * window.height - 1) * (2 * window.width - 1) * 2);
  LogSpacedCoordinates(window.height, window.width, units, units, coords.data());
  return coords;
}

TEST(WindowOfCoordinates, IsWhatTheyWereDividedBy) {
  for (const int64_t window : {2, 3, 7, 8, 12, 24, 64}) {
    for (const int64_t units : {2, 6, 8, 12, 16, 63, 64, 255, 256}) {
      std::vector<float> coords = Coordinates({window, window}, units);
      EXPECT_EQ(WindowOfCoordinates(coords, {window, window}), units) << window;
      // Rounded to bfloat16, as far as its 8 bits tell windows apart.
      for (float& value : coords) {
        const auto bits = std::bit_cast<uint32_t>(value) + 0x8000u;
        value = std::bit_cast<float>(bits & 0xffff0000u);
      }
      if (window < 6 || units > 64) continue;
      EXPECT_EQ(WindowOfCoordinates(coords, {window, window}), units) << window;
    }
    EXPECT_EQ(WindowOfCoordinates(Coordinates({window, window}, 0), {window, window}), window);
  }
  // Both directions in units of one window.
  EXPECT_EQ(WindowOfCoordinates(Coordinates({4, 6}, 8), {4, 6}), 8);
  // A window of one token, whose coordinates are NaN in the official code.
  EXPECT_EQ(WindowOfCoordinates(std::vector<float>{NAN, NAN}, {1, 1}), 1);
}

TEST(WindowOfCoordinates, IsNothingForOtherNumbers) {
  const MapSize window = {4, 4};
  EXPECT_EQ(WindowOfCoordinates(Waves(98), window), std::nullopt);
  EXPECT_EQ(WindowOfCoordinates(std::vector<float>(98, 0.0F), window), std::nullopt);
  EXPECT_EQ(WindowOfCoordinates(Coordinates(window, 300), window), std::nullopt);
  // Each direction in units of its own side.
  EXPECT_EQ(WindowOfCoordinates(Coordinates({4, 8}, 0), {4, 8}), std::nullopt);
  for (const float bad : {NAN, INFINITY, 0.5F}) {
    std::vector<float> coords = Coordinates(window, 4);
    coords[3] = bad;
    EXPECT_EQ(WindowOfCoordinates(coords, window), std::nullopt) << bad;
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
