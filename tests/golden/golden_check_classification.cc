#include <algorithm>
#include <cmath>

#include "tests/golden/golden_check.h"

namespace swinfleet::golden {
namespace {

// Official names of everything that "capture": "all" covers.
std::vector<std::string> AllModules(const ModelConfig& config) {
  std::vector<std::string> names = {"patch_embed"};
  for (int stage = 0; stage < config.num_stages(); ++stage) {
    const std::string layer = "layers." + std::to_string(stage);
    for (int64_t block = 0; block < config.depths[stage]; ++block) {
      names.push_back(layer + ".blocks." + std::to_string(block));
    }
    if (stage + 1 < config.num_stages()) names.push_back(layer + ".downsample");
  }
  names.emplace_back("norm");
  return names;
}

std::vector<std::string> CapturedModules(const Json& config, const ModelConfig& model) {
  if (!config.contains("capture") || config.at("capture").is_null()) return {};
  const Json& capture = config.at("capture");
  if (capture.is_array()) return capture.get<std::vector<std::string>>();
  if (capture == "all") return AllModules(model);
  throw Unsupported("capture " + capture.dump() + " is not supported yet");
}

void CompareCaptured(const std::vector<std::string>& names, const ModelRunner::Result& result,
                     Comparison& comparison) {
  for (const std::string& name : names) {
    const auto found = result.captured.find(name);
    if (found == result.captured.end()) {
      comparison.Expect(false, "output/" + name, "the model gave nothing of this name");
    } else {
      comparison.Compare("output/" + name, std::span<const float>(found->second));
    }
  }
}

void CompareGradients(ModelRunner& runner, const std::string& note, Comparison& comparison) {
  const std::vector<ParameterInfo>& infos = runner.table().parameters();
  for (int i = 0; i < static_cast<int>(infos.size()); ++i) {
    comparison.Compare("grad/" + infos[i].name, runner.parameters().GradientOf(i), note);
  }
}

// The outputs and gradients of one pass over the whole batch.
void CompareFullPass(const Golden& golden, ModelRunner& runner, const ModelRunner::Pass& batch,
                     const std::string& note, Comparison& comparison) {
  const ModelRunner::Result result = runner.Run(batch);
  const std::vector<double> loss = {result.MeanLoss()};
  CompareCaptured(CapturedModules(golden.config(), ParseModel(golden.config().at("model"))), result,
                  comparison);
  CompareCaptured({"features"}, result, comparison);
  comparison.Compare("output/logits", std::span<const float>(result.logits), note);
  comparison.Compare("output/loss", std::span<const double>(loss), note);
  CompareExactLoss(golden, loss, comparison);
  if (batch.want_image_gradient) {
    comparison.Compare("grad/input/image", std::span<const float>(result.image_gradient), note);
  }
  CompareGradients(runner, note, comparison);
}

}  // namespace

void CompareExactLoss(const Golden& golden, std::span<const double> losses,
                      Comparison& comparison) {
  const Json texts = golden.Parsed("loss_float64");
  if (texts.is_null()) return;
  std::vector<double> reference;
  for (const Json& text : texts) {
    reference.push_back(text.is_string() ? std::stod(text.get<std::string>()) : text.get<double>());
  }
  comparison.CompareNumbers("loss_float64", losses, reference, comparison.tolerances().outputs);
}

void CheckClassification(const Golden& golden, const Machine& machine, Comparison& comparison) {
  const ModelConfig config = ParseModel(golden.config().at("model"));
  ModelRunner runner(golden, MakeClassifier(config), machine);
  ModelRunner::Pass batch = LoadBatch(golden, config);
  batch.want_image_gradient = golden.Has("grad/input/image");
  CompareFullPass(golden, runner, batch, "", comparison);
}

void CheckAccumulation(const Golden& golden, const Machine& machine, Comparison& comparison) {
  const ModelConfig config = ParseModel(golden.config().at("model"));
  ModelRunner runner(golden, MakeClassifier(config), machine);
  ModelRunner::Pass batch = LoadBatch(golden, config);
  batch.want_image_gradient = golden.Has("grad/input/image");
  CompareFullPass(golden, runner, batch, "full batch", comparison);

  const auto steps = golden.config().at("accumulation_steps").get<int64_t>();
  if (steps < 1 || batch.pictures % steps != 0) {
    throw Error(golden.path() + ": " + std::to_string(batch.pictures) + " pictures don't make " +
                std::to_string(steps) + " micro-batches");
  }
  runner.parameters().ZeroGradients();
  const int64_t size = batch.pictures / steps;
  std::vector<double> losses, norms;
  std::vector<float> logits, image_gradient;
  for (int64_t step = 0; step < steps; ++step) {
    // The slice keeps the batch's scale: 1 / B is the micro-batch's mean over the steps.
    const ModelRunner::Result result = runner.Run(Slice(batch, step * size, size));
    losses.push_back(result.MeanLoss());
    norms.push_back(runner.GradientNorm());
    logits.insert(logits.end(), result.logits.begin(), result.logits.end());
    image_gradient.insert(image_gradient.end(), result.image_gradient.begin(),
                          result.image_gradient.end());
  }
  double mean = 0;
  for (const double loss : losses) mean += loss / static_cast<double>(steps);
  comparison.Compare("output/micro_loss", std::span<const double>(losses));
  comparison.Compare("output/accumulated_grad_norm", std::span<const double>(norms));
  comparison.Compare("output/logits", std::span<const float>(logits), "accumulated");
  comparison.Compare("output/loss", std::span<const double>(&mean, 1), "accumulated");
  if (batch.want_image_gradient) {
    comparison.Compare("grad/input/image", std::span<const float>(image_gradient), "accumulated");
  }
  CompareGradients(runner, "accumulated", comparison);
}

}  // namespace swinfleet::golden
