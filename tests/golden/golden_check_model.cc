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

ModelRunner::ModelRunner(const Golden& golden, std::unique_ptr<Model> model, int threads)
    : model_(std::move(model)),
      parameters_(model_->parameters(), /*gradients=*/true),
      threads_(threads) {
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

void ModelRunner::Execute(Pass& pass, ParameterAccess& parameters, Result& result, bool capture,
                          Arena& activations, Context& context) {
  const Shape output_shape = model_->OutputShape(pass.pictures);
  std::vector<float> doutput_values(result.logits.size());
  ForwardOptions options;
  if (capture) {
    options.capture = [&](const std::string& name, const TensorView& value) {
      result.captured[name].assign(value.span().begin(), value.span().end());
    };
  }
  ArenaScope scope(&activations);
  ModelInput input;
  input.image = ViewOf(pass.image.data(), pass.image_shape);
  if (!pass.mask.empty()) input.mask = ViewOf(pass.mask.data(), pass.mask_shape);
  const TensorView output = ViewOf(result.logits.data(), output_shape);
  const TensorView doutput = ViewOf(doutput_values.data(), output_shape);
  const TensorView loss = ViewOf(result.loss.data(), Shape{pass.pictures});
  model_->Forward(input, output, options, parameters, activations, context);
  if (pass.loss) {
    pass.loss(output, loss, doutput, activations, context);
  } else {
    context.ops->cross_entropy({.logits = output,
                                .target = ViewOf(pass.target.data(), output_shape),
                                .loss = loss,
                                .dlogits = doutput,
                                .grad_scale = static_cast<float>(pass.grad_scale)},
                               context);
  }
  const TensorView dimage = pass.want_image_gradient
                                ? ViewOf(result.image_gradient.data(), pass.image_shape)
                                : TensorView{};
  model_->Backward(doutput, dimage, parameters, activations, context);
}

ModelRunner::Result ModelRunner::Run(Pass pass, ParameterAccess* parameters) {
  CHECK_EQ(static_cast<int64_t>(pass.image.size()), pass.image_shape.NumElements());
  Result result;
  result.logits.resize(model_->OutputShape(pass.pictures).NumElements());
  CHECK(pass.loss || pass.target.size() == result.logits.size());
  result.loss.resize(pass.pictures);
  if (pass.want_image_gradient) result.image_gradient.resize(pass.image.size());
  Arena dry = Arena::DryRun("activations");
  std::unique_ptr<Arena> activations;
  OpRunner(threads_).WithContext([&](Context& context) {
    if (activations == nullptr && context.ops == &DryRunOps()) {
      Execute(pass, parameters_, result, /*capture=*/false, dry, context);
      activations = std::make_unique<Arena>(Arena::OnHost("activations", dry.high_water()));
      return;
    }
    ParameterAccess& used = parameters == nullptr ? parameters_ : *parameters;
    Execute(pass, used, result, /*capture=*/true, *activations, context);
  });
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
    OpRunner(threads_).Run(&OpTable::sum_of_squares, args);
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
