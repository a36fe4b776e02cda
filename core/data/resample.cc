#include "core/data/resample.h"

#include <glog/logging.h>

#include <algorithm>
#include <cmath>

#include "core/data/resample_rows.h"

namespace swinfleet {
namespace {

double Support(ResampleFilter filter) { return filter == ResampleFilter::kBilinear ? 1.0 : 2.0; }

double Filter(ResampleFilter filter, double x) {
  x = std::fabs(x);
  if (filter == ResampleFilter::kBilinear) return x < 1 ? 1 - x : 0;
  constexpr double a = -0.5;
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
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
      const double scaled = (sum != 0 ? exact[k] / sum : exact[k]) * (1 << kBits);
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
    ResampleAlongRows({source, stride, rows}, channels, scratch->horizontal, &scratch->packed,
                      narrow);
    source = narrow;
    stride = row_bytes;
  } else {
    source += window.left * channels;
  }
  uint8_t* result = out->pixels.data();
  for (int64_t y = 0; y < window.height && along_columns; ++y) {
    const int64_t count = vertical.count[y];
    SumRows({source + (vertical.first[y] - first_row) * stride, stride, count},
            std::span(vertical.weight).subspan(y * vertical.most, count), row_bytes,
            result + y * row_bytes);
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
