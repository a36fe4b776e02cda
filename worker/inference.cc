#include "worker/inference.h"

#include <glog/logging.h>
#include <CLI/CLI.hpp>
#include <algorithm>
#include <utility>

#include "core/checkpoint/weight_description.h"
#include "core/config/names.h"
#include "core/data/loader.h"
#include "core/loss/objective.h"
#include "distributed/communicator.h"
#include "distributed/master_weights.h"
#include "proto/job_yaml.h"
#include "worker/config_from_proto.h"
#include "worker/initial_weights.h"
#include "worker/model_json.h"
#include "worker/normalisation.h"
#include "worker/processor.h"

namespace swinfleet {
namespace {

constexpr int64_t kFileBatch = 32;

// A preset's name, or JSON.
ModelConfig ModelFromArgument(const std::string& text, PretrainConfig* pretrain) {
  if (text.starts_with("{")) {
    try {
      return ModelConfigFromJson(text, "--model", pretrain);
    } catch (const Error& error) {
      throw UsageError(error.what());
    }
  }
  if (const std::optional<ModelConfig> preset = ModelPreset(text)) return *preset;
  throw UsageError("--model \"" + text + "\" is neither a preset nor JSON in {}; presets are " +
                   ListNames(ModelPresetNames()));
}

// The windows whose coordinates Swin V2's position biases were trained with.
std::vector<int64_t> TrainedWindows(const ModelConfig& model) {
  std::vector<int64_t> windows;
  for (int stage = 0; stage < model.num_stages(); ++stage) {
    const int64_t pretrained = model.PretrainedWindow(stage);
    windows.push_back(pretrained > 0 ? pretrained : model.StageWindow(stage));
  }
  return windows;
}

}  // namespace

const char kModelHelp[] =
    "--model JSON, for weights that do not say their model and that no preset fits: one object "
    "with "
    "all\n"
    "of the keys \"arch\" (swin_v1, swin_v2, video_swin, vit), \"img_size\" ([height, width]), "
    "\"in_chans\",\n"
    "\"num_classes\", \"patch_size\", \"embed_dim\", \"depths\", \"num_heads\", \"window_size\", "
    "\"mlp_ratio\",\n"
    "\"qkv_bias\", \"ape\", \"patch_norm\", \"pretrained_window_sizes\", \"extra_norm_period\",\n"
    "\"drop_path_rate\", \"layer_norm_eps\"; docs/weights.md has an example and the keys of clips "
    "and "
    "of\n"
    "pre-training.\n"
    "\n";

void AddInferenceOptions(CLI::App* app, InferenceOptions* options) {
  app->add_option("--weights", options->weights,
                  "A safetensors file (exported, official names or timm's), a checkpoint's folder, "
                  "or a run's folder, which stands for its newest good checkpoint")
      ->required()
      ->type_name("FILE|FOLDER");
  app->add_option("--model", options->model,
                  "A preset's name, or a model as JSON [what the weights say]")
      ->type_name("PRESET|JSON");
  app->add_option("--image-size", options->image_size,
                  "Height,width, or a square's side [the model's]")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::Range(1, 16384))
      ->type_name("N[,N]");
  app->add_option("--window", options->window, "Window size [the model's]")
      ->check(CLI::Range(1, 64))
      ->type_name("N");
  app->add_option("--dtype", options->dtype, "fp32, bf16 or fp16 [the job's, of a file fp32]")
      ->check(CLI::IsMember({"fp32", "bf16", "fp16"}))
      ->type_name("DTYPE");
  app->add_flag("--allow-emulation", options->allow_emulation,
                "Compute in a dtype that the processor has no instructions for, slowly");
  app->add_option("--threads", options->threads,
                  "Threads that compute, and that decode [the job's, else 1]")
      ->check(CLI::Range(1, 1024))
      ->type_name("N");
  app->add_option("--batch", options->batch, "Pictures at a time [the job's, else 32]")
      ->check(CLI::Range(1, 1 << 20))
      ->type_name("N");
  app->add_option("--mean", options->mean,
                  "Mean of each channel, of pixels from 0 to 1 [as in training; ImageNet's for "
                  "files that do not say]")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->type_name("X,...");
  app->add_option("--std", options->std, "Standard deviation of each channel [likewise]")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->type_name("X,...");
  app->add_option("--eval-crop", options->eval_crop,
                  "The shorter side is resampled to size / X before the centre is cut out [as in "
                  "training, else 0.875]")
      ->check(CLI::Range(0.1, 1.0))
      ->type_name("X");
  app->add_option("--interpolation", options->interpolation,
                  "bilinear or bicubic [as in training, else bicubic]")
      ->check(CLI::IsMember({"bilinear", "bicubic"}))
      ->type_name("NAME");
}

