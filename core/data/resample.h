// Resampling of 8 bit pictures, to the bit as Pillow up to 12 does it (rows first, then columns;
// Pillow 13 begins with the axis that is cheaper, which differs by a few levels).
//
// libvips's own resampling is not used: against Pillow, its reduction by up to 7 times differs by
// up to 13 of 255 levels at noise and 19 at smooth pictures with edges (positions rounded to 1/64
// pixel, another border), and its enlargement is shifted by part of a pixel. Published weights, and
// the accuracies they reach, were made with Pillow's.
#ifndef SWINFLEET_CORE_DATA_RESAMPLE_H_
#define SWINFLEET_CORE_DATA_RESAMPLE_H_

#include <cstdint>
#include <vector>

#include "core/data/dataset.h"

namespace swinfleet {

// A rectangle of a picture, in pixels.
struct CropBox {
  int64_t top = 0;
  int64_t left = 0;
  int64_t height = 0;
  int64_t width = 0;
  bool operator==(const CropBox&) const = default;
};

enum class ResampleFilter {
  // Triangle, of 1 pixel to each side.
  kBilinear,
  // Cubic with a = -1/2 (Catmull-Rom), of 2 pixels to each side.
  kBicubic
};

// The weights of one axis: the i-th output is the sum over k in [0, count[i]) of
// weight[i * most + k] * input[first[i] + k], in units of 2^-22.
struct ResampleWeights {
  // 8 bits of the pixel, and 2 for what sums of negative and positive weights take beyond 1.
  static constexpr int kBits = 32 - 8 - 2;
  int64_t most = 0;
  std::vector<int64_t> first;
  std::vector<int64_t> count;
  std::vector<int32_t> weight;
  std::vector<double> exact;

  // For outputs [begin, end) of `in` pixels made into `out`. The filter is stretched by in / out
  // where that is above 1 (antialiasing), cut off at the border and scaled to a sum of 1. Reuses
  // the vectors.
  void Compute(int64_t in, int64_t out, int64_t begin, int64_t end, ResampleFilter filter);
};

// What a thread keeps between calls.
struct ResampleScratch {
  ResampleWeights horizontal;
  ResampleWeights vertical;
  std::vector<uint8_t> rows;
  std::vector<uint8_t> packed;
};

struct PictureSize {
  int64_t height = 0;
  int64_t width = 0;
  bool operator==(const PictureSize&) const = default;
};

// Image.crop(box).resize(size, filter).crop(window): the box of `in` is made into `size` pixels,
// first along rows, then along columns, each rounded to 8 bits; an axis that keeps its size is
// copied. Only the window of the result is computed, into `out`. Box and window lie within their
// pictures and hold a pixel.
void Resample(const Picture& in, const CropBox& box, const PictureSize& size, const CropBox& window,
              ResampleFilter filter, ResampleScratch* scratch, Picture* out);

// Grey of 3 channels as Pillow's convert("L"): (19595 R + 38470 G + 7471 B + 2^15) / 2^16.
void Grey(const Picture& in, Picture* out);

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_DATA_RESAMPLE_H_
