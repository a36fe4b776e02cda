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

#include "core/config/job_config.h"

namespace swinfleet {
namespace {

// Upper bounds. They are far above any real model, and low enough that no size computed from them
// overflows 64 bits.
constexpr int64_t kMaxImage = 16384;
constexpr int64_t kMaxChans = 1024;
constexpr int64_t kMaxClasses = int64_t{1} << 20;
constexpr int64_t kMaxPatch = 256;
constexpr int64_t kMaxEmbedDim = 8192;
constexpr int64_t kMaxStageDim = 65536;
constexpr int kMaxStages = 8;
constexpr int64_t kMaxDepth = 512;
constexpr int64_t kMaxWindow = 64;
constexpr double kMaxMlpRatio = 64;
constexpr int64_t kMaxBatch = int64_t{1} << 24;
constexpr int64_t kMaxEpochs = 1'000'000;
constexpr int64_t kMaxSteps = int64_t{1} << 40;
constexpr int64_t kMaxRanks = 65536;
// Elements of the largest single activation: 4 TiB of float32.
constexpr double kMaxActivation = 0x1p40;

class Errors {
 public:
  template <typename... Parts>
  void Add(const Parts&... parts) {
    std::ostringstream text;
    (text << ... << parts);
    messages_.push_back(text.str());
  }
  // Integers in [low, high].
  void CheckRange(const char* field, int64_t value, int64_t low, int64_t high) {
    if (value >= low && value <= high) return;
    Add(field, " is ", value, "; it must be from ", low, " to ", high);
  }
  // Finite numbers that `fits` holds for (and NaN fits nothing).
  void CheckNumber(const char* field, double value, bool fits, const char* rule) {
    if (fits && std::isfinite(value)) return;
    Add(field, " is ", value, "; it must be ", rule);
  }
  bool empty() const { return messages_.empty(); }
  size_t size() const { return messages_.size(); }
  std::vector<std::string> Take() { return std::move(messages_); }

