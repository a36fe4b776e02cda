// Batches of augmented pictures or clips, made ahead of their use by threads.
#ifndef SWINFLEET_CORE_DATA_LOADER_H_
#define SWINFLEET_CORE_DATA_LOADER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/config/job_config.h"
#include "core/data/dataset.h"
#include "core/data/mask.h"

namespace swinfleet {

// The order of an epoch: sample `position` of it, in [0, count), as a function of (seed, epoch)
// alone, computed without a table of the whole order (a keyed permutation).
int64_t ShuffledIndex(uint64_t seed, int64_t epoch, int64_t position, int64_t count);

// A sample that can't be decoded.
struct BrokenSample {
  std::string name;
  // What is wrong, with the file's path.
  std::string reason;
};

// One micro-batch.
struct Batch {
  int64_t pictures = 0;
  // Normalised; (B, channels, image_h, image_w), of clips (B, channels, frames, image_h, image_w).
  std::vector<float> image;
  std::vector<int64_t> label;  // (B)
  // Index in the data set. Where another picture stands for a broken one: the broken one's, so that
  // every sample occurs once; `label` is that of the picture.
  std::vector<int64_t> sample;  // (B)
  // Of training with classes: smoothed, and where pictures are mixed, mixed.
  std::vector<float> target;  // (B, num_classes)
  // How pictures are to be mixed, which the step does: `image` is as it was before. Empty where
  // nothing is mixed. As MixPicturesArgs has them.
  std::vector<float> mix_weight;  // (B, 2)
  std::vector<int32_t> mix_box;   // (B, 4)
  // Of masked image modelling: 1 = masked. GreenMIM has one mask for all pictures of a micro-batch.
  std::vector<int32_t> mask;  // (B, units_h * units_w)
  // Those that others stand for, in the order in which they were met.
  std::vector<BrokenSample> broken;
};

// What was put in the place of broken pictures.
struct BrokenPictures {
  // How often, over all epochs.
  int64_t replaced = 0;
  // The first few that differ, in the order of their occurrence; each was named in the log.
  std::vector<std::string> names;
};

// What errors call the settings that they advise to change: those of a job file, unless a program
// has its own.
struct LoaderSettingNames {
  // Has broken pictures replaced by others; empty where nothing does.
  std::string replace = "data.broken_pictures: replace";
  // The number of threads that decode.
  std::string threads = "data.loader_threads";
};

struct LoaderOptions {
  DataConfig data;
  LoaderSettingNames names;
  int64_t image_h = 0;
  int64_t image_w = 0;
  // Channels of the batch. Grey pictures are repeated in each, colours become grey for one channel;
  // otherwise the pictures have as many.
  int64_t in_chans = 0;
  // Frames of a clip; of pictures 1.
  int64_t frames = 1;
  // 0: labels are not used (masked image modelling), and there are no targets.
  int64_t num_classes = 0;
  double label_smoothing = 0;
  // Of training alone.
  MixConfig mix;
  // Of training and, with the masks of epoch 0, of evaluation.
  MaskConfig mask;
  uint64_t seed = 0;
  // Shuffled, augmented and endless; or in order, as PictureTransform::Center has it, once over the
  // split (then the last batch may be smaller).
  bool training = true;
  int64_t micro_batch = 0;
  // Micro-batches in one step of all ranks. Training drops the incomplete last step of each epoch.
  int64_t micro_batches_per_step = 1;
  // This rank's leaves of a step: first_leaf, first_leaf + leaf_stride, ..., `leaves` of them. For
  // evaluation: this rank's share of the batches of the split, in the same way.
  int64_t first_leaf = 0;
  int64_t leaves = 1;
  int64_t leaf_stride = 1;
  // Training: the step to begin with; the position in the data follows from it alone.
  int64_t first_step = 0;
};

// What follows from the job: data, sizes, seed, micro-batches, mixing and masks. The rank's leaves
// are the caller's. Pictures of idx files can't be replaced, so that nothing is advised there.
LoaderOptions LoaderOptionsFor(const JobConfig& config, const LoaderSettingNames& names = {});

// Decodes and augments on `data.loader_threads` threads, at most `data.prefetch` micro-batches
// ahead, in the order of the steps. These threads give way to those that compute. The result is a
// function of the options, never of the threads' timing, nor of how the leaves are spread over
// ranks: augmentation and masks of a picture are functions of (seed, epoch, sample index), mixing
// and GreenMIM's masks of (seed, step, leaf).
//
// With data.broken_pictures kReplace, a picture that can't be decoded is replaced by the next
// sample of the data set that can (the first follows the last), augmented as the broken one would
// have been. After 100 broken ones in a row that is an error all the same. One that there is no
// memory for is never replaced.
class Loader {
 public:
  // Throws Error for a global batch larger than the data, pictures that do not fit the options (too
  // small after padding, other channels) and data options out of range. `dataset` must
  // outlive the loader.
  Loader(const Dataset* dataset, const LoaderOptions& options);
  // Ends the threads, whatever they are doing; waits only for pictures that are being decoded.
  ~Loader();

  // The next micro-batch of this rank, valid until the next call; nullptr when evaluation has seen
  // its share. Throws OutOfMemoryError when there is no memory for a picture, Error when one can't
  // be had otherwise or a label lies beyond the classes, and again at each further call. Called by
  // one thread.
  Batch* Next();
  // Of the batches that Next has returned. Called by the same thread.
  const BrokenPictures& broken() const;
  // Seconds that Next has waited for pictures in all.
  double wait_seconds() const;

  // 0 means that the global batch is larger than the data, which the constructor refuses.
  static int64_t StepsPerEpoch(int64_t count, int64_t global_batch) { return count / global_batch; }

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_DATA_LOADER_H_