InferenceParameters::InferenceParameters(const ParameterTable& table, DType dtype, Arena* arena)
    : table_(table) {
  for (const Unit& unit : table.units()) {
    units_.push_back(arena->Allocate({unit.padded_size}, dtype));
  }
  packed_.emplace(units_, arena);
}

void InferenceParameters::Load(const WeightsFile& weights) {
  std::vector<float> values;
  for (size_t unit = 0; unit < units_.size(); ++unit) {
    values.assign(table_.units()[unit].padded_size, 0.0f);
    for (const int parameter : table_.units()[unit].parameters) {
      const ParameterInfo& info = table_.parameters()[parameter];
      weights.Read(parameter, 0, std::span(values).subspan(info.offset, info.size()));
    }
    if (RoundWeights(values, units_[unit])) continue;
    throw Error("a weight of " + table_.units()[unit].name + " in " + weights.report().file +
                " is beyond the range of " + NameOf(units_[unit].dtype) + "; use --dtype fp32");
  }
}

void InferenceParameters::Initialize(uint64_t seed) {
  std::vector<float> values;
  for (size_t unit = 0; unit < units_.size(); ++unit) {
    values.assign(table_.units()[unit].padded_size, 0.0f);
    InitializeUnit(table_, static_cast<int>(unit), seed, values);
    CHECK(RoundWeights(values, units_[unit])) << table_.units()[unit].name;
  }
}

TensorView InferenceParameters::Gradient(int unit) {
  LOG(FATAL) << "gradient of " << table_.units()[unit].name << " without training";
  return {};
}

bool InferenceParameters::TakeUnwritten(int parameter) {
  Gradient(table_.parameters()[parameter].unit);
  return false;
}

void InferenceParameters::GradientReady(int unit) { Gradient(unit); }

Inference::Inference(const InferenceOptions& options) {
  config_.train.eval_batch = kFileBatch;
  std::unique_ptr<WeightSource> source = OpenWeights(options.weights);
  ReadJob(*source);
  ChooseModel(*source, options);
  ChooseSizes(options);
  ChoosePreparation(options);
  ChooseArithmetic(options);
  model_ = MakeModel(config_.model, config_.pretrain, config_.memory);
  // Before memory is reserved: a model that does not fit need not be loaded.
  const std::unique_ptr<WeightsFile> weights =
      OpenWeightsFor(std::move(source), model_->parameters(),
                     {.model = config_.model, .skip = {}, .source_model = {}});
  weights->Verify();
  Reserve();
  parameters_->Load(*weights);
  report_ = weights->report();
}

