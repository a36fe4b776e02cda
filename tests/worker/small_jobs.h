// Jobs of small models of every kind, for tests of what they take.
#ifndef SWINFLEET_TESTS_WORKER_SMALL_JOBS_H_
#define SWINFLEET_TESTS_WORKER_SMALL_JOBS_H_

#include "core/config/job_config.h"

namespace swinfleet {

// Two stages, of 8x8 and 4x4 tokens and 8 and 16 channels, windows of 4x4.
inline JobConfig SmallJob(Architecture arch) {
  JobConfig job;
  ModelConfig& model = job.model;
  model.arch = arch;
  model.image_h = model.image_w = 16;
  model.num_classes = 5;
  model.patch_size = 2;
  model.embed_dim = 8;
  model.depths = {2, 2};
  model.num_heads = {2, 4};
  model.window_size = 4;
  if (arch == Architecture::kSwinV2) model.extra_norm_period = 2;
  if (model.is_video()) {
    // Maps that windows don't divide: 3 x 9 x 9 and 3 x 5 x 5.
    model.image_h = model.image_w = 18;
    model.frames = 6;
    model.patch_frames = 2;
    model.window_frames = 2;
  }
  job.run_dir = "/run";
  job.data.path = "/data";
  job.train.global_batch = job.train.micro_batch = 4;
  job.train.eval_batch = 6;
  return job;
}

// The same for pre-training.
inline JobConfig SmallPretraining(PretrainConfig::Method method) {
  JobConfig job =
      SmallJob(method == PretrainConfig::Method::kMae ? Architecture::kVit : Architecture::kSwinV1);
  job.pretrain.method = method;
  job.pretrain.mask_ratio = 0.5;
  job.pretrain.mask_unit = 4;
  job.pretrain.decoder_dim = 8;
  job.pretrain.decoder_depth = 1;
  job.pretrain.decoder_heads = 2;
  if (method == PretrainConfig::Method::kMae) {
    job.model.depths = {2};
    job.model.num_heads = {2};
    job.model.patch_norm = false;
    job.model.drop_path_rate = 0;
  }
  return job;
}

}  // namespace swinfleet

#endif  // SWINFLEET_TESTS_WORKER_SMALL_JOBS_H_
