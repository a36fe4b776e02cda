// From a decoded picture to the model's input.
#ifndef SWINFLEET_CORE_DATA_TRANSFORM_H_
#define SWINFLEET_CORE_DATA_TRANSFORM_H_

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "core/config/job_config.h"
#include "core/data/dataset.h"
#include "core/rng/counter_rng.h"

namespace swinfleet {

// Pads with zeros, crops, flips, scales to 0..1 and normalises, in this order and in one pass.
// Immutable once made: threads share it.
class PictureTransform {
 public:
  // Throws Error for options out of range.
  PictureTransform(const DataConfig& data, int64_t image_h, int64_t image_w, int64_t in_chans);

  // Throws Error if pictures of this size can't be used, saying what would do. `training`: whether
  // Augment, not Center, is going to see them.
  void CheckFits(int64_t height, int64_t width, int64_t channels, bool training) const;

  // `data.pad` zeros on every side, a random crop (or the middle), a flip.
  void Augment(const Picture& picture, CounterRng rng, std::span<float> out) const;
  // The middle, padded with zeros where the picture is smaller.
  void Center(const Picture& picture, std::span<float> out) const;
  // Floats of one transformed picture: in_chans * image_h * image_w.
  int64_t size() const { return in_chans_ * image_h_ * image_w_; }

 private:
  // Pixel (0, 0) of the window lies at (top, left) of the picture; what is outside of it is zero.
  void Convert(const Picture& picture, int64_t top, int64_t left, bool flip,
               std::span<float> out) const;  // (in_chans, image_h, image_w)

  int64_t image_h_;
  int64_t image_w_;
  int64_t in_chans_;
  int64_t pad_;
  bool random_crop_;
  double flip_;
  // The normalised value of each of the 256 values of a pixel, for each channel.
  std::vector<std::array<float, 256>> table_;  // (in_chans)
};

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_DATA_TRANSFORM_H_
