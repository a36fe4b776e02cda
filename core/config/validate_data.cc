// What can be wrong with the data, and with how it is augmented and mixed.
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "core/config/errors.h"
#include "core/config/names.h"

namespace swinfleet {
namespace {

void CheckNormalisation(const JobConfig& job, Errors& errors) {
  const DataConfig& data = job.data;
  const auto check_count = [&](const char* field, const std::vector<double>& values) {
    const auto count = static_cast<int64_t>(values.size());
    if (count == 0 || count == job.model.in_chans) return;
    errors.Add(field, " has ", count, " values; it must have none or ", job.model.in_chans,
               ", one for each of model.in_chans");
  };
  check_count("data.mean", data.mean);
  check_count("data.std", data.std);
  for (const double mean : data.mean) {
    errors.CheckNumber("data.mean", mean, true, "a finite number");
  }
  for (const double std : data.std) {
    errors.CheckNumber("data.std", std, std >= 1e-6, "at least 1e-6");
  }
}

// Two numbers within [low, high], the first not above the second.
void CheckPair(const char* field, const std::vector<double>& pair, double low, double high,
               const char* rule, Errors& errors) {
  if (pair.size() != 2) {
    errors.Add(field, " has ", pair.size(), " numbers; it needs two, the smaller one first, ",
               rule);
    return;
  }
  if (pair[0] >= low && pair[0] <= pair[1] && pair[1] <= high && std::isfinite(pair[1])) return;
  errors.Add(field, " is [", pair[0], ", ", pair[1], "]; it must be two numbers, the smaller one",
             " first, ", rule);
}

void CheckCrop(const DataConfig& data, Errors& errors) {
  errors.CheckRange("data.pad", data.pad, 0, kMaxImage);
  errors.CheckNumber("data.flip", data.flip, data.flip >= 0 && data.flip <= 1,
                     "a probability, from 0 to 1");
  errors.CheckNumber("data.eval_crop", data.eval_crop, data.eval_crop >= 0.1 && data.eval_crop <= 1,
                     "from 0.1 to 1");
  if (data.crop_scale.empty()) return;
  constexpr double kSmallest = 1e-6;
  CheckPair("data.crop_scale", data.crop_scale, kSmallest, 1,
            "shares of the picture's area, above 0 and at most 1", errors);
  CheckPair("data.crop_ratio", data.crop_ratio, kSmallest, std::numeric_limits<double>::max(),
            "widths divided by heights, above 0", errors);
  if (data.pad != 0 || data.random_crop) {
    errors.Add("data.crop_scale excludes data.pad and data.random_crop, since both choose a part",
               " of the picture; leave out crop_scale, or set pad to 0 and random_crop to false");
  }
}

void CheckFormat(const JobConfig& job, Errors& errors) {
  const DataConfig& data = job.data;
  const bool frames = data.format == "frames";
  const bool folders = frames || data.format == "imagefolder";
  if (data.format != "idx" && !folders) {
    errors.Add("data.format is \"", data.format, "\"; supported are \"idx\", \"imagefolder\" and",
               " \"frames\"");
  }
  if (folders && job.model.in_chans != 1 && job.model.in_chans != 3) {
    errors.Add("model.in_chans is ", job.model.in_chans, "; pictures in folders have 3 channels,",
               " which can be made into 1 (grey)");
  }
  if (job.model.is_video() != frames) {
    if (frames) {
      errors.Add("data.format \"frames\" is for video models, and model.arch is ",
                 ArchitectureName(job.model.arch), "; use \"imagefolder\" for pictures");
    } else {
      errors.Add("a video model needs clips: data.format \"frames\", not \"", data.format, "\"");
    }
  }
  if (frames) errors.CheckRange("data.frame_interval", data.frame_interval, 1, 1024);
}

}  // namespace

void CheckData(const JobConfig& job, Errors& errors) {
  const DataConfig& data = job.data;
  if (data.path.empty()) {
    errors.Add("data.path is missing; it names the folder of the data set, as the workers see it");
  }
  CheckFormat(job, errors);
  if (data.train_split.empty()) errors.Add("data.train_split is empty; \"train\" is the usual one");
  if (data.eval_split.empty()) {
    errors.Add("data.eval_split is empty; \"", UsualEvalSplit(data.format), "\" is the usual one");
  }
  CheckCrop(data, errors);
  errors.CheckRange("data.loader_threads", data.loader_threads, 1, 64);
  errors.CheckRange("data.prefetch", data.prefetch, 1, 1024);
  CheckNormalisation(job, errors);
}

void CheckMix(const JobConfig& job, Errors& errors) {
  const MixConfig& mix = job.train.mix;
  errors.CheckNumber("train.mix.mixup_alpha", mix.mixup_alpha,
                     mix.mixup_alpha >= 0 && mix.mixup_alpha <= 1000, "from 0 (none) to 1000");
  errors.CheckNumber("train.mix.cutmix_alpha", mix.cutmix_alpha,
                     mix.cutmix_alpha >= 0 && mix.cutmix_alpha <= 1000, "from 0 (none) to 1000");
  if (!mix.on()) return;
  if (!mix.cutmix_minmax.empty()) {
    CheckPair("train.mix.cutmix_minmax", mix.cutmix_minmax, 0, 1,
              "shares of each side, from 0 to 1", errors);
  }
  errors.CheckNumber("train.mix.probability", mix.probability,
                     mix.probability >= 0 && mix.probability <= 1, "a probability, from 0 to 1");
  errors.CheckNumber("train.mix.switch_probability", mix.switch_probability,
                     mix.switch_probability >= 0 && mix.switch_probability <= 1,
                     "a probability, from 0 to 1");
  if (job.pretrain.on()) {
    errors.Add("train.mix is for classification: it mixes pictures and their labels, which masked",
               " image modelling does not use; leave out train.mix, or pretrain");
  }
  const int64_t micro_batch = job.train.micro_batch;
  if (micro_batch == 1) {
    errors.Add("train.micro_batch is 1, and train.mix mixes the pictures of a micro-batch; use at",
               " least 2");
  } else if (mix.mode == MixConfig::Mode::kPair && micro_batch % 2 != 0) {
    errors.Add("train.mix.mode pair needs an even train.micro_batch, and it is ", micro_batch,
               "; use ", micro_batch - 1, " or ", micro_batch + 1,
               ", or the mode batch or element");
  }
}

}  // namespace swinfleet