// What a checkpoint's job, or an exported file, says of data and training.
void Inference::ReadJob(const WeightSource& source) {
  const std::string& said = source.Metadata(kStepMetadata);
  if (!said.empty() && said.find_first_not_of("0123456789") == std::string::npos &&
      said.size() < 19) {
    step_ = std::stoll(said);
  }
  const std::string& prepared = source.Metadata(kPreprocessingMetadata);
  if (!prepared.empty()) {
    PreprocessingFromJson(prepared, source.path(), &config_.data, &picture_);
    normalisation_ = "file";
  }
  if (source.checkpoint() == nullptr) return;
  const CheckpointMeta& meta = source.checkpoint()->meta();
  JobSpec spec;
  JobConfig job;
  if (!ParseJobYaml(meta.job_spec, source.path(), &spec).ok() ||
      !ConfigOfStartedJob(spec, 0, &job).empty()) {
    // Of another version: how pictures are prepared has to be said by the arguments.
    return;
  }
  config_ = job;
  NormaliseAsTrained(meta, &config_.data);
  normalisation_ = "checkpoint";
  if (config_.data.format == "idx" && config_.data.crop_scale.empty()) picture_ = meta.data;
}

void Inference::ChooseModel(const WeightSource& source, const InferenceOptions& options) {
  config_.memory = {};
  config_.pretrain = {};
  const WeightsDescription description = DescribeWeights(source.tensors());
  if (!options.model.empty()) {
    config_.model = ModelFromArgument(options.model, &config_.pretrain);
    // A preset's classes are those of ImageNet; the weights' count.
    const bool preset = !options.model.starts_with("{");
    if (preset && description.num_classes > 0) config_.model.num_classes = description.num_classes;
    return;
  }
  const std::string& said = source.Metadata(kModelMetadata);
  if (!said.empty()) {
    config_.model = ModelConfigFromJson(said, source.path(), &config_.pretrain);
    return;
  }
  const std::vector<std::string> presets = description.FittingPresets();
  throw UsageError(source.path() + " does not say which model it holds; it has " +
                   description.ToString() + ": name the model with --model" +
                   (presets.empty() ? " (as JSON, since no preset fits)"
                                    : ", of which these would fit: " + ListNames(presets)));
}

void Inference::ChooseSizes(const InferenceOptions& options) {
  ModelConfig& model = config_.model;
  if (options.image_size.size() > 2) {
    throw UsageError("--image-size has more than height and width");
  }
  const std::vector<int64_t> windows = TrainedWindows(model);
  if (!options.image_size.empty()) {
    model.image_h = options.image_size.front();
    model.image_w = options.image_size.back();
  }
  if (options.window > 0) model.window_size = options.window;
  const bool resized = !options.image_size.empty() || options.window > 0;
  std::vector<std::string> problems = ValidateModel(model);
  if (problems.empty() && config_.pretrain.on()) problems = ValidatePretrain(config_);
  if (!problems.empty()) throw UsageError(JoinLines(problems));
  // Swin V2's way to other windows: coordinates stay in units of the trained ones.
  if (resized && model.arch == Architecture::kSwinV2 && TrainedWindows(model) != windows) {
    model.pretrained_window_sizes = windows;
    // A window of one token has a single offset, in whatever units.
    for (int64_t& window : model.pretrained_window_sizes) window = window < 2 ? 0 : window;
  }
}

void Inference::ChoosePreparation(const InferenceOptions& options) {
  DataConfig& data = config_.data;
  if (!options.mean.empty()) data.mean = options.mean;
  if (!options.std.empty()) data.std = options.std;
  if (options.eval_crop) data.eval_crop = *options.eval_crop;
  if (!options.interpolation.empty()) {
    data.interpolation = options.interpolation == "bilinear" ? DataConfig::Interpolation::kBilinear
                                                             : DataConfig::Interpolation::kBicubic;
  }
  if (options.mean.empty() != options.std.empty() && normalisation_.empty()) {
    throw UsageError("give --mean and --std together");
  }
  if (!options.mean.empty() || !options.std.empty()) normalisation_ = "arguments";
  if (!normalisation_.empty()) return;
  if (config_.model.in_chans != static_cast<int64_t>(kImageNetMean.size())) {
    throw UsageError("the weights do not say how pictures of " +
                     std::to_string(config_.model.in_chans) +
                     " channels are normalised; give --mean and --std (0 and 1 for none)");
  }
  data.mean = kImageNetMean;
  data.std = kImageNetStd;
  normalisation_ = "ImageNet";
}

