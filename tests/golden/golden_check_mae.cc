// MAE.
#include <algorithm>
#include <numeric>

#include "core/data/mask.h"
#include "core/nn/sin_cos_positions.h"
#include "tests/golden/golden_check.h"

namespace swinfleet::golden {
namespace {

ModelConfig ParseMae(const Json& config) {
  if (config.at("arch") != "mae_vit") throw Unsupported("the model is " + config.dump());
  ModelConfig model;
  model.arch = Architecture::kVit;
  const std::array<int64_t, 2> image = Pair(config.at("img_size"));
  model.image_h = image[0];
  model.image_w = image[1];
  model.in_chans = config.at("in_chans").get<int64_t>();
  model.patch_size = config.at("patch_size").get<int64_t>();
  model.embed_dim = config.at("embed_dim").get<int64_t>();
  model.depths = {config.at("depth").get<int64_t>()};
  model.num_heads = {config.at("num_heads").get<int64_t>()};
  model.mlp_ratio = config.at("mlp_ratio").get<double>();
  model.layer_norm_eps = config.at("layer_norm_eps").get<double>();
  model.patch_norm = false;
  model.drop_path_rate = 0;
  return model;
}

// Of each row of `noise`, the places in increasing order of it.
std::vector<int64_t> Shuffle(std::span<const float> noise) {
  std::vector<int64_t> order(noise.size());
  std::iota(order.begin(), order.end(), int64_t{0});
  std::ranges::stable_sort(order, {}, [&](int64_t i) { return noise[i]; });
  return order;
}

struct Shuffles {
  std::vector<int64_t> keep;     // (B, V): visible patches as the official code orders them
  std::vector<int64_t> restore;  // (B, L)
  std::vector<int32_t> mask;     // (B, L)
};

Shuffles MakeShuffles(const Tensor& noise, int64_t visible) {
  Shuffles shuffles;
  const int64_t patches = noise.shape[1];
  for (int64_t b = 0; b < noise.shape[0]; ++b) {
    std::vector<int64_t> order =
        Shuffle(std::span(noise.values).subspan(b * patches, static_cast<size_t>(patches)));
    shuffles.keep.insert(shuffles.keep.end(), order.begin(), order.begin() + visible);
    std::vector<int64_t> restore(patches);
    for (int64_t i = 0; i < patches; ++i) restore[order[i]] = i;
    shuffles.restore.insert(shuffles.restore.end(), restore.begin(), restore.end());
    // The first patches of the shuffle stay; the product masks the first of its permutation.
    std::ranges::reverse(order);
    std::vector<int32_t> mask(patches);
    MaskFromPermutation(order, patches - visible, mask);
    shuffles.mask.insert(shuffles.mask.end(), mask.begin(), mask.end());
  }
  return shuffles;
}

// The encoder's tokens (B, 1 + V, C), visible patches in raster order, as the official code orders
// them.
std::vector<float> Reordered(const std::vector<float>& latent, const Shuffles& shuffles,
                             int64_t batch, int64_t channels) {
  const auto visible = static_cast<int64_t>(shuffles.keep.size()) / batch;
  std::vector<float> result;
  for (int64_t b = 0; b < batch; ++b) {
    const auto keep = std::span(shuffles.keep).subspan(b * visible, visible);
    for (int64_t i = 0; i < 1 + visible; ++i) {
      const int64_t token =
          i == 0 ? 0 : 1 + std::ranges::count_if(keep, [&](int64_t k) { return k < keep[i - 1]; });
      const auto begin = latent.begin() + (b * (1 + visible) + token) * channels;
      result.insert(result.end(), begin, begin + channels);
    }
  }
  return result;
}

}  // namespace

void ComparePositions(const Golden& golden, const std::string& name, int64_t height, int64_t width,
                      bool class_token, Comparison& comparison) {
  const Tensor expected = golden.Load(name);
  const std::vector<float> positions =
      SinCosPositions(expected.shape[2], height, width, class_token);
  double worst = positions.size() == expected.values.size() ? 0 : 1;
  for (size_t i = 0; worst < 1 && i < positions.size(); ++i) {
    worst = std::max(worst, std::abs(static_cast<double>(positions[i]) - expected.values[i]));
  }
  comparison.Expect(worst <= 1e-6, name, "the model's differ by up to " + std::to_string(worst));
}

void CheckMae(const Golden& golden, const Machine& machine, Comparison& comparison) {
  const Json& config = golden.config();
  const ModelConfig model = ParseMae(config.at("model"));
  PretrainConfig pretrain;
  pretrain.method = PretrainConfig::Method::kMae;
  pretrain.mask_ratio = config.at("mask_ratio").get<double>();
  ParseDecoder(config.at("model"), &pretrain);
  const int64_t patches = model.StageTokens(0);
  const int64_t visible = patches - MaskedUnits(pretrain.method, patches, pretrain.mask_ratio);

  ModelRunner::Pass pass;
  pass.pictures = config.at("batch_size").get<int64_t>();
  const Shuffles shuffles =
      MakeShuffles(golden.Load("input/noise", {pass.pictures, patches}), visible);
  pass.image_shape = model.ImageShape(pass.pictures);
  pass.image = golden.Load("input/image", pass.image_shape).values;
  pass.mask_shape = MaskShape(MaskConfigFor(model, pretrain), pass.pictures);
  pass.mask = shuffles.mask;
  pass.want_image_gradient = golden.Has("grad/input/image");
  UseMaskedLoss(model, pretrain, &pass);
  ComparePositions(golden, "input/pos_embed", model.StageH(0), model.StageW(0), true, comparison);
  ComparePositions(golden, "input/decoder_pos_embed", model.StageH(0), model.StageW(0), true,
                   comparison);

  ModelRunner runner(golden, MakeModel(model, pretrain, MemoryConfig()), machine);
  const ModelRunner::Result result = runner.Run(pass);
  const std::vector<int64_t> mask(shuffles.mask.begin(), shuffles.mask.end());
  comparison.CompareExact("output/mask", std::span<const int64_t>(mask));
  comparison.CompareExact("output/ids_restore", std::span<const int64_t>(shuffles.restore));
  const std::vector<float> latent =
      Reordered(result.captured.at("latent"), shuffles, pass.pictures, model.embed_dim);
  comparison.Compare("output/latent", std::span<const float>(latent));
  comparison.Compare("output/pred", std::span<const float>(result.logits));
  ComparePass(golden, result, runner, "", comparison);
}

}  // namespace swinfleet::golden
