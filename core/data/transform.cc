#include "core/data/transform.h"

#include <glog/logging.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "core/data/crop.h"
#include "kernels/error.h"

namespace swinfleet {
namespace {

void CheckPerChannel(const char* name, const std::vector<double>& values, int64_t channels,
                     double smallest) {
  if (!values.empty() && static_cast<int64_t>(values.size()) != channels) {
    throw Error(std::string("data.") + name + " has " + std::to_string(values.size()) +
                " values; it needs one for each of the " + std::to_string(channels) +
                " channels of the model's input, or none");
  }
  for (double value : values) {
    if (!std::isfinite(value) || value < smallest) {
      throw Error(std::string("data.") + name + " holds " + std::to_string(value) +
                  ", which can't be used to normalise pixels");
    }
  }
}

// A range of two positive numbers, the first not above the second.
void CheckRangeOf(const char* name, const std::vector<double>& range, double most) {
  if (range.size() == 2 && range[0] > 0 && range[0] <= range[1] && range[1] <= most) return;
  std::string text;
  for (double value : range) text += (text.empty() ? "" : ", ") + std::to_string(value);
  throw Error(std::string("data.") + name + " is [" + text +
              "]; it must be two numbers above 0, the smaller one first" +
              (std::isfinite(most) ? ", at most 1" : ""));
}

std::string SizeToString(int64_t height, int64_t width) {
  return std::to_string(height) + "x" + std::to_string(width);
}

}  // namespace

PictureTransform::PictureTransform(const DataConfig& data, int64_t image_h, int64_t image_w,
                                   int64_t in_chans)
    : image_h_(image_h),
      image_w_(image_w),
      in_chans_(in_chans),
      pad_(data.pad),
      random_crop_(data.random_crop),
      flip_(data.flip),
      resample_(data.format != "idx" || !data.crop_scale.empty()),
      eval_crop_(data.eval_crop),
      filter_(data.interpolation == DataConfig::Interpolation::kBilinear
                  ? ResampleFilter::kBilinear
                  : ResampleFilter::kBicubic),
      random_filter_(data.interpolation == DataConfig::Interpolation::kRandom) {
  constexpr int64_t kMaxPad = 1 << 16;
  CHECK_GT(image_h, 0);
  CHECK_GT(image_w, 0);
  CHECK_GT(in_chans, 0);
  if (pad_ < 0 || pad_ > kMaxPad) {
    throw Error("data.pad is " + std::to_string(pad_) + "; it must be 0 to " +
                std::to_string(kMaxPad));
  }
  if (!(flip_ >= 0 && flip_ <= 1)) {
    throw Error("data.flip is " + std::to_string(flip_) + "; it is a probability, 0 to 1");
  }
  SetCrop(data);
  constexpr double kSmallestStd = 1e-6;
  CheckPerChannel("mean", data.mean, in_chans, -HUGE_VAL);
  CheckPerChannel("std", data.std, in_chans, kSmallestStd);
  table_.resize(in_chans);
  for (int64_t c = 0; c < in_chans; ++c) {
    const double mean = data.mean.empty() ? 0 : data.mean[c];
    const double std = data.std.empty() ? 1 : data.std[c];
    for (int v = 0; v < 256; ++v) table_[c][v] = static_cast<float>((v / 255.0 - mean) / std);
  }
}

void PictureTransform::SetCrop(const DataConfig& data) {
  constexpr double kSmallestEvalCrop = 0.1;
  if (!(eval_crop_ >= kSmallestEvalCrop && eval_crop_ <= 1)) {
    throw Error("data.eval_crop is " + std::to_string(eval_crop_) + "; it must be 0.1 to 1");
  }
  if (data.crop_scale.empty()) return;
  CheckRangeOf("crop_scale", data.crop_scale, 1);
  CheckRangeOf("crop_ratio", data.crop_ratio, HUGE_VAL);
  if (pad_ != 0 || random_crop_) {
    throw Error(
        "data.crop_scale excludes data.pad and data.random_crop: both choose a part of the"
        " picture; leave one of them out");
  }
  crop_scale_ = data.crop_scale;
  crop_ratio_ = data.crop_ratio;
}

void PictureTransform::CheckChannels(int64_t channels) const {
  if (channels == in_chans_ || channels == 1 || (channels == 3 && in_chans_ == 1)) return;
  throw Error("the pictures have " + std::to_string(channels) + " channels, but the model takes " +
              std::to_string(in_chans_) + "; set model.in_chans to " + std::to_string(channels));
}

void PictureTransform::CheckFits(int64_t height, int64_t width, int64_t channels,
                                 bool training) const {
  CheckChannels(channels);
  if (!training || resample_) return;
  const int64_t missing = std::max(image_h_ - height, image_w_ - width);
  if (2 * pad_ < missing) {
    throw Error("pictures of " + SizeToString(height, width) + " padded with data.pad " +
                std::to_string(pad_) + " are smaller than the model's input of " +
                SizeToString(image_h_, image_w_) + "; data.pad " +
                std::to_string((missing + 1) / 2) + " would do");
  }
}

const Picture& PictureTransform::InColours(const Picture& picture,
                                           TransformScratch* scratch) const {
  if (in_chans_ != 1 || picture.channels == 1) return picture;
  Grey(picture, &scratch->grey);
  return scratch->grey;
}

void PictureTransform::Augment(const Picture& picture, CounterRng rng, TransformScratch* scratch,
                               const Planes& out) const {
  CheckFits(picture.height, picture.width, picture.channels, /*training=*/true);
  const Picture& source = InColours(picture, scratch);
  if (!crop_scale_.empty()) return RandomResized(source, rng, scratch, out);
  PictureSize size{source.height, source.width};
  if (resample_) {
    size = EvaluationSize(source.height, source.width, image_h_, image_w_, eval_crop_);
  }
  const int64_t spare_h = size.height + 2 * pad_ - image_h_;
  const int64_t spare_w = size.width + 2 * pad_ - image_w_;
  int64_t top = spare_h / 2;
  int64_t left = spare_w / 2;
  if (random_crop_) {
    top = static_cast<int64_t>(rng.Below(std::max<int64_t>(spare_h, 0) + 1));
    left = static_cast<int64_t>(rng.Below(std::max<int64_t>(spare_w, 0) + 1));
  }
  const bool flip = rng.Uniform() < flip_;
  if (!resample_) return Convert(source, top - pad_, left - pad_, flip, out);
  Resized(source, {0, 0, source.height, source.width}, size, top - pad_, left - pad_, filter_, flip,
          scratch, out);
}

void PictureTransform::RandomResized(const Picture& picture, CounterRng rng,
                                     TransformScratch* scratch, const Planes& out) const {
  const CropBox box = RandomResizedCrop(picture.height, picture.width, crop_scale_[0],
                                        crop_scale_[1], crop_ratio_[0], crop_ratio_[1], &rng);
  ResampleFilter filter = filter_;
  if (random_filter_ && rng.Below(2) == 0) filter = ResampleFilter::kBilinear;
  const bool flip = rng.Uniform() < flip_;
  Resized(picture, box, {image_h_, image_w_}, 0, 0, filter, flip, scratch, out);
}

void PictureTransform::Center(const Picture& picture, TransformScratch* scratch,
                              const Planes& out) const {
  CheckFits(picture.height, picture.width, picture.channels, /*training=*/false);
  const Picture& source = InColours(picture, scratch);
  if (!resample_) {
    // The division rounds towards zero: of an odd difference the larger part is below and right.
    return Convert(source, (source.height - image_h_) / 2, (source.width - image_w_) / 2, false,
                   out);
  }
  const PictureSize size =
      EvaluationSize(source.height, source.width, image_h_, image_w_, eval_crop_);
  Resized(source, {0, 0, source.height, source.width}, size, CenterOffset(size.height, image_h_),
          CenterOffset(size.width, image_w_), filter_, false, scratch, out);
}

void PictureTransform::Resized(const Picture& picture, const CropBox& box, const PictureSize& size,
                               int64_t top, int64_t left, ResampleFilter filter, bool flip,
                               TransformScratch* scratch, const Planes& out) const {
  // Of the result only what is seen is computed; where padding hides all of it, one pixel.
  CropBox window;
  window.top = std::clamp<int64_t>(top, 0, size.height - 1);
  window.left = std::clamp<int64_t>(left, 0, size.width - 1);
  const int64_t bottom = std::clamp<int64_t>(top + image_h_, window.top + 1, size.height);
  const int64_t right = std::clamp<int64_t>(left + image_w_, window.left + 1, size.width);
  window.height = bottom - window.top;
  window.width = right - window.left;
  Resample(picture, box, size, window, filter, &scratch->resample, &scratch->resized);
  Convert(scratch->resized, top - window.top, left - window.left, flip, out);
}

void PictureTransform::Convert(const Picture& picture, int64_t top, int64_t left, bool flip,
                               const Planes& out) const {
  CHECK_GE(out.channel_stride, plane_size());
  CHECK_EQ(static_cast<int64_t>(picture.pixels.size()),
           picture.height * picture.width * picture.channels);
  // Columns of the window, before the flip, that lie in the picture: [begin, end).
  const int64_t begin = std::clamp<int64_t>(-left, 0, image_w_);
  const int64_t end = std::clamp<int64_t>(picture.width - left, begin, image_w_);
  const int64_t first = flip ? image_w_ - end : begin;
  const int64_t count = end - begin;
  for (int64_t c = 0; c < in_chans_; ++c) {
    const std::array<float, 256>& table = table_[c];
    const int64_t channel = picture.channels == 1 ? 0 : c;
    for (int64_t y = 0; y < image_h_; ++y) {
      float* row = out.first + c * out.channel_stride + y * image_w_;
      const int64_t source_y = top + y;
      if (source_y < 0 || source_y >= picture.height || count == 0) {
        std::fill_n(row, image_w_, table[0]);
        continue;
      }
      std::fill_n(row, first, table[0]);
      std::fill(row + first + count, row + image_w_, table[0]);
      const int64_t source_x = flip ? left + end - 1 : left + begin;
      const int64_t step = flip ? -picture.channels : picture.channels;
      const int64_t offset = (source_y * picture.width + source_x) * picture.channels + channel;
      const uint8_t* pixels = picture.pixels.data();
      for (int64_t x = 0; x < count; ++x) row[first + x] = table[pixels[offset + x * step]];
    }
  }
}

}  // namespace swinfleet
