// A job's configuration as plain structs: what worker/config_from_proto.cc makes of a JobSpec, and
// all that core, distributed and the training step ever see of it.
#ifndef SWINFLEET_CORE_CONFIG_JOB_CONFIG_H_
#define SWINFLEET_CORE_CONFIG_JOB_CONFIG_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace swinfleet {

// The dimensions of a Swin Transformer V2 for classification. The defaults are those of the
// official class (models/swin_transformer_v2.py of microsoft/Swin-Transformer).
struct ModelConfig {
  int64_t image_h = 224;
  int64_t image_w = 224;
  int64_t in_chans = 3;
  int64_t num_classes = 1000;
  int64_t patch_size = 4;
  int64_t embed_dim = 96;
  std::vector<int64_t> depths = {2, 2, 6, 2};
  std::vector<int64_t> num_heads = {3, 6, 12, 24};
  int64_t window_size = 7;
  double mlp_ratio = 4;
  bool qkv_bias = true;
  bool ape = false;
  bool patch_norm = true;
  // One a stage; 0: the stage's own window normalises the coordinates. Empty means all 0.
  std::vector<int64_t> pretrained_window_sizes;
  // One more LayerNorm on the main branch after every N blocks of a stage; 0 means none.
  int64_t extra_norm_period = 0;
  double drop_path_rate = 0.1;
  double layer_norm_eps = 1e-5;

  int num_stages() const { return static_cast<int>(depths.size()); }
  // Channels of a stage.
  int64_t StageDim(int stage) const { return embed_dim << stage; }
  // Height and width of a stage's feature map, in tokens.
  int64_t StageH(int stage) const { return (image_h / patch_size) >> stage; }
  int64_t StageW(int stage) const { return (image_w / patch_size) >> stage; }
  // The window that a stage's blocks use: shrunk to the resolution, in both directions alike.
  int64_t StageWindow(int stage) const;
  // Shift of every second block: half the window, 0 where one window covers the map's shorter side.
  int64_t StageShift(int stage) const;
  int64_t PretrainedWindow(int stage) const;
  // Channels of the features that the head sees.
  int64_t num_features() const { return StageDim(num_stages() - 1); }
};

struct DataConfig {
  std::string format = "idx";
  std::string path;
  std::string train_split = "train";
  std::string eval_split = "t10k";
  int64_t pad = 0;
  bool random_crop = false;
  double flip = 0;
  // Per channel, in units of pixels scaled to 0..1; empty means 0 and 1.
  std::vector<double> mean;
  std::vector<double> std;
  int loader_threads = 1;
  int prefetch = 4;
};

struct OptimizerConfig {
  enum class Kind { kAdamW, kSgd };
  Kind kind = Kind::kAdamW;
  double learning_rate = 5e-4;
  double weight_decay = 0.05;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double momentum = 0.9;
};

struct ScheduleConfig {
  enum class Kind { kCosine, kLinear, kStep, kMultistep };
  Kind kind = Kind::kCosine;
  double warmup_epochs = 0;
  double warmup_learning_rate = 5e-7;
  double min_learning_rate = 5e-6;
  bool warmup_prefix = true;
  double decay_epochs = 30;
  std::vector<double> multisteps;
  double decay_rate = 0.1;
};

struct TrainConfig {
  int64_t epochs = 300;
  int64_t global_batch = 128;
  int64_t micro_batch = 128;
  uint64_t seed = 0;
  double label_smoothing = 0.1;
  OptimizerConfig optimizer;
  ScheduleConfig schedule;
  // 0 means no clipping.
  double clip_grad_norm = 5;
  // 0 means only after the last epoch.
  int64_t eval_every_epochs = 1;
  int64_t eval_batch = 128;
  int64_t log_every_steps = 10;
  int64_t max_nonfinite_steps = 10;

  // Leaves of the gradient's summation tree.
  int64_t micro_batches() const { return global_batch / micro_batch; }
};

struct ParallelConfig {
  // 0 means all ranks of the fleet.
  int64_t ranks = 0;
  int zero_stage = 1;
  int threads_per_rank = 1;
};

struct CheckpointConfig {
  // 0 means once an epoch.
  int64_t every_steps = 0;
  int64_t keep_last = 3;
  // 0 means none.
  int64_t keep_every_steps = 0;
  bool asynchronous = true;
};

struct JobConfig {
  std::string name;
  std::string run_dir;
  ModelConfig model;
  // A safetensors file with official names; empty: random initial weights.
  std::string init_from;
  DataConfig data;
  TrainConfig train;
  ParallelConfig parallel;
  CheckpointConfig checkpoint;
};

// The named model, or nothing for an unknown name. Names are timm's.
std::optional<ModelConfig> ModelPreset(const std::string& name);
// All names, for messages.
std::vector<std::string> ModelPresetNames();

// Everything that is wrong with the model's dimensions, each message saying what would work.
// Empty: the model can be built.
std::vector<std::string> ValidateModel(const ModelConfig& model);
// Everything that is wrong with the whole job (the model included), before anything is allocated.
// `ranks` is the number of ranks it is to run on, 0 when that is not yet known.
std::vector<std::string> ValidateJob(const JobConfig& job, int64_t ranks);

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_CONFIG_JOB_CONFIG_H_
