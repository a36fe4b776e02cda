// From a decoded picture to the model's input.
#ifndef SWINFLEET_CORE_DATA_TRANSFORM_H_
#define SWINFLEET_CORE_DATA_TRANSFORM_H_

#include <array>
#include <cstdint>
#include <vector>

#include "core/config/job_config.h"
#include "core/data/dataset.h"
#include "core/data/resample.h"
#include "core/rng/counter_rng.h"

namespace swinfleet {

// What a thread keeps between pictures.
struct TransformScratch {
  Picture grey;
  Picture resized;
  ResampleScratch resample;
};

// Where a transformed picture goes: (in_chans, image_h, image_w) floats, each channel contiguous.
struct Planes {
  float* first = nullptr;
  // From one channel to the next: image_h * image_w, or more where frames lie between.
  int64_t channel_stride = 0;
};

// Takes part of a picture at the model's size, flips it, scales it to 0..1 and normalises it.
//
// Data of one size ("idx", without data.crop_scale): training pads with data.pad zeros on every
// side and crops at random or in the middle; evaluation takes the middle, padded with zeros where
// the picture is smaller.
//
// Otherwise pictures are resampled as timm does (to the bit, but for random numbers):
//   training with data.crop_scale: RandomResizedCropAndInterpolation;
//   evaluation: Resize to floor(size / data.eval_crop), CenterCrop, with data.interpolation, where
//   random means bicubic;
//   training without data.crop_scale: resized as for evaluation, then as for data of one size.
//
// Grey pictures are repeated in each channel. Colour pictures for a model of one channel become
// grey first, as Pillow's convert("L") has it.
//
// Immutable once made: threads share it.
class PictureTransform {
 public:
  // Throws Error for options out of range.
  PictureTransform(const DataConfig& data, int64_t image_h, int64_t image_w, int64_t in_chans);

  // Throws Error if pictures of so many channels can't be used, saying what would do.
  void CheckChannels(int64_t channels) const;
  // The same, and for pictures of this size. `training`: whether Augment, not Center, is going to
  // see them.
  void CheckFits(int64_t height, int64_t width, int64_t channels, bool training) const;

  // For training. Pictures of one size get the same part and the same flip from the same `rng`.
  void Augment(const Picture& picture, CounterRng rng, TransformScratch* scratch,
               const Planes& out) const;
  // For evaluation.
  void Center(const Picture& picture, TransformScratch* scratch, const Planes& out) const;
  // Floats of one transformed picture: in_chans * image_h * image_w.
  int64_t size() const { return in_chans_ * image_h_ * image_w_; }
  int64_t plane_size() const { return image_h_ * image_w_; }

 private:
  void SetCrop(const DataConfig& data);
  const Picture& InColours(const Picture& picture, TransformScratch* scratch) const;
  void RandomResized(const Picture& picture, CounterRng rng, TransformScratch* scratch,
                     const Planes& out) const;
  // The box of `picture`, made into `size` pixels; of that, the model's window with its first pixel
  // at (top, left).
  void Resized(const Picture& picture, const CropBox& box, const PictureSize& size, int64_t top,
               int64_t left, ResampleFilter filter, bool flip, TransformScratch* scratch,
               const Planes& out) const;
  // Pixel (0, 0) of the window lies at (top, left) of the picture; what is outside of it is zero.
  void Convert(const Picture& picture, int64_t top, int64_t left, bool flip,
               const Planes& out) const;

  int64_t image_h_;
  int64_t image_w_;
  int64_t in_chans_;
  int64_t pad_;
  bool random_crop_;
  double flip_;
  bool resample_;
  // Empty: no random resized crop.
  std::vector<double> crop_scale_;
  std::vector<double> crop_ratio_;
  double eval_crop_;
  ResampleFilter filter_;
  // Each picture's filter is drawn.
  bool random_filter_;
  // The normalised value of each of the 256 values of a pixel, for each channel.
  std::vector<std::array<float, 256>> table_;  // (in_chans)
};

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_DATA_TRANSFORM_H_