 private:
  std::vector<std::string> messages_;
};

std::string Join(const std::vector<int64_t>& values) {
  std::ostringstream text;
  for (size_t i = 0; i < values.size(); ++i) text << (i == 0 ? "" : ", ") << values[i];
  return text.str();
}

// ---- The model ----

void CheckModelRanges(const ModelConfig& model, Errors& errors) {
  errors.CheckRange("model.image_size (height)", model.image_h, 1, kMaxImage);
  errors.CheckRange("model.image_size (width)", model.image_w, 1, kMaxImage);
  errors.CheckRange("model.in_chans", model.in_chans, 1, kMaxChans);
  errors.CheckRange("model.num_classes", model.num_classes, 1, kMaxClasses);
  errors.CheckRange("model.patch_size", model.patch_size, 1, kMaxPatch);
  errors.CheckRange("model.embed_dim", model.embed_dim, 1, kMaxEmbedDim);
  errors.CheckRange("model.window_size", model.window_size, 1, kMaxWindow);
  errors.CheckRange("model.extra_norm_period", model.extra_norm_period, 0, kMaxDepth);
  errors.CheckNumber("model.mlp_ratio", model.mlp_ratio,
                     model.mlp_ratio > 0 && model.mlp_ratio <= kMaxMlpRatio,
                     "above 0 and at most 64");
  errors.CheckNumber("model.drop_path_rate", model.drop_path_rate,
                     model.drop_path_rate >= 0 && model.drop_path_rate < 1,
                     "at least 0 and below 1");
  errors.CheckNumber("model.layer_norm_eps", model.layer_norm_eps,
                     model.layer_norm_eps > 0 && model.layer_norm_eps < 1, "above 0 and below 1");
}

void CheckStageLists(const ModelConfig& model, Errors& errors) {
  const size_t stages = model.depths.size();
  if (stages < 1 || stages > kMaxStages) {
    errors.Add("model.depths has ", stages, " entries, one a stage; it must have from 1 to ",
               kMaxStages);
  }
  for (size_t i = 0; i < stages; ++i) {
    if (model.depths[i] < 1 || model.depths[i] > kMaxDepth) {
      errors.Add("model.depths of stage ", i, " is ", model.depths[i], "; it must be from 1 to ",
                 kMaxDepth);
    }
  }
  if (model.num_heads.size() != stages) {
    errors.Add("model.num_heads has ", model.num_heads.size(), " entries and model.depths has ",
               stages, "; both need one a stage");
  }
  const size_t pretrained = model.pretrained_window_sizes.size();
  if (pretrained != 0 && pretrained != stages) {
    errors.Add("model.pretrained_window_sizes has ", pretrained, " entries; it needs none or one a",
               " stage, that is ", stages);
  }
  for (size_t i = 0; i < pretrained; ++i) {
    const int64_t window = model.pretrained_window_sizes[i];
    if (window == 0 || (window >= 2 && window <= 4 * kMaxWindow)) continue;
    errors.Add("model.pretrained_window_sizes of stage ", i, " is ", window,
               "; it must be 0 (the stage's own window) or from 2 to ", 4 * kMaxWindow,
               " (coordinates are divided by the window less 1)");
  }
}

// Divisors of `dim` nearest to `wanted`, for messages.
std::vector<int64_t> NearDivisors(int64_t dim, int64_t wanted) {
  std::vector<int64_t> divisors;
  for (int64_t d = 1; d <= dim; ++d) {
    if (dim % d == 0) divisors.push_back(d);
  }
  std::stable_sort(divisors.begin(), divisors.end(), [&](int64_t a, int64_t b) {
    return std::abs(a - wanted) < std::abs(b - wanted);
  });
  divisors.resize(std::min<size_t>(divisors.size(), 4));
  std::sort(divisors.begin(), divisors.end());
  return divisors;
}

void CheckHeads(const ModelConfig& model, Errors& errors) {
  if (model.StageDim(model.num_stages() - 1) > kMaxStageDim) {
    errors.Add("model.embed_dim ", model.embed_dim, " doubles from stage to stage to ",
               model.StageDim(model.num_stages() - 1), " channels; at most ", kMaxStageDim,
               " are possible");
    return;
  }
  for (int stage = 0; stage < model.num_stages(); ++stage) {
    const int64_t dim = model.StageDim(stage);
    const int64_t heads = model.num_heads[stage];
    if (heads >= 1 && dim % heads == 0) continue;
    errors.Add("model.num_heads of stage ", stage, " is ", heads, ", which does not divide its ",
               dim, " channels; near it ", Join(NearDivisors(dim, heads)), " would");
  }
  for (int stage = 0; stage < model.num_stages(); ++stage) {
    if (static_cast<double>(model.StageDim(stage)) * model.mlp_ratio >= 1) continue;
    errors.Add("model.mlp_ratio ", model.mlp_ratio, " leaves stage ", stage, " with ",
               model.StageDim(stage), " channels no hidden channel");
    return;
  }
}

// Whether every stage's map can be cut into windows of the model's size.
bool WindowFits(const ModelConfig& model) {
  for (int stage = 0; stage < model.num_stages(); ++stage) {
    const int64_t window = model.StageWindow(stage);
    if (window < 1) return false;
    if (model.StageH(stage) % window != 0 || model.StageW(stage) % window != 0) return false;
  }
  return true;
}

// What would work in place of a window that does not fit: windows for this image, and the nearest
// square (or, for rectangles, side lengths) for this window.
std::string WindowAdvice(const ModelConfig& model, int64_t grain) {
  std::vector<int64_t> windows;
  for (int64_t window = 2; window <= kMaxWindow; ++window) {
    ModelConfig other = model;
    other.window_size = window;
    if (WindowFits(other)) windows.push_back(window);
    // Beyond the whole map every window is shrunk to it: all the same model.
    if (window >= std::min(model.StageH(0), model.StageW(0))) break;
  }
  std::stable_sort(windows.begin(), windows.end(), [&](int64_t a, int64_t b) {
    return std::abs(a - model.window_size) < std::abs(b - model.window_size);
  });
  windows.resize(std::min<size_t>(windows.size(), 6));
  std::sort(windows.begin(), windows.end());
  std::vector<int64_t> images;
  for (int64_t distance = grain; images.size() < 2 && distance <= kMaxImage; distance += grain) {
    for (const int64_t size : {model.image_h - distance, model.image_h + distance}) {
      if (size < grain || size > kMaxImage || model.image_h != model.image_w) continue;
      ModelConfig other = model;
      other.image_h = other.image_w = size;
      if (WindowFits(other)) images.push_back(size);
    }
  }
  std::ostringstream text;
  if (!windows.empty()) text << "with this image windows of " << Join(windows) << " work";
  if (!images.empty()) {
    text << (windows.empty() ? "" : "; ") << "with this window square images of " << Join(images)
         << " work";
  } else if (model.window_size > 1 && model.window_size * grain <= kMaxImage) {
    text << (windows.empty() ? "" : "; ") << "with this window sides that are multiples of "
         << model.window_size * grain << " work";
  }
  return text.str();
}

void CheckMaps(const ModelConfig& model, Errors& errors) {
  const int64_t grain = model.patch_size << (model.num_stages() - 1);
  if (model.image_h % grain != 0 || model.image_w % grain != 0) {
    const int64_t up_h = (model.image_h + grain - 1) / grain * grain;
    const int64_t up_w = (model.image_w + grain - 1) / grain * grain;
    errors.Add("model.image_size ", model.image_h, "x", model.image_w, " is not divisible by ",
               grain, " (patch_size ", model.patch_size, " halved in resolution by each of ",
               model.num_stages() - 1, " mergings); the next size up is ", up_h, "x", up_w);
    return;
  }
  if (WindowFits(model)) return;
  for (int stage = 0; stage < model.num_stages(); ++stage) {
    const int64_t window = model.StageWindow(stage);
    const int64_t height = model.StageH(stage);
    const int64_t width = model.StageW(stage);
    if (height % window != 0 || width % window != 0) {
      errors.Add("model.window_size ", model.window_size, " cannot work: stage ", stage,
                 " has a map of ", height, "x", width, " tokens, which windows of ", window,
                 " do not tile; ", WindowAdvice(model, grain));
    }
  }
}

// ---- The rest of the job ----

void CheckData(const JobConfig& job, Errors& errors) {
  const DataConfig& data = job.data;
  if (data.path.empty()) {
    errors.Add("data.path is missing; it names the folder of the data set, as the workers see it");
  }
  if (data.format != "idx") {
    errors.Add("data.format is \"", data.format, "\"; only \"idx\" is supported");
  }
  if (data.train_split.empty()) errors.Add("data.train_split is empty; \"train\" is the usual one");
  if (data.eval_split.empty()) errors.Add("data.eval_split is empty; \"t10k\" is the usual one");
  errors.CheckRange("data.pad", data.pad, 0, kMaxImage);
  errors.CheckNumber("data.flip", data.flip, data.flip >= 0 && data.flip <= 1,
                     "a probability, from 0 to 1");
  errors.CheckRange("data.loader_threads", data.loader_threads, 1, 64);
  errors.CheckRange("data.prefetch", data.prefetch, 1, 1024);
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
  for (const double std : data.std)
    errors.CheckNumber("data.std", std, std >= 1e-6, "at least 1e-6");
}

void CheckOptimizer(const OptimizerConfig& optimizer, Errors& errors) {
  errors.CheckNumber("train.optimizer.learning_rate", optimizer.learning_rate,
                     optimizer.learning_rate > 0, "above 0");
  errors.CheckNumber("train.optimizer.weight_decay", optimizer.weight_decay,
                     optimizer.weight_decay >= 0, "at least 0");
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
  if (rate > 0 && schedule.warmup_epochs > 0 && schedule.warmup_learning_rate > rate) {
    errors.Add("train.schedule.warmup_learning_rate ", schedule.warmup_learning_rate,
               " is above train.optimizer.learning_rate ", rate,
               "; a warm-up starts at or below the rate that it leads to");
  }
  if (schedule.kind == Kind::kCosine) {
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
  const double tokens = static_cast<double>(model.StageH(0)) * static_cast<double>(model.StageW(0));
  const double token_width =
      std::max({static_cast<double>(model.embed_dim) * std::max(4.0, model.mlp_ratio),
                static_cast<double>(model.in_chans * model.patch_size * model.patch_size)});
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
  CheckOptimizer(train.optimizer, errors);
  CheckSchedule(train, errors);
  errors.CheckNumber("train.clip_grad_norm", train.clip_grad_norm, train.clip_grad_norm >= 0,
                     "at least 0, where 0 means no clipping");
  errors.CheckRange("train.eval_every_epochs", train.eval_every_epochs, 0, kMaxEpochs);
  errors.CheckRange("train.log_every_steps", train.log_every_steps, 1, kMaxSteps);
  errors.CheckRange("train.max_nonfinite_steps", train.max_nonfinite_steps, 1, kMaxSteps);
  if (job.model.num_classes == 1) {
    errors.Add("model.num_classes is 1; a classifier needs at least 2 to learn anything");
  }
}

void CheckParallel(const JobConfig& job, int64_t ranks, Errors& errors) {
  const ParallelConfig& parallel = job.parallel;
  errors.CheckRange("parallel.ranks", parallel.ranks, 0, kMaxRanks);
  errors.CheckRange("parallel.threads_per_rank", parallel.threads_per_rank, 1, 1024);
  if (parallel.zero_stage != 0 && parallel.zero_stage != 1) {
    errors.Add("parallel.zero_stage ", parallel.zero_stage, " is not supported yet: use 0 or 1");
  }
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
  CheckModelRanges(model, errors);
  CheckStageLists(model, errors);
  // What follows computes with the sizes, so they must be sane each.
  if (!errors.empty()) return errors.Take();
  CheckHeads(model, errors);
  CheckMaps(model, errors);
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
  CheckTrain(job, errors);
  CheckParallel(job, ranks, errors);
  CheckCheckpoint(job.checkpoint, errors);
  if (errors.empty()) CheckActivations(job, errors);
  return errors.Take();
}

}  // namespace swinfleet
