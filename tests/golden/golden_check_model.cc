// Models as goldens describe them, and one pass through them.
#include <algorithm>
#include <cmath>
#include <utility>

#include "core/loss/targets.h"
#include "tests/golden/golden_check.h"

namespace swinfleet::golden {
namespace {

// One number, or two equal ones.
int64_t Square(const Json& config, const char* key) {
  const std::array<int64_t, 2> pair = Pair(config.at(key));
  if (pair[0] != pair[1]) {
    throw Unsupported("model." + std::string(key) + " differs by direction: not supported yet");
  }
  return pair[0];
}

// A GPU's copies of parameters, and gradients that are added to those of the host as they come.
class ParametersOnGpu : public ParameterAccess {
 public:
  ParametersOnGpu(const ParameterTable& table, LocalParameters* host, MemoryClasses* memory,
                  Context& context)
      : host_(host), context_(context), started_(table.units().size()) {
    for (const Unit& unit : table.units()) {
      const int number = static_cast<int>(values_.size());
      values_.push_back(memory->parameters.Allocate({unit.padded_size}));
      gradients_.push_back(memory->gradients.Allocate({unit.padded_size}));
      CopyFromHost(host->Acquire(number).data, values_.back(), context);
    }
  }

  TensorView Acquire(int unit) override { return values_[unit]; }
  void Release(int) override {}
  TensorView Gradient(int unit) override {
    if (!started_[unit]) context_.ops->fill({.x = gradients_[unit], .value = 0}, context_);
    started_[unit] = true;
    return gradients_[unit];
  }
  bool TakeUnwritten(int) override { return false; }
  void GradientReady(int unit) override {
    if (gradients_[unit].device == Device::kDryRun) return;
    const ElementsOnHost<float> gradient(Gradient(unit), context_);
    const std::span<float> sum = host_->Gradient(unit).span();
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += gradient.span()[i];
  }

