// Which part of a picture a sample shows, and at which size: timm's geometry as pure functions.
#ifndef SWINFLEET_CORE_DATA_CROP_H_
#define SWINFLEET_CORE_DATA_CROP_H_

#include <cstdint>

#include "core/data/resample.h"
#include "core/rng/counter_rng.h"

namespace swinfleet {

// timm's RandomResizedCropAndInterpolation: ten times a share of the area, uniform in
// [scale_low, scale_high], and a ratio width / height, whose logarithm is uniform, are drawn; the
// first box that fits is put at a random place. Otherwise the middle, as large as the range of
// ratios allows.
CropBox RandomResizedCrop(int64_t height, int64_t width, double scale_low, double scale_high,
                          double ratio_low, double ratio_high, CounterRng* rng);

// timm's resize before the centre crop of an evaluation: with target sides floor(size / eval_crop),
// a square target takes the shorter side to it (torchvision's Resize, which cuts the longer side's
// fraction off); for other targets the picture is scaled until it covers them (ResizeKeepRatio,
// which rounds).
PictureSize EvaluationSize(int64_t height, int64_t width, int64_t image_h, int64_t image_w,
                           double eval_crop);

// Where a centre crop of `crop` pixels begins in `size` pixels; negative if it is larger. A half is
// rounded to even.
int64_t CenterOffset(int64_t size, int64_t crop);

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_DATA_CROP_H_
