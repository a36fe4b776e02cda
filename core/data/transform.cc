#include "core/data/transform.h"

#include <glog/logging.h>

#include <algorithm>
#include <cmath>
#include <string>

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
      flip_(data.flip) {
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

void PictureTransform::CheckFits(int64_t height, int64_t width, int64_t channels,
                                 bool training) const {
  if (channels != in_chans_ && channels != 1) {
    throw Error("the pictures have " + std::to_string(channels) +
                " channels, but the model takes " + std::to_string(in_chans_) +
                "; set model.in_chans to " + std::to_string(channels));
  }
  if (!training) return;
  const int64_t missing = std::max(image_h_ - height, image_w_ - width);
  if (2 * pad_ < missing) {
    throw Error("pictures of " + SizeToString(height, width) + " padded with data.pad " +
                std::to_string(pad_) + " are smaller than the model's input of " +
                SizeToString(image_h_, image_w_) + "; data.pad " +
                std::to_string((missing + 1) / 2) + " would do");
  }
}

void PictureTransform::Augment(const Picture& picture, CounterRng rng, std::span<float> out) const {
  CheckFits(picture.height, picture.width, picture.channels, /*training=*/true);
  const int64_t spare_h = picture.height + 2 * pad_ - image_h_;
  const int64_t spare_w = picture.width + 2 * pad_ - image_w_;
  int64_t top = spare_h / 2;
  int64_t left = spare_w / 2;
  if (random_crop_) {
    top = static_cast<int64_t>(rng.Below(spare_h + 1));
    left = static_cast<int64_t>(rng.Below(spare_w + 1));
  }
  Convert(picture, top - pad_, left - pad_, rng.Uniform() < flip_, out);
}

void PictureTransform::Center(const Picture& picture, std::span<float> out) const {
  CheckFits(picture.height, picture.width, picture.channels, /*training=*/false);
  // The division rounds towards zero: of an odd difference the larger part is below and right.
  Convert(picture, (picture.height - image_h_) / 2, (picture.width - image_w_) / 2, false, out);
}

void PictureTransform::Convert(const Picture& picture, int64_t top, int64_t left, bool flip,
                               std::span<float> out) const {
  CHECK_EQ(static_cast<int64_t>(out.size()), size());
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
      float* row = out.data() + (c * image_h_ + y) * image_w_;
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
