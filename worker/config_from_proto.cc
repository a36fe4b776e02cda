#include "worker/config_from_proto.h"

#include <charconv>
#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <utility>

#include "core/config/names.h"
#include "proto/queue.h"
#include "worker/ineffective_settings.h"
#include "worker/normalisation.h"

namespace swinfleet {
namespace {

// Every function below adds what it finds wrong to `problems` and goes on.
using Problems = std::vector<std::string>;

// Copies `spec`'s scalar `field` to `target` when the user has set it.
#define SWINFLEET_TAKE(field, target)                  \
  do {                                                 \
    if (spec.has_##field()) (target) = (spec.field()); \
  } while (false)

// A double that the user has set; NaN and infinity pass YAML but mean nothing here.
void TakeReal(bool is_set, double value, const std::string& key, double* target,
              Problems* problems) {
  if (!is_set) return;
  if (!std::isfinite(value)) {
    problems->push_back(key + " is " + std::to_string(value) + "; it must be a finite number");
    return;
  }
  *target = value;
}
#define SWINFLEET_TAKE_REAL(prefix, field, target) \
  TakeReal(spec.has_##field(), spec.field(), prefix "." #field, &(target), problems)

template <typename List>
void TakeReals(const List& values, const std::string& key, std::vector<double>* target,
               Problems* problems) {
  if (values.empty()) return;
  for (double value : values) {
    if (!std::isfinite(value)) {
      problems->push_back(key + " has " + std::to_string(value) + "; it must have finite numbers");
      return;
    }
  }
  target->assign(values.begin(), values.end());
}

template <typename List>
void TakeIntegers(const List& values, std::vector<int64_t>* target) {
  if (!values.empty()) target->assign(values.begin(), values.end());
}

// A count that the code below keeps in an int.
void TakeInt(bool is_set, uint32_t value, const std::string& key, int* target, Problems* problems) {
  if (!is_set) return;
  const int largest = std::numeric_limits<int>::max();
  if (value > static_cast<uint32_t>(largest)) {
    problems->push_back(key + " is " + std::to_string(value) + "; it must be at most " +
                        std::to_string(largest));
    return;
  }
  *target = static_cast<int>(value);
}
#define SWINFLEET_TAKE_INT(prefix, field, target) \
  TakeInt(spec.has_##field(), spec.field(), prefix "." #field, &(target), problems)

std::string JoinNames(const std::vector<std::string>& names) {
  std::string text;
  for (size_t i = 0; i < names.size(); ++i) {
    if (i > 0) text += i + 1 == names.size() ? " or " : ", ";
    text += names[i];
  }
  return text;
}

}  // namespace

bool ParseBytes(const std::string& text, int64_t* bytes) {
  static const std::map<std::string, double> kUnits = {
      {"", 1},      {"B", 1},        {"KB", 1e3},     {"MB", 1e6},     {"GB", 1e9},
      {"TB", 1e12}, {"KiB", 0x1p10}, {"MiB", 0x1p20}, {"GiB", 0x1p30}, {"TiB", 0x1p40}};
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc()) return false;
  std::string unit(end, text.data() + text.size());
  unit.erase(0, unit.find_first_not_of(' '));
  const auto found = kUnits.find(unit);
  if (found == kUnits.end()) return false;
  const double value = number * found->second;
  if (!(value >= 1 && value < 0x1p62)) return false;
  *bytes = static_cast<int64_t>(value);
  return true;
}

namespace {

// The value called `name`, or a problem that lists all names.
template <typename Enum>
void TakeEnum(const std::string& name, const EnumNames<Enum>& names, const std::string& key,
              Enum* target, Problems* problems) {
  if (const std::optional<Enum> value = ValueIn(names, name)) {
    *target = *value;
    return;
  }
  problems->push_back(key + " is \"" + name + "\", which is unknown; use " +
                      JoinNames(NamesOf(names)));
}

// False when the preset or the image's size is not known: then nothing can be said about the rest
// of the model.
bool ConvertModel(const ModelSpec& spec, ModelConfig* model, Problems* problems) {
  if (spec.has_preset()) {
    const std::optional<ModelConfig> preset = ModelPreset(spec.preset());
    if (!preset) {
      problems->push_back("model.preset is \"" + spec.preset() + "\", which is unknown; use " +
                          JoinNames(ModelPresetNames()) + ", or give the dimensions instead");
      return false;
    }
    *model = *preset;
  }
  if (spec.image_size_size() > 2) {
    problems->push_back("model.image_size has " + std::to_string(spec.image_size_size()) +
                        " numbers; give height and width, or one number for a square");
    return false;
  }
  if (spec.image_size_size() > 0) {
    model->image_h = spec.image_size(0);
    model->image_w = spec.image_size(spec.image_size_size() - 1);
  }
  if (spec.has_arch()) {
    TakeEnum(spec.arch(), ArchitectureNames(), "model.arch", &model->arch, problems);
  }
  SWINFLEET_TAKE(frames, model->frames);
  SWINFLEET_TAKE(patch_frames, model->patch_frames);
  SWINFLEET_TAKE(window_frames, model->window_frames);
  SWINFLEET_TAKE(in_chans, model->in_chans);
  SWINFLEET_TAKE(num_classes, model->num_classes);
  SWINFLEET_TAKE(patch_size, model->patch_size);
  SWINFLEET_TAKE(embed_dim, model->embed_dim);
  TakeIntegers(spec.depths(), &model->depths);
  TakeIntegers(spec.num_heads(), &model->num_heads);
  SWINFLEET_TAKE(window_size, model->window_size);
  SWINFLEET_TAKE_REAL("model", mlp_ratio, model->mlp_ratio);
  SWINFLEET_TAKE(qkv_bias, model->qkv_bias);
  SWINFLEET_TAKE_REAL("model", qk_scale, model->qk_scale);
  SWINFLEET_TAKE(ape, model->ape);
  SWINFLEET_TAKE(patch_norm, model->patch_norm);
  TakeIntegers(spec.pretrained_window_sizes(), &model->pretrained_window_sizes);
  SWINFLEET_TAKE(extra_norm_period, model->extra_norm_period);
  SWINFLEET_TAKE_REAL("model", drop_path_rate, model->drop_path_rate);
  return true;
}

void ConvertData(const DataSpec& spec, DataConfig* data, Problems* problems) {
  SWINFLEET_TAKE(format, data->format);
  data->path = spec.path();
  SWINFLEET_TAKE(train_split, data->train_split);
  data->eval_split = spec.has_eval_split() ? spec.eval_split() : UsualEvalSplit(data->format);
  SWINFLEET_TAKE(pad, data->pad);
  SWINFLEET_TAKE(random_crop, data->random_crop);
  SWINFLEET_TAKE_REAL("data", flip, data->flip);
  TakeReals(spec.mean(), "data.mean", &data->mean, problems);
  TakeReals(spec.std(), "data.std", &data->std, problems);
  SWINFLEET_TAKE_INT("data", loader_threads, data->loader_threads);
  SWINFLEET_TAKE_INT("data", prefetch, data->prefetch);
  TakeReals(spec.crop_scale(), "data.crop_scale", &data->crop_scale, problems);
  TakeReals(spec.crop_ratio(), "data.crop_ratio", &data->crop_ratio, problems);
  if (spec.has_interpolation()) {
    TakeEnum(spec.interpolation(), InterpolationNames(), "data.interpolation", &data->interpolation,
             problems);
  }
  SWINFLEET_TAKE_REAL("data", eval_crop, data->eval_crop);
  if (spec.has_broken_pictures()) {
    using Broken = DataConfig::BrokenPictures;
    TakeEnum<Broken>(spec.broken_pictures(),
                     {{"fail", Broken::kFail}, {"replace", Broken::kReplace}},
                     "data.broken_pictures", &data->broken_pictures, problems);
  }
  SWINFLEET_TAKE(frame_interval, data->frame_interval);
}

void ConvertMix(const MixSpec& spec, MixConfig* mix, Problems* problems) {
  SWINFLEET_TAKE_REAL("train.mix", mixup_alpha, mix->mixup_alpha);
  SWINFLEET_TAKE_REAL("train.mix", cutmix_alpha, mix->cutmix_alpha);
  TakeReals(spec.cutmix_minmax(), "train.mix.cutmix_minmax", &mix->cutmix_minmax, problems);
  SWINFLEET_TAKE_REAL("train.mix", probability, mix->probability);
  SWINFLEET_TAKE_REAL("train.mix", switch_probability, mix->switch_probability);
  if (spec.has_mode()) {
    using Mode = MixConfig::Mode;
    TakeEnum<Mode>(spec.mode(),
                   {{"batch", Mode::kBatch}, {"pair", Mode::kPair}, {"element", Mode::kElement}},
                   "train.mix.mode", &mix->mode, problems);
  }
}

void ConvertPretrain(const PretrainSpec& spec, PretrainConfig* pretrain, Problems* problems) {
  using Method = PretrainConfig::Method;
  if (spec.has_method()) {
    TakeEnum(spec.method(), PretrainMethodNames(), "pretrain.method", &pretrain->method, problems);
  } else if (spec.ByteSizeLong() > 0) {
    problems->push_back("pretrain.method is missing; use simmim, mae or greenmim");
  }
  // The papers' ratio for each, and GreenMIM's decoder of one block.
  if (pretrain->method == Method::kMae || pretrain->method == Method::kGreenMim) {
    pretrain->mask_ratio = 0.75;
  }
  if (pretrain->method == Method::kGreenMim) pretrain->decoder_depth = 1;
  SWINFLEET_TAKE_REAL("pretrain", mask_ratio, pretrain->mask_ratio);
  SWINFLEET_TAKE(mask_unit, pretrain->mask_unit);
  SWINFLEET_TAKE(norm_target, pretrain->norm_target);
  SWINFLEET_TAKE(norm_target_window, pretrain->norm_target_window);
  SWINFLEET_TAKE(decoder_dim, pretrain->decoder_dim);
  SWINFLEET_TAKE(decoder_depth, pretrain->decoder_depth);
  SWINFLEET_TAKE(decoder_heads, pretrain->decoder_heads);
  SWINFLEET_TAKE(group_size, pretrain->group_size);
}

void ConvertMemory(const MemorySpec& spec, size_t stages, MemoryConfig* memory,
                   Problems* problems) {
  using Checkpointing = MemoryConfig::Checkpointing;
  for (const std::string& name : spec.checkpointing()) {
    Checkpointing value = Checkpointing::kNone;
    TakeEnum(name, CheckpointingNames(), "memory.checkpointing", &value, problems);
    memory->checkpointing.push_back(value);
  }
  TakeIntegers(spec.sequential_windows(), &memory->sequential_windows);
  // One stands for all stages.
  if (memory->checkpointing.size() == 1) {
    memory->checkpointing.assign(stages, memory->checkpointing[0]);
  }
  if (memory->sequential_windows.size() == 1) {
    memory->sequential_windows.assign(stages, memory->sequential_windows[0]);
  }
  if (spec.has_budget() && !ParseBytes(spec.budget(), &memory->budget)) {
    problems->push_back("memory.budget is \"" + spec.budget() +
                        "\"; write a size above 0 such as 20GiB or 800MiB");
  }
}

void ConvertOptimizer(const OptimizerSpec& spec, OptimizerConfig* optimizer, Problems* problems) {
  if (spec.has_name()) {
    TakeEnum(spec.name(), OptimizerNames(), "train.optimizer.name", &optimizer->kind, problems);
  }
  SWINFLEET_TAKE_REAL("train.optimizer", learning_rate, optimizer->learning_rate);
  SWINFLEET_TAKE_REAL("train.optimizer", weight_decay, optimizer->weight_decay);
  SWINFLEET_TAKE_REAL("train.optimizer", beta1, optimizer->beta1);
  SWINFLEET_TAKE_REAL("train.optimizer", beta2, optimizer->beta2);
  SWINFLEET_TAKE_REAL("train.optimizer", eps, optimizer->eps);
  SWINFLEET_TAKE_REAL("train.optimizer", momentum, optimizer->momentum);
  SWINFLEET_TAKE_REAL("train.optimizer", layer_decay, optimizer->layer_decay);
  if (spec.has_moments()) {
    TakeEnum(spec.moments(), DTypeNames(), "train.optimizer.moments", &optimizer->moments,
             problems);
  }
}

void ConvertSchedule(const ScheduleSpec& spec, ScheduleConfig* schedule, Problems* problems) {
  if (spec.has_name()) {
    TakeEnum(spec.name(), ScheduleNames(), "train.schedule.name", &schedule->kind, problems);
  }
  SWINFLEET_TAKE_REAL("train.schedule", warmup_epochs, schedule->warmup_epochs);
  SWINFLEET_TAKE_REAL("train.schedule", warmup_learning_rate, schedule->warmup_learning_rate);
  SWINFLEET_TAKE_REAL("train.schedule", min_learning_rate, schedule->min_learning_rate);
  SWINFLEET_TAKE(warmup_prefix, schedule->warmup_prefix);
  SWINFLEET_TAKE_REAL("train.schedule", decay_epochs, schedule->decay_epochs);
  TakeReals(spec.multisteps(), "train.schedule.multisteps", &schedule->multisteps, problems);
  SWINFLEET_TAKE_REAL("train.schedule", decay_rate, schedule->decay_rate);
}

void ConvertTrain(const TrainSpec& spec, TrainConfig* train, Problems* problems) {
  SWINFLEET_TAKE(epochs, train->epochs);
  SWINFLEET_TAKE(global_batch, train->global_batch);
  SWINFLEET_TAKE(micro_batch, train->micro_batch);
  SWINFLEET_TAKE(seed, train->seed);
  SWINFLEET_TAKE_REAL("train", label_smoothing, train->label_smoothing);
  ConvertOptimizer(spec.optimizer(), &train->optimizer, problems);
  ConvertSchedule(spec.schedule(), &train->schedule, problems);
  SWINFLEET_TAKE_REAL("train", clip_grad_norm, train->clip_grad_norm);
  SWINFLEET_TAKE(eval_every_epochs, train->eval_every_epochs);
  SWINFLEET_TAKE(eval_batch, train->eval_batch);
  if (spec.has_dtype()) {
    TakeEnum(spec.dtype(), DTypeNames(), "train.dtype", &train->dtype, problems);
  }
  if (spec.has_matmul()) {
    TakeEnum(spec.matmul(), MatmulNames(), "train.matmul", &train->matmul, problems);
  }
  SWINFLEET_TAKE(allow_emulation, train->allow_emulation);
  if (spec.has_accumulation()) {
    TakeEnum(spec.accumulation(), AccumulationNames(), "train.accumulation", &train->accumulation,
             problems);
  }
  ConvertMix(spec.mix(), &train->mix, problems);
  SWINFLEET_TAKE(log_every_steps, train->log_every_steps);
  SWINFLEET_TAKE(max_nonfinite_steps, train->max_nonfinite_steps);
}

void ConvertParallel(const ParallelSpec& spec, ParallelConfig* parallel, Problems* problems) {
  SWINFLEET_TAKE(ranks, parallel->ranks);
  SWINFLEET_TAKE_INT("parallel", zero_stage, parallel->zero_stage);
  if (spec.has_reduction()) {
    TakeEnum(spec.reduction(), ReductionNames(), "parallel.reduction", &parallel->reduction,
             problems);
  }
  SWINFLEET_TAKE(overlap, parallel->overlap);
  if (spec.has_offload()) {
    TakeEnum(spec.offload(), OffloadNames(), "parallel.offload", &parallel->offload, problems);
  }
  parallel->offload_dir = spec.offload_dir();
  SWINFLEET_TAKE_INT("parallel", threads_per_rank, parallel->threads_per_rank);
  parallel->threads_follow_cores = !spec.has_threads_per_rank();
}

void ConvertCheckpoint(const CheckpointSpec& spec, CheckpointConfig* checkpoint) {
  SWINFLEET_TAKE(every_steps, checkpoint->every_steps);
  SWINFLEET_TAKE(keep_last, checkpoint->keep_last);
  SWINFLEET_TAKE(keep_every_steps, checkpoint->keep_every_steps);
  SWINFLEET_TAKE(asynchronous, checkpoint->asynchronous);
}

void ConvertMetrics(const MetricsSpec& spec, MetricsConfig* metrics) {
  SWINFLEET_TAKE(tensorboard, metrics->tensorboard);
}

#undef SWINFLEET_TAKE
#undef SWINFLEET_TAKE_REAL
#undef SWINFLEET_TAKE_INT

// The key that a message is about: its first word.
std::string KeyOf(const std::string& message) { return message.substr(0, message.find(' ')); }

// Adds validation's findings, but for keys that conversion has refused already: the value that was
// judged there is not the user's.
void AppendFound(const Problems& found, Problems* problems) {
  std::set<std::string> refused;
  for (const std::string& message : *problems) refused.insert(KeyOf(message));
  for (const std::string& message : found) {
    if (refused.count(KeyOf(message)) == 0) problems->push_back(message);
  }
}

// What the specification sets, and what is wrong with it by itself. False as ConvertModel.
bool Convert(const JobSpec& spec, JobConfig* config, Problems* problems) {
  *config = JobConfig();
  config->name = spec.name();
  config->run_dir = spec.run_dir();
  const bool model_known = ConvertModel(spec.model(), &config->model, problems);
  config->init_from = spec.model().init_from();
  config->init_skip.assign(spec.model().init_skip().begin(), spec.model().init_skip().end());
  ConvertPretrain(spec.pretrain(), &config->pretrain, problems);
  ConvertMemory(spec.memory(), config->model.depths.size(), &config->memory, problems);
  ConvertData(spec.data(), &config->data, problems);
  ChooseNormalisation(config->model, &config->data);
  ConvertTrain(spec.train(), &config->train, problems);
  ConvertParallel(spec.parallel(), &config->parallel, problems);
  if (!spec.train().has_accumulation()) {
    config->train.accumulation = DefaultAccumulation(config->parallel.zero_stage);
  }
  ConvertCheckpoint(spec.checkpoint(), &config->checkpoint);
  ConvertMetrics(spec.metrics(), &config->metrics);
  return model_known;
}

// With an unknown model the rest of the job is judged beside one that is in order.
void Judge(const JobConfig& config, bool model_known, int64_t ranks, Problems* problems) {
  JobConfig judged = config;
  if (!model_known) judged.model = ModelConfig();
  AppendFound(ValidateJob(judged, ranks), problems);
}

}  // namespace

std::vector<std::string> ModelFromProto(const ModelSpec& spec, ModelConfig* model) {
  Problems problems;
  *model = ModelConfig();
  if (ConvertModel(spec, model, &problems)) AppendFound(ValidateModel(*model), &problems);
  return problems;
}

std::vector<std::string> ConfigFromProto(const JobSpec& spec, int64_t ranks, JobConfig* config) {
  Problems problems;
  const bool model_known = Convert(spec, config, &problems);
  const bool converted = problems.empty();
  Judge(*config, model_known, ranks, &problems);
  // A value that could not be taken says nothing about the settings that it has no use for.
  QueueSettings queue;
  AppendFound(ReadQueueSettings(spec, &queue), &problems);
  if (!converted) return problems;
  AppendFound(CheckNormalisationIsSaid(config->model, config->data), &problems);
  AppendFound(IneffectiveSettings(spec, *config), &problems);
  return problems;
}

std::vector<std::string> ConfigOfStartedJob(const JobSpec& spec, int64_t ranks, JobConfig* config) {
  Problems problems;
  const bool model_known = Convert(spec, config, &problems);
  Judge(*config, model_known, ranks, &problems);
  return problems;
}

std::string JoinLines(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) {
    if (!text.empty()) text += '\n';
    text += line;
  }
  return text;
}

}  // namespace swinfleet
