// Video Swin: a recogniser, or its backbone alone.
#include <utility>

#include "core/nn/layer_norm.h"
#include "core/nn/swin_encoder.h"
#include "tests/golden/golden_check.h"

namespace swinfleet::golden {
namespace {

// (frames, height, width)
std::array<int64_t, 3> Triple(const Json& value) {
  const auto numbers = value.get<std::vector<int64_t>>();
  if (numbers.size() != 3) throw Unsupported("sizes of " + value.dump() + " aren't a clip's");
  return {numbers[0], numbers[1], numbers[2]};
}

ModelConfig ParseVideoModel(const Json& golden) {
  const Json& config = golden.at("model");
  const std::array<int64_t, 3> clip = Triple(golden.at("clip_size"));
  const std::array<int64_t, 3> patch = Triple(config.at("patch_size"));
  const std::array<int64_t, 3> window = Triple(config.at("window_size"));
  if (config.at("arch") != "video_swin" || patch[1] != patch[2] || window[1] != window[2]) {
    throw Unsupported("the model " + config.dump() + " is not supported here");
  }
  ModelConfig model;
  model.arch = Architecture::kVideoSwin;
  model.frames = clip[0];
  model.image_h = clip[1];
  model.image_w = clip[2];
  model.patch_frames = patch[0];
  model.patch_size = patch[1];
  model.window_frames = window[0];
  model.window_size = window[1];
  model.in_chans = config.at("in_chans").get<int64_t>();
  model.num_classes = config.at("num_classes").get<int64_t>();
  model.embed_dim = config.at("embed_dim").get<int64_t>();
  model.depths = config.at("depths").get<std::vector<int64_t>>();
  model.num_heads = config.at("num_heads").get<std::vector<int64_t>>();
  model.mlp_ratio = config.at("mlp_ratio").get<double>();
  model.qkv_bias = config.value("qkv_bias", true);
  model.patch_norm = config.value("patch_norm", true);
  model.layer_norm_eps = config.value("layer_norm_eps", 1e-5);
  model.drop_path_rate = 0;
  return model;
}

// The backbone and its last normalisation: features (B, L, C).
class Backbone : public Model {
 public:
  explicit Backbone(const ModelConfig& config)
      : config_(config),
        encoder_(config_, MemoryConfig(), "", /*mask_token=*/false, &parameters_),
        unit_(parameters_.BeginUnit("norm")),
        norm_("norm", config.num_features(), config.layer_norm_eps, 1, &parameters_) {}

  const ParameterTable& parameters() const override { return parameters_; }
  Shape OutputShape(int64_t batch) const override {
    return {batch, config_.StageTokens(config_.num_stages() - 1), config_.num_features()};
  }
  void Forward(const ModelInput& input, const TensorView& output, const ForwardOptions& options,
               ParameterAccess& access, Arena& activations, Context& context) override {
    const Shape rows{output.shape[0] * output.shape[1], output.shape[2]};
    x_ = encoder_.Forward(input, options, access, activations, context).Reshape(rows);
    const AcquiredUnit unit(parameters_, access, unit_);
    norm_.Forward(unit, x_, output.Reshape(rows), {}, {}, activations, context);
  }
  void Backward(const TensorView& doutput, const TensorView& dimage, ParameterAccess& access,
                Arena& activations, Context& context) override {
    ArenaScope scope(&activations);
    const TensorView dx = encoder_.OutputGradient(doutput.shape[0], doutput.dtype, activations);
    {
      const AcquiredUnit unit(parameters_, access, unit_);
      norm_.Backward(unit, access.Gradient(unit_), x_, {}, doutput.Reshape(x_.shape),
                     dx.Reshape(x_.shape), /*accumulate=*/false, context);
      access.GradientReady(unit_);
    }
    encoder_.Backward(dx, dimage, access, activations, context);
  }
  std::vector<double> DropPathRates() const override { return {}; }

 private:
  const ModelConfig config_;
  ParameterTable parameters_;
  SwinEncoder encoder_;
  int unit_;
  LayerNorm norm_;
  TensorView x_;
};

// (B, L, C) to (B, C, L), as the official code orders features.
std::vector<float> ChannelsFirst(std::span<const float> tokens, int64_t batch, int64_t channels) {
  std::vector<float> result(tokens.size());
  const int64_t length = static_cast<int64_t>(tokens.size()) / batch / channels;
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t l = 0; l < length; ++l) {
      for (int64_t c = 0; c < channels; ++c) {
        result[(b * channels + c) * length + l] = tokens[(b * length + l) * channels + c];
      }
    }
  }
  return result;
}

// loss = mean(features * weight): the mean over everything as a sum over clips.
void UseWeightedMean(const Golden& golden, int64_t channels, ModelRunner::Pass* pass) {
  const Tensor weight = golden.Load("input/loss_weight");
  const int64_t batch = pass->pictures, length = weight.shape.NumElements() / batch / channels;
  pass->loss = [=](const TensorView& output, const TensorView& loss, const TensorView& doutput,
                   Arena&, Context& context) {
    if (context.ops == &DryRunOps()) return;
    const double all = static_cast<double>(output.NumElements());
    for (int64_t b = 0; b < batch; ++b) {
      double sum = 0;
      for (int64_t i = 0; i < length * channels; ++i) {
        const int64_t l = i / channels, c = i % channels;
        const float w = weight.values[(b * channels + c) * length + l];
        sum += static_cast<double>(output.span()[b * length * channels + i]) * w;
        doutput.span()[b * length * channels + i] = static_cast<float>(w / all);
      }
      // Result::MeanLoss divides by the clips.
      loss.span()[b] = static_cast<float>(sum / all * static_cast<double>(batch));
    }
  };
}

}  // namespace

void CheckVideo(const Golden& golden, const Machine& machine, Comparison& comparison) {
  const ModelConfig config = ParseVideoModel(golden.config());
  const bool classifies = config.num_classes > 0;
  ModelRunner runner(
      golden, classifies ? MakeClassifier(config) : std::make_unique<Backbone>(config), machine);
  ModelRunner::Pass pass;
  pass.pictures = golden.config().at("batch_size").get<int64_t>();
  pass.image_shape = config.ImageShape(pass.pictures);
  pass.image = golden.Load("input/clip", pass.image_shape).values;
  pass.grad_scale = 1.0 / static_cast<double>(pass.pictures);
  pass.want_image_gradient = golden.Has("grad/input/clip");
  if (classifies) {
    pass.target = LoadTargets(golden, "cross_entropy", 0, pass.pictures, config.num_classes);
  } else {
    UseWeightedMean(golden, config.num_features(), &pass);
  }
  const ModelRunner::Result result = runner.Run(pass);
  const std::vector<double> loss = {result.MeanLoss()};
  const std::vector<float>& features = classifies ? result.captured.at("norm") : result.logits;
  comparison.Compare("output/features", std::span<const float>(ChannelsFirst(
                                            features, pass.pictures, config.num_features())));
  if (classifies) comparison.Compare("output/logits", std::span<const float>(result.logits));
  comparison.Compare("output/loss", std::span<const double>(loss));
  CompareExactLoss(golden, loss, comparison);
  if (pass.want_image_gradient) {
    comparison.Compare("grad/input/clip", std::span<const float>(result.image_gradient));
  }
  const std::vector<ParameterInfo>& infos = runner.table().parameters();
  for (int i = 0; i < static_cast<int>(infos.size()); ++i) {
    comparison.Compare("grad/" + infos[i].name, runner.parameters().GradientOf(i));
  }
}

}  // namespace swinfleet::golden
