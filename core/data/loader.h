// Batches of augmented pictures, made ahead of their use by threads.
#ifndef SWINFLEET_CORE_DATA_LOADER_H_
#define SWINFLEET_CORE_DATA_LOADER_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "core/config/job_config.h"
#include "core/data/dataset.h"

namespace swinfleet {

// The order of an epoch: sample `position` of it, in [0, count), as a function of (seed, epoch)
// alone, computed without a table of the whole order (a keyed permutation).
int64_t ShuffledIndex(uint64_t seed, int64_t epoch, int64_t position, int64_t count);

// One micro-batch.
struct Batch {
  int64_t pictures = 0;
  std::vector<float> image;     // (B, channels, image_h, image_w), normalised
  std::vector<int64_t> label;   // (B)
  std::vector<int64_t> sample;  // (B), index in the data set
};

struct LoaderOptions {
  DataConfig data;
  int64_t image_h = 0;
  int64_t image_w = 0;
  // Channels of the batch. Grey pictures are repeated in each; otherwise the pictures have as many.
  int64_t in_chans = 0;
  int64_t num_classes = 0;
  uint64_t seed = 0;
  // Shuffled, augmented and endless; or in order, only padded or centre-cropped to the size, once
  // over the split (then the last batch may be smaller).
  bool training = true;
  int64_t micro_batch = 0;
  // Micro-batches in one step of all ranks. Training drops the incomplete last step of each epoch.
  int64_t micro_batches_per_step = 1;
  // This rank's leaves of a step: [first_leaf, first_leaf + leaves). For evaluation: this rank's
  // share of the batches of the split, [first_leaf, first_leaf + leaves).
  int64_t first_leaf = 0;
  int64_t leaves = 1;
  // Training: the step to begin with; the position in the data follows from it alone.
  int64_t first_step = 0;
};

// What follows from the job: data, sizes, seed and micro-batches. The rank's leaves are the
// caller's.
LoaderOptions LoaderOptionsFor(const JobConfig& config);

// Decodes and augments on `data.loader_threads` threads, at most `data.prefetch` micro-batches
// ahead, in the order of the steps. The result is a function of the options, never of the threads'
// timing. Augmentation of a picture is a function of (seed, epoch, sample index).
class Loader {
 public:
  // Throws Error for a global batch larger than the data, pictures that do not fit the options (too
  // small after padding, other channels) and data options out of range. `dataset` must
  // outlive the loader.
  Loader(const Dataset* dataset, const LoaderOptions& options);
  // Ends the threads, whatever they are doing; waits only for pictures that are being decoded.
  ~Loader();

  // The next micro-batch of this rank, valid until the next call; nullptr when evaluation has seen
  // its share. Throws Error when a picture can't be had or a label lies beyond the
  // classes, and again at each further call. Called by one thread.
  const Batch* Next();
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
