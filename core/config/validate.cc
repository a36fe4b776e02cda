// Everything that can be known to be wrong with a job from its configuration alone. Errors are
// collected, not thrown, so that a user sees all of them at once; fields are named as in job files.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "core/config/errors.h"
#include "core/config/names.h"

namespace swinfleet {
namespace {

// Upper bounds. They are far above any real model, and low enough that no size computed from them
// overflows 64 bits.
constexpr int64_t kMaxEpochs = 1'000'000;
constexpr int64_t kMaxSteps = int64_t{1} << 40;
constexpr int64_t kMaxRanks = 65536;
// Elements of the largest single activation: 4 TiB of float32.
constexpr double kMaxActivation = 0x1p40;

// ---- The job ----

void CheckOptimizer(const OptimizerConfig& optimizer, Errors& errors) {
  errors.CheckNumber("train.optimizer.learning_rate", optimizer.learning_rate,
                     optimizer.learning_rate > 0, "above 0");
  errors.CheckNumber("train.optimizer.weight_decay", optimizer.weight_decay,
                     optimizer.weight_decay >= 0, "at least 0");
  errors.CheckNumber("train.optimizer.layer_decay", optimizer.layer_decay,
                     optimizer.layer_decay > 0 && optimizer.layer_decay <= 1,
                     "above 0 and at most 1");
  if (optimizer.kind == OptimizerConfig::Kind::kSgd) {
    errors.CheckNumber("train.optimizer.momentum", optimizer.momentum,
                       optimizer.momentum >= 0 && optimizer.momentum < 1, "at least 0 and below 1");
    return;
  }
  errors.CheckNumber("train.optimizer.beta1", optimizer.beta1,
                     optimizer.beta1 >= 0 && optimizer.beta1 < 1, "at least 0 and below 1");
  errors.CheckNumber("train.optimizer.beta2", optimizer.beta2,
                     optimizer.beta2 >= 0 && optimizer.beta2 < 1, "at least 0 and below 1");
  errors.CheckNumber("train.optimizer.eps", optimizer.eps, optimizer.eps > 0, "above 0");
}

void CheckMultisteps(const ScheduleConfig& schedule, Errors& errors) {
  if (schedule.multisteps.empty()) {
    errors.Add("train.schedule.multisteps is empty; the multistep schedule needs the epochs of its",
               " decays, as [20, 26]");
  }
  double previous = 0;
  for (const double epoch : schedule.multisteps) {
    if (!(epoch > previous) || !std::isfinite(epoch)) {
      errors.Add("train.schedule.multisteps has ", epoch, " after ", previous,
                 "; its epochs must be above 0 and increasing");
      return;
    }
    previous = epoch;
  }
  if (!schedule.multisteps.empty() && schedule.multisteps[0] < schedule.warmup_epochs) {
    errors.Add("train.schedule.multisteps begins at epoch ", schedule.multisteps[0],
               ", within the warm-up of ", schedule.warmup_epochs,
               " epochs; the first decay must come after the warm-up");
  }
}

void CheckSchedule(const TrainConfig& train, Errors& errors) {
  using Kind = ScheduleConfig::Kind;
  const ScheduleConfig& schedule = train.schedule;
  const double rate = train.optimizer.learning_rate;
  errors.CheckNumber("train.schedule.warmup_epochs", schedule.warmup_epochs,
                     schedule.warmup_epochs >= 0, "at least 0");
  if (schedule.warmup_epochs > 0 && schedule.warmup_epochs >= static_cast<double>(train.epochs)) {
    errors.Add("train.schedule.warmup_epochs is ", schedule.warmup_epochs, " of ", train.epochs,
               " epochs in all; the warm-up must be shorter than the training");
  }
  errors.CheckNumber("train.schedule.warmup_learning_rate", schedule.warmup_learning_rate,
                     schedule.warmup_learning_rate >= 0, "at least 0");
  // MAE's warm-up starts at 0, whatever the setting.
  if (rate > 0 && schedule.warmup_epochs > 0 && schedule.kind != Kind::kMaeCosine &&
      schedule.warmup_learning_rate > rate) {
    errors.Add("train.schedule.warmup_learning_rate ", schedule.warmup_learning_rate,
               " is above train.optimizer.learning_rate ", rate,
               "; a warm-up starts at or below the rate that it leads to");
  }
  if (schedule.kind == Kind::kCosine || schedule.kind == Kind::kMaeCosine) {
    errors.CheckNumber("train.schedule.min_learning_rate", schedule.min_learning_rate,
                       schedule.min_learning_rate >= 0, "at least 0");
    if (rate > 0 && schedule.min_learning_rate > rate) {
      errors.Add("train.schedule.min_learning_rate ", schedule.min_learning_rate,
                 " is above train.optimizer.learning_rate ", rate, "; the cosine would rise to it");
    }
  }
  if (schedule.kind == Kind::kStep || schedule.kind == Kind::kMultistep) {
    errors.CheckNumber("train.schedule.decay_rate", schedule.decay_rate,
                       schedule.decay_rate > 0 && schedule.decay_rate <= 1,
                       "above 0 and at most 1");
  }
  if (schedule.kind == Kind::kStep) {
    errors.CheckNumber("train.schedule.decay_epochs", schedule.decay_epochs,
                       schedule.decay_epochs > 0 && schedule.decay_epochs <= kMaxEpochs,
                       "above 0 and at most 1000000");
  }
  if (schedule.kind == Kind::kMultistep) CheckMultisteps(schedule, errors);
}

void CheckBatches(const JobConfig& job, Errors& errors) {
  const TrainConfig& train = job.train;
  const size_t before = errors.size();
  errors.CheckRange("train.global_batch", train.global_batch, 1, kMaxBatch);
  errors.CheckRange("train.micro_batch", train.micro_batch, 1, kMaxBatch);
  errors.CheckRange("train.eval_batch", train.eval_batch, 1, kMaxBatch);
  if (errors.size() != before) return;
  const int64_t micro_batches = train.global_batch / train.micro_batch;
  if (train.global_batch % train.micro_batch == 0 &&
      std::has_single_bit(static_cast<uint64_t>(micro_batches))) {
    return;
  }
  const auto below = static_cast<int64_t>(
      std::bit_floor(static_cast<uint64_t>(std::max<int64_t>(micro_batches, 1))));
  errors.Add("train.global_batch ", train.global_batch, " over train.micro_batch ",
             train.micro_batch, " must be a power of two (1, 2, 4, ...), the leaves of the tree",
             " that sums gradients; a global_batch of ", below * train.micro_batch, " or ",
             2 * below * train.micro_batch, " works");
}

// Bounds the activations, so that sizes can be computed without overflow.
void CheckActivations(const JobConfig& job, Errors& errors) {
  const ModelConfig& model = job.model;
  const double tokens = static_cast<double>(model.StageTokens(0));
  const double token_width =
      std::max({static_cast<double>(model.embed_dim) * std::max(4.0, model.mlp_ratio),
                static_cast<double>(model.in_chans * model.patch_frames * model.patch_size *
                                    model.patch_size)});
  const int64_t batch = std::max(job.train.micro_batch, job.train.eval_batch);
  // Later stages have a quarter of the tokens and twice the channels: the first is the largest.
  const double elements = static_cast<double>(batch) * tokens * token_width;
  if (elements <= kMaxActivation) return;
  errors.Add("one activation of a batch of ", batch, " would have ", elements,
             " elements, more than any machine holds; use a smaller train.micro_batch or",
             " train.eval_batch, or a smaller model.image_size");
}

void CheckTrain(const JobConfig& job, Errors& errors) {
  const TrainConfig& train = job.train;
  errors.CheckRange("train.epochs", train.epochs, 1, kMaxEpochs);
  CheckBatches(job, errors);
  errors.CheckNumber("train.label_smoothing", train.label_smoothing,
                     train.label_smoothing >= 0 && train.label_smoothing < 1,
                     "at least 0 and below 1");
  if (train.matmul == Matmul::kTf32 && train.dtype != DType::kF32) {
    errors.Add("train.matmul tf32 rounds factors of fp32, and train.dtype is ",
               NameIn(DTypeNames(), train.dtype), "; leave it out, or use train.dtype fp32");
  }
  CheckOptimizer(train.optimizer, errors);
  if (job.pretrain.on() && train.optimizer.layer_decay != 1) {
    errors.Add("train.optimizer.layer_decay is ", train.optimizer.layer_decay,
               "; pre-training trains all layers alike: leave it out");
  }
  CheckSchedule(train, errors);
  errors.CheckNumber("train.clip_grad_norm", train.clip_grad_norm, train.clip_grad_norm >= 0,
                     "at least 0, where 0 means no clipping");
  errors.CheckRange("train.eval_every_epochs", train.eval_every_epochs, 0, kMaxEpochs);
  errors.CheckRange("train.log_every_steps", train.log_every_steps, 1, kMaxSteps);
  errors.CheckRange("train.max_nonfinite_steps", train.max_nonfinite_steps, 1, kMaxSteps);
  if (job.model.num_classes == 1 && !job.pretrain.on()) {
    errors.Add("model.num_classes is 1; a classifier needs at least 2 to learn anything");
  }
}

void CheckMoments(const JobConfig& job, Errors& errors) {
  const OptimizerConfig& optimizer = job.train.optimizer;
  if (optimizer.moments == DType::kF32) return;
  if (optimizer.moments != DType::kBF16) {
    errors.Add("train.optimizer.moments is ", NameIn(DTypeNames(), optimizer.moments),
               "; use fp32 or bf16");
    return;
  }
  if (job.parallel.offload != Offload::kDisk) {
    errors.Add("train.optimizer.moments bf16 is for moments on disk; use parallel.offload disk, or",
               " fp32");
  }
}

void CheckOffload(const ParallelConfig& parallel, Errors& errors) {
  if (parallel.offload != Offload::kDisk) return;
  if (parallel.offload_dir.empty() || parallel.offload_dir[0] != '/') {
    errors.Add("parallel.offload_dir is \"", parallel.offload_dir,
               "\"; parallel.offload disk needs the absolute path of a folder on a disk of each"
               " host's own");
  }
}

void CheckParallel(const JobConfig& job, int64_t ranks, Errors& errors) {
  const ParallelConfig& parallel = job.parallel;
  errors.CheckRange("parallel.ranks", parallel.ranks, 0, kMaxRanks);
  errors.CheckRange("parallel.threads_per_rank", parallel.threads_per_rank, 1, 1024);
  if (parallel.zero_stage < 0 || parallel.zero_stage > kMostZeroStage) {
    errors.Add("parallel.zero_stage is ", parallel.zero_stage, "; use 0, 1, 2 or 3");
  }
  if (parallel.zero_stage == 0 && SumsInRounds(job.train.accumulation)) {
    errors.Add(
        "train.accumulation ", NameIn(AccumulationNames(), job.train.accumulation),
        " keeps a rank's part of the gradients, and at",
        " parallel.zero_stage 0 that is all of them; use zero_stage 1, or accumulation plain",
        " or low_precision");
  }
  if (parallel.zero_stage >= 2 && !SumsInRounds(job.train.accumulation)) {
    errors.Add("parallel.zero_stage ", parallel.zero_stage,
               " frees each gradient once it is reduced, and train.accumulation ",
               NameIn(AccumulationNames(), job.train.accumulation),
               " sums whole ones; leave train.accumulation out, which then means split, use",
               " split_low_precision, or zero_stage 0 or 1");
  }
  if (parallel.reduction == Reduction::kLibrary && SumsBf16(job.train.accumulation)) {
    errors.Add("parallel.reduction library sums float32, and train.accumulation ",
               NameIn(AccumulationNames(), job.train.accumulation),
               " has sums of bfloat16; use reduction reproducible, or accumulation plain or split");
  }
  CheckOffload(parallel, errors);
  CheckMoments(job, errors);
  if (ranks > 0 && parallel.ranks > ranks) {
    errors.Add("parallel.ranks asks for ", parallel.ranks, " ranks and there are ", ranks,
               "; start the fleet with more, or ask for at most ", ranks);
  }
  const int64_t used = parallel.ranks > 0 ? parallel.ranks : ranks;
  if (job.train.micro_batch < 1 || job.train.global_batch < 1) return;
  const int64_t micro_batches = job.train.micro_batches();
  if (micro_batches < 1 || used <= micro_batches) return;
  errors.Add("more ranks than micro-batches: ", used, " ranks and only ", micro_batches,
             " micro-batches (train.global_batch ", job.train.global_batch,
             " over train.micro_batch ", job.train.micro_batch, "); use at most ", micro_batches,
             " ranks, a smaller micro_batch or a larger global_batch");
}

void CheckCheckpoint(const CheckpointConfig& checkpoint, Errors& errors) {
  errors.CheckRange("checkpoint.every_steps", checkpoint.every_steps, 0, kMaxSteps);
  errors.CheckRange("checkpoint.keep_last", checkpoint.keep_last, 1, kMaxEpochs);
  errors.CheckRange("checkpoint.keep_every_steps", checkpoint.keep_every_steps, 0, kMaxSteps);
}

}  // namespace

std::vector<std::string> ValidateModel(const ModelConfig& model) {
  Errors errors;
  CheckModel(model, errors);
  return errors.Take();
}

std::vector<std::string> ValidateJob(const JobConfig& job, int64_t ranks) {
  Errors errors;
  if (job.run_dir.empty()) {
    errors.Add("run_dir is missing; it names the folder for checkpoints, logs and metrics, on a",
               " filesystem that all ranks share");
  }
  const std::vector<std::string> model_errors = ValidateModel(job.model);
  for (const std::string& error : model_errors) errors.Add(error);
  CheckData(job, errors);
  CheckMix(job, errors);
  CheckTrain(job, errors);
  CheckParallel(job, ranks, errors);
  CheckCheckpoint(job.checkpoint, errors);
  if (model_errors.empty()) CheckMemory(job, errors);
  if (model_errors.empty()) CheckPretrain(job, errors);
  if (errors.empty()) CheckActivations(job, errors);
  return errors.Take();
}

}  // namespace swinfleet
