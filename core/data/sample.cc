#include "core/data/sample.h"

#include <glog/logging.h>

#include <algorithm>
#include <new>
#include <string>

#include "core/data/frame_folder.h"
#include "core/rng/counter_rng.h"
#include "kernels/error.h"

namespace swinfleet {

SampleMaker::SampleMaker(const Dataset* dataset, const LoaderOptions& options)
    : dataset_(dataset),
      options_(options),
      transform_(options.data, options.image_h, options.image_w, options.in_chans) {
  CHECK_GT(options.frames, 0);
  CHECK_GE(options.num_classes, 0);
  if (options.data.frame_interval < 1) {
    throw Error("data.frame_interval is " + std::to_string(options.data.frame_interval) +
                "; it must be at least 1");
  }
  const DataIdentity& identity = dataset->identity();
  transform_.CheckChannels(identity.channels);
  if (identity.height > 0) {
    transform_.CheckFits(identity.height, identity.width, identity.channels, options.training);
  }
}

int64_t SampleMaker::Make(int64_t sample, int64_t epoch, SampleScratch* scratch,
                          std::vector<BrokenSample>* broken, std::span<float> out) const {
  constexpr int64_t kMaxBrokenInARow = 100;
  const int64_t count = dataset_->identity().count;
  for (int64_t tried = 0; tried < count && tried < kMaxBrokenInARow; ++tried) {
    const int64_t source = (sample + tried) % count;
    try {
      return MakeFrom(source, sample, epoch, scratch, out);
    } catch (const BrokenPicture& error) {
      if (options_.data.broken_pictures == DataConfig::BrokenPictures::kFail) {
        const std::string& replace = options_.names.replace;
        throw Error(std::string(error.what()) + "; repair or remove it" +
                    (replace.empty()
                         ? ""
                         : ", or have broken pictures replaced by others with " + replace));
      }
      broken->push_back({dataset_->Name(source), error.what()});
    } catch (const OutOfMemoryError& error) {
      const bool several = options_.data.loader_threads > 1;
      throw OutOfMemoryError(std::string(error.what()) + "; " +
                             (several ? "lower " + options_.names.threads + ", or " : "") +
                             "have more memory free on this host");
    }
  }
  throw Error(std::to_string(std::min(count, kMaxBrokenInARow)) +
              " samples in a row are broken, so that none can stand for " + dataset_->Name(sample) +
              "; the last one: " + broken->back().reason);
}

int64_t SampleMaker::MakeFrom(int64_t source, int64_t sample, int64_t epoch, SampleScratch* scratch,
                              std::span<float> out) const {
  CHECK_EQ(static_cast<int64_t>(out.size()), size());
  CounterRng start(options_.seed, RandomPurpose::kClipStart, static_cast<uint64_t>(sample),
                   static_cast<uint32_t>(epoch));
  scratch->frames.resize(options_.frames);
  ClipFrames(dataset_->Frames(source), options_.data.frame_interval, options_.training, &start,
             scratch->frames);
  Picture& picture = scratch->picture;
  int64_t height = 0;
  int64_t width = 0;
  for (int64_t t = 0; t < options_.frames; ++t) {
    dataset_->GetFrame(source, scratch->frames[t], &picture);
    if (t == 0) {
      height = picture.height;
      width = picture.width;
    } else if (picture.height != height || picture.width != width) {
      throw BrokenPicture("the frames of " + dataset_->Name(source) + " differ in size: frame " +
                          std::to_string(scratch->frames[t]) + " has " +
                          std::to_string(picture.width) + "x" + std::to_string(picture.height) +
                          " pixels, frame " + std::to_string(scratch->frames[0]) + " " +
                          std::to_string(width) + "x" + std::to_string(height));
    }
    if (options_.num_classes > 0 && (picture.label < 0 || picture.label >= options_.num_classes)) {
      throw Error(dataset_->Name(source) + " has label " + std::to_string(picture.label) +
                  ", but the model has " + std::to_string(options_.num_classes) +
                  " classes (labels count from 0)");
    }
    const Planes planes{out.data() + t * transform_.plane_size(),
                        options_.frames * transform_.plane_size()};
    try {
      Transform(sample, epoch, scratch, planes);
    } catch (const Error& error) {
      throw Error(dataset_->Name(source) + ": " + error.what());
    } catch (const std::bad_alloc&) {
      throw OutOfMemoryError("there is not enough memory to prepare " + dataset_->Name(source) +
                             ", which has " + std::to_string(width) + "x" + std::to_string(height) +
                             " pixels");
    }
  }
  return picture.label;
}

void SampleMaker::Transform(int64_t sample, int64_t epoch, SampleScratch* scratch,
                            const Planes& out) const {
  if (!options_.training) return transform_.Center(scratch->picture, &scratch->transform, out);
  // Each frame of a clip gets the same stream.
  transform_.Augment(scratch->picture,
                     CounterRng(options_.seed, RandomPurpose::kAugmentation,
                                static_cast<uint64_t>(sample), static_cast<uint32_t>(epoch)),
                     &scratch->transform, out);
}

}  // namespace swinfleet
