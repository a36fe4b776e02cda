// A job's configuration as plain structs: what worker/config_from_proto.cc makes of a JobSpec, and
// all that core, distributed and the training step ever see of it.
#ifndef SWINFLEET_CORE_CONFIG_JOB_CONFIG_H_
#define SWINFLEET_CORE_CONFIG_JOB_CONFIG_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kernels/tensor.h"

namespace swinfleet {

enum class Architecture {
  // Swin Transformer (Liu et al. 2021).
  kSwinV1,
  // Swin Transformer V2 (Liu et al. 2022).
  kSwinV2,
  // Video Swin Transformer (Liu et al. 2022): V1's blocks in three dimensions.
  kVideoSwin,
  // The plain Vision Transformer of MAE: one stage, global attention, a class token.
  kVit
};

// A stage's windows: sizes and shifts in depth, height and width.
struct WindowShape {
  std::array<int64_t, 3> size = {1, 1, 1};
  std::array<int64_t, 3> shift = {0, 0, 0};
};

// The name in job files and in weights ("swin_v2").
const char* ArchitectureName(Architecture arch);

// The dimensions of a model. The defaults are those of the official class of Swin V2
// (models/swin_transformer_v2.py of microsoft/Swin-Transformer).
struct ModelConfig {
  Architecture arch = Architecture::kSwinV2;
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
  // Factor on q k in place of 1 / sqrt(D); 0 means that. Of Swin V1 and Video Swin.
  double qk_scale = 0;
  bool ape = false;
  bool patch_norm = true;
  // One a stage; 0: the stage's own window normalises the coordinates. Empty means all 0.
  std::vector<int64_t> pretrained_window_sizes;
  // One more LayerNorm on the main branch after every N blocks of a stage; 0 means none.
  int64_t extra_norm_period = 0;
  double drop_path_rate = 0.1;
  double layer_norm_eps = 1e-5;
  // Of clips (Video Swin): frames of a clip, of a patch, of a window.
  int64_t frames = 1;
  int64_t patch_frames = 1;
  int64_t window_frames = 1;

  bool is_video() const { return arch == Architecture::kVideoSwin; }
  // (B, in_chans, image_h, image_w), or with the frames of clips before the height.
  Shape ImageShape(int64_t batch) const {
    if (is_video()) return {batch, in_chans, frames, image_h, image_w};
    return {batch, in_chans, image_h, image_w};
  }
  // What goes before the names of a classifier's body in official weights.
  std::string NamePrefix() const { return is_video() ? "backbone." : ""; }
  int num_stages() const { return static_cast<int>(depths.size()); }
  // Channels of a stage.
  int64_t StageDim(int stage) const { return embed_dim << stage; }
  // Depth (of clips), height and width of a stage's feature map, in tokens. Patches and mergings
  // that the picture does not fill are padded (only Video Swin has them).
  int64_t StageD(int stage) const;
  int64_t StageH(int stage) const;
  int64_t StageW(int stage) const;
  int64_t StageTokens(int stage) const { return StageD(stage) * StageH(stage) * StageW(stage); }
  // The window that a stage's blocks use: shrunk to the resolution, in both directions alike.
  int64_t StageWindow(int stage) const;
  // Shift of every second block: half the window, 0 where one window covers the map's shorter side.
  int64_t StageShift(int stage) const;
  // The windows of a stage's blocks; every second block's are shifted. Clips shrink and stop
  // shifting windows in each direction by itself.
  WindowShape Window(int stage, bool shifted) const;
  // The window that the position table of V1 is made for.
  std::array<int64_t, 3> TableWindow(int stage) const;
  int64_t PretrainedWindow(int stage) const;
  // Channels of the features that the head sees.
  int64_t num_features() const { return StageDim(num_stages() - 1); }
};

struct DataConfig {
  // "idx", "imagefolder", or "frames" (clips from folders of frames).
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

