// One sample of a batch: a picture or clip, read, replaced if it is broken, and transformed.
#ifndef SWINFLEET_CORE_DATA_SAMPLE_H_
#define SWINFLEET_CORE_DATA_SAMPLE_H_

#include <cstdint>
#include <span>
#include <vector>

#include "core/data/dataset.h"
#include "core/data/loader.h"
#include "core/data/transform.h"

namespace swinfleet {

// What a thread keeps between samples.
struct SampleScratch {
  Picture picture;
  TransformScratch transform;
  std::vector<int64_t> frames;
};

// Immutable once made: threads share it.
class SampleMaker {
 public:
  // Throws Error for data options out of range and pictures that do not fit them. `dataset` must
  // outlive it.
  SampleMaker(const Dataset* dataset, const LoaderOptions& options);

  // Floats of a sample: in_chans * frames * image_h * image_w.
  int64_t size() const { return options_.frames * transform_.size(); }

  // Fills `out`, (in_chans, frames, image_h, image_w), and returns the label. Adds to `broken` the
  // broken samples on the way to one that is not. Throws OutOfMemoryError when there is no memory
  // for the sample, Error when it can't be had otherwise or its label lies beyond the classes.
  int64_t Make(int64_t sample, int64_t epoch, SampleScratch* scratch,
               std::vector<BrokenSample>* broken, std::span<float> out) const;

 private:
  // Sample `source`, with the random numbers of `sample`.
  int64_t MakeFrom(int64_t source, int64_t sample, int64_t epoch, SampleScratch* scratch,
                   std::span<float> out) const;
  void Transform(int64_t sample, int64_t epoch, SampleScratch* scratch, const Planes& out) const;

  const Dataset* dataset_;
  LoaderOptions options_;
  PictureTransform transform_;
};

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_DATA_SAMPLE_H_
