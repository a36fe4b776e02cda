#include "core/data/resample.h"

#include <glog/logging.h>

#include <algorithm>
#include <cmath>

namespace swinfleet {
namespace {

// 8 bits of the pixel, and 2 for what sums of negative and positive weights take beyond 1.
constexpr int kPrecisionBits = 32 - 8 - 2;
constexpr int32_t kHalf = 1 << (kPrecisionBits - 1);

double Support(ResampleFilter filter) { return filter == ResampleFilter::kBilinear ? 1.0 : 2.0; }

double Filter(ResampleFilter filter, double x) {
  x = std::fabs(x);
  if (filter == ResampleFilter::kBilinear) return x < 1 ? 1 - x : 0;
  constexpr double a = -0.5;
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

uint8_t Clip(int32_t sum) {
  return static_cast<uint8_t>(std::clamp(sum >> kPrecisionBits, 0, 255));
}

// One row of `in` pixels; kChannels is known to the compiler.
template <int kChannels>
void ResampleRow(const uint8_t* in, const ResampleWeights& weights, uint8_t* out) {
  for (size_t x = 0; x < weights.first.size(); ++x, out += kChannels) {
    const int32_t* weight = weights.weight.data() + static_cast<int64_t>(x) * weights.most;
    const uint8_t* pixel = in + weights.first[x] * kChannels;
    int32_t sum[kChannels];
    for (int c = 0; c < kChannels; ++c) sum[c] = kHalf;
    for (int64_t k = 0; k < weights.count[x]; ++k, pixel += kChannels) {
      for (int c = 0; c < kChannels; ++c) sum[c] += pixel[c] * weight[k];
    }
    for (int c = 0; c < kChannels; ++c) out[c] = Clip(sum[c]);
  }
}

using RowFunction = void (*)(const uint8_t*, const ResampleWeights&, uint8_t*);

RowFunction RowFunctionFor(int64_t channels) {
  static constexpr RowFunction kFunctions[] = {ResampleRow<1>, ResampleRow<2>, ResampleRow<3>,
                                               ResampleRow<4>};
  CHECK(channels >= 1 && channels <= 4) << channels;
  return kFunctions[channels - 1];
}

// One output row: sums whole rows, a piece of each at a time so that the sums stay in cache.
void SumRows(const uint8_t* in, int64_t in_stride, int64_t row_bytes, const int32_t* weight,
             int64_t count, uint8_t* out) {
  constexpr int64_t kPiece = 1024;
  int32_t sums[kPiece];
  for (int64_t x = 0; x < row_bytes; x += kPiece) {
    const int64_t bytes = std::min(kPiece, row_bytes - x);
    std::fill_n(sums, bytes, kHalf);
    for (int64_t k = 0; k < count; ++k) {
      const uint8_t* row = in + k * in_stride + x;
      for (int64_t i = 0; i < bytes; ++i) sums[i] += row[i] * weight[k];
    }
    for (int64_t i = 0; i < bytes; ++i) out[x + i] = Clip(sums[i]);
  }
}

void CheckInside(const CropBox& box, int64_t height, int64_t width) {
  CHECK(box.top >= 0 && box.left >= 0 && box.height > 0 && box.width > 0 &&
        box.top + box.height <= height && box.left + box.width <= width)
      << box.height << "x" << box.width << " at " << box.top << ", " << box.left << " of " << height
      << "x" << width;
}

}  // namespace

void ResampleWeights::Compute(int64_t in, int64_t out, int64_t begin, int64_t end,
                              ResampleFilter filter) {
  const double scale = static_cast<double>(in) / static_cast<double>(out);
  const double stretch = std::max(scale, 1.0);
  const double support = Support(filter) * stretch;
  most = static_cast<int64_t>(std::ceil(support)) * 2 + 1;
  first.resize(end - begin);
  count.resize(end - begin);
  weight.resize((end - begin) * most);
  exact.resize(most);
  const double squeeze = 1.0 / stretch;
  for (int64_t i = 0; i < end - begin; ++i) {
    const double center = (static_cast<double>(begin + i) + 0.5) * scale;
    // Casts round towards zero, as Pillow's do.
    first[i] = std::max<int64_t>(static_cast<int64_t>(center - support + 0.5), 0);
    count[i] = std::min(static_cast<int64_t>(center + support + 0.5), in) - first[i];
    double sum = 0;
    for (int64_t k = 0; k < count[i]; ++k) {
      exact[k] = Filter(filter, (static_cast<double>(k + first[i]) - center + 0.5) * squeeze);
      sum += exact[k];
    }
    for (int64_t k = 0; k < count[i]; ++k) {
      const double scaled = (sum != 0 ? exact[k] / sum : exact[k]) * (1 << kPrecisionBits);
      weight[i * most + k] = static_cast<int32_t>(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
    }
  }
}

void Resample(const Picture& in, const CropBox& box, const PictureSize& size, const CropBox& window,
              ResampleFilter filter, ResampleScratch* scratch, Picture* out) {
  CheckInside(box, in.height, in.width);
  CheckInside(window, size.height, size.width);
  const int64_t channels = in.channels;
  const int64_t row_bytes = window.width * channels;
  out->height = window.height;
  out->width = window.width;
  out->channels = channels;
  out->label = in.label;
  out->pixels.resize(window.height * row_bytes);
  const bool along_rows = size.width != box.width;
  const bool along_columns = size.height != box.height;
  // The rows of the box that the window's rows are made of.
  int64_t first_row = window.top;
  int64_t rows = window.height;
  ResampleWeights& vertical = scratch->vertical;
  if (along_columns) {
    vertical.Compute(box.height, size.height, window.top, window.top + window.height, filter);
    first_row = vertical.first.front();
    rows = vertical.first.back() + vertical.count.back() - first_row;
  }
  int64_t stride = in.width * channels;
  const uint8_t* source = in.pixels.data() + (box.top + first_row) * stride + box.left * channels;
  if (along_rows) {
    scratch->horizontal.Compute(box.width, size.width, window.left, window.left + window.width,
                                filter);
    if (along_columns) scratch->rows.resize(rows * row_bytes);
    uint8_t* narrow = along_columns ? scratch->rows.data() : out->pixels.data();
    const RowFunction resample_row = RowFunctionFor(channels);
    for (int64_t y = 0; y < rows; ++y) {
      resample_row(source + y * stride, scratch->horizontal, narrow + y * row_bytes);
    }
    source = narrow;
    stride = row_bytes;
  } else {
    source += window.left * channels;
  }
  uint8_t* result = out->pixels.data();
  for (int64_t y = 0; y < window.height && along_columns; ++y) {
    SumRows(source + (vertical.first[y] - first_row) * stride, stride, row_bytes,
            vertical.weight.data() + y * vertical.most, vertical.count[y], result + y * row_bytes);
  }
  for (int64_t y = 0; y < window.height && !along_rows && !along_columns; ++y) {
    std::copy_n(source + y * stride, row_bytes, result + y * row_bytes);
  }
}

void Grey(const Picture& in, Picture* out) {
  CHECK_EQ(in.channels, 3);
  out->height = in.height;
  out->width = in.width;
  out->channels = 1;
  out->label = in.label;
  const int64_t count = in.height * in.width;
  out->pixels.resize(count);
  const uint8_t* pixel = in.pixels.data();
  for (int64_t i = 0; i < count; ++i, pixel += 3) {
    const unsigned sum = 19595u * pixel[0] + 38470u * pixel[1] + 7471u * pixel[2] + 0x8000u;
    out->pixels[i] = static_cast<uint8_t>(sum >> 16);
  }
}

}  // namespace swinfleet