  // Of pictures in folders, for training: a random part of the picture, resampled (timm's
  // RandomResizedCropAndInterpolation). `crop_scale` and `crop_ratio` are ranges of its share of
  // the area and of its width / height. Empty scale: none.
  std::vector<double> crop_scale;
  std::vector<double> crop_ratio = {3.0 / 4, 4.0 / 3};
  enum class Interpolation { kBilinear, kBicubic, kRandom };
  Interpolation interpolation = Interpolation::kBicubic;
  // For evaluation: the centre of a picture whose shorter side was resampled to size / eval_crop.
  double eval_crop = 0.875;
  // What to do about a picture that can't be decoded: end with an error that names it, or put
  // another in its place and count it.
  enum class BrokenPictures { kFail, kReplace };
  BrokenPictures broken_pictures = BrokenPictures::kFail;
  // Of clips: frames between two frames of a clip.
  int64_t frame_interval = 2;
};

// Mixup and cutmix, as timm.data.Mixup.
struct MixConfig {
  // Parameters of the Beta distributions; 0 means none.
  double mixup_alpha = 0;
  double cutmix_alpha = 0;
  // Range of the box's share of each side, in place of a Beta distribution; empty or two numbers.
  std::vector<double> cutmix_minmax;
  // Probability that a batch (pair, picture) is mixed at all.
  double probability = 1;
  // Of cutmix where both are on.
  double switch_probability = 0.5;
  enum class Mode { kBatch, kPair, kElement };
  Mode mode = Mode::kBatch;

  bool on() const { return mixup_alpha > 0 || cutmix_alpha > 0 || !cutmix_minmax.empty(); }
};

// Masked image modelling. MAE trains without drop path, whatever the model's rate, and its decoder
// and GreenMIM's have none.
struct PretrainConfig {
  enum class Method { kNone, kSimMim, kMae, kGreenMim };
  Method method = Method::kNone;
  double mask_ratio = 0.6;
  // Side of a mask unit, in pixels (SimMIM: 32; GreenMIM: the last stage's patch, 32). MAE masks
  // patches.
  int64_t mask_unit = 32;
  // Targets are normalised: SimMIM by the neighbourhood of `norm_target_window` pixels, MAE and
  // GreenMIM by the patch.
  bool norm_target = false;
  int64_t norm_target_window = 47;
  // The light decoder of MAE and GreenMIM.
  int64_t decoder_dim = 512;
  int64_t decoder_depth = 8;
  int64_t decoder_heads = 16;
  // GreenMIM's tokens in a group, but never fewer than the largest window has (so 1 is the official
  // code's size); 0: the size of the least cost (the paper's section 3.2).
  int64_t group_size = 0;

  bool on() const { return method != Method::kNone; }
};

// What holds memory down.
struct MemoryConfig {
  enum class Checkpointing {
    // Everything that backward needs is kept.
    kNone,
    // What is cheap to compute is computed again: attention, normalisation, the first layer of the
    // MLP.
    kSelective,
    // Only the block's input is kept; its forward runs again.
    kBlock
  };
  // One a stage; empty means none.
  std::vector<Checkpointing> checkpointing;
  // Bytes that the process may take; 0 means no bound. With a bound the cheapest plan that fits is
  // taken, and `checkpointing` and `sequential_windows` must be empty.
  int64_t budget = 0;
  // Windows in a group of sequential self-attention, one a stage; 0, or an empty list: all at once.
  std::vector<int64_t> sequential_windows;