void Inference::ChooseArithmetic(const InferenceOptions& options) {
  config_.train.dtype = ValueIn(DTypeNames(), options.dtype).value_or(config_.train.dtype);
  RequireNative(config_.train.dtype, options.allow_emulation,
                "use --dtype fp32, or --allow-emulation");
  if (options.batch > 0) config_.train.eval_batch = options.batch;
  if (options.threads > 0) {
    config_.parallel.threads_per_rank = options.threads;
    config_.data.loader_threads = options.threads;
  }
}

// As for a job: the code that will run is run dry, then memory is reserved once.
void Inference::Reserve() {
  try {
    Reserve(/*packed=*/true);
  } catch (const Error& error) {
    LOG(WARNING)
        << "no room for copies of the weights that make products faster; going on without them: "
        << error.what();
    Reserve(/*packed=*/false);
  }
}

void Inference::Reserve(bool packed) {
  MemoryClasses planned = MemoryClasses::DryRun();
  WorkCount work;
  Context dry = {.ops = &DryRunOps(),
                 .workspace = &planned.workspace,
                 .threads = config_.parallel.threads_per_rank,
                 .count = &work};
  const DType dtype = config_.train.dtype;
  InferenceParameters counted(model_->parameters(), dtype, &planned.parameters);
  if (packed) dry.packed_weights = counted.packed();
  Batch batch;
  batch.pictures = config_.train.eval_batch;
  EvaluateBatch(config_, batch, model_.get(), &counted, &planned, &dry);
  memory_ = MemoryClasses::OnHost(planned);
  context_ = {.ops = &CpuOps(),
              .workspace = &memory_->workspace,
              .threads = config_.parallel.threads_per_rank,
              .count = nullptr};
  parameters_.emplace(model_->parameters(), dtype, &memory_->parameters);
  if (packed) context_.packed_weights = parameters_->packed();
}

Evaluation Inference::Evaluate(const DataConfig& data, const Dataset& dataset) {
  JobConfig config = config_;
  config.data = data;
  const std::unique_ptr<Communicator> alone = MakeSelfCommunicator();
  std::vector<double> sums =
      EvaluateShare(config, dataset, model_.get(), &*parameters_, /*rank=*/0,
                    /*ranks=*/1, &*memory_, &context_, {"--broken-pictures replace", "--threads"});
  return SumShares(&sums, alone.get());
}

void Inference::Classify(
    const DataConfig& data, const Dataset& dataset,
    const std::function<void(int64_t index, std::span<const float> logits)>& visit) {
  CHECK(!config_.pretrain.on());
  JobConfig config = config_;
  config.data = data;
  // Who asks about certain pictures is not answered about others.
  LoaderOptions options = LoaderOptionsFor(config, {.replace = "", .threads = "--threads"});
  options.training = false;
  options.micro_batch = config.train.eval_batch;
  options.leaves = (dataset.identity().count + options.micro_batch - 1) / options.micro_batch;
  Loader loader(&dataset, options);
  Arena& activations = memory_->activations;
  while (const Batch* batch = loader.Next()) {
    ArenaScope scope(&activations);
    const Shape shape = model_->OutputShape(batch->pictures);
    const TensorView output = activations.Allocate(shape, config.train.dtype);
    ForwardOptions forward;
    forward.keep_for_backward = false;
    forward.dtype = config.train.dtype;
    model_->Forward(InputOf(*batch, config, activations, context_), output, forward, *parameters_,
                    activations, context_);
    const TensorView logits = activations.Allocate(shape);
    context_.ops->cast({output, logits}, context_);
    for (int64_t row = 0; row < batch->pictures; ++row) {
      visit(batch->sample[row], logits.Rows(row, 1).span());
    }
  }
}

}  // namespace swinfleet