 private:
  LocalParameters* host_;
  Context& context_;
  std::vector<bool> started_;
  std::vector<TensorView> values_, gradients_;
};

void LossOnHost(const ModelRunner::Pass& pass, const TensorView& output, const TensorView& loss,
                const TensorView& doutput, Arena& activations, Context& context) {
  if (pass.loss) return pass.loss(output, loss, doutput, activations, context);
  context.ops->cross_entropy(
      {.logits = output,
       .target = ViewOf(const_cast<float*>(pass.target.data()), output.shape),
       .loss = loss,
       .dlogits = doutput,
       .grad_scale = static_cast<float>(pass.grad_scale)},
      context);
}

void RefuseUnknownKeys(const Json& config) {
  static const std::set<std::string> known = {"ape",
                                              "arch",
                                              "depths",
                                              "embed_dim",
                                              "extra_norm_period",
                                              "img_size",
                                              "in_chans",
                                              "layer_norm_eps",
                                              "mlp_ratio",
                                              "num_classes",
                                              "num_heads",
                                              "patch_norm",
                                              "patch_size",
                                              "pretrained_window_sizes",
                                              "qk_scale",
                                              "qkv_bias",
                                              "window_size"};
  // Without effect where they are 0, as in every golden.
  static const std::set<std::string> rates = {"drop_rate", "attn_drop_rate", "drop_path_rate"};
  for (const auto& [key, value] : config.items()) {
    if (known.contains(key)) continue;
    if (rates.contains(key) && value.is_number() && value.get<double>() == 0) continue;
    throw Unsupported("model setting \"" + key + "\" = " + value.dump() + " is not supported yet");
  }
}

std::string JoinLines(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += (text.empty() ? "" : "; ") + line;
  return text;
}

}  // namespace

std::array<int64_t, 2> Pair(const Json& value) {
  if (value.is_number_integer()) return {value.get<int64_t>(), value.get<int64_t>()};
  if (!value.is_array() || value.size() != 2) {
    throw Unsupported("sizes of " + value.dump() +
                      " are not supported yet: only two dimensions are");
  }
  return {value[0].get<int64_t>(), value[1].get<int64_t>()};
}

ModelConfig ParseModel(const Json& config) {
  const auto arch = config.at("arch").get<std::string>();
  RefuseUnknownKeys(config);
  ModelConfig model;
  if (arch == "swin_v1") {
    model.arch = Architecture::kSwinV1;
  } else if (arch != "swin_v2") {
    throw Unsupported("architecture \"" + arch + "\" is not supported here");
  }
  const std::array<int64_t, 2> image = Pair(config.at("img_size"));
  model.image_h = image[0];
  model.image_w = image[1];
  model.in_chans = config.at("in_chans").get<int64_t>();
  model.num_classes = config.at("num_classes").get<int64_t>();
  model.patch_size = Square(config, "patch_size");
  model.embed_dim = config.at("embed_dim").get<int64_t>();
  model.depths = config.at("depths").get<std::vector<int64_t>>();
  model.num_heads = config.at("num_heads").get<std::vector<int64_t>>();
  model.window_size = Square(config, "window_size");
  model.mlp_ratio = config.at("mlp_ratio").get<double>();
  model.qkv_bias = config.value("qkv_bias", true);
  if (config.contains("qk_scale") && !config.at("qk_scale").is_null()) {
    model.qk_scale = config.at("qk_scale").get<double>();
  }
  model.ape = config.value("ape", false);
  model.patch_norm = config.value("patch_norm", true);
  model.pretrained_window_sizes = config.value("pretrained_window_sizes", std::vector<int64_t>());
  model.extra_norm_period = config.value("extra_norm_period", int64_t{0});
  model.layer_norm_eps = config.value("layer_norm_eps", 1e-5);
  model.drop_path_rate = 0;
  const std::vector<std::string> errors = ValidateModel(model);
  if (!errors.empty()) throw Unsupported("this model can't be built: " + JoinLines(errors));
  return model;
}

void OpRunner::WithContext(const std::function<void(Context&)>& body) const {
  Arena dry = Arena::DryRun("workspace");
  WorkCount count;
  Context dry_context;
  dry_context.ops = &DryRunOps();
  dry_context.workspace = &dry;
  dry_context.threads = threads_;
  dry_context.count = &count;
  body(dry_context);
  Arena workspace = Arena::OnHost("workspace", dry.high_water());
  Context context;
  context.ops = &CpuOps();
  context.workspace = &workspace;
  context.threads = threads_;
  body(context);
}

std::unique_ptr<Model> MakeClassifier(const ModelConfig& config) {
  return MakeModel(config, PretrainConfig(), MemoryConfig());
}

ModelRunner::ModelRunner(const Golden& golden, std::unique_ptr<Model> model, const Machine& machine)
    : model_(std::move(model)),
      parameters_(model_->parameters(), /*gradients=*/true),
      machine_(machine) {
  const std::vector<ParameterInfo>& infos = table().parameters();
  for (int i = 0; i < static_cast<int>(infos.size()); ++i) {
    const Tensor value = golden.Load("param/" + infos[i].name, infos[i].shape);
    std::ranges::copy(value.values, parameters_.Value(i).begin());
  }
}

double ModelRunner::Result::MeanLoss() const {
  double sum = 0;
  for (const float x : loss) sum += x;
  return sum / static_cast<double>(loss.size());
}

void ModelRunner::ComputeLoss(Pass& pass, const TensorView& output, const TensorView& doutput,
                              Result& result, Arena& activations, Context& context) {
  const TensorView loss = ViewOf(result.loss.data(), Shape{pass.pictures});
  const bool dry = output.device == Device::kDryRun;
  std::vector<float> gradient(result.logits.size());
  const TensorView host_output = ViewOf(result.logits.data(), output.shape);
  const TensorView host_gradient = ViewOf(gradient.data(), output.shape);
  if (!dry) CopyToHost(output, result.logits.data(), context);
  if (context.device == Device::kCpu) {
    LossOnHost(pass, host_output, loss, host_gradient, activations, context);
  } else if (!dry) {
    Arena memory = Arena::DryRun("loss");
    OpRunner(machine_.threads).WithContext([&](Context& host) {
      if (host.ops != &DryRunOps()) memory = Arena::OnHost("loss", memory.high_water());
      LossOnHost(pass, host_output, loss, host_gradient, memory, host);
    });
  }
  if (!dry) CopyFromHost(gradient.data(), doutput, context);
}

void ModelRunner::Execute(Pass& pass, ParameterAccess& parameters, Result& result,
                          MemoryClasses* memory, Context& context) {
  Arena& activations = memory->activations;
  const bool dry = activations.device() == Device::kDryRun;
  ForwardOptions options;
  if (!dry) {
    options.capture = [&](const std::string& name, const TensorView& value) {
      const ElementsOnHost<float> values(value, context);
      result.captured[name].assign(values.span().begin(), values.span().end());
    };
  }
  ArenaScope scope(&activations);
  ModelInput input;
  input.image = OnDevice(ViewOf(pass.image.data(), pass.image_shape), &activations, context);
  if (!pass.mask.empty()) input.mask = ViewOf(pass.mask.data(), pass.mask_shape);
  const TensorView output = activations.Allocate(model_->OutputShape(pass.pictures));
  const TensorView doutput = activations.Allocate(output.shape);
  model_->Forward(input, output, options, parameters, activations, context);
  ComputeLoss(pass, output, doutput, result, activations, context);
  TensorView dimage;
  if (pass.want_image_gradient) dimage = activations.Allocate(pass.image_shape);
  model_->Backward(doutput, dimage, parameters, activations, context);
  if (dry || dimage.empty()) return;
  CopyToHost(dimage, result.image_gradient.data(), context);
}

ModelRunner::Result ModelRunner::Run(Pass pass, ParameterAccess* parameters) {
  CHECK_EQ(static_cast<int64_t>(pass.image.size()), pass.image_shape.NumElements());
  Result result;
  result.logits.resize(model_->OutputShape(pass.pictures).NumElements());
  CHECK(pass.loss || pass.target.size() == result.logits.size());
  result.loss.resize(pass.pictures);
  if (pass.want_image_gradient) result.image_gradient.resize(pass.image.size());
  const bool on_gpu = machine_.gpu != nullptr;
  MemoryClasses planned = MemoryClasses::DryRun(on_gpu ? Device::kCuda : Device::kCpu);
  ConstantTables constants(&planned.parameters);
  WorkCount count;
  Context dry = {.ops = on_gpu ? &CudaDryRunOps() : &DryRunOps(),
                 .workspace = &planned.workspace,
                 .threads = machine_.threads,
                 .device = planned.device,
                 .constants = &constants,
                 .count = &count};
  const auto execute = [&](MemoryClasses* memory, Context& context) {
    if (parameters != nullptr && memory != &planned) {
      return Execute(pass, *parameters, result, memory, context);
    }
    if (!on_gpu) return Execute(pass, parameters_, result, memory, context);
    ParametersOnGpu copies(table(), &parameters_, memory, context);
    Execute(pass, copies, result, memory, context);
  };
  execute(&planned, dry);
  Compute compute(planned, machine_.gpu, machine_.threads, Matmul::kFloat32);
  execute(&compute.memory, compute.context);
  return result;
}

double ModelRunner::GradientNorm() {
  double sum = 0;
  for (int unit = 0; unit < static_cast<int>(table().units().size()); ++unit) {
    const TensorView gradient = parameters_.Gradient(unit);
    std::vector<double> sums(gradient.NumElements() / kNormChunk);
    SumOfSquaresArgs args;
    args.x = gradient;
    args.sums = sums.data();
    OpRunner(machine_.threads).Run(&OpTable::sum_of_squares, args);
    for (const double part : sums) sum += part;
  }
  return std::sqrt(sum);
}

ModelRunner::Pass LoadBatch(const Golden& golden, const ModelConfig& config) {
  const StoredTensor* stored = golden.Find("input/image");
  if (stored == nullptr) throw Error(golden.path() + ": input/image is missing");
  ModelRunner::Pass batch;
  batch.pictures = stored->shape.rank() == 4 ? stored->shape[0] : 0;
  if (batch.pictures < 1 || batch.pictures != golden.config().value("batch_size", batch.pictures)) {
    throw Error(golden.path() + ": input/image has the shape " + stored->shape.ToString() +
                ", and the config says batch_size " + golden.config().at("batch_size").dump());
  }
  batch.image_shape = config.ImageShape(batch.pictures);
  batch.image = golden.Load("input/image", batch.image_shape).values;
  const Json& loss = golden.config().at("loss");
  batch.target = LoadTargets(golden, loss.at("type").get<std::string>(),
                             loss.value("smoothing", 0.0), batch.pictures, config.num_classes);
  batch.grad_scale = 1.0 / static_cast<double>(batch.pictures);
  return batch;
}

ModelRunner::Pass Slice(const ModelRunner::Pass& batch, int64_t begin, int64_t count) {
  const auto cut = [&](const std::vector<float>& values) {
    const auto row = static_cast<int64_t>(values.size()) / batch.pictures;
    return std::vector<float>(values.begin() + begin * row, values.begin() + (begin + count) * row);
  };
  ModelRunner::Pass slice;
  slice.image = cut(batch.image);
  slice.image_shape = Shape{count};
  for (int i = 1; i < batch.image_shape.rank(); ++i) slice.image_shape.Append(batch.image_shape[i]);
  slice.target = cut(batch.target);
  slice.pictures = count;
  slice.grad_scale = batch.grad_scale;
  slice.want_image_gradient = batch.want_image_gradient;
  return slice;
}

std::vector<float> LoadTargets(const Golden& golden, const std::string& loss, double smoothing,
                               int64_t pictures, int64_t classes) {
  if (loss.starts_with("soft_target")) {
    return golden.Load("input/soft_target", Shape{pictures, classes}).values;
  }
  if (!loss.starts_with("label_smoothing") && loss != "cross_entropy") {
    throw Unsupported("loss \"" + loss + "\" is not supported yet");
  }
  const std::vector<int64_t> labels = golden.LoadIntegers("input/label");
  if (static_cast<int64_t>(labels.size()) != pictures) {
    throw Error(golden.path() + ": input/label has " + std::to_string(labels.size()) +
                " labels for " + std::to_string(pictures) + " pictures");
  }
  for (const int64_t label : labels) {
    if (label >= 0 && label < classes) continue;
    throw Error(golden.path() + ": input/label has " + std::to_string(label) + " of " +
                std::to_string(classes) + " classes");
  }
  if (!(smoothing >= 0 && smoothing <= 1)) {
    throw Error(golden.path() + ": label smoothing of " + std::to_string(smoothing));
  }
  std::vector<float> target(pictures * classes);
  SmoothedTargets(labels, classes, loss == "cross_entropy" ? 0 : smoothing, target);
  return target;
}

}  // namespace swinfleet::golden