  Checkpointing StageCheckpointing(int stage) const {
    return checkpointing.empty() ? Checkpointing::kNone : checkpointing[stage];
  }
  int64_t StageSequentialWindows(int stage) const {
    return sequential_windows.empty() ? 0 : sequential_windows[stage];
  }
};

const char* CheckpointingName(MemoryConfig::Checkpointing checkpointing);

struct OptimizerConfig {
  enum class Kind { kAdamW, kSgd };
  Kind kind = Kind::kAdamW;
  double learning_rate = 5e-4;
  double weight_decay = 0.05;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double momentum = 0.9;
  // Of the moments on disk: float32, or bfloat16, rounded after each update (StochasticRounding).
  DType moments = DType::kF32;
  // Factor on the rate from one layer to the one below it (fine-tuning); 1 means none.
  double layer_decay = 1;
};

struct ScheduleConfig {
  // kMaeCosine: MAE's half cycle by fractional epoch.
  enum class Kind { kCosine, kLinear, kStep, kMultistep, kMaeCosine };
  Kind kind = Kind::kCosine;
  double warmup_epochs = 0;
  double warmup_learning_rate = 5e-7;
  double min_learning_rate = 5e-6;
  bool warmup_prefix = true;
  double decay_epochs = 30;
  std::vector<double> multisteps;
  double decay_rate = 0.1;
};

// How the gradients of a step's micro-batches are summed.
enum class Accumulation {
  // Full gradients, in float32, along the tree.
  kPlain,
  // Each unit is reduced at every micro-batch, and a rank keeps the sums of its part alone: what
  // ZeRO stages 2 and 3 are about, and possible at stage 1, which is then the same as stage 2.
  kSplit,
  // As plain, in bfloat16, with what rounding leaves carried along.
  kLowPrecision,
  // As split, in bfloat16: exchanged in it, and kept with what rounding leaves.
  kSplitLowPrecision
};

// Ranks take the micro-batches of a step in turn, one each a round, and exchange in every round.
inline bool SumsInRounds(Accumulation form) {
  return form == Accumulation::kSplit || form == Accumulation::kSplitLowPrecision;
}
// Gradients are exchanged and kept in bfloat16.
inline bool SumsBf16(Accumulation form) {
  return form == Accumulation::kLowPrecision || form == Accumulation::kSplitLowPrecision;
}

// What float32 factors of linear layers and convolutions are rounded to.
enum class Matmul {
  kFloat32,
  // 10 bits after the point, for tensor cores of GPUs.
  kTf32
};

struct TrainConfig {
  // Of activations, weights and activations' gradients. Below float32 the rank that updates a
  // weight keeps the other 16 bits of it.
  DType dtype = DType::kF32;
  // Of dtype float32 alone.
  Matmul matmul = Matmul::kFloat32;
  // Allows a dtype that this machine's processor only emulates.
  bool allow_emulation = false;
  Accumulation accumulation = Accumulation::kPlain;
  int64_t epochs = 300;
  int64_t global_batch = 128;
  int64_t micro_batch = 128;
  uint64_t seed = 0;
  double label_smoothing = 0.1;
  MixConfig mix;
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

// Who adds gradients up over ranks.
enum class Reduction {
  // We do, along the tree: the same bits on 1, 2, 4, ... ranks.
  kReproducible,
  // The MPI library, in an order of its own choice.
  kLibrary
};

// Where the optimizer's state and what 16-bit weights lack of their masters are kept.
enum class Offload {
  // With the weights.
  kNone,
  // In host memory, of weights on a GPU.
  kHost,
  // In files on a local disk.
  kDisk
};

// The highest stage of ZeRO that there is.
inline constexpr int kMostZeroStage = 3;

// The form that a stage has if nothing is said.
inline Accumulation DefaultAccumulation(int zero_stage) {
  return zero_stage < 2 ? Accumulation::kPlain : Accumulation::kSplit;
}

struct ParallelConfig {
  // 0 means all ranks of the fleet.
  int64_t ranks = 0;
  // From stage 2 on gradients are summed in rounds: kSplit or kSplitLowPrecision.
  int zero_stage = 1;
  Reduction reduction = Reduction::kReproducible;
  // Off: every collective, and every update on a disk, is waited for where it is started.
  bool overlap = true;
  Offload offload = Offload::kNone;
  // A folder on a disk of each host's own, for kDisk.
  std::string offload_dir;
  int threads_per_rank = 1;
  // The job says nothing of threads: a rank that trains takes as many as it has cores of its host.
  bool threads_follow_cores = false;
};

struct CheckpointConfig {
  // 0 means once an epoch.
  int64_t every_steps = 0;
  int64_t keep_last = 3;
  // 0 means none.
  int64_t keep_every_steps = 0;
  bool asynchronous = true;
};

struct MetricsConfig {
  // TensorBoard's event files in the run folder, beside the lines of JSON.
  bool tensorboard = true;
};

struct JobConfig {
  std::string name;
  std::string run_dir;
  ModelConfig model;
  // A safetensors file, or a checkpoint's folder, that the weights start from; empty: random
  // initial weights.
  std::string init_from;
  // Only what the model lacks in the file, or has of another shape, may be left out, each by a
  // name or a prefix ending in "*".
  std::vector<std::string> init_skip;
  PretrainConfig pretrain;
  MemoryConfig memory;
  DataConfig data;
  TrainConfig train;
  ParallelConfig parallel;
  CheckpointConfig checkpoint;
  MetricsConfig metrics;
};

// The named model, or nothing for an unknown name. Names are timm's.
std::optional<ModelConfig> ModelPreset(const std::string& name);
// All names, for messages.
std::vector<std::string> ModelPresetNames();

// Everything that is wrong with the model's dimensions, each message saying what would work.
// Empty: the model can be built.
std::vector<std::string> ValidateModel(const ModelConfig& model);
// Everything that is wrong with the job's pre-training, for a valid model and memory settings.
std::vector<std::string> ValidatePretrain(const JobConfig& job);
// Everything that is wrong with the whole job (the model included), before anything is allocated.
// `ranks` is the number of ranks it is to run on, 0 when that is not yet known.
std::vector<std::string> ValidateJob(const JobConfig& job, int64_t ranks);

}  // namespace swinfleet

#endif  // SWINFLEET_CORE_CONFIG_JOB_CONFIG_H_
